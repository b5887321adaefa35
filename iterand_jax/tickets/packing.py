"""Compact storage of a ticket's leaves: masks as bits, kept weights in the best form.

For each leaf of the parameters, by its path, a ticket stores

    mask/PATH    one bit per weight, 1 for kept; missing for a leaf without a mask
    sign/PATH    one bit per kept weight, 1 for negative, and
    scale/PATH   their magnitude, if all kept weights share it (signed constant)
    level/PATH   with sign/PATH, if they have a few magnitudes (several coats): one bit
                 per kept weight for each magnitude but the smallest, 1 for one that is
                 at least so large, and
    levels/PATH  the magnitudes, rising
    drawn/PATH   one bit per kept weight, 1 for one that was resampled, and
    draw/PATH    the draw numbers of those (`replay.draw_numbers`); used if the two,
                 encoded, are smaller than the weights
    kept/PATH    the kept weights themselves, if neither form applies
    leaf/PATH    a whole leaf without a mask

A leaf with a mask only has its initial weights, which follow from the seed. Kept
weights are in C order, and so are bits, with the highest bit of a byte first. Where a
code of bits (`codes`) is smaller, mask_code/PATH stands for mask/PATH, sign_code/PATH
for sign/PATH and drawn_code/PATH for drawn/PATH.

Earlier tickets have, instead of drawn/PATH, in gap/PATH the number of kept weights not
resampled before each that was.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from iterand_jax.tickets.codes import (
    IN_GROUPS,
    decode,
    decode_bits,
    encode,
    encode_bits,
    encode_mask,
    places,
)
from iterand_jax.tickets.replay import NO_DRAW

OF_BITS = ("drawn", "mask_code", "sign_code", "drawn_code", "level", "level_code")
"""Kinds of arrays that tickets of the versions 1 and 2 do not have."""

SOURCES = ("leaf", "scale", "levels", "draw", "kept")
"""Kinds of arrays of which a leaf has one at most: where its weights come from."""

MOST_LEVELS = 8
"""Magnitudes of a leaf's kept weights that are stored by their number."""


