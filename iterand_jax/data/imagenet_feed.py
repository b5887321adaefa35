"""The feed of ImageNet: batches that Grain makes on the host while the devices train.

The paper reports top-1 on the 50,000 validation images, whose labels are public. So
they are both "validation" after each epoch and "test" at the end, and no training
images are held out. If a fraction of these is asked for, it is "validation".
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from iterand_jax.data import imagenet
from iterand_jax.data.feeds import (
    Feed,
    Images,
    Placement,
    PyTree,
    normalizer,
    split_indices,
    steps_of,
    validation_size,
    with_sharding,
)
from iterand_jax.data.sources import Source
from iterand_jax.keys import keyed
from iterand_jax.runtime import hosts

ON_BAD_IMAGE = ("skip", "refuse")
_LOGGER = logging.getLogger(__name__)


class BadImageInDatasetError(ValueError):
    """An image cannot be decoded, and dataset.on_bad_image is "refuse"."""


class StreamedImages(Feed):
    """uint8 images that worker processes on the host decode and crop.

    Training uses random crops with 0.08 to 1 of the image's area and an aspect ratio
    from 3/4 to 4/3, flipped at random; evaluation uses center crops
    (`iterand_jax.data.jpeg`). The images of a step do not depend on the number of
    workers, devices and hosts. An image that cannot be decoded is logged once by its
    file name; then it is replaced in training and skipped in evaluation ("skip"), or it
    stops the run ("refuse").
    """

    def __init__(
        self,
        source: Source,
        placement: Placement,
        *,
        size: int,
        batch_size: int,
        eval_batch_size: int,
        dtype: Any,
        mean: Sequence[float],
        std: Sequence[float],
        workers: int,
        on_bad_image: str,
        validation_fraction: float | None = None,
        split_seed: int = 0,
        partial_batches: bool = False,
    ):
        """Plans the batches of a source whose `read` returns records.

        Args:
          source: from `imagenet.open_imagenet`.
          placement: the sharding of batches.
          size: of the images, in pixels.
          batch_size: examples in a batch of training, over all hosts.
          eval_batch_size: examples in a batch of evaluation, over all hosts.
          dtype: of the network's inputs.
          mean: per channel, of pixels / 255.
          std: per channel, of pixels / 255.
          workers: worker processes per host; -1 for one per core, 0 for a thread of
            this process.
          on_bad_image: "skip" or "refuse".
          validation_fraction: of the training images, held out; None for none.
          split_seed: determines what is held out.
          partial_batches: whether an epoch ends with a smaller batch of what is left.

        Raises:
          ValueError: an invalid argument.
        """
        self._normalize = normalizer(mean, std, channels=3, dtype=dtype)
        _check_decoding(workers, on_bad_image)
        test, held_out = source.sizes["validation"], 0
        if validation_fraction is not None:
            held_out = validation_size(source.sizes["train"], validation_fraction)
        train = source.sizes["train"] - held_out
        if batch_size > train:
            raise ValueError(
                f"batch_size {batch_size} is larger than the training split of "
                f"{train} examples"
            )
        self.sizes = {"train": train, "validation": held_out or test, "test": test}
        self.steps_per_epoch = steps_of(train, batch_size, partial_batches)
        self.partial_batch = train % batch_size if partial_batches else 0
        self._held_out, self._split_seed = held_out, split_seed
        self._partial_batches = partial_batches
        self._source = source
        self._placement = placement
        self._size = size
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._host = jax.process_index(), jax.process_count()
        self._workers = hosts.cores() if workers == -1 else workers
        self._refuse = on_bad_image == "refuse"
        self._bad: set[str] = set()
        self._next_step = 0
        self._training: Any = None

    def open(self, root: Array, position: Any = None) -> None:
        """Starts the workers, at the batch that follows the checkpoint."""
        if position is not None:
            self._next_step = position["next_step"]
            self._bad = set(position["bad_images"])
        batches = imagenet.train_batches(
            self._records("train"),
            partial_batches=self._partial_batches,
            seed=_seed(root),
            size=self._size,
            batch_size=self._batch_size,
            host=self._host,
        )
        self._training = self._iterate(batches, start=self._next_step)

    def train_shapes(self) -> list[PyTree]:
        """A batch, and the partial one."""
        sizes = [size for size in (self._batch_size, self.partial_batch) if size]
        shapes = [self._shapes(size) for size in sizes]
        return [with_sharding(one, self._placement.batch) for one in shapes]

    def batch(self, step: int) -> PyTree:
        """The batch of the step, which a thread has prefetched to the devices."""
        if step != self._next_step:
            raise ValueError(
                f"the iterator of {self._source.name} is at step "
                f"{self._next_step}, not {step}"
            )
        batch = next(self._training)
        self._report(batch)
        self._next_step += 1
        return Images(batch.images, batch.labels)

    def train_inputs(
        self, arguments: PyTree, step: Array, root: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """The batch, normalized."""
        del step, root
        return (self._normalize(arguments.images),), arguments.labels

    def eval_shapes(self) -> list[PyTree]:
        """A batch and its weights."""
        weights = jax.ShapeDtypeStruct((self._eval_batch_size,), jnp.float32)
        shapes = self._shapes(self._eval_batch_size), weights
        return [with_sharding(shapes, self._placement.batch)]

    def split(self, name: str) -> Iterator[PyTree]:
        """Each image of a split once; "test" is TFDS's validation split.

        So is "validation", if no training images are held out.
        """
        batches = imagenet.eval_batches(
            self._records(name),
            size=self._size,
            batch_size=self._eval_batch_size,
            host=self._host,
        )
        with contextlib.closing(self._iterate(batches)) as iterator:
            for batch in iterator:
                self._report(batch)
                yield Images(batch.images, batch.labels), batch.weights

    def _records(self, name: str) -> Any:
        """The records of "train", "validation" or "test"."""
        if name == "test" or (name == "validation" and not self._held_out):
            return self._source.read("validation")
        records = self._source.read("train")
        if not self._held_out:
            return records
        train, held_out = split_indices(
            len(records), self._held_out, seed=self._split_seed
        )
        return imagenet.Chosen(records, train if name == "train" else held_out)

    def eval_inputs(self, arguments: PyTree) -> tuple[tuple[Array, ...], Array, Array]:
        """The batch, normalized."""
        batch, weights = arguments
        return (self._normalize(batch.images),), batch.labels, weights

    def position(self) -> dict[str, Any]:
        """The step of the next batch, and the bad images that this host has logged.

        It does not depend on the workers, so a run may resume with more or fewer.
        """
        return {"next_step": self._next_step, "bad_images": sorted(self._bad)}

    def close(self) -> None:
        """Stops the workers."""
        if self._training is not None:
            self._training.close()
            self._training = None

    def _iterate(self, batches: Any, start: int = 0) -> Any:
        return imagenet.iterate(
            batches, workers=self._workers, start=start, place=self._place
        )

    def _place(self, batch: imagenet.Batch) -> imagenet.Batch:
        arrays = {
            name: getattr(batch, name) for name in ("images", "labels", "weights")
        }
        return batch._replace(**self._placement.put_batch(arrays))

    def _report(self, batch: imagenet.Batch) -> None:
        for line in imagenet.reports(batch):
            if self._refuse:
                raise BadImageInDatasetError(
                    f"an image of {self._source.name} cannot be decoded: {line} "
                    "(dataset.on_bad_image=skip leaves such images out)"
                )
            if line not in self._bad:
                self._bad.add(line)
                _LOGGER.warning("skipped an image that cannot be decoded: %s", line)

    def _shapes(self, batch_size: int) -> Images:
        return Images(
            jax.ShapeDtypeStruct((batch_size, self._size, self._size, 3), jnp.uint8),
            jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        )


def _check_decoding(workers: int, on_bad_image: str) -> None:
    if workers < -1:
        raise ValueError(
            "dataset.workers must be a number of processes from 0, or -1 for one per "
            f"core; got {workers}"
        )
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(
            f"unknown dataset.on_bad_image {on_bad_image!r}; possible: "
            f"{', '.join(ON_BAD_IMAGE)}"
        )


def _seed(root: Array) -> int:
    """The seed of the order and the crops, derived from the root key."""
    words = np.asarray(jax.random.bits(keyed(root, "images"), (2,), jnp.uint32))
    return int(words[0]) << 32 | int(words[1])
