"""JPEG decoding and resizing to one size, on the host, with OpenCV.

The EXIF orientation of files is ignored, as TFDS and the common ImageNet readers do. An
axis that is downsampled uses area interpolation, since OpenCV's linear interpolation
has no antialiasing; one that is upsampled uses linear interpolation.
"""

import functools
import io
import math
from types import ModuleType

import numpy as np

from iterand_jax.data.augment import AREA, ASPECT, ATTEMPTS

RESIZE = 256 / 224  # of the shorter side to the crop, in evaluation


class BadImageError(Exception):
    """An image is not decodable, or is truncated; the message says why."""


def decode(encoded: bytes) -> np.ndarray:
    """The pixels of a JPEG (gray, RGB, CMYK or YCCK) or PNG: uint8 (H, W, 3), RGB.

    Raises:
      BadImageError: it is not such a file, or is truncated. Missing data in the middle
        of a JPEG file is not detected: libjpeg fills it with gray.
    """
    cv2 = _opencv()
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:
        pixels = None
    return _decode_by_pillow(encoded) if pixels is None else pixels


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
    pixels = decode(encoded)
    top, left, height, width = random_box(generator, *pixels.shape[:2])
    crop = resize(pixels[top : top + height, left : left + width], size, size)
    return crop[:, ::-1] if generator.random() < 0.5 else crop


def centre_crop(encoded: bytes, size: int) -> np.ndarray:
    """The image with its shorter side resized to round(size * 256 / 224), then cropped.

    Args, Returns and Raises are those of `random_crop`.
    """
    pixels = decode(encoded)
    height, width = pixels.shape[:2]
    scale = round(size * RESIZE) / min(height, width)
    pixels = resize(pixels, round(height * scale), round(width * scale))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
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
    return cv2


def _decode_by_pillow(encoded: bytes) -> np.ndarray:
    """Decodes what OpenCV cannot, or says why it is not an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BadImageError("neither a JPEG nor a PNG image") from error
    except Exception as error:
        raise BadImageError(" ".join(str(error).split())) from error
