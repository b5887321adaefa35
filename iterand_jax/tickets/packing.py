"""Compact storage of a ticket's leaves: masks as bits, kept weights in the best form.

For each leaf of the parameters, by its path, a ticket stores

    mask/PATH    one bit per weight, 1 for kept; missing for a leaf without a mask
    sign/PATH    one bit per kept weight, 1 for negative, and
    scale/PATH   their magnitude, if all kept weights share it (signed constant)
    draw/PATH    the draw numbers of the kept weights that were resampled
                 (`replay.draw_numbers`), and
    gap/PATH     the number of kept weights between them that were not; used if the two,
                 encoded, are smaller than the weights
    kept/PATH    the kept weights themselves, if neither form applies
    leaf/PATH    a whole leaf without a mask

A leaf with a mask only has its initial weights, which follow from the seed. Kept
weights are in C order, and so are bits, with the highest bit of a byte first.
"""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from iterand_jax.tickets.replay import NO_DRAW

_WINDOW = -15  # raw deflate, without header and checksum
MOST = 2**31 - 1  # weights of a leaf


class Leaf(NamedTuple):
    """A leaf in the form that `pack` and `unpack` use.

    Attributes:
      weights: 0.0 where pruned.
      mask: booleans, None for a leaf without a mask.
      numbers: int32 draw numbers, if the weights are not stored in the ticket and have
        to be resampled; else None.
    """

    weights: np.ndarray
    mask: np.ndarray | None = None
    numbers: np.ndarray | None = None


def pack(path: str, leaf: Leaf) -> dict[str, np.ndarray]:
    """The arrays of a leaf by their names in the ticket.

    Draw numbers may be passed for any leaf; they are stored only if that is smaller.
    """
    weights, mask, numbers = leaf
    if mask is None:
        return {f"leaf/{path}": weights}
    # Signs and one magnitude, else draw numbers, else the weights.
    kept = weights[mask]
    packed = {f"mask/{path}": np.packbits(mask)}
    if numbers is not None and not numbers[mask].any():
        return packed  # the first draw
    sizes = np.abs(kept)
    if kept.size and np.all(sizes == sizes[0]):
        packed[f"sign/{path}"] = np.packbits(np.signbit(kept))
        packed[f"scale/{path}"] = np.asarray(sizes[0])
        return packed
    if numbers is not None and NO_DRAW not in numbers[mask]:
        redrawn = np.flatnonzero(numbers[mask])
        gap = encode(np.diff(redrawn, prepend=-1) - 1)
        draw = encode(numbers[mask][redrawn])
        if gap.nbytes + draw.nbytes < kept.nbytes:
            return packed | {f"gap/{path}": gap, f"draw/{path}": draw}
    return packed | {f"kept/{path}": kept}


def unpack(path: str, like: Any, packed: Mapping[str, np.ndarray]) -> Leaf:
    """A leaf from the arrays of a ticket; `like` has its shape and dtype.

    Raises:
      ValueError: an array is missing, or has the wrong number of entries.
    """

    def get(kind: str, count: int, dtype=None) -> np.ndarray | None:
        array = packed.get(f"{kind}/{path}")
        if array is None:
            return None
        if array.size != count:
            raise ValueError(
                f"{kind}/{path} has {array.size} entries where {count} are needed"
            )
        if dtype is not None and array.dtype != dtype:
            raise ValueError(f"{kind}/{path} is of {array.dtype}; possible: {dtype}")
        return array.ravel()

    whole = get("leaf", like.size)
    if whole is not None:
        return Leaf(whole.reshape(like.shape))
    bits = get("mask", -(-like.size // 8), np.uint8)
    if bits is None:
        raise ValueError(f"there is neither leaf/{path} nor mask/{path}")
    mask = np.unpackbits(bits, count=like.size).astype(bool).reshape(like.shape)
    weights = np.zeros(like.shape, like.dtype)
    count = int(np.count_nonzero(mask))
    signs, kept = get("sign", -(-count // 8), np.uint8), get("kept", count)
    if signs is not None:
        scale = get("scale", 1)
        if scale is None:
            raise ValueError(f"there is sign/{path} and no scale/{path}")
        negative = np.unpackbits(signs, count=count).astype(bool)
        weights[mask] = np.where(negative, -scale, scale)
        return Leaf(weights, mask)
    if kept is not None:
        weights[mask] = kept
        return Leaf(weights, mask)
    numbers = np.zeros(like.shape, np.int32)
    numbers[mask] = _draw_numbers(path, packed, count)
    return Leaf(weights, mask, numbers)


def _draw_numbers(
    path: str, packed: Mapping[str, np.ndarray], count: int
) -> np.ndarray:
    """The number of the draw of each kept weight, (count,) int32."""
    numbers = np.zeros(count, np.int32)
    if f"draw/{path}" not in packed:
        return numbers
    if f"gap/{path}" not in packed:
        raise ValueError(f"there is draw/{path} and no gap/{path}")
    gaps = decode(packed[f"gap/{path}"], count)
    drawn = decode(packed[f"draw/{path}"], count)
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if gaps.size != drawn.size or min(gaps.min(initial=0), drawn.min(initial=0)) < 0:
        raise ValueError(f"gap/{path} and draw/{path} are not of the same weights")
    if places.max(initial=0) >= max(count, 1):
        raise ValueError(f"gap/{path} leads past the last of {count} kept weights")
    numbers[places] = drawn
    return numbers


def encode(numbers: np.ndarray) -> np.ndarray:
    """Encodes nonnegative integers as uint8 bytes, close to their entropy.

    The first byte is the number of bytes per integer; then follow, deflated, the lowest
    bytes of all integers, the next bytes, and so on. For the draw numbers of a Conv6
    the overhead over the entropy was 5 % with run-length matches only (as here), 12 %
    with matches of any length, and 30 % with LZMA of the interleaved bytes.
    """
    numbers = np.asarray(numbers, "<u4")
    width = max(1, -(-int(numbers.max(initial=0)).bit_length() // 8))
    planes = numbers.view(np.uint8).reshape(-1, 4).T[:width]
    deflate = zlib.compressobj(9, zlib.DEFLATED, _WINDOW, 9, zlib.Z_RLE)
    code = deflate.compress(planes.tobytes()) + deflate.flush()
    return np.frombuffer(bytes([width]) + code, np.uint8)


def decode(code: np.ndarray, most: int = MOST) -> np.ndarray:
    """The integers (n,), int32: the inverse of `encode`.

    Raises:
      ValueError: a code that no numbers have, or of more numbers than `most`.
    """
    width = int(code.flat[0]) if code.size and code.dtype == np.uint8 else 0
    if not 1 <= width <= 4:
        raise ValueError("a code of numbers does not start with their bytes, 1 to 4")
    inflate = zlib.decompressobj(_WINDOW)
    try:
        content = inflate.decompress(code[1:].tobytes(), width * most + 1)
    except zlib.error as error:
        raise ValueError(f"a code of numbers is damaged: {error}") from error
    if len(content) > width * most or not inflate.eof or len(content) % width:
        raise ValueError(f"a code does not hold whole numbers, at most {most}")
    planes = np.frombuffer(content, np.uint8)
    numbers = np.zeros((planes.size // width, 4), np.uint8)
    numbers[:, :width] = planes.reshape(width, -1).T
    return numbers.view("<i4").ravel()
