"""Make TFDS directories of array records without TensorFlow.

    python -m iterand_jax.data.prepare cifar10 [--data_dir=DIR] [--archive=FILE]

TFDS writes array records without TensorFlow, but its dataset builders read the
official archives with it. So the registered builder is kept (features, version, file
names, checksums) and only its examples are replaced, by generators that read the
archive with the standard library. Images are handed over encoded, because TFDS leaves
encoding to TensorFlow too.
"""

import argparse
import contextlib
import hashlib
import http.client
import io
import os
import queue
import resource
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from iterand_jax.data.sources import (
    DataNotFoundError,
    prepare_command,
    resolve_data_dir,
    tfds_builder,
)

CONNECT_SECONDS = 6
READ_SECONDS = 30
IMAGENET_TRAIN = "ILSVRC2012_img_train.tar"
IMAGENET_VALIDATION = "ILSVRC2012_img_val.tar"

Examples = Iterable[tuple[str | int, dict[str, Any]]]


class DownloadError(Exception):
    """An archive could not be fetched over the network."""


class Archive(NamedTuple):
    """An official archive: its address, its size in bytes and its SHA-256 in hex."""

    url: str
    size: int
    sha256: str


def registered_archives(builder: Any) -> dict[str, Archive]:
    """Return the archives that TFDS has registered for a dataset, by file name."""
    return {
        PurePosixPath(url).name: Archive(url, int(info.size), info.checksum)
        for url, info in builder.url_infos.items()
    }


def prepare(name: str, data_dir: str | None = None, archive: str | None = None) -> Path:
    """Make the TFDS directory of a dataset, or find it made, and return its path.

    `data_dir` is as in `resolve_data_dir`. `archive` is the official archive downloaded
    by hand, or the folder that holds it; without it the archive is downloaded. Either
    way it must match the SHA-256 that TFDS has registered. Nothing that looks prepared
    exists before everything is written. Raises ValueError for bad input, DownloadError
    when the network fails, OSError when the disk does.
    """
    if name not in _EXAMPLES:
        raise ValueError(f"cannot prepare {name!r}: use one of {', '.join(_EXAMPLES)}")
    folder = resolve_data_dir(data_dir)
    builder, prepared = tfds_builder(name, folder)
    path = Path(builder.data_dir)
    if prepared:
        return path
    if path.exists():
        raise ValueError(f"{path} exists but holds no {name}: move it away")
    files = {
        file_name: _obtain(file_name, expected, Path(folder, "downloads"), archive)
        for file_name, expected in registered_archives(builder).items()
    }
    splits = _EXAMPLES[name](builder, files)
    builder._split_generators = lambda dl_manager: splits
    with _shuffling_without_tensorflow(), contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(file_format="array_record")
    return path


def prepare_if_possible(name: str, data_dir: str | None = None) -> None:
    """Prepare a dataset that is absent and can be downloaded.

    Returns at once for a dataset that is prepared or needs no preparing. Where the
    network does not answer, raises DataNotFoundError after CONNECT_SECONDS at most,
    naming the folder looked in and the command to run.
    """
    if name not in _EXAMPLES:
        return
    try:
        prepare(name, data_dir)
    except (DownloadError, OSError) as error:
        folder = resolve_data_dir(data_dir)
        raise DataNotFoundError(
            f"{name} is not in {folder} and cannot be fetched now ({error}): with a "
            f"network, or --archive=FILE, run: {prepare_command(name, folder)}"
        ) from error


def _obtain(name: str, expected: Archive, downloads: Path, given: str | None) -> Path:
    """Return the path of an archive that was compared with what is expected."""
    path = downloads if given is None else Path(given).expanduser()
    path = path if path.is_file() else path / name
    if path.is_file():
        _verify(path, expected)
    elif given is not None:
        raise ValueError(f"no archive at {path}")
    elif name in (IMAGENET_TRAIN, IMAGENET_VALIDATION):
        raise ValueError(
            f"{name} must be downloaded by hand, with an account at image-net.org: "
            "name the folder that holds it with --archive=FOLDER"
        )
    else:
        downloads.mkdir(parents=True, exist_ok=True)
        _download(expected, path)
    return path


def _verify(path: Path, expected: Archive) -> None:
    size, found = path.stat().st_size, ""
    if size == expected.size:  # else there is no need to read 148 GB of ImageNet
        with path.open("rb") as file:
            found = _copy(file, None, expected, f"checking {path.name}")
    if found != expected.sha256:
        raise ValueError(
            f"{path} has {size} bytes and SHA-256 {found or 'not computed'}, the "
            f"official archive {expected.size} bytes and {expected.sha256}: delete it "
            f"and download {expected.url} again"
        )


