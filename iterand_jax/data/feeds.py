"""What a feed is: a dataset as the batches of one run.

A `Feed` stands between a `Source`, which describes a dataset and reads it, and the
jitted steps. It decides the training and validation splits, the order and the shapes of
the batches, and which part of the preprocessing runs on the device. The order and the
random draws of a step are functions of the root key and the step, so that a resumed run
sees the batches of an uninterrupted one.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from iterand_jax.data import augment
from iterand_jax.keys import keyed

PyTree = Any

CLASSES_FILE = "classes.txt"
"""The file in a workdir that lists the names of the classes, if they have names."""


class Placement(NamedTuple):
    """The two shardings of a run: replicated, or split along the batch axis.

    In a multi-process run each process makes the rows of a batch for its own devices.
    """

    replicated: Sharding
    batch: Sharding

    def own(self, rows: np.ndarray) -> np.ndarray:
        """This process's rows of a global batch, (N, ...)."""
        return np.split(rows, jax.process_count())[jax.process_index()]

    def put_batch(self, own: PyTree) -> PyTree:
        """The global, sharded batch, assembled from each process's rows."""
        return jax.make_array_from_process_local_data(self.batch, own)

    @property
    def batches(self) -> Sharding:
        """Of several batches along a first axis, each split as one batch is."""
        if not isinstance(self.batch, NamedSharding):
            return self.batch
        spec = PartitionSpec(None, *self.batch.spec)
        return NamedSharding(self.batch.mesh, spec)

    def put_batches(self, own: PyTree) -> PyTree:
        """Several batches along a first axis, of the rows that each process made."""
        return jax.make_array_from_process_local_data(self.batches, own)

    def put_whole(self, tree: PyTree) -> PyTree:
        """Arrays that every process holds, replicated on every device."""
        return jax.make_array_from_process_local_data(self.replicated, tree)


class Feed(abc.ABC):
    """The data of one run: batches to train on, and splits to evaluate.

    The constructor checks everything that depends on the config alone; data is read by
    `open` and `split`.

    Attributes:
      sizes: the number of examples of "train", "validation" and "test".
      steps_per_epoch: batches in an epoch.
      partial_batch: the examples of an epoch's last batch, if they are fewer than those
        of the others; else 0.
    """

    sizes: Mapping[str, int]
    steps_per_epoch: int
    partial_batch: int = 0

    @abc.abstractmethod
    def open(self, root: Array, position: Any = None) -> None:
        """Reads what training needs.

        Args:
          root: the root key of the run.
          position: what `position()` returned when the checkpoint was written from
            which the run resumes; None at the start of a run.
        """

    def open_beside(self, other: "Feed", root: Array) -> None:
        """Shares the data that another feed of the same dataset has read.

        Only feeds whose data is replicated on every device can share it.
        """
        raise ValueError(f"{type(self).__name__} cannot share its data with other runs")

    def files(self) -> Mapping[str, str]:
        """Text files about the data for the workdir, contents by name, once open."""
        return {}

    @abc.abstractmethod
    def train_shapes(self) -> Sequence[PyTree]:
        """The shapes that `batch` can return: one entry per compiled program."""

    @abc.abstractmethod
    def batch(self, step: int) -> PyTree:
        """The arguments of step `step`, from 0, on the devices.

        Called with consecutive steps, from the one at which the run resumes.
        """

    def steps_alike(self, step: int) -> int:
        """How many steps, from this one on, take the same arguments."""
        del step
        return 1

    @abc.abstractmethod
    def train_inputs(
        self, arguments: PyTree, step: Array, root: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """(network inputs, labels) of a batch; traced as part of the jitted step."""

    @abc.abstractmethod
    def eval_shapes(self) -> Sequence[PyTree]:
        """The shapes that `split` can yield: one entry per compiled program."""

    @abc.abstractmethod
    def split(self, name: str) -> Iterator[PyTree]:
        """The batches of "validation" (after `open`) or of "test" (at any time)."""

    def stack_shapes(self) -> PyTree | None:
        """The batches that `stacks` gives at once, as shapes with another first axis.

        None for a feed whose batches are not all of one form or not in memory.
        """
        return None

    def stacks(self, name: str) -> Iterator[PyTree]:
        """The batches of a split as `split` gives them, many at once on the devices.

        The last ones may be of weight 0. "validation" is put there once.
        """
        raise ValueError(f"{type(self).__name__} gives its batches one by one")

    @abc.abstractmethod
    def eval_inputs(self, arguments: PyTree) -> tuple[tuple[Array, ...], Array, Array]:
        """(inputs, labels, weights) of a batch; a weight of 0 marks padding."""

    def position(self) -> Any:
        """The iterator state, as JSON for a checkpoint; None if the step is enough."""
        return None

    def close(self) -> None:
        """Stops what `open` started."""
        return None


class Images(NamedTuple):
    """A split or batch: uint8 images (n, H, W, C) and int32 labels (n,).

    A feed of arrays has float32 (n, ...) instead of the images. NumPy arrays on the
    host, jax arrays on the devices.
    """

    images: Any
    labels: Any


def normalizer(
    mean: Sequence[float], std: Sequence[float], *, channels: int, dtype: Any
) -> Callable[[Array], Array]:
    """`augment.normalize` with the mean and standard deviation of each channel.

    Raises:
      ValueError: their number is not `channels`.
    """
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"dataset.mean and dataset.std need {channels} numbers each for images "
            f"of {channels} channels; got {tuple(mean)} and {tuple(std)}"
        )
    return functools.partial(
        augment.normalize, mean=tuple(mean), std=tuple(std), dtype=dtype
    )


