"""Sources: reading datasets from disk, and identifying them by a hash.

A `Source` describes a dataset (shape, classes, sizes, fingerprint) and reads a split
only on request, so that the test set is not touched until the end of a run.
TensorFlow is never imported: TFDS directories are read as array records and the
images in them are decoded by Pillow.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.data import decoded, image_headers

_CHUNK = 1000  # records per thread: enough to amortize, few enough to balance
_DIGITS_TEST_SIZE = 360


class DataNotFoundError(ValueError):
    """A dataset is not in the data directory; the message says how to prepare it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset that can be read.

    Attributes:
      name: its name in `datasets.DATASETS`.
      num_classes: the number of classes.
      sizes: the number of examples of each split.
      encoding: how examples are stored: "png" (lossless), "jpeg" (lossy), "array" (no
        decoding), "text" (UTF-8).
      fingerprint: the first 16 hex digits of a SHA-256 over the names and bytes of the
        data files, the same on every machine.
      read: split -> (examples, int32 labels (n,)), in the form that the dataset's feed
        takes: images uint8 (n, H, W, C), arrays float32 (n, ...), or texts as a list of
        str. Raises ValueError for an unknown split and for a record that cannot be read
        or decoded.
      image_shape: (H, W, C) of all images, or the shape of one array; empty if the
        examples differ in shape.
      dtype: of images or arrays: "uint8" or "float32".
      classes: the names of the classes by label, if they have names.
      deviation: how this copy differs from the official dataset of this name; None for
        the official one.
    """

    name: str
    num_classes: int
    sizes: Mapping[str, int]
    encoding: str
    fingerprint: str
    read: Callable[[str], Any]
    image_shape: tuple[int, ...] = ()
    dtype: str = "uint8"
    classes: tuple[str, ...] = ()
    deviation: str | None = None


def resolve_data_dir(data_dir: str | None = None) -> str:
    """The absolute `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      ValueError: it is a URL, such as of a bucket.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in chosen:
        raise ValueError(
            f"datasets are read from a local folder, not from {chosen}: "
            "mount the bucket or copy it"
        )
    return os.path.abspath(os.path.expanduser(chosen))


def tfds_builder(name: str, folder: str) -> tuple[Any, bool]:
    """The TFDS builder of a dataset, and whether it is prepared in `folder`.

    Raises:
      ValueError: it is prepared but damaged, or in a format that needs TensorFlow.
    """
    import tensorflow_datasets as tfds

    try:
        with _quiet_tfds():
            builder = tfds.builder(name, data_dir=folder)
            prepared = builder.is_prepared()
    except Exception as error:
        raise ValueError(f"{name} in {folder} cannot be opened: {error}") from error
    if prepared:
        formats = sorted(f.value for f in builder.info.available_file_formats())
        if "array_record" not in formats:
            raise ValueError(
                f"{name} in {builder.data_dir} is stored as {', '.join(formats)}, "
                "which needs TensorFlow: move it away and run: "
                + prepare_command(name, folder)
            )
    return builder, prepared


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    # TFDS warns about missing folders, which is an expected case here.
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def prepare_command(name: str, folder: str) -> str:
    """The command line that prepares a dataset in `folder`."""
    return f"python -m iterand_jax.data.prepare {name} --data_dir={shlex.quote(folder)}"


def open_cifar10(folder: str) -> Source:
    """Opens CIFAR-10 as prepared by TFDS, without decoding its images.

    Raises:
      DataNotFoundError: it is absent.
      ValueError: it is damaged or in another format.
    """
    source = _open_tfds_images("cifar10", folder)
    if source.encoding == "png":
        return source
    deviation = f"stored as {source.encoding.upper()}: not the official pixels"
    return dataclasses.replace(source, deviation=deviation)


def open_imdb_reviews(folder: str) -> Source:
    """Opens the IMDB reviews as prepared by TFDS; `read` returns texts and labels.

    Texts are a list of str, labels int32 (n,), 1 for a positive review.

    Raises:
      DataNotFoundError: they are absent.
      ValueError: they are damaged or in another format.
    """
    name = "imdb_reviews"
    builder = _prepared_builder(name, folder)
    try:
        fingerprint = _fingerprint(builder)
    except Exception as error:
        raise ValueError(f"{name} in {folder} cannot be read: {error}") from error
    sizes = {name: split.num_examples for name, split in builder.info.splits.items()}
    return Source(
        name=name,
        num_classes=builder.info.features["label"].num_classes,
        sizes=sizes,
        encoding="text",
        fingerprint=fingerprint,
        read=functools.partial(_read_tfds_texts, builder),
    )


def _prepared_builder(name: str, folder: str) -> Any:
    builder, prepared = tfds_builder(name, folder)
    if not prepared:
        raise DataNotFoundError(
            f"{name} is not in {folder}: run: {prepare_command(name, folder)}"
        )
    return builder


def _open_tfds_images(name: str, folder: str) -> Source:
    import tensorflow_datasets as tfds

    builder = _prepared_builder(name, folder)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    splits = builder.info.splits
    try:
        fingerprint = _fingerprint(builder)
        first = builder.as_data_source("train", decoders=undecoded)[0]["image"]
    except Exception as error:
        raise ValueError(f"{name} in {folder} cannot be read: {error}") from error
    return Source(
        name=name,
        image_shape=builder.info.features["image"].shape,
        num_classes=builder.info.features["label"].num_classes,
        sizes={name: split.num_examples for name, split in splits.items()},
        encoding="png" if first.startswith(b"\x89PNG") else "jpeg",
        fingerprint=fingerprint,
        read=functools.partial(_read_decoded, builder, undecoded, fingerprint),
    )


def _fingerprint(builder: Any) -> str:
    splits = builder.info.splits.values()
    digest = hashlib.sha256()
    for path in sorted(Path(path) for split in splits for path in split.filepaths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read_decoded(
    builder: Any, undecoded: Any, fingerprint: str, split: str
) -> tuple[np.ndarray, np.ndarray]:
    splits = builder.info.splits
    _check_split(builder.name, split, splits)
    shape = (splits[split].num_examples, *builder.info.features["image"].shape)
    name = f"{builder.name}-{split}-{fingerprint}-{decoded.decoder()}"
    decode = functools.partial(_read_tfds_images, builder, undecoded, split)
    return decoded.kept(name, shape, decode)


def _read_tfds_images(
    builder: Any, undecoded: Any, split: str
) -> tuple[np.ndarray, np.ndarray]:
    records = builder.as_data_source(split, decoders=undecoded)
    size, shape = len(records), builder.info.features["image"].shape
    images = np.empty((size, *shape), np.uint8)
    labels = np.empty(size, np.int32)

    def read_chunk(start: int) -> None:
        indices = range(start, min(start + _CHUNK, size))
        for index, record in zip(indices, _fetch(records, indices), strict=True):
            try:
                images[index] = _decode(record["image"]).reshape(shape)
                labels[index] = record["label"]
            except Exception as error:
                raise _RecordError(index, error) from error

    with (
        _naming_records(builder, split),
        futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        list(pool.map(read_chunk, range(0, size, _CHUNK)))
    return images, labels


def _read_tfds_texts(builder: Any, split: str) -> tuple[list[str], np.ndarray]:
    _check_split(builder.name, split, builder.info.splits)
    records = builder.as_data_source(split)
    texts, labels = [], np.empty(len(records), np.int32)
    with _naming_records(builder, split):
        for index, record in enumerate(_fetch(records, range(len(records)))):
            try:
                texts.append(record["text"].decode())
                labels[index] = record["label"]
            except Exception as error:
                raise _RecordError(index, error) from error
    return texts, labels


@contextlib.contextmanager
def _naming_records(builder: Any, split: str) -> Iterator[None]:
    try:
        yield
    except _RecordError as error:
        index, cause = error.args
        place = _locate(builder.info.splits[split], index)
        raise ValueError(
            f"{builder.name} {split} example {index} ({place}) cannot be read: {cause}"
        ) from error


class _RecordError(Exception):
    """An index within a split, and what went wrong there."""


def _fetch(records: Any, indices: range) -> list[Any]:
    try:
        return records.__getitems__(indices)
    except Exception:
        # The error of a batch does not say which of its records failed.
        return [_fetch_one(records, index) for index in indices]


def _fetch_one(records: Any, index: int) -> Any:
    try:
        return records[index]
    except Exception as error:
        raise _RecordError(index, error) from error


def _decode(encoded: bytes) -> np.ndarray:
    from PIL import Image

    image_headers.check(encoded)
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
        return np.asarray(image)


def _locate(split_info: Any, index: int) -> str:
    shards = zip(split_info.filepaths, split_info.shard_lengths, strict=True)
    path, length = next(shards)
    while index >= length:
        index -= length
        path, length = next(shards)
    return f"{path}, record {index}"


def _check_split(name: str, split: str, splits: Mapping[str, Any]) -> None:
    if split not in splits:
        raise ValueError(
            f"unknown {name} split {split!r}; possible: {', '.join(splits)}"
        )


def open_digits(folder: str) -> Source:
    """Opens scikit-learn's 1,797 handwritten digits; the folder is not used.

    Gray levels 0..16 become round(level * 255 / 16). Images are sorted by the SHA-256
    of their index, a shuffle that does not depend on library versions; the first 1,437
    are the training set and the last 360 the test set.
    """
    from sklearn.datasets import load_digits

    del folder
    digits = load_digits()
    order = sorted(
        range(len(digits.target)),
        key=lambda index: hashlib.sha256(str(index).encode()).digest(),
    )
    images = np.rint(digits.images[order, :, :, None] * (255 / 16)).astype(np.uint8)
    labels = digits.target[order].astype(np.int32)
    cut = len(order) - _DIGITS_TEST_SIZE
    splits = {"train": slice(None, cut), "test": slice(cut, None)}

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        _check_split("digits", split, splits)
        return images[splits[split]].copy(), labels[splits[split]].copy()

    content = b"digits" + images.tobytes() + labels.astype("<i4").tobytes()
    return Source(
        name="digits",
        image_shape=(8, 8, 1),
        num_classes=10,
        sizes={"train": cut, "test": _DIGITS_TEST_SIZE},
        encoding="array",
        fingerprint=hashlib.sha256(content).hexdigest()[:16],
        read=read,
    )
