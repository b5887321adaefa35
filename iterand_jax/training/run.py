"""A run: what a config names, as values.

All code after `building` uses this one frozen dataclass and never branches on a name:
the method defines the weights, the masks and the parameters that the network is applied
to.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from iterand_jax.data.datasets import Dataset
from iterand_jax.data.feeds import Feed
from iterand_jax.data.sources import Source
from iterand_jax.data.text import UNKNOWN, VOCABULARY_FILE, from_lines
from iterand_jax.data.vectors import Vectors, check_vectors, read_vectors
from iterand_jax.methods import Method
from iterand_jax.runtime import compilation, hosts
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training.churn import packed_masks
from iterand_jax.training.step import State, init_state
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
