"""Decoded images: each split of a dataset as one array in the user's cache.

Decoding CIFAR-10's 50,000 training images takes six seconds of a core, reading them as
one array a third of a second. The cache folder of `runtime.compilation` has them, not
the folder of the dataset, which is often shared or read-only. A file is named after
what its arrays follow from: the dataset's fingerprint, the split and the decoder, as
JPEGs may become other pixels in another version. Its sums are checked when it is read,
and whatever is wrong with it, the images are decoded again.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from iterand_jax.runtime import compilation, files
from iterand_jax.runtime.parts import part

Split = tuple[np.ndarray, np.ndarray]


def kept(name: str, shape: tuple[int, ...], decode: Callable[[], Split]) -> Split:
    """The images of the file `name` in the user's cache, else those that are decoded.

    Args:
      name: of the file, without its suffix; it determines the arrays.
      shape: (n, H, W, C).
      decode: returns uint8 images of this shape and int32 labels (n,), which are then
        written, unless the folder or the disk refuses it.
    """
    try:
        path = compilation.folder() / "decoded" / f"{name}.npz"
    except RuntimeError:  # there is no home
        with part("data decode"):
            return decode()
    # It can be absent, or damaged in any way.
    with contextlib.suppress(Exception), part("data read"):
        return _read(path, shape)
    with part("data decode"):
        images, labels = decode()
    # A full or read-only disk costs the time of decoding, nothing else.
    with contextlib.suppress(OSError), part("data keep"):
        _write(path, images, labels)
    return images, labels


def decoder() -> str:
    """The version of what decodes images, for names of files."""
    import PIL
    from PIL import features

    # "jpg" is the version of an interface, the same in all versions of libjpeg-turbo.
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"pillow-{PIL.__version__}-{jpeg}"


def _read(path: Path, shape: tuple[int, ...]) -> Split:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if (images.shape, images.dtype) != (shape, np.dtype(np.uint8)):
        raise ValueError(f"{path} has other images")
    if (labels.shape, labels.dtype) != (shape[:1], np.dtype(np.int32)):
        raise ValueError(f"{path} has other labels")
    return images, labels


def _write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, images=images, labels=labels)
        files.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
