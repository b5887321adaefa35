"""Custom datasets: arrays in memory, an .npz file, or a folder of images.

Each function makes a `Dataset`, to be registered under the name that a config uses:

    iterand_jax.register_dataset("flowers", own.from_npz("flowers.npz"))

Two kinds of examples are possible. uint8 arrays (N, H, W, C) are images: they are
stored on the devices as uint8, normalized with the config's `dataset.mean` and
`dataset.std` (of pixels / 255, per channel) and augmented by its `augmentation`. Floats
of any shape (N, ...) reach the network as float32 (or as the config's `dtype`), so
`dataset.mean` and `dataset.std` are None and `augmentation = "none"`.

Labels are integers from 0, and every class has a training example. The validation split
is held out of the training split, as for the other datasets. A test split is required:
pass it, or a `test_fraction` of the examples to hold out; `test_seed` determines which.
"""

import contextlib
import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.data import datasets, own_checks
from iterand_jax.data.datasets import Dataset
from iterand_jax.data.feeds import Images
from iterand_jax.data.image_folder import ImageFolder
from iterand_jax.data.own_checks import Kind, Names
from iterand_jax.data.sources import Source

__all__ = ["from_arrays", "from_image_folder", "from_npz"]

TRAIN, TEST = ("x_train", "y_train"), ("x_test", "y_test")  # names in an .npz file
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def from_arrays(
    x: Any,
    y: Any,
    *,
    test: tuple[Any, Any] | None = None,
    test_fraction: float | None = None,
    test_seed: int = 0,
    num_classes: int | None = None,
) -> Dataset:
    """The dataset of arrays in memory.

    Args:
      x: uint8 images (N, H, W, C), or floats (N, ...).
      y: labels (N,), integers from 0.
      test: (x, y) of the test split.
      test_fraction: the fraction of x and y to hold out, if there is no test split.
      test_seed: determines which examples are held out.
      num_classes: needed if some classes have no training example; by default the
        largest label plus 1.

    Raises:
      ValueError: unsupported shapes or dtypes, numbers that are not finite, invalid
        labels, or no test split.

    >>> x, y = np.zeros((10, 4)), np.arange(10) % 2
    >>> dataset = from_arrays(x, y, test_fraction=0.2)
    >>> dataset.inputs[0].shape, dataset.outputs
    ((1, 4), 2)
    >>> source = dataset.open("")
    >>> source.sizes
    {'train': 8, 'test': 2}
    """
    own_checks.check_test_part(
        "the dataset", test is not None, test_fraction, test_seed, "test=(x, y)"
    )
    names = {"train": Names("x", "y"), "test": Names("test[0]", "test[1]")}
    given = {"train": (x, y)} | ({} if test is None else {"test": test})
    parts = {part: _checked(names[part], *given[part]) for part in given}
    kind = _kind_of(names, parts, num_classes)
    parts = own_checks.with_test_part(parts, test_fraction, test_seed)
    return _dataset(lambda folder: _source("arrays", parts, kind), kind)


def from_npz(
    path: str | os.PathLike[str],
    *,
    test_fraction: float | None = None,
    test_seed: int = 0,
    num_classes: int | None = None,
) -> Dataset:
    """The dataset of an .npz file, as `numpy.savez` writes it.

    It holds the arrays x_train, y_train, x_test and y_test, or, with `test_fraction`, x
    and y. Until the dataset is opened, only the labels and the shapes and dtypes of the
    examples are read.

    Args:
      path: of the file.
      test_fraction: the fraction to hold out, if there is no test split.
      test_seed: determines which examples are held out.
      num_classes: as in `from_arrays`.

    Raises:
      ValueError: the file is missing or not an .npz file, or for the same reasons as
        `from_arrays`.

    >>> from_npz("nowhere.npz", test_fraction=0.2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ...nowhere.npz...
    """
    file = _NpzFile(_path(path), test_fraction, test_seed, num_classes)
    return _dataset(file, file.kind())


def from_image_folder(
    path: str | os.PathLike[str],
    *,
    mode: str | None = None,
    test_fraction: float | None = None,
    test_seed: int = 0,
) -> Dataset:
    """The dataset of a folder of images: train/CLASS/*.png and test/CLASS/*.png.

    JPEG files are possible too. All images have the same size. The classes are the
    folders in train/, sorted by name; a run's workdir lists them in classes.txt. Hidden
    files and folders (names with a leading dot) are skipped. The EXIF orientation of
    files is ignored.

    Args:
      path: of the folder.
      mode: "L" (grayscale, one channel) or "RGB", to which all images are converted;
        None if all images already are in one of the two.
      test_fraction: the fraction to hold out, if there is no test/ folder.
      test_seed: determines which examples are held out.

    Raises:
      ValueError: a folder is missing or empty, a file is not an image, or images differ
        in size or mode.

    >>> from_image_folder("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ...nowhere...
    """
    if mode not in (None, "L", "RGB"):
        raise ValueError(f"mode={mode!r}; possible: 'L', 'RGB', or None")
    folder = ImageFolder(_path(path), mode, test_fraction, test_seed)
    return _dataset(folder, folder.kind())


