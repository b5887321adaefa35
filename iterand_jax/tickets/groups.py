"""Codes of bits of which every group of m has n ones: masks of N:M patterns.

A group is m bits at one distance, the stride: those of an array's axis whose later axes
have so many entries. Which of its C(m, n) combinations a group has is one number from 0
on, in the order in which combinations of places are sorted by their last place, then by
the one before, and so on: of 2:4 these are {0, 1}, {0, 2}, {1, 2}, {0, 3}, {1, 3} and
{2, 3}. The numbers of several groups, as many as fit into a byte, are digits to the
base C(m, n) of one, the first the lowest; a last number may lack digits, which are 0.

    kind of the code, n, m    a byte each
    stride                    4 bytes, the lowest first
    numbers                   a code of numbers (`codes`)

2:4 takes 0.651 bits a weight, where its entropy is log2(6) / 4 = 0.646.
"""

import math
from typing import NamedTuple

import numpy as np

from iterand_jax.masks.groups import MOST

HEADER = 7


class Groups(NamedTuple):
    """Where the groups are, and how many ones each has.

    Attributes:
      ones: of each group, n.
      of: the bits of a group, m.
      stride: the distance from one bit of a group to its next.
    """

    ones: int
    of: int
    stride: int

    @property
    def combinations(self) -> int:
        """How many a group can be."""
        return math.comb(self.of, self.ones)

    @property
    def digits(self) -> int:
        """Of how many groups one number is."""
        return max(1, int(math.log(256.5, self.combinations)))

    def header(self, kind: int) -> bytes:
        """The first bytes of a code."""
        return bytes([kind, self.ones, self.of]) + self.stride.to_bytes(4, "little")


def found_in(mask: np.ndarray) -> Groups | None:
    """The smallest groups that have equally many ones, along any axis.

    None where there are none, or where they have none or only ones.

    >>> found_in(np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool))
    Groups(ones=1, of=2, stride=2)
    """
    for of in range(2, MOST + 1):
        for axis, size in enumerate(mask.shape):
            if mask.size == 0 or size % of:
                continue
            groups = Groups(0, of, math.prod(mask.shape[axis + 1 :]))
            grouped = _grouped(mask, groups)
            ones = int(np.count_nonzero(grouped[0, :, 0]))
            few = grouped[:64, :, :64]  # of most masks these show that there are none
            if 0 < ones < of and _fits(few, ones) and _fits(grouped, ones):
                return groups._replace(ones=ones)
    return None


def numbers_of(bits: np.ndarray, groups: Groups) -> np.ndarray:
    """The numbers of bits that have such groups."""
    grouped = _grouped(bits, groups)
    ranks = np.zeros((len(grouped), groups.stride), np.int64)
    seen = np.zeros(ranks.shape, np.int8)
    for place in range(groups.of):
        own = grouped[:, place]
        seen += own
        ranks += np.where(own, _combinations(place, groups.ones)[seen], 0)
    digits = groups.digits
    padded = np.zeros((-(-ranks.size // digits), digits), np.int64)
    padded.ravel()[: ranks.size] = ranks.ravel()
    return padded @ groups.combinations ** np.arange(digits)


def bits_of(code: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """The booleans (count,) of a code, whose numbers are read.

    Raises:
      ValueError: a header or numbers that this many bits do not have.
    """
    groups = header_of(code, count)
    ranks = np.empty((numbers.size, groups.digits), np.int64)
    left = numbers.astype(np.int64)
    for digit in range(groups.digits):
        left, ranks[:, digit] = np.divmod(left, groups.combinations)
    of_groups = count // groups.of
    if numbers.size != most_numbers(code, count) or left.any():
        raise ValueError(f"a code does not hold {count} bits in groups of {groups.of}")
    ranks = ranks.ravel()[:of_groups].reshape(-1, groups.stride)
    bits = np.zeros((len(ranks), groups.of, groups.stride), bool)
    ones = np.full(ranks.shape, groups.ones, np.int8)
    for place in reversed(range(groups.of)):
        below = _combinations(place, groups.ones)[ones]
        own = (ones > 0) & (ranks >= below)
        bits[:, place] = own
        ranks = ranks - np.where(own, below, 0)
        ones -= own
    return bits.ravel()


def header_of(code: np.ndarray, count: int) -> Groups:
    """The groups of a code of so many bits.

    Raises:
      ValueError: they cannot be groups of so many bits.
    """
    head = code[:HEADER].tobytes()
    stride = int.from_bytes(head[3:], "little")
    groups = (
        Groups(head[1], head[2], stride) if len(head) == HEADER else Groups(0, 0, 0)
    )
    sizes = 0 < groups.ones < groups.of <= MOST and stride > 0
    if not sizes or count % (groups.of * stride):
        raise ValueError(f"a code does not hold groups of {count} bits")
    return groups


def most_numbers(code: np.ndarray, count: int) -> int:
    """How many numbers a code of so many bits has.

    Raises:
      ValueError: as `header_of`.
    """
    groups = header_of(code, count)
    return -(-(count // groups.of) // groups.digits)


def _grouped(bits: np.ndarray, groups: Groups) -> np.ndarray:
    """Bits as (blocks, m, stride)."""
    return bits.reshape(-1, groups.of, groups.stride)


def _fits(grouped: np.ndarray, ones: int) -> bool:
    return bool((np.count_nonzero(grouped, axis=1) == ones).all())


def _combinations(place: int, ones: int) -> np.ndarray:
    """C(place, k) for each k up to the ones of a group."""
    return np.array([math.comb(place, k) for k in range(ones + 1)], np.int64)
