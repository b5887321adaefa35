"""A run: the names in a config become values once, before anything compiles.

`describe` looks up dataset, network and method of a resolved config; that needs no
data, so a checkpoint can be read and exported without it. `build` adds the data and the
devices. All later code uses this one frozen dataclass and never branches on a name: the
method defines the weights, the masks and the parameters that the network is applied to.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
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
from iterand_jax.data.text import UNKNOWN, VOCABULARY_FILE, from_lines
from iterand_jax.data.vectors import Vectors, check_vectors, read_vectors
from iterand_jax.methods import Method, build_method
from iterand_jax.networks import build_network
from iterand_jax.networks.lstm import is_table
from iterand_jax.rules import Rule, rules_of
from iterand_jax.runtime import compilation, hosts, modes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training import leaves, parallel, pruning
from iterand_jax.training.churn import packed_masks
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.fields import LARGEST_INT32
from iterand_jax.training.schedules import OPTIONS, get_schedule
from iterand_jax.training.step import State, init_state, sgd_optimizer
from iterand_jax.trees import leaves_of

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
      vectors_at: the path of the embedding that starts as `config.network.vectors` has
        it; None without.
    """

    config: ConfigDict
    dataset: Dataset
    subnetwork: Subnetwork
    network: nn.Module
    method: Method
    optimizer: optax.GradientTransformation
    abstract: State
    vectors_at: str | None = None

    def init_state(
        self, root: Array, given: Mapping[str, Array] | None = None
    ) -> State:
        """The state before the first step, with these leaves of the network given."""
        return init_state(
            root,
            network=self.network,
            method=self.method,
            optimizer=self.optimizer,
            inputs=self.dataset.inputs,
            masks_of=self.packed_masks if self.has_churn else None,
            given=given,
        )

    @property
    def affine(self) -> bool:
        """Whether the network has biases and scales of normalization."""
        affine = self.config.affine
        return self.method.trains_weights if affine is None else affine

    @property
    def keep_best(self) -> int:
        """How many checkpoints of the best validation to keep."""
        return max(self.config.keep_best_checkpoints, self.config.test_best is not None)

    @property
    def compiler_options(self) -> dict[str, Any]:
        """Of XLA, for all programs of the run."""
        return compilation.compiler_options(
            self.config.dtype, deterministic=self.config.deterministic
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
    def fan_ins(self) -> dict[str, float]:
        """The fan-in of each pruned leaf, by path."""
        return self.subnetwork.fan_ins(self.weights(self.abstract))

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
        masks = jax.jit(self.method.masks, compiler_options=self.compiler_options)
        return masks(state.trainable, state.frozen, state.step)

    def params(self, state: State) -> PyTree:
        """The effective parameters of a state, which the network is applied with."""
        params = jax.jit(self.method.params, compiler_options=self.compiler_options)
        return params(state.trainable, state.frozen, state.step)

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

    def examples(self, steps: int) -> int:
        """The training examples of so many steps, from the first."""
        feed, size = self.feed, self.config.batch_size
        epochs, rest = divmod(steps, feed.steps_per_epoch)
        of_epoch = min(feed.steps_per_epoch * size, feed.sizes["train"])
        return epochs * of_epoch + min(rest * size, of_epoch)

    @property
    def _embedding(self) -> jax.ShapeDtypeStruct:
        assert self.vectors_at is not None
        return leaves_of(self.weights(self.abstract))[self.vectors_at]

    def check_vectors(self) -> None:
        """Raises ValueError if the file of vectors is not one for this network."""
        if self.vectors_at is not None:
            check_vectors(self.config.network.vectors, self._embedding.shape[1])

    def read_vectors(self) -> tuple[dict[str, np.ndarray], Vectors | None]:
        """(the embedding by its path, the vectors read); ({}, None) without a file.

        The rows of padding, of the unknown word, and of words that the file lacks are
        zeros.
        """
        if self.vectors_at is None:
            return {}, None
        words = from_lines(self.feed.files()[VOCABULARY_FILE].encode())
        rows, features = self._embedding.shape
        vectors = read_vectors(self.config.network.vectors, words, features)
        hosts.check_same({"the file of vectors": vectors.sha256})
        table = np.zeros((rows, features), np.float32)
        table[UNKNOWN + 1 : UNKNOWN + 1 + len(words)] = vectors.array
        return {self.vectors_at: table}, vectors


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

    def shapes():
        key = jax.random.key(config.seed)
        return jax.eval_shape(network.init, key, *dataset.inputs)["params"]

    if config.layer_sparsities is not None:
        subnetwork = subnetwork.spread(shapes(), config.layer_sparsities)
    method = build_method(config.method, subnetwork, config)
    vectors_at = None
    learned = affine and not trains_weights
    if learned or treatments or config.network.vectors is not None:
        params = shapes()
        leaves.check_patterns(treatments, params)
        if treatments and not subnetwork.fan_ins(params):
            raise ValueError(
                f"unpruned={tuple(config.unpruned)} leaves nothing to prune, but "
                f"{', '.join(leaves_of(params))}; possible: fewer patterns"
            )
        if learned:
            of_rules = dataclasses.replace(draws, rules=of_network)
            treatments += leaves.learned(params, of_rules, config.network.name)
        vectors_at = _vectors_at(config, subnetwork, method, params)
        starts = () if vectors_at is None else (vectors_at,)
        method = leaves.treated(method, treatments, starts)
    optimizer = _optimizer(config, optax.constant_schedule(config.learning_rate))
    run = Run(
        config=config,
        dataset=dataset,
        subnetwork=subnetwork,
        method=method,
        network=network,
        optimizer=optimizer,
        vectors_at=vectors_at,
        abstract=None,  # type: ignore[arg-type]  # it takes the rest to know it
    )
    # Traced now, so that an unsupported size fails before any work.
    abstract = jax.eval_shape(run.init_state, modes.root_key(config.seed))
    run = dataclasses.replace(run, abstract=abstract)
    total = sum(leaf.size for leaf in jax.tree.leaves(run.weights(abstract)))
    if total > LARGEST_INT32:
        raise ValueError(
            f"the network {config.network.name} of width {config.network.width:g} has "
            f"{total:,} weights; possible: at most {LARGEST_INT32:,}, which an integer "
            "of 32 bits counts"
        )
    return run


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
