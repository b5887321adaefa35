"""A run: the names in a config become values once, before anything compiles.

`describe` looks up dataset, network and method of a resolved config; that needs no
data, so a checkpoint can be read and exported without it. `build` adds the data and the
devices. All later code uses this one frozen dataclass and never branches on a name: the
method defines the weights, the masks and the parameters that the network is applied to.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iterand_jax.data.datasets import Dataset, get_dataset
from iterand_jax.data.feeds import Feed, Placement
from iterand_jax.data.sources import Source
from iterand_jax.methods import Method, build_method
from iterand_jax.networks import build_network
from iterand_jax.rules import Rule, rules_of
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training import parallel
from iterand_jax.training.churn import packed_masks
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.schedules import OPTIONS, get_schedule
from iterand_jax.training.step import State, init_state, sgd_optimizer

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a resolved config determines without its data.

    Attributes:
      config: the resolved config.
      dataset: the dataset's description, without its data.
      subnetwork: how the weights are initialized and pruned.
      network: the Flax module.
      method: the training method.
      optimizer: the optimizer of the trainable tree.
      abstract: the state's structure, with shapes and dtypes for leaves.
    """

    config: ConfigDict
    dataset: Dataset
    subnetwork: Subnetwork
    network: nn.Module
    method: Method
    optimizer: optax.GradientTransformation
    abstract: State

    def init_state(self, root: Array) -> State:
        """The state before the first step."""
        return init_state(
            root,
            network=self.network,
            method=self.method,
            optimizer=self.optimizer,
            inputs=self.dataset.inputs,
            masks_of=self.packed_masks if self.has_churn else None,
        )

    @property
    def has_churn(self) -> bool:
        """Whether the method has masks that change while it trains."""
        return self.method.masks is not None and self.method.masks_change

    def packed_masks(self, trainable: PyTree, frozen: PyTree, step: Any) -> PyTree:
        """The masks as bits, for the state; see `churn`."""
        assert self.method.masks is not None
        return packed_masks(self.method.masks(trainable, frozen, step))

    @functools.cached_property
    def abstract_masks(self) -> PyTree:
        """The masks as shapes and dtypes, None for a method without."""
        if self.method.masks is None:
            return None
        state = self.abstract
        return jax.eval_shape(
            self.method.masks, state.trainable, state.frozen, state.step
        )

    def weights(self, state: State) -> PyTree:
        """All weights of a state, or their shapes: kept and pruned ones."""
        return self.method.weights(state.trainable, state.frozen)

    def masks(self, state: State) -> PyTree | None:
        """The masks of a state, nonzero for kept; None if the method has none."""
        if self.method.masks is None:
            return None
        return jax.jit(self.method.masks)(state.trainable, state.frozen, state.step)

    def params(self, state: State) -> PyTree:
        """The effective parameters of a state, which the network is applied with."""
        return jax.jit(self.method.params)(state.trainable, state.frozen, state.step)

    def count(self, state: State) -> tuple[int, int]:
        """(parameters in all, parameters kept) of a state, ties included."""
        total = sum(leaf.size for leaf in jax.tree.leaves(self.weights(state)))
        masks = [np.asarray(mask) for mask in jax.tree.leaves(self.masks(state))]
        return total, total - sum(m.size - int(np.count_nonzero(m)) for m in masks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRun(Run):
    """A run on its data and devices, ready to be compiled.

    Attributes:
      source: the dataset as files.
      feed: the dataset as batches.
      mesh: the devices.
      schedule: step -> learning rate.
      root: the root key, from the seed, replicated over the mesh.
      train_inputs: the feed's: (arguments, step, root) -> (inputs, labels).
      eval_inputs: the feed's: arguments -> (inputs, labels, weights).
    """

    source: Source
    feed: Feed
    mesh: Mesh
    schedule: optax.Schedule
    root: Array
    train_inputs: Callable[[PyTree, Array, Array], tuple[tuple[Array, ...], Array]]
    eval_inputs: Callable[[PyTree], tuple[tuple[Array, ...], Array, Array]]

    @property
    def total_steps(self) -> int:
        """Steps in the whole run."""
        return self.config.epochs * self.feed.steps_per_epoch


def describe(config: ConfigDict, given: Given = NOTHING_GIVEN) -> Run:
    """Looks up what a resolved config names; needs no data.

    Args:
      config: resolved.
      given: a network and a dataset that replace those that it names.

    Raises:
      ValueError: in one line, an unknown name or a size the network does not support.
    """
    dataset = given.dataset or get_dataset(config.dataset.name)
    draws = Subnetwork(config.sparsity or 0.0, config.distribution)
    # Whether it has biases follows from the method, and the rules from the network.
    affine = build_method(config.method, draws, config).trains_weights
    network = given.network or build_network(
        config.network.name,
        num_classes=dataset.outputs,
        width=config.network.width,
        affine=affine,
        dtype=jnp.dtype(config.dtype),
    )
    unpruned = (Rule(pattern, prune=False) for pattern in config.unpruned or ())
    rules = (*unpruned, *rules_of(network, *dataset.inputs))
    subnetwork = dataclasses.replace(draws, rules=rules)
    optimizer = _optimizer(config, optax.constant_schedule(config.learning_rate))
    run = Run(
        config=config,
        dataset=dataset,
        subnetwork=subnetwork,
        method=build_method(config.method, subnetwork, config),
        network=network,
        optimizer=optimizer,
        abstract=None,  # type: ignore[arg-type]  # it takes the rest to know it
    )
    # Traced now, so that an unsupported size fails before any work.
    abstract = jax.eval_shape(run.init_state, jax.random.key(config.seed))
    return dataclasses.replace(run, abstract=abstract)


def build(config: ConfigDict, source: Source, given: Given = NOTHING_GIVEN) -> DataRun:
    """`describe`, on a dataset and on all devices.

    Raises:
      ValueError: in one line, a size that the data, the devices or the network forbid.
    """
    mesh = parallel.device_mesh()
    parallel.check_batch_size(config.batch_size, mesh, parts=config.accumulate_steps)
    parallel.check_batch_size(config.eval_batch_size, mesh)
    run = describe(config, given)
    feed = _feed(config, run.dataset, source, mesh)
    schedule = get_schedule(
        config.schedule,
        config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=feed.steps_per_epoch,
        **{field: config[field] for field in OPTIONS.get(config.schedule, ())},
    )
    root = jax.jit(
        lambda: jax.random.key(config.seed), out_shardings=parallel.replicated(mesh)
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


def _feed(config: ConfigDict, dataset: Dataset, source: Source, mesh: Mesh) -> Feed:
    options = {field: config.dataset[field] for field in dataset.options}
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
        schedule, momentum=config.momentum, weight_decay=config.weight_decay
    )
