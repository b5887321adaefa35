"""Exact top-k masks in linear time, with a straight-through gradient.

edge-popup keeps the weights whose scores are largest. The threshold between kept and
pruned is one order statistic of the scores, so no sort is needed: floats are mapped to
unsigned integers of the same order, and `selection` finds the k-th smallest of these
by counting, for all leaves of a network at once. The result is exact for ties, signed
zeros, infinities and subnormals, because only integers are ever compared.

This module is the only place that decides what is kept:

- `sparsity` is the fraction removed. Of n scores, round(sparsity * n) are removed (ties
  to even), but never all of them.
- Raw scores are ranked, not their absolute values. -0.0 and 0.0 are equal, and NaN
  ranks above infinity.
- Scores that tie with the smallest kept score are all kept.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from iterand_jax.checks import check_fraction
from iterand_jax.selection import select_all

__all__ = [
    "check_scores_dtype",
    "check_sparsity",
    "masked",
    "num_pruned",
    "order_keys",
    "pruned",
    "threshold",
    "thresholds",
    "topk_mask",
    "topk_masks",
]

Scalar = float | Array
"""A number, or a scalar array that may be traced."""

Select = Callable[[Sequence[Array], Sequence[int | Array]], list[Array]]
"""(keys, ks) -> the k-th smallest (from 0) of each array of unsigned integers."""

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


def check_scores_dtype(dtype: DTypeLike) -> None:
    """Raises ValueError unless scores of a dtype can be ranked: it is of floats.

    >>> check_scores_dtype("int8")
    Traceback (most recent call last):
    ...
    ValueError: scores must be floating point, got int8
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"scores must be floating point, got {jnp.dtype(dtype)}")


def num_pruned(size: int, sparsity: Scalar) -> int | Array:
    """How many of `size` weights are removed: round(sparsity * size), ties to even.

    At least one weight is kept. A number is rounded in Python's float64. Of a traced
    scalar the product is exact, too, but the scalar itself is mostly a float32: 0.9 is
    then 0.9 - 2.4e-8, for which 2 of 10^8 weights fewer are removed, and 51 of 2^31.
    A fraction that float32 holds, such as 0.75, removes as many traced as not.

    >>> num_pruned(10, sparsity=0.3), num_pruned(10, sparsity=0.99)
    (3, 9)
    """
    check_sparsity(sparsity)
    if size < 1:
        raise ValueError("a leaf without elements has no scores to rank")
    if size > MOST:
        raise ValueError(f"a leaf can have at most {MOST:,} scores; got {size:,}")
    if isinstance(sparsity, jax.core.Tracer):
        return jnp.clip(_rounded_product(sparsity, size), 0, size - 1)
    return min(round(float(sparsity) * size), size - 1)


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


def order_keys(scores: Array) -> Array:
    """Unsigned integers that compare as the scores do, of the same shape and width.

    float16, bfloat16, float32 and float64 become uint16, uint16, uint32 and uint64.
    Both zeros share one key, and every NaN gets the largest.

    >>> import jax.numpy as jnp
    >>> keys = order_keys(jnp.array([2.0, -1.0, -0.0, 0.0]))
    >>> bool(keys[1] < keys[2]), bool(keys[2] == keys[3]), bool(keys[3] < keys[0])
    (True, True, True)
    """
    check_scores_dtype(scores.dtype)
    width = scores.dtype.itemsize * 8
    unsigned = jnp.dtype(f"uint{width}")
    sign = jnp.asarray(1 << (width - 1), unsigned)
    infinity = lax.bitcast_convert_type(jnp.asarray(jnp.inf, scores.dtype), unsigned)
    bits = lax.bitcast_convert_type(scores, unsigned)
    magnitude = bits & ~sign
    negative = (bits >= sign) & (magnitude != 0)
    keys = jnp.where(negative, ~bits, magnitude | sign)
    return jnp.where(magnitude > infinity, ~jnp.zeros_like(keys), keys)


def thresholds(
    scores: Sequence[Array],
    sparsities: Sequence[Scalar],
    *,
    select: Select = select_all,
) -> list[Array]:
    """The smallest kept score of each leaf: scalars of the leaves' dtypes.

    Args:
      scores: floating point arrays, of any non-empty shapes and any dtypes.
      sparsities: the fraction removed of each leaf, in [0, 1); may be traced scalars.
      select: finds order statistics; the default is chosen per platform.

    >>> import jax.numpy as jnp
    >>> thresholds([jnp.array([0.25, -2.0, 0.5, 0.75]), jnp.arange(4.0)], [0.5, 0.25])
    [Array(0.5, dtype=float32), Array(1., dtype=float32)]
    """
    keys = select([order_keys(s) for s in scores], _nums_pruned(scores, sparsities))
    return [_score_of_key(key, s.dtype) for key, s in zip(keys, scores, strict=True)]


