"""ImageNet as a stream of batches: Grain over TFDS array records.

Each batch is a pure function of the seed and its number. Grain permutes the records
anew in each epoch, and every place in that order has a random generator of its own. So
the images are the same however many processes decode them, wherever a run resumes, and
among however many hosts a batch is dealt out.

    source = open_imagenet(data_dir)
    batches = train_batches(source.read("train"), seed=0, size=224, batch_size=128)
    with contextlib.closing(iterate(batches, workers=8)) as iterator:
        batch = next(iterator)
"""

import dataclasses
import functools
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iterand_jax.data import jpeg
from iterand_jax.data.sources import (
    DataNotFoundError,
    Source,
    prepare_command,
    tfds_builder,
)
from iterand_jax.runtime import signals

NAME = "imagenet2012"
OFFICIAL_SIZES = {"train": 1_281_167, "validation": 50_000}
ATTEMPTS = 100  # to find an image that can be decoded
_AHEAD = 2  # batches on the devices before they are needed
_TAIL = 1 << 17  # bytes: the last two blocks of an array record file


class Batch(NamedTuple):
    """Examples on the host.

    Attributes:
      images: uint8 (n, size, size, 3), RGB.
      labels: int32 (n,).
      weights: float32 (n,), 1, or 0 where there is no example to count.
      bad: strings (n,), empty, or the images that could not be decoded when this one
        was sought, in lines "file name: reason".
    """

    images: Any
    labels: Any
    weights: Any
    bad: np.ndarray


def open_imagenet(folder: str) -> Source:
    """Opens ImageNet as TFDS prepared it, reading none of its images.

    What `read` gives of a split is not its examples but random access to them, by
    index, undecoded. The fingerprint is over the names, sizes and last 128 KiB of the
    files: to read all 150 GB would take half an hour, and the end of an array record
    file is its index, which says where in it each record lies.

    Raises:
      DataNotFoundError: it is absent.
      ValueError: it is damaged or in another format.
    """
    builder, prepared = tfds_builder(NAME, folder)
    if not prepared:
        raise DataNotFoundError(
            f"{NAME} is not in {folder}: run: {prepare_command(NAME, folder)}"
        )
    splits = {split: builder.info.splits[split] for split in OFFICIAL_SIZES}
    files = [Path(path) for info in splits.values() for path in info.filepaths]
    try:
        fingerprint = _fingerprint(sorted(files))
    except OSError as error:
        raise ValueError(f"{NAME} in {folder} cannot be read: {error}") from error
    sizes = {split: info.num_examples for split, info in splits.items()}
    deviation = "not the numbers of images that ImageNet has"
    return Source(
        name=NAME,
        num_classes=builder.info.features["label"].num_classes,
        sizes=sizes,
        encoding="jpeg",
        fingerprint=fingerprint,
        read=functools.partial(_records, builder),
        deviation=None if sizes == OFFICIAL_SIZES else deviation,
    )


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - _TAIL))
            digest.update(f"{path.name}:{size};".encode() + file.read())
    return digest.hexdigest()[:16]


