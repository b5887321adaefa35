"""A folder of images, train/CLASS/*.png and test/CLASS/*.png, as a source."""

import dataclasses
import hashlib
import io
import os
import warnings
from concurrent import futures
from pathlib import Path

import numpy as np

from iterand_jax.data import folder_files, image_headers, own_checks
from iterand_jax.data.feeds import Images
from iterand_jax.data.own_checks import Kind
from iterand_jax.data.sources import Source
from iterand_jax.runtime import parts

SUFFIXES = (".png", ".jpg", ".jpeg")
_CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Opens a folder of images; the data directory that it is called with is ignored.

    The attributes are the arguments of `own.from_image_folder`.
    """

    path: Path
    mode: str | None = None
    test_fraction: float | None = None
    test_seed: int = 0

    def kind(self) -> Kind:
        """The shape of the first image, and the number of class folders.

        Raises:
          ValueError: a folder is missing or empty, or a file is not an image.
        """
        classes, files = self._files()
        return self._kind(classes, files)

    def __call__(self, folder: str) -> Source:
        """Reads the bytes of all files for the fingerprint, without decoding them.

        Raises:
          ValueError: as `kind`.
        """
        del folder
        classes, files = self._files()
        kind = self._kind(classes, files)
        parts = own_checks.with_test_part(files, self.test_fraction, self.test_seed)

        def read(split: str) -> tuple[np.ndarray, np.ndarray]:
            own_checks.check_split(split)
            paths, labels = parts[split]
            return self._decode_all(paths, kind.shape), labels.copy()

        return Source(
            name=self.path.name,
            num_classes=kind.num_classes,
            sizes={part: len(parts[part].labels) for part in own_checks.PARTS},
            encoding=files["train"].images[0].suffix.lower().lstrip("."),
            fingerprint=self._fingerprint(files),
            read=read,
            image_shape=kind.shape,
            classes=classes,
        )

    def _kind(self, classes: tuple[str, ...], files: dict[str, Images]) -> Kind:
        first = self._decode(files["train"].images[0])
        return Kind(first.shape, "uint8", len(classes))

    def _files(self) -> tuple[tuple[str, ...], dict[str, Images]]:
        """The names of the classes, and the image paths and labels of each split."""
        train, test = self.path / "train", self.path / "test"
        classes = tuple(folder.name for folder in _folders(train))
        if len(classes) < 2:
            raise ValueError(
                f"{train} has {len(classes)} class folders; possible: two or more"
            )
        own_checks.check_test_part(
            str(self.path),
            test.is_dir(),
            self.test_fraction,
            self.test_seed,
            "test/CLASS/*.png",
        )
        parts = {"train": _labelled(train, classes)}
        present = set(parts["train"].labels.tolist())
        for label, name in enumerate(classes):
            if label not in present:
                raise ValueError(f"the class {train / name} has no images")
        if test.is_dir():
            parts["test"] = _labelled(test, classes)
        return classes, parts

    def _fingerprint(self, files: dict[str, Images]) -> str:
        """A hash of the relative paths and the bytes of all images."""
        digest = hashlib.sha256()
        for part in files.values():
            for path in part.images:
                folder_files.check(path)
                try:
                    content = path.read_bytes()
                except OSError as error:
                    raise ValueError(f"cannot read {path}: {error.strerror}") from error
                name = path.relative_to(self.path).as_posix()
                digest.update(f"{name}:{len(content)};".encode() + content)
        return digest.hexdigest()[:16]

    def _decode_all(self, paths: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        images = np.empty((len(paths), *shape), np.uint8)

        def decode(index: int) -> None:
            image = self._decode(paths[index], shape)
            if image.shape != shape:
                raise ValueError(
                    f"{paths[index]} is {_size(image.shape)}, and the first image is "
                    f"{_size(shape)}; possible: one size and mode for all images"
                )
            images[index] = image

        with (
            parts.part("data decode"),
            futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            list(pool.map(decode, range(len(paths))))
        return images

    def _decode(self, path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The pixels of an image, uint8 (H, W, C).

        An image of another size than the given shape is not decoded: its pixels are
        zeros of its size, without memory.
        """
        from PIL import Image

        folder_files.check(path)
        try:
            encoded = path.read_bytes()
            size = image_headers.check(encoded)
            if shape is not None and size != shape[:2]:
                return np.broadcast_to(np.uint8(0), (*size, shape[2]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the limit of pixels is ours
                image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
            with image:
                mode = image.mode
                converts = self.mode is not None and mode in _CONVERTIBLE
                pixels = np.asarray(image.convert(self.mode) if converts else image)
        except Exception as error:
            text = " ".join(str(error).split())
            raise ValueError(f"{path} cannot be read as an image: {text}") from error
        if mode not in (("L", "RGB") if self.mode is None else _CONVERTIBLE):
            raise ValueError(
                f"{path} has the mode {mode}; possible: L, RGB, or with mode='RGB' or "
                f"mode='L' one of {', '.join(_CONVERTIBLE)}"
            )
        return pixels if pixels.ndim == 3 else pixels[..., None]


def _labelled(folder: Path, classes: tuple[str, ...]) -> Images:
    """The paths and labels of the images in the class folders of a split."""
    paths: list[Path] = []
    labels: list[int] = []
    for of_class in _folders(folder):
        if of_class.name not in classes:
            raise ValueError(
                f"{of_class} is not a class of the training split; possible: "
                f"{', '.join(classes)}"
            )
        for path in _visible(of_class):
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(
                    f"{path} is not an image; possible: {', '.join(SUFFIXES)}"
                )
            paths.append(path)
            labels.append(classes.index(of_class.name))
    if not paths:
        raise ValueError(f"{folder} has no images; possible: CLASS/*.png in it")
    array = np.empty(len(paths), object)
    array[:] = paths
    return Images(array, np.array(labels, np.int32))


def _folders(folder: Path) -> list[Path]:
    found = _visible(folder)
    for path in found:
        folder_files.check_name(path)
        if not path.name.isprintable():  # classes.txt has a line for each
            raise ValueError(
                f"the class folder {path.name!r} in {folder} has a name that is not "
                f"printable"
            )
        if not path.is_dir():
            raise ValueError(f"{path} is not in a class folder")
    return found


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}; possible: train/CLASS/*.png and "
            f"test/CLASS/*.png"
        )
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]} pixels with {shape[2]} channels"
