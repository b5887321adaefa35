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

from iterand_jax.selection import select_all

__all__ = [
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
    if isinstance(sparsity, jax.core.Tracer):
        return
    if not 0 <= float(sparsity) < 1:
        raise ValueError(
            f"sparsity is the fraction of weights removed, a number in [0, 1); "
            f"got {float(sparsity):g}"
        )


def num_pruned(size: int, sparsity: Scalar) -> int | Array:
    """How many of `size` weights are removed: round(sparsity * size), ties to even.

    At least one weight is kept. A number is rounded in Python's float64. A traced
    scalar is rounded in its own precision, which can differ by one weight where
    sparsity * size is within rounding error of a half-integer.

    >>> num_pruned(10, sparsity=0.3), num_pruned(10, sparsity=0.99)
    (3, 9)
    """
    check_sparsity(sparsity)
    if size < 1:
        raise ValueError("a leaf without elements has no scores to rank")
    if size > MOST:
        raise ValueError(f"a leaf can have at most {MOST:,} scores; got {size:,}")
    if isinstance(sparsity, jax.core.Tracer):
        removed = jnp.round(sparsity * size).astype(jnp.int32)
        return jnp.clip(removed, 0, size - 1)
    return min(round(float(sparsity) * size), size - 1)


def order_keys(scores: Array) -> Array:
    """Unsigned integers that compare as the scores do, of the same shape and width.

    float16, bfloat16, float32 and float64 become uint16, uint16, uint32 and uint64.
    Both zeros share one key, and every NaN gets the largest.

    >>> import jax.numpy as jnp
    >>> keys = order_keys(jnp.array([2.0, -1.0, -0.0, 0.0]))
    >>> bool(keys[1] < keys[2]), bool(keys[2] == keys[3]), bool(keys[3] < keys[0])
    (True, True, True)
    """
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores must be floating point, got {scores.dtype}")
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


_straight_through = jax.custom_vjp(_masks, nondiff_argnums=(0,))
_straight_through.defvjp(
    lambda select, scores, ks: (_masks(select, scores, ks), None),
    lambda select, _, mask_gradients: (mask_gradients, None),
)