class Leaf(NamedTuple):
    """A leaf in the form that `pack` uses.

    Attributes:
      weights: 0.0 where pruned.
      mask: booleans, None for a leaf without a mask.
      numbers: int32 draw numbers of all weights, None for a leaf without.
    """

    weights: np.ndarray
    mask: np.ndarray | None = None
    numbers: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The draw numbers of a leaf, decoded when they are read.

    They take the memory of the leaf. Decoded one leaf after the other, those of the
    largest are all that a ticket needs at a time.

    Attributes:
      shape: of the leaf.
      decode: returns them, int32 in this shape; ValueError for codes of other weights.
    """

    shape: tuple[int, ...]
    decode: Callable[[], np.ndarray]

    @property
    def ndim(self) -> int:
        """Axes, which rules ask for."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Weights, which rules ask for."""
        return math.prod(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """As `np.asarray` asks for it."""
        del copy  # they are new ones
        return self.decode().astype(dtype or np.int32, copy=False)


class Stored(NamedTuple):
    """A leaf as `unpack` returns it.

    Attributes:
      weights: 0.0 where pruned; None if they have to be resampled.
      mask: booleans, None for a leaf without a mask.
      numbers: of the draws of such weights, else None.
    """

    weights: np.ndarray | None
    mask: np.ndarray | None = None
    numbers: Numbers | None = None


def pack(path: str, leaf: Leaf) -> dict[str, np.ndarray]:
    """The arrays of a leaf by their names in the ticket.

    Draw numbers may be passed for any leaf; they are stored only if that is smaller.
    """
    weights, mask, numbers = leaf
    if mask is None:
        return {f"leaf/{path}": weights}
    # Signs and one magnitude, else draw numbers, else the weights.
    kept = weights[mask]
    packed = _pack_bits("mask", path, mask)
    if numbers is not None and not numbers[mask].any():
        return packed  # the first draw
    sizes = np.abs(kept)
    if kept.size and np.all(sizes == sizes[0]):
        packed |= _pack_bits("sign", path, np.signbit(kept))
        packed[f"scale/{path}"] = np.asarray(sizes[0])
        return packed
    found = _pack_levels(path, kept) if numbers is None else None
    if found is not None:
        return packed | found
    if numbers is not None and NO_DRAW not in numbers[mask]:
        of_kept = numbers[mask]
        drawn = _pack_bits("drawn", path, of_kept != 0)
        drawn[f"draw/{path}"] = encode(of_kept[of_kept != 0])
        if sum(array.nbytes for array in drawn.values()) < kept.nbytes:
            return packed | drawn
    return packed | {f"kept/{path}": kept}


def unpack(path: str, like: Any, packed: Mapping[str, np.ndarray]) -> Stored:
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

    def get_bits(kind: str, count: int) -> np.ndarray | None:
        code = packed.get(f"{kind}_code/{path}")
        if code is not None:
            return decode_bits(code.ravel(), count)
        bits = get(kind, -(-count // 8), np.uint8)
        return bits if bits is None else np.unpackbits(bits, count=count).view(bool)

    whole = get("leaf", like.size)
    if whole is not None:
        return Stored(whole.reshape(like.shape))
    bits = get_bits("mask", like.size)
    if bits is None:
        raise ValueError(f"there is neither leaf/{path} nor mask/{path}")
    mask = bits.reshape(like.shape)
    count = int(np.count_nonzero(mask))
    negative, kept = get_bits("sign", count), get("kept", count)
    levels = packed.get(f"levels/{path}")
    if negative is None and kept is None:

        def numbers():
            drawn = get_bits("drawn", count)
            of_leaf = np.zeros(like.shape, np.int32)
            of_leaf[mask] = _draw_numbers(path, packed, count, drawn)
            return of_leaf

        return Stored(None, mask, Numbers(like.shape, numbers))
    weights = np.zeros(like.shape, like.dtype)
    if negative is not None and levels is not None:
        bits = get_bits("level", (levels.size - 1) * count)
        if bits is None:
            raise ValueError(f"there is levels/{path} and no level/{path}")
        sizes = np.full(count, levels.flat[0])
        of_levels = bits.reshape(levels.size - 1, count)
        for level, reached in zip(levels.flat[1:], of_levels, strict=True):
            sizes[reached] = level
        np.negative(sizes, out=sizes, where=negative)
        weights[mask] = sizes
        return Stored(weights, mask)
    if negative is not None:
        scale = get("scale", 1)
        if scale is None:
            raise ValueError(f"there is sign/{path} and no scale/{path}")
        weights[mask] = np.where(negative, -scale, scale)
        return Stored(weights, mask)
    weights[mask] = kept
    return Stored(weights, mask)


def is_drawn(path: str, packed: Mapping[str, Any]) -> bool:
    """Whether a leaf's weights are sampled again: nothing of them is stored."""
    stored = ("leaf", "sign", "sign_code", "kept")
    return not any(f"{kind}/{path}" in packed for kind in stored)


def is_grouped(name: str, array: np.ndarray) -> bool:
    """Whether an array is a mask in groups, which tickets of before version 4 lack."""
    return name.startswith("mask_code/") and array.flat[0] == IN_GROUPS


def _pack_levels(path: str, kept: np.ndarray) -> dict[str, np.ndarray] | None:
    """Signs and a few magnitudes, None where the weights themselves are as small."""
    if kept.dtype.kind != "f":
        return None
    sizes = np.abs(kept)
    levels = np.unique(sizes[: 2 * MOST_LEVELS])
    if levels.size <= MOST_LEVELS:  # else not all need to be sorted
        levels = np.unique(sizes)
    if not (1 < levels.size <= MOST_LEVELS and np.isfinite(levels).all()):
        return None
    places = np.searchsorted(levels, sizes)
    bits = places >= np.arange(1, levels.size)[:, np.newaxis]
    packed = _pack_bits("sign", path, np.signbit(kept))
    packed |= _pack_bits("level", path, bits.ravel())
    packed[f"levels/{path}"] = levels
    small = sum(array.nbytes for array in packed.values()) < kept.nbytes
    return packed if small else None


def _pack_bits(kind: str, path: str, bits: np.ndarray) -> dict[str, np.ndarray]:
    """Bits as they are, or as a code where that is smaller."""
    plain = np.packbits(bits)
    # A mask bounds all else of a leaf, so that its code is filled.
    code = encode_mask(bits) if kind == "mask" else encode_bits(bits)
    if code.nbytes < plain.nbytes:
        return {f"{kind}_code/{path}": code}
    return {f"{kind}/{path}": plain}


def _draw_numbers(
    path: str, packed: Mapping[str, np.ndarray], count: int, drawn: np.ndarray | None
) -> np.ndarray:
    """The number of the draw of each kept weight, (count,) int32."""
    numbers = np.zeros(count, np.int32)
    if f"draw/{path}" not in packed:
        return numbers
    found = decode(packed[f"draw/{path}"].ravel(), count)
    if drawn is None:
        if f"gap/{path}" not in packed:
            raise ValueError(f"there is draw/{path} and no gap/{path}")
        drawn = np.zeros(count, bool)
        drawn[places(decode(packed[f"gap/{path}"].ravel(), count), count)] = True
    if np.count_nonzero(drawn) != found.size or found.min(initial=0) < 0:
        raise ValueError(f"draw/{path} is not of the weights that were resampled")
    numbers[drawn] = found
    return numbers
