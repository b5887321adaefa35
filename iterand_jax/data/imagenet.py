"""ImageNet as a stream of batches: Grain over TFDS array records.

Each batch is a pure function of the seed and its index. Grain reshuffles the records
each epoch, and each position in that order has its own random generator. So the images
do not depend on the number of worker processes, on where a run resumes, or on the
number of hosts that share a batch.

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
_AHEAD = 2  # batches prefetched to the devices
_TAIL = 1 << 17  # bytes: the last two blocks of an array record file


class Batch(NamedTuple):
    """Examples on the host.

    Attributes:
      images: uint8 (n, size, size, 3), RGB.
      labels: int32 (n,).
      weights: float32 (n,), 1, or 0 for padding and for images that cannot be decoded.
      bad: strings (n,): empty, or the images at this position that could not be
        decoded, in lines "file name: reason".
    """

    images: Any
    labels: Any
    weights: Any
    bad: np.ndarray


def open_imagenet(folder: str) -> Source:
    """Opens ImageNet as TFDS prepared it, reading none of its images.

    `read` returns random access to the undecoded examples of a split, by index. The
    fingerprint hashes the names, sizes and last 128 KiB of the files: reading all 150
    GB would take half an hour, and an array record file ends with its index, which has
    the offset of each record.

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
    partial_batches: bool = False,
) -> Any:
    """An infinite dataset of batches: random crops, reshuffled each epoch.

    The last partial batch of an epoch is dropped, or kept if asked for. An image that
    cannot be decoded is replaced by another, determined by the position in the order.

    Args:
      records: of the training split.
      seed: of the order and of the crops, from 0.
      size: of the images, in pixels.
      batch_size: examples in a batch, over all hosts.
      host: (index, count) of the hosts; each makes an equal part of every batch.
      partial_batches: whether to keep the last, smaller batch of an epoch.

    Returns:
      A grain.MapDataset of `Batch`, by the index of the batch.
    """
    import grain

    order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(records)).shuffle(seed=order_seed)
    if partial_batches:
        batches = order.batch(batch_size, drop_remainder=False).repeat()
        return batches.map_with_index(_Loader(records, size, batch_size, *host, seed))
    whole_batches = order[: len(records) // batch_size * batch_size].repeat()
    return _batches(whole_batches, records, size, batch_size, host, seed)


def eval_batches(
    records: Any, *, size: int, batch_size: int, host: tuple[int, int] = (0, 1)
) -> Any:
    """Batches that have each example once: center crops, in order, then padding.

    An image that cannot be decoded has weight 0, like padding. Args and Returns are
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
    loader = _Loader(records, size, batch_size, *host, seed)
    return order.batch(batch_size).map_with_index(loader)


def iterate(
    batches: Any,
    *,
    workers: int = 0,
    start: int = 0,
    place: Callable[[Batch], Any] = lambda batch: batch,
) -> Any:
    """Iterates over batches, with prefetching.

    Args:
      batches: from `train_batches` or `eval_batches`.
      workers: the number of worker processes; 0 for a thread of this process.
      start: the index of the first batch.
      place: applied to each batch in a thread of this process, for example to put it
        on the devices.

    Returns:
      A grain.DatasetIterator; close it to stop the workers.
    """
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain passes its flags to the workers
    # The workers (or, without any, one thread) do the reading: no threads below them.
    at_once = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=1
    )
    dataset = batches[start:].to_iter_dataset(at_once)
    dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker).map(place)
    # A thread of this process fetches from the workers and puts batches on devices.
    ahead = grain.experimental.ThreadPrefetchIterDataset(
        dataset, prefetch_buffer_size=_AHEAD
    )
    with signals.kept_from_children():  # the parent stops them when it is interrupted
        iterator = iter(ahead)
        iterator.start_prefetch()
    return iterator


def _start_worker(index: int, count: int) -> None:
    """Makes a worker exit when its parent exits or is killed."""
    del index, count
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Records, by their indices in a larger random access.

    Attributes:
      records: all of them.
      indices: of those that are chosen, in order.
    """

    records: Any
    indices: np.ndarray

    def __len__(self) -> int:
        """How many are chosen."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One record."""
        return self.records[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        """Several records, in one call."""
        return self.records.__getitems__([int(self.indices[i]) for i in indices])


@dataclasses.dataclass(frozen=True)
class _Loader:
    """Makes one host's part of a batch from its index and its record indices.

    With a seed it makes random crops and replaces bad images, without one it makes
    center crops and gives bad images weight 0.
    """

    records: Any
    size: int
    batch_size: int
    host: int
    hosts: int
    seed: int | None

    def __call__(self, number: int, indices: np.ndarray) -> Batch:
        # The position in the whole order of this host's first example, where a partial
        # batch counts as a whole one.
        first = number * self.batch_size + len(indices) // self.hosts * self.host
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
            # One call for all takes a quarter of the time of one call per record.
            return self.records.__getitems__(indices)
        except Exception as error:
            raise ValueError(f"records of {NAME} cannot be read: {error}") from error

    def _example(
        self, record: Mapping[str, Any], position: int
    ) -> tuple[np.ndarray, int, str]:
        """(image, label, the bad images that it replaces) of a position."""
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
            name = record["file_name"].decode(errors="backslashreplace")
            raise jpeg.BadImageError(f"{name}: {error}") from error


def reports(batch: Batch) -> Iterator[str]:
    """The bad images reported by a batch, "file name: reason"."""
    for lines in batch.bad:
        yield from lines.splitlines()
