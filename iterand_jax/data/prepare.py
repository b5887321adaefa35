"""Prepares TFDS datasets as array records, without TensorFlow.

python -m iterand_jax.data.prepare DATASET [--data_dir=DIR] [--archive=FILE_OR_FOLDER]

TFDS writes array records without TensorFlow, but its dataset builders need it to read
the official archives. So the registered builder is kept (features, version, file names,
checksums) and only its examples are replaced, by generators that read the archive with
the standard library. Images are passed encoded, because TFDS encodes with TensorFlow.
"""

import contextlib
import io
import os
import resource
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
from absl import flags

from iterand_jax.data import archives, imagenet_files
from iterand_jax.data.sources import (
    DataNotFoundError,
    prepare_command,
    resolve_data_dir,
    tfds_builder,
)
from iterand_jax.runtime import cli, early, locks

Examples = Iterable[tuple[str | int, dict[str, Any]]]


def prepare(name: str, data_dir: str | None = None, archive: str | None = None) -> Path:
    """Prepares the TFDS directory of a dataset, unless it exists.

    A lock lets one process at a time prepare a dataset in a data directory. Others log
    on stderr that they wait; then they use the prepared dataset, or prepare it if the
    first one failed. The directory appears only when everything is written, and
    leftovers of a killed process are removed by the next.

    Args:
      name: "cifar10", "imdb_reviews" or "imagenet2012".
      data_dir: as in `resolve_data_dir`.
      archive: the official archive or its folder; None downloads it. It must match the
        SHA-256 that TFDS registers. For imagenet2012 also a folder of class folders
        (`imagenet_files.from_class_folders`).

    Returns:
      The path of the directory.

    Raises:
      ValueError: invalid arguments, or an archive with the wrong checksum.
      DownloadError: the download fails.
      OSError: reading or writing fails.
    """
    if name not in _EXAMPLES:
        raise ValueError(f"unknown dataset {name!r}; possible: {', '.join(_EXAMPLES)}")
    folder = resolve_data_dir(data_dir)
    builder, prepared = tfds_builder(name, folder)
    path, downloads = Path(builder.data_dir), Path(folder, "downloads")
    if prepared:
        return path
    # Which files are needed, and where they are or will be downloaded to.
    files = imagenet_files.class_folders(archive) if name == "imagenet2012" else {}
    expected = {} if files else archives.registered_archives(builder)
    for file_name, official in expected.items():
        files[file_name] = archives.locate(file_name, official, downloads, archive)
    lock = downloads / f"{name}.lock"
    message = f"waiting for the process that prepares {name}: {lock}"
    with early.unwinding(), locks.alone(lock, while_waiting=message):
        # Another process may have prepared it while this one waited.
        builder, prepared = tfds_builder(name, folder)
        if prepared:
            return path
        if path.exists():
            raise ValueError(f"{path} exists but holds no {name}: move it away")
        # Leftovers of a killed process.
        for killed in path.parent.glob(f"incomplete.*_{path.name}"):
            shutil.rmtree(killed)
        for file_name, official in expected.items():
            archives.partial_path(downloads / file_name).unlink(missing_ok=True)
            archives.obtain(files[file_name], official)
        _write(name, builder, files)
    return path


def prepare_if_possible(name: str, data_dir: str | None = None) -> None:
    """Calls `prepare` for a dataset that needs preparing.

    Raises:
      DataNotFoundError: it is missing and cannot be downloaded now (connecting times
        out after `archives.CONNECT_SECONDS`), or only by the user; the message has the
        data directory and the command to run.
      ValueError: the existing data is damaged.
    """
    if name not in _EXAMPLES:
        return
    folder = resolve_data_dir(data_dir)
    try:
        prepare(name, data_dir)
    except archives.ByHandError as error:
        raise DataNotFoundError(
            f"{name} is not in {folder}: {error}: {prepare_command(name, folder)}"
        ) from error
    except (archives.DownloadError, OSError) as error:
        raise DataNotFoundError(
            f"{name} is not in {folder} and cannot be downloaded now ({error}): with a "
            f"network, or --archive=FILE, run: {prepare_command(name, folder)}"
        ) from error


def _write(name: str, builder: Any, files: Mapping[str, Path]) -> None:
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    splits = _EXAMPLES[name](builder, files)
    builder._split_generators = lambda dl_manager: splits
    with _shuffling_without_tensorflow(), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(file_format="array_record")