def threshold(scores: Array, sparsity: Scalar, *, select: Select = select_all) -> Array:
    """`thresholds` of one array.

    >>> import jax.numpy as jnp
    >>> threshold(jnp.array([0.25, -2.0, 0.5, 0.75]), sparsity=0.5)
    Array(0.5, dtype=float32)
    """
    return thresholds([scores], [sparsity], select=select)[0]


def topk_masks(
    scores: Sequence[Array],
    sparsities: Sequence[Scalar],
    *,
    select: Select = select_all,
) -> list[Array]:
    """The masks of the largest scores of each leaf, 1 kept, 0 pruned, straight-through.

    Forward: m_i = 1 where s_i is at least the exact threshold of its leaf, else 0, in
    the shape and dtype of the scores. Backward: dL/ds = dL/dm, as if the mask were the
    scores, so that with weights * mask the gradient of a score is the gradient of the
    effective weight times the frozen weight (edge-popup; section 2 of the paper).

    Args:
      scores: floating point arrays, of any non-empty shapes and any dtypes.
      sparsities: the fraction removed of each leaf, in [0, 1); may be traced scalars.
      select: finds order statistics; the default is chosen per platform.

    Raises:
      ValueError: a sparsity outside [0, 1), no scores, or scores that are not floats.

    >>> import jax.numpy as jnp
    >>> topk_masks([jnp.array([0.3, -2.0, 0.1, 0.7]), jnp.arange(2.0)], [0.5, 0.5])
    [Array([1., 0., 0., 1.], dtype=float32), Array([0., 1.], dtype=float32)]
    """
    return _straight_through(select, list(scores), _nums_pruned(scores, sparsities))


def topk_mask(scores: Array, sparsity: Scalar, *, select: Select = select_all) -> Array:
    """`topk_masks` of one array.

    >>> import jax.numpy as jnp
    >>> topk_mask(jnp.array([0.3, -2.0, 0.1, 0.7]), sparsity=0.5)
    Array([1., 0., 0., 1.], dtype=float32)
    """
    return topk_masks([scores], [sparsity], select=select)[0]


def masked(weights: Array, mask: Array) -> Array:
    """The effective weights, weights * mask: no gradient reaches the weights.

    >>> import jax.numpy as jnp
    >>> masked(jnp.array([3.0, 5.0]), jnp.array([0.0, 1.0]))
    Array([0., 5.], dtype=float32)
    """
    if weights.shape != mask.shape:
        raise ValueError(
            f"weights {weights.shape} and scores {mask.shape} differ in shape"
        )
    return lax.stop_gradient(weights) * mask.astype(weights.dtype)


def pruned(scores: Array, weights: Array, sparsity: Scalar) -> Array:
    """The effective weights given their scores: `masked` with the `topk_mask`.

    >>> import jax.numpy as jnp
    >>> pruned(jnp.array([-1.0, 0.2]), jnp.array([3.0, 5.0]), sparsity=0.5)
    Array([0., 5.], dtype=float32)
    """
    return masked(weights, topk_mask(scores, sparsity))


def _nums_pruned(
    scores: Sequence[Array], sparsities: Sequence[Scalar]
) -> list[int | Array]:
    return [num_pruned(s.size, p) for s, p in zip(scores, sparsities, strict=True)]


def _score_of_key(key: Array, dtype: jnp.dtype) -> Array:
    sign = jnp.asarray(1 << (key.dtype.itemsize * 8 - 1), key.dtype)
    bits = jnp.where(key >= sign, key ^ sign, ~key)
    return lax.bitcast_convert_type(bits, dtype)


# Jitted so that calls outside jit do not retrace: the loop's body is a new function
# in each call.
@functools.partial(jax.jit, static_argnums=0)
def _masks(select: Select, scores: list[Array], ks: list[int | Array]) -> list[Array]:
    keys = [order_keys(s) for s in scores]
    smallest = select(keys, ks)
    return [
        (key >= kept).astype(s.dtype)
        for key, kept, s in zip(keys, smallest, scores, strict=True)
    ]


_straight_through = jax.custom_jvp(_masks, nondiff_argnums=(0,))


@_straight_through.defjvp
def _derivative_is_that_of_the_scores(select, primals, tangents):
    """d mask = d scores, in forward and reverse mode and in every higher derivative."""
    mask_tree = _straight_through(select, *primals)
    scores, _ = tangents
    return mask_tree, [
        _varying_as(m, s) for m, s in zip(mask_tree, scores, strict=True)
    ]


def _varying_as(mask: Array, tangent: Array) -> Array:
    """The tangent, typed within `shard_map` as varying over all axes that a mask does.

    A mask varies also over the axes that only its sparsity varies over.
    """
    if jax.typeof(mask) == jax.typeof(tangent):
        return tangent
    return jnp.where(mask >= 0, tangent, jnp.zeros((), tangent.dtype))
