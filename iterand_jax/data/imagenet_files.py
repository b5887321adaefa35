"""ImageNet's examples, from the official archives or from class folders.

Both give the examples of TFDS's imagenet2012: its labels, its file names, and its
corrections of the few training images that are not RGB JPEGs.
"""

import contextlib
import io
import logging
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.data import archives, folder_files, image_headers

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VALIDATION_ARCHIVE = "ILSVRC2012_img_val.tar"
FOLDERS = {"train": "train", "validation": "val"}
SUFFIXES = (".jpeg", ".jpg")
_LOGGER = logging.getLogger(__name__)

Examples = Iterable[tuple[str | int, dict[str, Any]]]


def from_archives(files: Mapping[str, Path]) -> dict[str, Examples]:
    """The examples of each split in the official archives, by file name."""
    return {
        "train": _train_archive(files[TRAIN_ARCHIVE]),
        "validation": _validation_archive(files[VALIDATION_ARCHIVE]),
    }


def class_folders(given: str | None) -> dict[str, Path]:
    """The folder of each split's class folders; empty if archives are to be used.

    Args:
      given: the user's folder, if any.

    Raises:
      ValueError: the folder has neither class folders nor archives.
    """
    folder = Path(given or "").expanduser()
    if given is None or not folder.is_dir():
        return {}
    if any((folder / name).is_dir() for name in FOLDERS.values()):
        return {split: folder / name for split, name in FOLDERS.items()}
    archive_names = (TRAIN_ARCHIVE, VALIDATION_ARCHIVE)
    if not any((folder / name).is_file() for name in archive_names):
        raise ValueError(
            f"{folder} holds neither the archives {' and '.join(archive_names)} nor "
            "class folders in train/ and val/"
        )
    return {}


def from_class_folders(
    folders: Mapping[str, Path], synsets: Sequence[str]
) -> dict[str, Examples]:
    """The examples of each split in its class folders, SYNSET/*.JPEG.

    An image is identified by its file name, prefixed with its synset if several images
    of the split have that name. Classes may be missing, as in a small subset.

    Args:
      folders: from `class_folders`.
      synsets: the names of the classes in TFDS.

    Raises:
      ValueError: a folder is missing or empty, or its name is not a synset; or an
        image is not a regular file in it (`folder_files.check`).
    """
    images = {split: _images(path, synsets) for split, path in folders.items()}
    return {split: _folder_examples(found) for split, found in images.items()}


def _images(folder: Path, synsets: Sequence[str]) -> list[tuple[str, Path]]:
    """(synset, image) of all images in the class folders of a split, sorted."""
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}: class folders are needed in train and val"
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in classes:
        folder_files.check_name(path)
    if not classes:
        raise ValueError(f"{folder} has no class folders, such as {synsets[0]}")
    known, found, hidden = set(synsets), [], []
    # The split itself may be a link, to where there is space.
    roots = folder.parent.resolve(), folder.resolve()
    for path in classes:
        if path.name not in known:
            raise ValueError(
                f"{path} is not named after an ImageNet class; possible: the "
                f"{len(synsets)} synsets, such as {synsets[0]}"
            )
        images = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
        hidden += sorted(p for p in images if p.name.startswith("."))
        images = sorted(p for p in images if not p.name.startswith("."))
        if not images:
            raise ValueError(f"{path} has no images (*.JPEG)")
        for image in images:
            folder_files.check(image, *roots)
        found += [(path.name, image) for image in images]
    if hidden:  # macOS writes ._x.JPEG beside x.JPEG on disks of other systems
        _LOGGER.warning(
            "left out of %s: %d files whose names start with a dot, such as %r",
            folder,
            len(hidden),
            hidden[0].name,
        )
    return found


def _folder_examples(images: list[tuple[str, Path]]) -> Examples:
    count = Counter(path.name for _, path in images)
    for synset, path in images:
        name = path.name if count[path.name] == 1 else f"{synset}/{path.name}"
        yield _example(name, path.read_bytes(), synset)


def _train_archive(path: Path) -> Examples:
    """Yields images from an archive of per-class archives, read as a stream."""
    with tarfile.open(path, "r|") as classes:
        for class_file, file in archives.members(classes):
            with tarfile.open(fileobj=file, mode="r|") as images:
                for name, image in archives.members(images):
                    synset = class_file.removesuffix(".tar")
                    yield _example(name, image.read(), synset)


def _validation_archive(path: Path) -> Examples:
    """Yields images whose labels TFDS lists in the order of their names."""
    import tensorflow_datasets as tfds

    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    with tarfile.open(path, "r:") as archive:
        images = sorted(archives.members(archive), key=itemgetter(0))
        for (name, image), synset in zip(
            images, labels.read_text().split(), strict=False
        ):
            yield _example(name, image.read(), synset)


def _example(name: str, encoded: bytes, synset: str) -> tuple[str, dict[str, Any]]:
    """An example as TFDS writes it, with the corrections that TFDS makes."""
    from tensorflow_datasets.datasets.imagenet2012 import (
        imagenet2012_dataset_builder as official,
    )

    if name in official.CMYK_IMAGES or name in official.PNG_IMAGES:
        # One that cannot be decoded stays unchanged; reading it reports its name.
        with contextlib.suppress(Exception):
            encoded = _as_rgb_jpeg(encoded)
    return name, {"file_name": name, "image": encoded, "label": synset}


def _as_rgb_jpeg(encoded: bytes) -> bytes:
    from PIL import Image

    image_headers.check(encoded)
    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert("RGB"))
    buffer = io.BytesIO()
    # As TFDS encodes with TensorFlow: quality 100 and TensorFlow's default subsampling.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling="4:2:0")
    return buffer.getvalue()