@dataclasses.dataclass(frozen=True)
class _NpzFile:
    """Opens an .npz file; the data directory that it is called with is ignored."""

    path: Path
    test_fraction: float | None
    test_seed: int
    num_classes: int | None

    def kind(self) -> Kind:
        """The number of classes in the labels, and the form of the examples' headers.

        Reads the labels, but only the headers of the examples.
        """
        headers = self._headers()
        names = self._names(headers)
        labels = self._arrays([of_part.labels for of_part in names.values()])
        described = {part: self._described(of_part) for part, of_part in names.items()}
        forms, checked = {}, {}
        for part, of_part in names.items():
            shape, dtype = headers[of_part.examples]
            forms[part] = own_checks.form_of(described[part].examples, shape, dtype)
            checked[part] = own_checks.as_labels(
                described[part].labels, labels[of_part.labels], shape[0]
            )
        return own_checks.kind_of(described, forms, checked, self.num_classes)

    def __call__(self, folder: str) -> Source:
        """Reads the whole file."""
        del folder
        names = self._names(self._headers())
        arrays = self._arrays([name for of_part in names.values() for name in of_part])
        described = {part: self._described(of_part) for part, of_part in names.items()}
        parts = {
            part: _checked(described[part], *(arrays[name] for name in of_part))
            for part, of_part in names.items()
        }
        kind = _kind_of(described, parts, self.num_classes)
        parts = own_checks.with_test_part(parts, self.test_fraction, self.test_seed)
        return _source(self.path.stem, parts, kind)

    def _described(self, names: Names) -> Names:
        return Names(*(f"{name} of {self.path}" for name in names))

    def _names(self, found: Mapping[str, Any]) -> dict[str, Names]:
        """The names of the arrays of each split, among those found in the file."""
        names = {"train": Names(*(("x", "y") if "x" in found else TRAIN))}
        if set(TEST) & set(found):
            names["test"] = Names(*TEST)
        for name in (name for of_part in names.values() for name in of_part):
            if name not in found:
                raise ValueError(
                    f"{self.path} has no array {name}, but {', '.join(sorted(found))}; "
                    f"possible: {', '.join(TRAIN + TEST)}, or x and y"
                )
        own_checks.check_test_part(
            str(self.path),
            "test" in names,
            self.test_fraction,
            self.test_seed,
            " and ".join(TEST),
        )
        return names

    def _headers(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array."""
        headers = {}
        with self._reading(), zipfile.ZipFile(self.path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    shape, _, dtype = _READ_HEADER[version](file)
                    headers[name.removesuffix(".npy")] = (shape, dtype)
        return headers

    def _arrays(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        with self._reading(), np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in names}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):
                raise ValueError("it is no regular file")  # a pipe is waited for
            yield
        except Exception as error:  # of a made-up or damaged file any
            text = getattr(error, "strerror", None) or repr(str(error))[1:-1]
            raise ValueError(
                f"{self.path} cannot be read as an .npz file: {text:.300}"
            ) from error


def _path(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()


def _checked(names: Names, x: Any, y: Any) -> Images:
    examples = own_checks.as_examples(names.examples, x)
    return Images(examples, own_checks.as_labels(names.labels, y, len(examples)))


def _kind_of(
    names: Mapping[str, Names], parts: Mapping[str, Images], num_classes: int | None
) -> Kind:
    forms = {
        part: (images.shape[1:], images.dtype.name)
        for part, (images, _) in parts.items()
    }
    labels = {part: labels for part, (_, labels) in parts.items()}
    return own_checks.kind_of(names, forms, labels, num_classes)


def _dataset(open_: Callable[[str], Source], kind: Kind) -> Dataset:
    of_images = kind.dtype == "uint8"
    make = datasets.resident_images if of_images else datasets.resident_arrays
    return make(open_, kind.shape, kind.num_classes)


def _source(name: str, parts: Mapping[str, Images], kind: Kind) -> Source:
    """The source of splits in memory; its fingerprint hashes their bytes."""
    digest = hashlib.sha256()
    for part in own_checks.PARTS:
        for array in parts[part]:
            digest.update(f"{part}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        own_checks.check_split(split)
        return parts[split].images, parts[split].labels

    return Source(
        name=name,
        num_classes=kind.num_classes,
        sizes={part: len(parts[part].labels) for part in own_checks.PARTS},
        encoding="array",
        fingerprint=digest.hexdigest()[:16],
        read=read,
        image_shape=kind.shape,
        dtype=kind.dtype,
    )
