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
    sizes = np.abs(kept)
    if kept.size and np.all(sizes == sizes[0]):
        packed[f"sign/{path}"] = np.packbits(np.signbit(kept))
        packed[f"scale/{path}"] = np.asarray(sizes[0])
        return packed
    if numbers is not None and NO_DRAW not in numbers[mask]:
        redrawn = np.flatnonzero(numbers[mask])
        if not redrawn.size:
            return packed
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

    def get(kind: str, count: int) -> np.ndarray | None:
        array = packed.get(f"{kind}/{path}")
        if array is not None and array.size != count:
            raise ValueError(
                f"{kind}/{path} has {array.size} entries where {count} are needed"
            )
        return array

    whole = get("leaf", like.size)
    if whole is not None:
        return Leaf(whole.reshape(like.shape))
    bits = get("mask", -(-like.size // 8))
    if bits is None:
        raise ValueError(f"there is neither leaf/{path} nor mask/{path}")
    mask = np.unpackbits(bits, count=like.size).astype(bool).reshape(like.shape)
    weights = np.zeros(like.shape, like.dtype)
    count = int(np.count_nonzero(mask))
    signs, kept = get("sign", -(-count // 8)), get("kept", count)
    if signs is not None:
        scale = packed[f"scale/{path}"]
        negative = np.unpackbits(signs, count=count).astype(bool)
        weights[mask] = np.where(negative, -scale, scale)
        return Leaf(weights, mask)
    if kept is not None:
        weights[mask] = kept
        return Leaf(weights, mask)
    of_kept = np.zeros(count, np.int32)
    if f"draw/{path}" in packed:
        redrawn = np.cumsum(decode(packed[f"gap/{path}"]) + 1) - 1
        of_kept[redrawn] = decode(packed[f"draw/{path}"])
    numbers = np.zeros(like.shape, np.int32)
    numbers[mask] = of_kept
    return Leaf(weights, mask, numbers)


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


def decode(code: np.ndarray) -> np.ndarray:
    """The numbers (n,), int32, that `encode` made a code of."""
    width = int(code[0])
    planes = np.frombuffer(zlib.decompress(code[1:].tobytes(), _WINDOW), np.uint8)
    numbers = np.zeros((planes.size // width, 4), np.uint8)
    numbers[:, :width] = planes.reshape(width, -1).T
    return numbers.view("<i4").ravel()