@contextlib.contextmanager
def _shuffling_without_tensorflow() -> Iterator[None]:
    """Replaces TensorFlow's file API in TFDS's shuffle, which spills above 1 GB."""
    from tensorflow_datasets.core import shuffle

    # The shuffle opens all of its buckets at once.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * shuffle.BUCKETS_NUMBER
    if 0 <= soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    gfile = SimpleNamespace(GFile=open, exists=os.path.exists, remove=os.remove)
    tensorflow, shuffle.tf = (
        shuffle.tf,
        SimpleNamespace(
            io=SimpleNamespace(gfile=gfile),
            errors=SimpleNamespace(ResourceExhaustedError=()),
        ),
    )
    try:
        yield
    finally:
        shuffle.tf = tensorflow


def _cifar10(builder: Any, files: Mapping[str, Path]) -> dict[str, Examples]:
    (path,) = files.values()
    with tarfile.open(path, "r|gz") as archive:
        members = {
            PurePosixPath(n).name: f.read() for n, f in archives.members(archive)
        }
    names = members["batches.meta.txt"].decode().split()
    builder.info.features["label"].names = names
    train = b"".join(members[f"data_batch_{i}.bin"] for i in range(1, 6))
    return {
        "train": _cifar_examples("train", train),
        "test": _cifar_examples("test", members["test_batch.bin"]),
    }


def _cifar_examples(split: str, batches: bytes) -> Examples:
    """Yields examples from rows of a label byte and 3 x 32 x 32 pixel bytes."""
    for i, row in enumerate(np.frombuffer(batches, np.uint8).reshape(-1, 3073)):
        png = _encode(row[1:].reshape(3, 32, 32).transpose(1, 2, 0), "PNG")
        yield i, {"id": f"{split}_{i:05d}", "image": png, "label": int(row[0])}


def _imdb_reviews(builder: Any, files: Mapping[str, Path]) -> dict[str, Examples]:
    (path,) = files.values()
    splits: dict[str, list[Any]] = {"train": [], "test": [], "unsupervised": []}
    with tarfile.open(path, "r|gz") as archive:
        for name, file in archives.members(archive):
            match name.split("/"):
                case ["aclImdb", "train" | "test" as split, "neg" | "pos" as label, _]:
                    example = {"text": file.read().strip(), "label": label}
                    splits[split].append((name, example))
                case ["aclImdb", "train", "unsup", _]:
                    example = {"text": file.read().strip(), "label": -1}
                    splits["unsupervised"].append((name, example))
    return dict(splits)


def _imagenet2012(builder: Any, files: Mapping[str, Path]) -> dict[str, Examples]:
    if imagenet_files.TRAIN_ARCHIVE in files:
        return imagenet_files.from_archives(files)
    synsets = builder.info.features["label"].names
    return imagenet_files.from_class_folders(files, synsets)


def _encode(pixels: np.ndarray, image_format: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


_Reader = Callable[[Any, Mapping[str, Path]], Mapping[str, Examples]]
_EXAMPLES: Mapping[str, _Reader] = {
    "cifar10": _cifar10,
    "imdb_reviews": _imdb_reviews,
    "imagenet2012": _imagenet2012,
}


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_data_dir()
    cli.define_path(
        "archive",
        None,
        "the downloaded archive, or its folder; default: download it. For "
        "imagenet2012 also a folder with train/SYNSET/*.JPEG and val/SYNSET/*.JPEG",
    )


def main(dataset: str = "") -> int:
    """Prepares a dataset; returns the exit status."""
    if not dataset:
        raise ValueError(f"give the dataset; possible: {', '.join(_EXAMPLES)}")
    folder = resolve_data_dir(flags.FLAGS.data_dir)
    try:
        before = dataset in _EXAMPLES and tfds_builder(dataset, folder)[1]
        path = prepare(dataset, folder, flags.FLAGS.archive)
    except archives.DownloadError as error:
        return cli.report(error, cli.STOPPED)
    print(f"{dataset} is {'already ' * before}prepared in {path}")
    return 0


def run() -> None:
    """Runs the command and exits."""
    cli.run(
        main,
        define_flags,
        positional=1,
        more_help=lambda: f"Datasets:\n  {', '.join(_EXAMPLES)}",
        again="starts again",
        prints_result=False,
    )


if __name__ == "__main__":
    run()
