"""Feeds: a dataset as the batches of one run.

A `Feed` stands between a `Source`, which says what a dataset is and reads it, and the
jitted steps. It knows which examples train and which validate, in which order and in
what shapes they come, and which part of their preparation happens on the device. The
order and the draws of a step follow from the root key and the step, so that a run which
continues sees what an uninterrupted one would have seen.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Sharding

from iterand_jax.data import augment
from iterand_jax.data.sources import Source
from iterand_jax.keys import keyed

PyTree = Any

CLASSES_FILE = "classes.txt"
"""Where the folder of a run keeps the names of the classes, if they have any."""


class Placement(NamedTuple):
    """Where arrays lie: whole on every device, or split along the first axis.

    With several processes each has some of the devices, and of a batch it makes the
    rows that lie on these.
    """

    replicated: Sharding
    batch: Sharding

    def own(self, rows: np.ndarray) -> np.ndarray:
        """The rows of a batch, (N, ...), that this process makes."""
        return np.split(rows, jax.process_count())[jax.process_index()]

    def put_batch(self, own: PyTree) -> PyTree:
        """A batch, of the rows that each process made of it."""
        return jax.make_array_from_process_local_data(self.batch, own)

    def put_whole(self, tree: PyTree) -> PyTree:
        """Arrays that every process has, on every device."""
        return jax.make_array_from_process_local_data(self.replicated, tree)


class Feed(abc.ABC):
    """The data of one run: batches to train on, and splits to evaluate.

    What depends on the config alone is checked and known once it is made; data is read
    by `open` and `split`.

    Attributes:
      sizes: the number of examples of "train", "validation" and "test".
      steps_per_epoch: batches in an epoch.
    """

    sizes: Mapping[str, int]
    steps_per_epoch: int

    @abc.abstractmethod
    def open(self, root: Array, position: Any = None) -> None:
        """Reads what training needs.

        Args:
          root: the root key of the run.
          position: as `position()` gave it in the checkpoint that the run continues
            from; None at the start of a run.
        """

    def open_beside(self, other: "Feed", root: Array) -> None:
        """Opens for another run the data that a feed like this one has read.

        Only feeds whose data lies whole on the devices can share it.
        """
        raise ValueError(f"{type(self).__name__} cannot share its data with other runs")

    def files(self) -> Mapping[str, str]:
        """What the folder of a run keeps of the data, once open: texts by file name."""
        return {}

    @abc.abstractmethod
    def train_shapes(self) -> Sequence[PyTree]:
        """The arguments that `batch` gives, as shapes, one of each form."""

    @abc.abstractmethod
    def batch(self, step: int) -> PyTree:
        """What the step numbered `step`, from 0, takes; it lies on the devices.

        Steps are asked for in order, from the one that the run continues at.
        """

    def steps_alike(self, step: int) -> int:
        """How many steps from this one on take the same arguments."""
        del step
        return 1

    @abc.abstractmethod
    def train_inputs(
        self, arguments: PyTree, step: Array, root: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """(inputs of the network, labels) of a batch; a part of the jitted step."""

    @abc.abstractmethod
    def eval_shapes(self) -> Sequence[PyTree]:
        """The arguments that `split` gives, as shapes, one of each form."""

    @abc.abstractmethod
    def split(self, name: str) -> Iterator[PyTree]:
        """The batches of "validation", once open, or of "test", at any time."""

    @abc.abstractmethod
    def eval_inputs(self, arguments: PyTree) -> tuple[tuple[Array, ...], Array, Array]:
        """(inputs, labels, weights) of a batch; a weight of 0 marks padding."""

    def position(self) -> Any:
        """Where the reading stands, as JSON for a checkpoint; None if steps tell it."""
        return None

    def close(self) -> None:
        """Ends what `open` started."""
        return None


class Images(NamedTuple):
    """A split or batch: uint8 images (n, H, W, C) and int32 labels (n,).

    Of a feed of arrays, float32 (n, ...) in their place. NumPy arrays on the
    host, jax arrays on the devices.
    """

    images: Any
    labels: Any


class ResidentArrays(Feed):
    """Arrays of one shape that lie whole on every device, and reach networks as floats.

    A part of the training split, chosen by `split_seed` alone, is held out and
    validates. Each epoch has its own permutation of the rest; what does not fill a
    batch at its end is left out.
    """

    def __init__(
        self,
        source: Source,
        placement: Placement,
        *,
        batch_size: int,
        eval_batch_size: int,
        dtype: Any,
        augmentation: str = "none",
        validation_fraction: float,
        split_seed: int,
    ):
        """Plans the batches of a source whose `read` gives arrays and labels."""
        del augmentation  # there is one
        self.sizes, self.steps_per_epoch = plan_sizes(
            source.sizes, batch_size=batch_size, validation_fraction=validation_fraction
        )
        self._source = source
        self._placement = placement
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._split_seed = split_seed
        self._dtype = dtype
        self._order = jax.jit(
            functools.partial(epoch_order, size=self.sizes["train"]),
            out_shardings=placement.replicated,
        )
        self._epoch, self._epoch_order = -1, None

    def open(self, root: Array, position: Any = None) -> None:
        """Puts the training split on the devices and keeps the rest on the host."""
        del position
        images, labels = self._source.read("train")
        train, held_out = split_indices(
            len(labels), self.sizes["validation"], seed=self._split_seed
        )
        self._root = root
        self._train = self._placement.put_whole(Images(images[train], labels[train]))
        self._validation = Images(images[held_out], labels[held_out])

    def open_beside(self, other: "Feed", root: Array) -> None:
        """Takes the arrays of the other, in an order of its own."""
        assert isinstance(other, ResidentArrays)
        self._root = root
        self._train, self._validation = other._train, other._validation

    def files(self) -> Mapping[str, str]:
        """The names of the classes, one a line in the order of their labels."""
        names = self._source.classes
        return {CLASSES_FILE: "".join(f"{name}\n" for name in names)} if names else {}

    def train_shapes(self) -> list[PyTree]:
        """The whole training split and an epoch's order of it."""
        sharding = self._placement.replicated
        order = jax.ShapeDtypeStruct((self.sizes["train"],), jnp.int32)
        shapes = (_shapes(self._source, self.sizes["train"]), order)
        return [with_sharding(shapes, sharding)]

    def batch(self, step: int) -> PyTree:
        """The training split and the order of the step's epoch."""
        epoch = step // self.steps_per_epoch
        if epoch != self._epoch:
            order = self._order(self._root, np.int32(epoch))
            self._epoch, self._epoch_order = epoch, order
        return self._train, self._epoch_order

    def steps_alike(self, step: int) -> int:
        """The steps that the epoch still has."""
        return self.steps_per_epoch - step % self.steps_per_epoch

    def train_inputs(
        self, arguments: PyTree, step: Array, root: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """The batch at the step's place in the order, as `augmented` gives it."""
        data, order = arguments
        start = step % self.steps_per_epoch * self._batch_size
        indices = lax.dynamic_slice_in_dim(order, start, self._batch_size)
        indices = lax.with_sharding_constraint(indices, self._placement.batch)
        key = keyed(root, "augment", step)
        return (self.augmented(key, data.images[indices]),), data.labels[indices]

    def eval_shapes(self) -> list[PyTree]:
        """One batch and its weights."""
        size = self._eval_batch_size
        weights = jax.ShapeDtypeStruct((size,), jnp.float32)
        shapes = (_shapes(self._source, size), weights)
        return [with_sharding(shapes, self._placement.batch)]

    def split(self, name: str) -> Iterator[PyTree]:
        """Batches padded with the last example, and weights that leave that out."""
        held_out = name == "validation"
        data = self._validation if held_out else Images(*self._source.read(name))
        size = len(data.labels)
        for start in range(0, size, self._eval_batch_size):
            rows = np.arange(start, start + self._eval_batch_size)
            indices = self._placement.own(rows)
            weights = (indices < size).astype(np.float32)
            indices = np.minimum(indices, size - 1)
            batch = jax.tree.map(lambda x, i=indices: x[i], data)
            yield self._placement.put_batch((batch, weights))

    def eval_inputs(self, arguments: PyTree) -> tuple[tuple[Array, ...], Array, Array]:
        """The examples of a batch, as `plain` gives them."""
        batch, weights = arguments
        return (self.plain(batch.images),), batch.labels, weights

    def augmented(self, key: Array, examples: Array) -> Array:
        """What a network trains on of examples (n, ...): here, the same as `plain`."""
        del key
        return self.plain(examples)

    def plain(self, examples: Array) -> Array:
        """What a network is evaluated on: here, the numbers as they are."""
        return examples.astype(self._dtype)


class ResidentImages(ResidentArrays):
    """Images that lie on every device as uint8 and are augmented inside the step."""

    def __init__(
        self,
        source: Source,
        placement: Placement,
        *,
        augmentation: str,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: Any,
        **options: Any,
    ):
        """Plans the batches of a source whose `read` gives images and labels.

        Args:
          source: of images.
          placement: where they lie.
          augmentation: a name in `augment.AUGMENTATIONS`.
          mean: by channel, subtracted from pixels / 255.
          std: by channel, divided by.
          dtype: of what reaches the network.
          options: the other arguments of `ResidentArrays`.
        """
        channels = source.image_shape[-1]
        self._normalize = normalizer(mean, std, channels=channels, dtype=dtype)
        self._augment = augment.get_augmentation(augmentation)
        super().__init__(source, placement, dtype=dtype, **options)

    def augmented(self, key: Array, examples: Array) -> Array:
        """The images augmented and normalized."""
        return self._normalize(self._augment(key, examples))

    def plain(self, examples: Array) -> Array:
        """The images normalized."""
        return self._normalize(examples.astype(jnp.float32))


def normalizer(
    mean: Sequence[float], std: Sequence[float], *, channels: int, dtype: Any
) -> Callable[[Array], Array]:
    """`augment.normalize` with these numbers, one for each channel.

    Raises:
      ValueError: another number of them.
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
    sizes: Mapping[str, int], *, batch_size: int, validation_fraction: float
) -> tuple[dict[str, int], int]:
    """The sizes of a feed that holds out a part of "train", and its steps per epoch.

    Raises:
      ValueError: a batch that is larger than what is left to train on.

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
    return planned, train // batch_size


def validation_size(size: int, fraction: float) -> int:
    """How many of `size` training examples are held out: rounded down, at least 1.

    >>> validation_size(50_000, 0.1)
    5000
    """
    return max(1, min(math.floor(size * fraction), size - 1))


def split_indices(
    size: int, held_out: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) indices of `size` examples, chosen by a seed alone."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(size)
    return order[: size - held_out], order[size - held_out :]


def with_sharding(shapes: PyTree, sharding: Sharding) -> PyTree:
    """Shapes and dtypes with a sharding, to compile for."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes
    )


def _shapes(source: Source, size: int) -> Images:
    return Images(
        jax.ShapeDtypeStruct((size, *source.image_shape), source.dtype),
        jax.ShapeDtypeStruct((size,), jnp.int32),
    )
