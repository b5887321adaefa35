"""What an image file declares, read from its header before anything is decoded.

A file of a hundred bytes can declare a billion pixels, for which a decoder takes
memory and time before it finds that they are missing. So the size is read first, and
is refused if it is beyond `MOST_PIXELS` or if so few bytes cannot hold it.
"""

import re
import struct
from collections.abc import Iterator

MOST_PIXELS = 100_000_000
"""The largest image, before and after it is resized; ImageNet's has 61 million."""

MOST_BYTES = 1 << 28
"""The largest file of an image."""

_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that declare the size
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_END = {_SCAN, _END_OF_IMAGE}
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# One bit is the least of a block of 64 pixels, and deflate's largest ratio is 1,032.
_PIXELS_PER_BYTE = 1024
_DEFLATE = 1100
_MOST_SCANS = 100  # an encoder makes about ten, each of which is a pass over all


class BadImageError(Exception):
    """An image is not decodable, is truncated or too large; the message says why."""


def check(encoded: bytes) -> tuple[int, int]:
    """(height, width) that a JPEG or PNG declares.

    Raises:
      BadImageError: another kind of file, or a size that is too large or that so short
        a file cannot hold.

    >>> check(b"GIF89a")
    Traceback (most recent call last):
    ...
    iterand_jax.data.image_headers.BadImageError: neither a JPEG nor a PNG image
    """
    if len(encoded) > MOST_BYTES:
        raise BadImageError(f"{len(encoded)} bytes; possible: at most {MOST_BYTES}")
    if encoded.startswith(_PNG):
        height, width, least = _png(encoded)
    elif encoded.startswith(b"\xff\xd8\xff"):
        height, width, least = _jpeg(encoded)
    else:
        raise BadImageError("neither a JPEG nor a PNG image")
    check_size(height, width)
    if least > len(encoded):
        raise BadImageError(
            f"truncated: {width}x{height} pixels are declared, and {len(encoded)} "
            "bytes cannot hold them"
        )
    return height, width


def check_size(height: int, width: int, what: str = "") -> None:
    """Raises BadImageError for no pixels or too many; `what` names what has them."""
    if not 0 < height * width <= MOST_PIXELS:
        raise BadImageError(
            f"{width}x{height} pixels{what}; possible: 1 to {MOST_PIXELS} in all"
        )


def _png(encoded: bytes) -> tuple[int, int, int]:
    """The size of a PNG, and the fewest bytes that hold it."""
    if encoded[12:16] != b"IHDR" or len(encoded) < 26:
        raise BadImageError("a PNG without a header")
    width, height, depth, colour = struct.unpack_from(">IIBB", encoded, 16)
    bits = depth * _CHANNELS.get(colour, 1)
    return height, width, height * (1 + width * bits // 8) // _DEFLATE


def _jpeg(encoded: bytes) -> tuple[int, int, int]:
    """The size of a JPEG, and the fewest bytes that hold it."""
    for marker, place in _segments(encoded):
        segment = encoded[place : place + 7]
        if marker in _END or len(segment) < 7:
            break
        if marker in _SIZES:
            scans = sum(found == _SCAN for found, _ in _segments(encoded, place))
            if scans > _MOST_SCANS:
                raise BadImageError(f"{scans} scans; possible: at most {_MOST_SCANS}")
            height, width = struct.unpack_from(">HH", segment, 3)
            return height, width, height * width // _PIXELS_PER_BYTE
    raise BadImageError("truncated: a JPEG without a size")


def _segments(encoded: bytes, place: int = 2) -> Iterator[tuple[int, int]]:
    """(marker, place after it) of a JPEG's segments, to its end.

    As decoders do, skips what is between segments, as the coefficients of a scan are,
    and repeated 0xff. A preview in a segment, or what follows the image, is no part.
    """
    while found := _MARKER.search(encoded, place):
        marker, place = encoded[found.end() - 1], found.end()
        if marker in _ALONE:
            continue
        yield marker, place
        if marker == _END_OF_IMAGE:
            return
        place += max(2, int.from_bytes(encoded[place : place + 2], "big"))
