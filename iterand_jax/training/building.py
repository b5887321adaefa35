"""Builds a run: the names in a config become values once, before anything compiles.

`describe` looks up dataset, network and method of a resolved config; that needs no
data, so a checkpoint can be read and exported without it. `build` adds the data and the
devices.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iterand_jax.data.datasets import Dataset, get_dataset
from iterand_jax.data.feeds import Feed, Placement
from iterand_jax.data.sources import Source
from iterand_jax.methods import Method, build_method
from iterand_jax.networks import build_network, tracing
from iterand_jax.networks.lstm import is_table
from iterand_jax.rules import Rule, rules_of
from iterand_jax.runtime import modes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training import leaves, parallel, pruning
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.fields import LARGEST_INT32
from iterand_jax.training.run import DataRun, Run
from iterand_jax.training.schedules import OPTIONS, get_schedule
from iterand_jax.training.step import sgd_optimizer
from iterand_jax.trees import leaves_of

PyTree = Any


def describe(
    config: ConfigDict,
    given: Given = NOTHING_GIVEN,
    drawn: Iterable[Rule] = (),
    steps_per_epoch: int = 1,
) -> Run:
    """Looks up what a resolved config names; needs no data.

    Args:
      config: resolved.
      given: a network and a dataset that replace those that it names.
      drawn: rules before those of the network, such as by which weights were drawn.
      steps_per_epoch: which masks depend on if a sparsity schedule is in epochs.

    Raises:
      ValueError: in one line, an unknown name or a size the network does not support.
    """
    dataset = given.dataset or get_dataset(config.dataset.name)
    draws = pruning.subnetwork_of(config, steps_per_epoch=steps_per_epoch)
    # Whether it has biases follows from the method, and the rules from the network.
    trains_weights = build_method(config.method, draws, config).trains_weights
    affine = trains_weights if config.affine is None else config.affine
    network = given.network or build_network(
        config.network.name,
        num_classes=dataset.outputs,
        width=config.network.width,
        affine=affine,
        dtype=jnp.dtype(config.dtype),
        unbiased=config.unbiased_variances,
    )
    treatments = leaves.parse(config.unpruned or ())
    unpruned = (treatment.rule for treatment in treatments)
    of_network = rules_of(network, *dataset.inputs)
    rules = (*unpruned, *drawn, *of_network)
    subnetwork = dataclasses.replace(draws, rules=rules)

    def shapes() -> PyTree:
        return tracing.shapes(network, *dataset.inputs)["params"]

    if config.layer_sparsities is not None:
        subnetwork = subnetwork.spread(shapes(), config.layer_sparsities)
    method = build_method(config.method, subnetwork, config)
    vectors_at = None
    learned = affine and not trains_weights
    if learned or treatments or config.network.vectors is not None:
        params = shapes()
        _check_treatments(config, treatments, subnetwork, params)
        if learned:
            of_rules = dataclasses.replace(draws, rules=of_network)
            treatments += leaves.learned(params, of_rules, config.network.name)
        vectors_at = _vectors_at(config, subnetwork, method, params)
        starts = () if vectors_at is None else (vectors_at,)
        method = leaves.treated(method, treatments, starts)
    return _traced(
        Run(
            config=config,
            dataset=dataset,
            subnetwork=subnetwork,
            method=method,
            network=network,
            optimizer=_optimizer(config, optax.constant_schedule(config.learning_rate)),
            vectors_at=vectors_at,
            abstract=None,  # type: ignore[arg-type]  # it takes the rest to know it
        )
    )


def _traced(run: Run) -> Run:
    """The run with its `abstract`, so that an unsupported size fails before any work.

    Raises:
      ValueError: more weights than are counted.
    """
    config = run.config
    abstract = jax.eval_shape(run.init_state, modes.root_key(config.seed))
    total = sum(leaf.size for leaf in jax.tree.leaves(run.weights(abstract)))
    if total > LARGEST_INT32:
        raise ValueError(
            f"the network {config.network.name} of width {config.network.width:g} has "
            f"{total:,} weights; possible: at most {LARGEST_INT32:,}, which an integer "
            "of 32 bits counts"
        )
    return dataclasses.replace(run, abstract=abstract)


def _check_treatments(
    config: ConfigDict,
    treatments: Sequence[leaves.Treatment],
    subnetwork: Subnetwork,
    params: PyTree,
) -> None:
    """Raises ValueError for an unpruned leaf that is not there, or all leaves."""
    leaves.check_patterns(treatments, params)
    if treatments and not subnetwork.fan_ins(params):
        raise ValueError(
            f"unpruned={tuple(config.unpruned)} leaves nothing to prune, but "
            f"{', '.join(leaves_of(params))}; possible: fewer patterns"
        )


def _vectors_at(
    config: ConfigDict, subnetwork: Subnetwork, method: Method, params: PyTree
) -> str | None:
    """The path of the embedding that a file of vectors gives, None without a file."""
    file = config.network.vectors
    if file is None:
        return None
    shapes = {path: leaf for path, leaf in leaves_of(params).items() if is_table(path)}
    if len(shapes) != 1:
        raise ValueError(
            f"network.vectors={file}: the network {config.network.name} has the "
            f"embeddings {', '.join(shapes) or '(none)'}; possible: a network with one"
        )
    ((path, leaf),) = shapes.items()
    if method.refresh_every and subnetwork.fan_in(path, leaf) is not None:
        raise ValueError(
            f"network.vectors={file}: {path} has scores, and the method "
            f"{config.method} would resample its vectors; possible: "
            f"unpruned=('{path}=fixed',) or '{path}=trained'"
        )
    return path


def build(config: ConfigDict, source: Source, given: Given = NOTHING_GIVEN) -> DataRun:
    """`describe`, on a dataset and on all devices.

    Raises:
      ValueError: in one line, a size that the data, the devices or the network forbid.
    """
    mesh = parallel.device_mesh()
    parallel.check_batch_size(config.batch_size, mesh, parts=config.accumulate_steps)
    parallel.check_batch_size(config.eval_batch_size, mesh)
    run = describe(config, given)
    feed = open_feed(config, run.dataset, source, mesh)
    if config.epochs * feed.steps_per_epoch > LARGEST_INT32:
        raise ValueError(
            f"{config.epochs} epochs of {feed.steps_per_epoch} steps are more than the "
            f"{LARGEST_INT32:,} steps that an integer of 32 bits counts"
        )
    pruning.check_steps(config, config.epochs * feed.steps_per_epoch)
    if pruning.waits_for_epochs(config):
        run = describe(config, given, steps_per_epoch=feed.steps_per_epoch)
    if feed.partial_batch:
        parts = config.accumulate_steps
        parallel.check_batch_size(feed.partial_batch, mesh, parts=parts)
    schedule = get_schedule(
        config.schedule,
        config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=feed.steps_per_epoch,
        **{field: config[field] for field in OPTIONS.get(config.schedule, ())},
    )
    root = jax.jit(
        lambda: modes.root_key(config.seed), out_shardings=parallel.replicated(mesh)
    )
    described = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return DataRun(
        **described | {"optimizer": _optimizer(config, schedule)},
        source=source,
        feed=feed,
        mesh=mesh,
        schedule=schedule,
        root=root(),
        train_inputs=feed.train_inputs,
        eval_inputs=feed.eval_inputs,
    )


def open_feed(config: ConfigDict, dataset: Dataset, source: Source, mesh: Mesh) -> Feed:
    """The batches of a resolved config, for the devices of a mesh."""
    options = {field: config.dataset[field] for field in dataset.options}
    optional = {field: config.dataset[field] for field in dataset.optional}
    options |= {field: x for field, x in optional.items() if x is not None}
    if dataset.augmentations:
        options["augmentation"] = config.augmentation
    return dataset.feed(
        source,
        Placement(parallel.replicated(mesh), parallel.batch_sharded(mesh)),
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        dtype=jnp.dtype(config.dtype),
        **options,
    )


def _optimizer(
    config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    return sgd_optimizer(
        schedule,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
