"""Feeds of datasets that are replicated on every device.

The training split is put on the devices once. A batch is a slice of the epoch's
permutation, gathered and augmented inside the jitted step, so that training moves no
data from the host.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from iterand_jax.data import augment
from iterand_jax.data.feeds import (
    CLASSES_FILE,
    Feed,
    Images,
    Placement,
    PyTree,
    epoch_order,
    normalizer,
    plan_sizes,
    split_indices,
    with_sharding,
)
from iterand_jax.data.repeats import Repeats
from iterand_jax.data.sources import Source
from iterand_jax.keys import keyed
from iterand_jax.runtime.parts import part


class ResidentArrays(Feed):
    """Arrays of one shape, replicated on every device, that networks take as floats.

    A part of the training split, determined by `split_seed`, is held out for
    validation. The rest is reshuffled each epoch; the last partial batch is dropped
    unless `partial_batches`.
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
        partial_batches: bool = False,
    ):
        """Plans the batches of a source whose `read` returns arrays and labels."""
        del augmentation  # "none" is the only one
        self.sizes, self.steps_per_epoch = plan_sizes(
            source.sizes,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            partial_batches=partial_batches,
        )
        if partial_batches:
            self.partial_batch = self.sizes["train"] % batch_size
        self._source = source
        self._placement = placement
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._split_seed = split_seed
        self._dtype = dtype
        self._order = jax.jit(self._ordered, out_shardings=placement.replicated)
        self._epoch, self._epoch_order = -1, ()
        self._repeats = Repeats(source.name)
        self._stacks: list[PyTree] = []  # of "validation", shared by all runs

    def open(self, root: Array, position: Any = None) -> None:
        """Puts the training data on the devices; validation data stays on the host."""
        del position
        images, labels = self._source.read("train")
        train, held_out = split_indices(
            len(labels), self.sizes["validation"], seed=self._split_seed
        )
        self._root = root
        own = Images(images[train], labels[train])
        with part("data copy"):
            self._train = jax.block_until_ready(self._placement.put_whole(own))
        self._validation = Images(images[held_out], labels[held_out])
        with part("data repeats"):
            self._repeats.log("train", *own)
            self._repeats.log("validation", *self._validation)

    def open_beside(self, other: "Feed", root: Array) -> None:
        """Shares the arrays of the other feed; the order follows from this root key."""
        assert isinstance(other, ResidentArrays)
        self._root = root
        self._train, self._validation = other._train, other._validation
        self._stacks, self._repeats = other._stacks, other._repeats

    def files(self) -> Mapping[str, str]:
        """The names of the classes, one per line in the order of their labels."""
        names = self._source.classes
        return {CLASSES_FILE: "".join(f"{name}\n" for name in names)} if names else {}

    def train_shapes(self) -> list[PyTree]:
        """The whole training split and an epoch's permutation of it.

        Of a partial batch there is the end of the permutation alone.
        """
        sharding = self._placement.replicated
        data = _shapes(self._source, self.sizes["train"])
        orders = [
            jax.ShapeDtypeStruct((size,), jnp.int32)
            for size in (self.sizes["train"], self.partial_batch)
            if size
        ]
        return [with_sharding((data, order), sharding) for order in orders]

    def _ordered(self, root: Array, epoch: Array) -> tuple[Array, Array]:
        """The permutation of an epoch, and of its end those in the partial batch."""
        order = epoch_order(root, epoch, size=self.sizes["train"])
        return order, order[len(order) - self.partial_batch :]

    def batch(self, step: int) -> PyTree:
        """The training split and the permutation of the step's epoch."""
        epoch = step // self.steps_per_epoch
        if epoch != self._epoch:
            orders = self._order(self._root, np.int32(epoch))
            self._epoch, self._epoch_order = epoch, orders
        return self._train, self._epoch_order[self._is_partial(step)]

    def _is_partial(self, step: int) -> bool:
        last = step % self.steps_per_epoch == self.steps_per_epoch - 1
        return bool(self.partial_batch) and last

    def steps_alike(self, step: int) -> int:
        """The steps of the same batch size that remain in the epoch."""
        left = self.steps_per_epoch - step % self.steps_per_epoch
        return left - 1 if self.partial_batch and left > 1 else left

    def train_inputs(
        self, arguments: PyTree, step: Array, root: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """The step's slice of the permutation, gathered and augmented."""
        data, order = arguments
        indices = order
        if len(order) != self.partial_batch:
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
        """Batches padded with the last example; the weights of padding are 0."""
        data = self._examples(name)
        for start in range(0, len(data.labels), self._eval_batch_size):
            yield self._placement.put_batch(self._eval_batch(data, start))

    def stack_shapes(self) -> PyTree:
        """The shapes of all batches of the validation split, stacked."""
        number = math.ceil(self.sizes["validation"] / self._eval_batch_size)
        (shapes,) = self.eval_shapes()
        several = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((number, *a.shape), a.dtype), shapes
        )
        return with_sharding(several, self._placement.batches)

    def stacks(self, name: str) -> Iterator[PyTree]:
        """The batches of `split`, stacked: as many at once as validation has."""
        if name != "validation":
            yield from self._stacks_of(self._examples(name))
            return
        if not self._stacks:
            self._stacks += self._stacks_of(self._validation)
        yield from self._stacks

    def _stacks_of(self, data: Images) -> Iterator[PyTree]:
        number = math.ceil(self.sizes["validation"] / self._eval_batch_size)
        size = self._eval_batch_size
        for first in range(0, len(data.labels), number * size):
            batches = [self._eval_batch(data, first + i * size) for i in range(number)]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
            yield self._placement.put_batches(stacked)

    def _examples(self, name: str) -> Images:
        if name == "validation":
            return self._validation
        data = Images(*self._source.read(name))
        self._repeats.log(name, *data)
        return data

    def _eval_batch(self, data: Images, start: int) -> tuple[Images, np.ndarray]:
        """This process's rows of the batch from a row on, and their weights."""
        size = len(data.labels)
        rows = np.arange(start, start + self._eval_batch_size)
        indices = self._placement.own(rows)
        weights = (indices < size).astype(np.float32)
        indices = np.minimum(indices, size - 1)
        return jax.tree.map(lambda x: x[indices], data), weights

    def eval_inputs(self, arguments: PyTree) -> tuple[tuple[Array, ...], Array, Array]:
        """The examples of a batch, converted by `plain`."""
        batch, weights = arguments
        return (self.plain(batch.images),), batch.labels, weights

    def augmented(self, key: Array, examples: Array) -> Array:
        """Examples (n, ...) as a network trains on them: here, the same as `plain`."""
        del key
        return self.plain(examples)

    def plain(self, examples: Array) -> Array:
        """Examples as a network is evaluated on them: here, cast to its dtype."""
        return examples.astype(self._dtype)


class ResidentImages(ResidentArrays):
    """uint8 images, replicated on every device and augmented inside the step."""

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
        """Plans the batches of a source whose `read` returns images and labels.

        Args:
          source: of images.
          placement: the shardings of the data and of batches.
          augmentation: a name in `augment.AUGMENTATIONS`.
          mean: per channel, of pixels / 255.
          std: per channel, of pixels / 255.
          dtype: of the network's inputs.
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


def _shapes(source: Source, size: int) -> Images:
    return Images(
        jax.ShapeDtypeStruct((size, *source.image_shape), source.dtype),
        jax.ShapeDtypeStruct((size,), jnp.int32),
    )
