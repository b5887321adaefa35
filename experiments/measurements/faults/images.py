"""Untrusted image files: decoded, or refused as bad images, at a bounded cost."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.measurements.faults.limited import Called, Limited
from experiments.measurements.faults.mutators import changed_bytes
from experiments.measurements.faults.trial import Trial
from iterand_jax.data import jpeg

PROMISE = (
    "Any bytes in place of an image are decoded or refused as a bad image with a "
    "reason in one line, by 1,500 MB of memory and in 10 seconds at most"
)
MEGABYTES, SECONDS = 1500, 10
SIZE = 224
_SIZES = (0, 1, 2, 90, 8000, 30_000, 65_535, 2**31 - 1, 2**32 - 1)


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many files, each cropped for training and for evaluation."""
    del folder
    draw = random.Random(seed)
    whole = files(np.random.default_rng(seed))
    limits = Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=_ready)
    with limits as child:
        for _ in range(count):
            name = draw.choice(list(whole))
            if draw.random() < 0.3:
                kind, encoded = declared(whole[name], draw)
            else:
                kind, encoded = changed_bytes(whole[name], draw)
            called = child.call(cropped, encoded, draw.randrange(2**32))
            yield _judged(kind, name, called)


def files(generator: np.random.Generator) -> dict[str, bytes]:
    """Small valid files of the kinds that are decoded, by name."""
    pixels = generator.integers(0, 256, (60, 80, 3), np.uint8)
    image = Image.fromarray(pixels)
    line = Image.fromarray(generator.integers(0, 256, (1, 3000, 3), np.uint8))
    deep = Image.fromarray(generator.integers(0, 2**16, (30, 40)).astype(np.uint16))
    return {
        "jpeg": _encoded(image, "JPEG"),
        "progressive": _encoded(image, "JPEG", progressive=True),
        "grey": _encoded(image.convert("L"), "JPEG"),
        "cmyk": _encoded(image.convert("CMYK"), "JPEG"),
        "thin": _encoded(line, "JPEG"),
        "png": _encoded(image, "PNG"),
        "palette": _encoded(image.convert("P"), "PNG"),
        "thin png": _encoded(line, "PNG"),
        "16 bits": _encoded(deep, "PNG"),
        "gif": _encoded(image, "GIF"),
        "bmp": _encoded(image, "BMP"),
    }


def declared(encoded: bytes, draw: random.Random) -> tuple[str, bytes]:
    """(kind, content) with another size in the header of a PNG or JPEG."""
    changed = bytearray(encoded)
    width, height = draw.choice(_SIZES), draw.choice(_SIZES)
    if encoded.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    else:
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            start = encoded.find(marker) + 5
            if start > 5:
                sizes = min(height, 65_535), min(width, 65_535)
                changed[start : start + 4] = struct.pack(">HH", *sizes)
    return "another size declared", bytes(changed)


def cropped(encoded: bytes, seed: int) -> str:
    """What becomes of a file: "decoded", or how it was refused."""
    outcomes = []
    for centre in (True, False):
        try:
            if centre:
                crop = jpeg.centre_crop(encoded, SIZE)
            else:
                crop = jpeg.random_crop(encoded, np.random.default_rng(seed), SIZE)
            whole = crop.shape == (SIZE, SIZE, 3) and crop.dtype == np.uint8
            outcomes.append("decoded" if whole else f"decoded to {crop.shape}")
        except jpeg.BadImageError as error:
            one = str(error) and "\n" not in str(error)
            outcomes.append("a bad image" if one else f"reason {str(error)!r}")
        except Exception as error:
            outcomes.append(repr(error)[:200])
    return " and ".join(sorted({*outcomes}))


def _judged(kind: str, name: str, called: Called) -> Trial:
    outcome = called.value or called.ended
    kept = outcome in ("decoded", "a bad image", "a bad image and decoded")
    cost = called.seconds, called.megabytes
    return Trial(kind, outcome, kept, name, *cost)


def _ready() -> None:
    """Imports what decodes."""
    cropped(files(np.random.default_rng(0))["jpeg"], 0)


def _encoded(image: Image.Image, image_format: str, **options: bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