def _records(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    if split not in OFFICIAL_SIZES:
        raise ValueError(
            f"unknown {NAME} split {split!r}; possible: {', '.join(OFFICIAL_SIZES)}"
        )
    undecoded = {"image": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=undecoded)


def train_batches(
    records: Any,
    *,
    seed: int,
    size: int,
    batch_size: int,
    host: tuple[int, int] = (0, 1),
) -> Any:
    """Batches without end: random crops, shuffled anew in each epoch.

    What does not fill a batch at the end of an epoch is left out. An image that cannot
    be decoded is replaced by another, which its place in the order determines.

    Args:
      records: of the training split.
      seed: of the order and of the crops, from 0.
      size: of the images, in pixels.
      batch_size: examples in a batch, over all hosts.
      host: (index, count): which of how many equal parts of each batch to make.

    Returns:
      A grain.MapDataset of `Batch`, by the number of the batch.
    """
    import grain

    order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(records)).shuffle(seed=order_seed)
    whole_batches = order[: len(records) // batch_size * batch_size].repeat()
    return _batches(whole_batches, records, size, batch_size, host, seed)


def eval_batches(
    records: Any, *, size: int, batch_size: int, host: tuple[int, int] = (0, 1)
) -> Any:
    """Batches with each example once: centre crops, in order, then padding.

    An image that cannot be decoded has weight 0, as padding has. Args and Returns are
    those of `train_batches`.
    """
    import grain

    padded = -(-len(records) // batch_size) * batch_size
    order = grain.MapDataset.range(padded)
    return _batches(order, records, size, batch_size, host, seed=None)


def _batches(
    order: Any,
    records: Any,
    size: int,
    batch_size: int,
    host: tuple[int, int],
    seed: int | None,
) -> Any:
    return order.batch(batch_size).map_with_index(_Loader(records, size, *host, seed))


def iterate(
    batches: Any,
    *,
    workers: int = 0,
    start: int = 0,
    place: Callable[[Batch], Any] = lambda batch: batch,
) -> Any:
    """Iterates over batches that are made ahead of time.

    Args:
      batches: of `train_batches` or `eval_batches`.
      workers: how many processes make them; 0 for a thread of this one.
      start: the number of the first.
      place: what a thread of this process does with each, such as to put it on devices.

    Returns:
      A grain.DatasetIterator; close it, to end the processes.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain hands its flags on to the processes
    at_once = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=1
    )
    dataset = batches[start:].to_iter_dataset(at_once)
    dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker).map(place)
    ahead = grain.experimental.ThreadPrefetchIterDataset(
        dataset, prefetch_buffer_size=_AHEAD
    )
    with signals.kept_from_children():  # they are closed when the parent stops
        iterator = iter(ahead)
        iterator.start_prefetch()
    return iterator


def _start_worker(index: int, count: int) -> None:
    """Ends a worker when its parent ends, in whatever way."""
    del index, count
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@dataclasses.dataclass(frozen=True)
class _Loader:
    """Makes one host's part of a batch from its number and the indices of its records.

    With a seed it makes random crops and replaces bad images, without one it makes
    centre crops and leaves them out.
    """

    records: Any
    size: int
    host: int
    hosts: int
    seed: int | None

    def __call__(self, number: int, indices: np.ndarray) -> Batch:
        first = number * len(indices) + len(indices) // self.hosts * self.host
        indices = np.split(indices, self.hosts)[self.host]
        n = len(indices)
        images = np.zeros((n, self.size, self.size, 3), np.uint8)
        labels, weights = np.zeros(n, np.int32), np.zeros(n, np.float32)
        bad = [""] * n
        records = self._fetch([int(i) for i in indices if i < len(self.records)])
        for place, record in enumerate(records):
            try:
                crop, label, bad[place] = self._example(record, first + place)
            except jpeg.BadImageError as error:
                bad[place] = str(error)
                continue
            images[place], labels[place], weights[place] = crop, label, 1
        return Batch(images, labels, weights, np.array(bad))

    def _fetch(self, indices: list[int]) -> list[Mapping[str, Any]]:
        if not indices:
            return []
        try:
            # All at once takes a quarter of the time of one by one.
            return self.records.__getitems__(indices)
        except Exception as error:
            raise ValueError(f"records of {NAME} cannot be read: {error}") from error

    def _example(
        self, record: Mapping[str, Any], position: int
    ) -> tuple[np.ndarray, int, str]:
        """(image, label, bad images met on the way) of a place in the order."""
        if self.seed is None:
            return self._crop(record, None), record["label"], ""
        generator = np.random.default_rng((self.seed, position))
        bad: list[str] = []
        for _ in range(ATTEMPTS):
            try:
                crop = self._crop(record, generator)
                return crop, record["label"], "\n".join(bad)
            except jpeg.BadImageError as error:
                bad.append(str(error))
                record = self.records[int(generator.integers(len(self.records)))]
        raise ValueError(f"{ATTEMPTS} images in a row cannot be decoded: {bad[0]} ...")

    def _crop(
        self, record: Mapping[str, Any], generator: np.random.Generator | None
    ) -> np.ndarray:
        try:
            if generator is None:
                return jpeg.centre_crop(record["image"], self.size)
            return jpeg.random_crop(record["image"], generator, self.size)
        except jpeg.BadImageError as error:
            name = record["file_name"].decode()
            raise jpeg.BadImageError(f"{name}: {error}") from error


def reports(batch: Batch) -> Iterator[str]:
    """The bad images that a batch tells of, "file name: reason"."""
    for lines in batch.bad:
        yield from lines.splitlines()