def epoch_order(root: Array, epoch: Array | int, *, size: int) -> Array:
    """The order of a split of `size` examples in an epoch: a permutation, int32."""
    return jax.random.permutation(keyed(root, "order", epoch), size)


def plan_sizes(
    sizes: Mapping[str, int],
    *,
    batch_size: int,
    validation_fraction: float,
    partial_batches: bool = False,
) -> tuple[dict[str, int], int]:
    """The split sizes of a feed that holds out validation data, and steps per epoch.

    With `partial_batches` an epoch ends with a smaller batch, if examples are left.

    Raises:
      ValueError: a batch that is larger than the rest of the training split.

    >>> plan_sizes(
    ...     {"train": 25_000, "test": 25_000}, batch_size=64, validation_fraction=0.3
    ... )
    ({'train': 17500, 'validation': 7500, 'test': 25000}, 273)
    """
    held_out = validation_size(sizes["train"], validation_fraction)
    train = sizes["train"] - held_out
    if batch_size > train:
        raise ValueError(
            f"batch_size {batch_size} is larger than the training split of "
            f"{train} examples"
        )
    planned = {"train": train, "validation": held_out, "test": sizes["test"]}
    return planned, steps_of(train, batch_size, partial_batches)


def steps_of(examples: int, batch_size: int, partial_batches: bool) -> int:
    """The batches of an epoch.

    >>> steps_of(45_000, 128, False), steps_of(45_000, 128, True)
    (351, 352)
    """
    return -(-examples // batch_size) if partial_batches else examples // batch_size


def validation_size(size: int, fraction: float) -> int:
    """How many of `size` training examples are held out: rounded down, at least 1.

    >>> validation_size(50_000, 0.1)
    5000
    """
    return max(1, min(math.floor(size * fraction), size - 1))


def split_indices(
    size: int, held_out: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) indices of `size` examples, determined by the seed."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(size)
    return order[: size - held_out], order[size - held_out :]


def with_sharding(shapes: PyTree, sharding: Sharding) -> PyTree:
    """Shapes and dtypes with a sharding, for ahead-of-time compilation."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes
    )
