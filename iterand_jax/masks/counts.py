"""How many of n scores a sparsity removes: see `iterand_jax.masks`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from iterand_jax.runtime.checks import WIDE, check_fraction, described, is_wide
from iterand_jax.selection import Scalar

__all__ = [
    "RANKS",
    "check_rank",
    "check_scores",
    "check_scores_dtype",
    "check_sparsity",
    "num_pruned",
]

RANKS = ("count", "quantile")
"""How many scores a sparsity removes: see above."""

MOST = 2**31 - 1  # scores per leaf, since counts are int32


def check_sparsity(sparsity: Scalar) -> None:
    """Raises ValueError unless the fraction removed is in [0, 1).

    A traced sparsity (one that follows a schedule) is not checked.

    >>> check_sparsity(1.5)
    Traceback (most recent call last):
    ...
    ValueError: sparsity is the fraction of weights removed, a number in [0, 1); got 1.5
    """
    meaning = "sparsity is the fraction of weights removed"
    check_fraction(sparsity, meaning, or_one=False)


def check_scores(scores: Any) -> None:
    """Raises ValueError for scores that are no array.

    >>> check_scores([0.5, 1.0])
    Traceback (most recent call last):
    ...
    ValueError: scores must be a floating point array; got [0.5, 1.0]
    """
    if not all(hasattr(scores, name) for name in ("shape", "dtype", "size")):
        raise ValueError(
            f"scores must be a floating point array; got {described(scores)}"
        )


def check_scores_dtype(dtype: DTypeLike) -> None:
    """Raises ValueError unless scores may have a dtype: floats of 16 to 64 bits.

    >>> check_scores_dtype("int8")
    Traceback (most recent call last):
    ...
    ValueError: scores must be floating point, got int8; possible: float16, bfloat16, \
float32, float64
    """
    try:
        named = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(
            f"scores_dtype is {described(dtype)}; possible: {WIDE}"
        ) from error
    if not is_wide(named):
        raise ValueError(
            f"scores must be floating point, got {named}; possible: {WIDE}"
        )


def check_rank(rank: str) -> None:
    """Raises ValueError for what is not one of `RANKS`.

    >>> check_rank("median")
    Traceback (most recent call last):
    ...
    ValueError: unknown rank 'median'; possible: count, quantile
    """
    if rank not in RANKS:
        raise ValueError(f"unknown rank {rank!r}; possible: {', '.join(RANKS)}")


def num_pruned(size: int, sparsity: Scalar, *, rank: str = "count") -> int | Array:
    """How many of `size` weights are removed: round(sparsity * size), ties to even.

    With `rank="quantile"` it is round(sparsity * (size - 1)).

    At least one weight is kept. A number is rounded in Python's float64. Of a traced
    scalar the product is exact, too, but the scalar itself is mostly a float32: 0.9 is
    then 0.9 - 2.4e-8, for which 2 of 10^8 weights fewer are removed, and 51 of 2^31.
    A fraction that float32 holds, such as 0.75, removes as many traced as not.

    Raises:
      ValueError: a sparsity outside [0, 1), another rank, or a size that is not from 1
        to `MOST`.

    >>> num_pruned(10, sparsity=0.3), num_pruned(10, sparsity=0.99)
    (3, 9)
    >>> num_pruned(100, 0.6, rank="quantile"), num_pruned(100, 0.3, rank="quantile")
    (59, 30)
    """
    check_sparsity(sparsity)
    check_rank(rank)
    if size < 1:
        raise ValueError("a leaf without elements has no scores to rank")
    if size > MOST:
        raise ValueError(f"a leaf can have at most {MOST:,} scores; got {size:,}")
    of = size if rank == "count" else size - 1
    if isinstance(sparsity, jax.core.Tracer):
        return jnp.clip(_rounded_product(sparsity, of), 0, size - 1)
    return min(round(float(sparsity) * of), size - 1)


def _rounded_product(fraction: Array, size: int) -> Array:
    """round(fraction * size), ties to even, of a traced fraction: exact, as int32.

    A float32 is m / 2^shift with integers m < 2^24 and shift. The product m * size, of
    up to 55 bits, is held in two words, whose upper bits are the result.
    """
    if fraction.dtype == jnp.float64:
        return jnp.round(fraction * size).astype(jnp.int32)
    bits = lax.bitcast_convert_type(fraction.astype(jnp.float32), jnp.uint32)
    m, shift = (bits & 0x7FFFFF) | 0x800000, 150 - (bits >> 23)  # at least 24 below 1
    low, middle, high = (
        (m & 0xFFFF) * jnp.uint32(size & 0xFFFF),
        (m & 0xFFFF) * jnp.uint32(size >> 16) + (m >> 16) * jnp.uint32(size & 0xFFFF),
        (m >> 16) * jnp.uint32(size >> 16),
    )
    lower = low + (middle << 16)
    upper = high + (middle >> 16) + (lower < low).astype(jnp.uint32)
    # One bit more than wanted, of weight a half; and whether any lower bit is set.
    few = shift <= 32
    left, right = jnp.where(few, 33 - shift, 0), jnp.where(few, shift - 1, shift - 33)
    doubled = jnp.where(few, (upper << left) | (lower >> right), upper >> right)
    rest = jnp.where(
        few,
        lower & ((jnp.uint32(1) << right) - 1),
        lower | (upper & ((jnp.uint32(1) << right) - 1)),
    )
    whole, half = doubled >> 1, doubled & 1
    up = half & ((rest != 0).astype(jnp.uint32) | (whole & 1))
    return (whole + up).astype(jnp.int32)
