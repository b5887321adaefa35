"""JPEG decoding and resizing to one size, on the host, with OpenCV; PNG with Pillow.

Each kind of file has one decoder, since two may give other pixels: of 16-bit gray
OpenCV takes the high byte, where Pillow replaces all values above 255 by 255.

The EXIF orientation of files is ignored, as TFDS and the common ImageNet readers do. An
axis that is downsampled uses area interpolation, since OpenCV's linear interpolation
has no antialiasing; one that is upsampled uses linear interpolation.
"""

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from iterand_jax.data import image_headers
from iterand_jax.data.augment import AREA, ASPECT, ATTEMPTS
from iterand_jax.data.image_headers import BadImageError

__all__ = [
    "BadImageError",
    "centre_crop",
    "decode",
    "random_box",
    "random_crop",
    "resize",
]

RESIZE = 256 / 224  # of the shorter side to the crop, in evaluation
_PNG = b"\x89PNG\r\n\x1a\n"


def decode(encoded: bytes) -> np.ndarray:
    """The pixels of a JPEG (gray, RGB, CMYK or YCCK) or PNG: uint8 (H, W, 3), RGB.

    Of 16 bits the high byte is taken. Transparency is dropped: a pixel has its color
    even where it cannot be seen.

    Raises:
      BadImageError: it is not such a file, or is truncated, or declares more than
        `image_headers.MOST_PIXELS`, which is found before it is decoded. Missing data
        in the middle of a JPEG file is not detected: libjpeg fills it with gray.
    """
    size = image_headers.check(encoded)
    pixels = None
    if not encoded.startswith(_PNG):
        cv2 = _opencv()
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        with contextlib.suppress(cv2.error):
            pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if pixels is None:
        pixels = _decode_by_pillow(encoded)
    if pixels.shape[:2] != size:
        raise BadImageError(f"{pixels.shape[:2]} pixels, and {size} are declared")
    return pixels


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turns an error about an image into a BadImageError of one line."""
    try:
        yield
    except (_opencv().error, ValueError, OverflowError) as error:
        raise BadImageError(" ".join(str(error).split())) from error


def random_crop(
    encoded: bytes, generator: np.random.Generator, size: int
) -> np.ndarray:
    """A random box of an image, resized to (size, size) and flipped at random.

    The box has 0.08 to 1 of the image's area and an aspect ratio from 3/4 to 4/3
    (log-uniform). If none of ten samples fits, it is the largest centered box whose
    aspect ratio is in that range.

    Args:
      encoded: the file's bytes.
      generator: of random numbers.
      size: of the result, in pixels.

    Returns:
      uint8 (size, size, 3), RGB.

    Raises:
      BadImageError: as `decode`.
    """
    with _refusing():
        pixels = decode(encoded)
        top, left, height, width = random_box(generator, *pixels.shape[:2])
        crop = resize(pixels[top : top + height, left : left + width], size, size)
    return crop[:, ::-1] if generator.random() < 0.5 else crop


def centre_crop(encoded: bytes, size: int) -> np.ndarray:
    """The image with its shorter side resized to round(size * 256 / 224), then cropped.

    The longer side is rounded down and the crop's corner half to even, as by the
    Resize and CenterCrop of torchvision, which the paper's numbers are from.

    Args, Returns and Raises are those of `random_crop`; an image is also refused if
    it has too many pixels once its shorter side is resized.
    """
    with _refusing():
        sides = image_headers.check(encoded)
        shorter, resized = min(sides), round(size * RESIZE)
        height, width = (resized * side // shorter for side in sides)
        what = f" of {sides[1]}x{sides[0]} when resized"
        image_headers.check_size(height, width, what=what)
        pixels = resize(decode(encoded), height, width)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return pixels[top : top + size, left : left + size]


def random_box(
    generator: np.random.Generator, height: int, width: int
) -> tuple[int, int, int, int]:
    """Samples the box of `random_crop`: (top, left, height, width)."""
    for _ in range(ATTEMPTS):
        area = height * width * generator.uniform(*AREA)
        aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            top = int(generator.integers(height - h + 1))
            return top, int(generator.integers(width - w + 1)), h, w
    h, w = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (H, W, 3) resized to (height, width, 3)."""
    cv2 = _opencv()
    shrunk = min(width, pixels.shape[1]), min(height, pixels.shape[0])
    pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def _opencv() -> ModuleType:
    import cv2

    # One thread per image: the parallelism is over images, in worker processes.
    cv2.setNumThreads(0)
    # What cannot be decoded is reported once, by its name.
    silent = 0
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has the function at its top
    logging.setLogLevel(silent)
    return cv2


def _decode_by_pillow(encoded: bytes) -> np.ndarray:
    """Decodes a PNG and what OpenCV cannot, or says why it is not an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit of pixels is ours
            with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
                if image.mode.startswith("I"):  # 16-bit gray, which `convert` clips
                    gray = (np.asarray(image) >> 8).astype(np.uint8)
                    return np.repeat(gray[:, :, None], 3, axis=2)
                if image.mode == "P":  # with transparency, Pillow warns of "RGB"
                    return np.asarray(image.convert("RGBA").convert("RGB"))
                return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BadImageError("neither a JPEG nor a PNG image") from error
    except Exception as error:
        raise BadImageError(" ".join(str(error).split())) from error