def _download(expected: Archive, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with _connect(expected.url) as response, partial.open("wb") as file:
            found = _copy(response, file, expected, f"downloading {path.name}")
        if found != expected.sha256:
            raise ConnectionError(
                f"SHA-256 {found}, not the official {expected.sha256}"
            )
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"downloading {expected.url} failed: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _connect(url: str) -> Any:
    """Open a URL in CONNECT_SECONDS, to which urllib would not hold the name lookup."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            outcome.put(urllib.request.urlopen(url, timeout=READ_SECONDS))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {CONNECT_SECONDS} seconds") from None
    if isinstance(response, Exception):
        raise response
    return response


def _copy(source: Any, target: Any, expected: Archive, description: str) -> str:
    """Read a file to its end, into `target` if any, and return its SHA-256 in hex."""
    digest = hashlib.sha256()
    size = expected.size
    with tqdm(desc=description, total=size, unit="B", unit_scale=True) as bar:
        while block := source.read(1 << 20):
            digest.update(block)
            if target is not None:
                target.write(block)
            bar.update(len(block))
    return digest.hexdigest()


@contextlib.contextmanager
def _shuffling_without_tensorflow() -> Iterator[None]:
    """Give TFDS's shuffle, which spills above 1 GB, plain files for TensorFlow's."""
    from tensorflow_datasets.core import shuffle

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


def _cifar10(builder: Any, archives: Mapping[str, Path]) -> dict[str, Examples]:
    (path,) = archives.values()
    with tarfile.open(path, "r|gz") as archive:
        files = {PurePosixPath(n).name: f.read() for n, f in _members(archive)}
    names = files["batches.meta.txt"].decode().split()
    builder.info.features["label"].names = names
    train = b"".join(files[f"data_batch_{i}.bin"] for i in range(1, 6))
    return {
        "train": _cifar_examples("train", train),
        "test": _cifar_examples("test", files["test_batch.bin"]),
    }


def _cifar_examples(split: str, batches: bytes) -> Examples:
    """Yield examples from rows of a label byte and 3 x 32 x 32 pixel bytes."""
    for i, row in enumerate(np.frombuffer(batches, np.uint8).reshape(-1, 3073)):
        png = _encode(row[1:].reshape(3, 32, 32).transpose(1, 2, 0), "PNG")
        yield i, {"id": f"{split}_{i:05d}", "image": png, "label": int(row[0])}


def _imdb_reviews(builder: Any, archives: Mapping[str, Path]) -> dict[str, Examples]:
    (path,) = archives.values()
    splits: dict[str, list[Any]] = {"train": [], "test": [], "unsupervised": []}
    with tarfile.open(path, "r|gz") as archive:
        for name, file in _members(archive):
            match name.split("/"):
                case ["aclImdb", "train" | "test" as split, "neg" | "pos" as label, _]:
                    example = {"text": file.read().strip(), "label": label}
                    splits[split].append((name, example))
                case ["aclImdb", "train", "unsup", _]:
                    example = {"text": file.read().strip(), "label": -1}
                    splits["unsupervised"].append((name, example))
    return dict(splits)


def _imagenet2012(builder: Any, archives: Mapping[str, Path]) -> dict[str, Examples]:
    return {
        "train": _imagenet_train(archives[IMAGENET_TRAIN]),
        "validation": _imagenet_validation(archives[IMAGENET_VALIDATION]),
    }


def _imagenet_train(path: Path) -> Examples:
    """Yield images from an archive of one archive per class, read as a stream."""
    from tensorflow_datasets.datasets.imagenet2012 import (
        imagenet2012_dataset_builder as official,
    )

    not_rgb_jpeg = {*official.CMYK_IMAGES, *official.PNG_IMAGES}
    with tarfile.open(path, "r|") as classes:
        for class_file, file in _members(classes):
            with tarfile.open(fileobj=file, mode="r|") as images:
                for name, image in _members(images):
                    jpeg = image.read()
                    if name in not_rgb_jpeg:
                        jpeg = _as_rgb_jpeg(jpeg)
                    label = class_file.removesuffix(".tar")
                    yield name, {"file_name": name, "image": jpeg, "label": label}


def _imagenet_validation(path: Path) -> Examples:
    """Yield images whose labels TFDS lists in the order of their names."""
    import tensorflow_datasets as tfds

    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    with tarfile.open(path, "r:") as archive:
        images = sorted(_members(archive), key=itemgetter(0))
        for (name, image), label in zip(
            images, labels.read_text().split(), strict=False
        ):
            example = {"file_name": name, "image": image.read(), "label": label}
            yield name, example


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, Any]]:
    return ((m.name, archive.extractfile(m)) for m in archive if m.isfile())


def _as_rgb_jpeg(encoded: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert("RGB"))
    # What TFDS asks of TensorFlow: quality 100, and TensorFlow's own subsampling.
    return _encode(pixels, "JPEG", quality=100, subsampling="4:2:0")


def _encode(pixels: np.ndarray, image_format: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


_Reader = Callable[[Any, Mapping[str, Path]], Mapping[str, Examples]]
_EXAMPLES: Mapping[str, _Reader] = {
    "cifar10": _cifar10,
    "imdb_reviews": _imdb_reviews,
    "imagenet2012": _imagenet2012,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 (network) or 2 (bad input)."""
    parser = argparse.ArgumentParser(prog="python -m iterand_jax.data.prepare")
    parser.add_argument("dataset", help=", ".join(_EXAMPLES))
    parser.add_argument("--data_dir", help="TFDS data directory to write in")
    parser.add_argument("--archive", help="downloaded archive, or the folder it is in")
    flags = parser.parse_args(arguments)
    folder = resolve_data_dir(flags.data_dir)
    try:
        before = flags.dataset in _EXAMPLES and tfds_builder(flags.dataset, folder)[1]
        path = prepare(flags.dataset, folder, flags.archive)
    except (DownloadError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, DownloadError) else 2
    print(f"{flags.dataset} is {'already ' * before}prepared in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
