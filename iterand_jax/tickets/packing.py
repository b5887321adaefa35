"""Leaves of a ticket as few bytes: masks as bits, kept weights in the smallest form.

By the path of each leaf of the parameters, a ticket holds

    mask/PATH    one bit per weight, 1 kept; not there for a leaf without a mask
    sign/PATH    one bit per kept weight, 1 negative, and
    scale/PATH   their magnitude, where all kept weights share one (signed constant)
    draw/PATH    for the kept weights that were resampled the numbers of their draws
                 (`replay.draw_numbers`), and
    gap/PATH     how many that were not come before each, where both, coded, are smaller
                 than the weights
    kept/PATH    the kept weights themselves, where neither can be
    leaf/PATH    a whole leaf without a mask

A leaf with a mask and nothing else is that of the first draw: the seed is enough. Kept
weights are in C order, and so are bits, the first in the highest of a byte.
"""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from iterand_jax.tickets.replay import NO_DRAW

_WINDOW = -15  # deflate without a header and checksum of its own
MOST = 2**31 - 1  # weights of a leaf


class Leaf(NamedTuple):
    """A leaf as a ticket stores it.

    Attributes:
      weights: 0.0 where pruned.
      mask: booleans, None for a leaf without a mask.
      numbers: of the draws that made the weights, int32, where these are not in the
        ticket and have to be drawn again; else None.
    """

    weights: np.ndarray
    mask: np.ndarray | None = None
    numbers: np.ndarray | None = None


def pack(path: str, leaf: Leaf) -> dict[str, np.ndarray]:
    """The arrays of a leaf by their names in the ticket.

    Its numbers may be given for any leaf; they are stored if that is the smallest.
    """
    weights, mask, numbers = leaf
    if mask is None:
        return {f"leaf/{path}": weights}
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
      ValueError: the ticket does not hold it, or holds another number of weights.
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
    """Whole numbers from 0 as bytes (uint8), near the entropy of their distribution.

    The first byte says how many bytes a number has; then follow the lowest bytes of all
    numbers, then the next, deflated. Of the draw numbers of a Conv6, gaps and numbers
    deflated with run lengths alone took 5 % more than the entropy, with matches of any
    length 12 %, and LZMA of all numbers in one row 30 %.
    """
    numbers = np.asarray(numbers, "<u4")
    width = max(1, -(-int(numbers.max(initial=0)).bit_length() // 8))
    planes = numbers.view(np.uint8).reshape(-1, 4).T[:width]
    deflate = zlib.compressobj(9, zlib.DEFLATED, _WINDOW, 9, zlib.Z_RLE)
    code = deflate.compress(planes.tobytes()) + deflate.flush()
    return np.frombuffer(bytes([width]) + code, np.uint8)


def decode(code: np.ndarray, most: int = MOST) -> np.ndarray:
    """The numbers (n,), int32, that `encode` made a code of.

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
