"""Exact top-k masks in linear time, with a straight-through gradient.

edge-popup keeps the weights whose scores are largest. The threshold between kept and
pruned is one order statistic of the scores, so nothing has to be sorted: floats are
mapped to unsigned integers of the same order, and the bits of the wanted integer are
found from the top, two per pass, by counting how many scores lie below the three
candidates of each pass. The number of passes is fixed (16 for float32), every pass
reads the scores once, and the result is exact for ties, signed zeros, infinities and
subnormals, because only integers are ever compared.

This module is the only place that decides what is kept:

- `sparsity` is the fraction removed. Of n scores, round(sparsity * n) are removed (ties
  to even), but never all of them.
- Raw scores are ranked, not their absolute values. -0.0 and 0.0 are equal, and NaN
  ranks above infinity.
- Scores that tie with the smallest kept score are all kept.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

Scalar = float | Array
"""A number, or a scalar array that may be traced."""

SelectKth = Callable[[Array, int | Array], Array]


def check_sparsity(sparsity: Scalar) -> None:
    """Raises ValueError unless the fraction removed is in [0, 1).

    A traced sparsity (one that follows a schedule) has no value yet and is not checked.
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
    sparsity * size lies within its rounding error of a half.
    """
    check_sparsity(sparsity)
    if size < 1:
        raise ValueError("a leaf without elements has no scores to rank")
    if isinstance(sparsity, jax.core.Tracer):
        removed = jnp.round(sparsity * size).astype(jnp.int32)
        return jnp.clip(removed, 0, size - 1)
    return min(round(float(sparsity) * size), size - 1)


def order_keys(scores: Array) -> Array:
    """Unsigned integers that compare as the scores do: shape kept, bits for bits.

    float16, bfloat16, float32 and float64 become uint16, uint16, uint32 and uint64.
    Both zeros get one key, and every NaN gets the largest.
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


def _scores_of_keys(keys: Array, dtype: jnp.dtype) -> Array:
    sign = jnp.asarray(1 << (keys.dtype.itemsize * 8 - 1), keys.dtype)
    bits = jnp.where(keys >= sign, keys ^ sign, ~keys)
    return lax.bitcast_convert_type(bits, dtype)


def select_kth(keys: Array, k: int | Array) -> Array:
    """The k-th smallest (from 0) of unsigned integers of any shape, without a sort.

    Two bits of the answer per pass, from the top: of the three candidates, those that
    at most k keys lie below are not above the answer. One variadic reduction counts for
    all three; as separate sums, XLA's CPU backend reads the keys once per candidate,
    five times slower in all.
    """
    bits = keys.dtype.itemsize * 8
    axes = tuple(range(keys.ndim))

    def two_bits(i, answer):
        shift = jnp.asarray(bits - 2 - 2 * i, keys.dtype)
        candidates = [answer | (jnp.asarray(d, keys.dtype) << shift) for d in (1, 2, 3)]
        counts = lax.reduce(
            tuple((keys < c).astype(jnp.int32) for c in candidates),
            (jnp.int32(0),) * 3,
            lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
            axes,
        )
        digit = sum((c <= k).astype(keys.dtype) for c in counts)
        return answer | (digit << shift)

    # Zero made of keys and k: under shard_map it varies over the axes that they do.
    first = keys.reshape(-1)[0]
    zero = (first ^ first) & jnp.asarray(k).astype(keys.dtype)
    return lax.fori_loop(0, bits // 2, two_bits, zero)


def threshold(
    scores: Array, sparsity: Scalar, *, select: SelectKth = select_kth
) -> Array:
    """The smallest score that is kept: a scalar of the scores' dtype.

    Args:
      scores: floating point, any shape but empty.
      sparsity: the fraction removed, in [0, 1); may be a traced scalar.
      select: (keys, k) -> the k-th smallest of unsigned integer keys, from 0.
    """
    key = select(order_keys(scores), num_pruned(scores.size, sparsity))
    return _scores_of_keys(key, scores.dtype)


def topk_mask(
    scores: Array, sparsity: Scalar, *, select: SelectKth = select_kth
) -> Array:
    """The mask of the largest scores, 1 kept and 0 pruned, straight-through.

    Forward: m_i = 1 where s_i is at least the exact threshold, else 0, in the shape and
    dtype of the scores. Backward: dL/ds = dL/dm, as if the mask were the scores, so
    that with weights * mask the gradient of a score is the gradient of the effective
    weight times the frozen weight (edge-popup; section 2 of the paper).

    Args:
      scores: floating point, any shape but empty.
      sparsity: the fraction removed, in [0, 1); may be a traced scalar.
      select: (keys, k) -> the k-th smallest of unsigned integer keys, from 0.

    Raises:
      ValueError: a sparsity outside [0, 1), no scores, or scores that are not floats.

    >>> import jax.numpy as jnp
    >>> topk_mask(jnp.array([0.3, -2.0, 0.1, 0.7]), sparsity=0.5)
    Array([1., 0., 0., 1.], dtype=float32)
    """
    return _straight_through(select, scores, num_pruned(scores.size, sparsity))


def pruned(weights: Array, scores: Array, sparsity: Scalar) -> Array:
    """The effective weights, weights * mask: no gradient reaches the weights.

    >>> import jax.numpy as jnp
    >>> pruned(jnp.array([3.0, 5.0]), jnp.array([-1.0, 0.2]), sparsity=0.5)
    Array([0., 5.], dtype=float32)
    """
    if weights.shape != scores.shape:
        raise ValueError(
            f"weights {weights.shape} and scores {scores.shape} differ in shape"
        )
    mask = topk_mask(scores, sparsity).astype(weights.dtype)
    return lax.stop_gradient(weights) * mask


# Jitted for calls outside jit: the loop's body is a new function in each call.
@functools.partial(jax.jit, static_argnums=0)
def _mask(select: SelectKth, scores: Array, k: int | Array) -> Array:
    keys = order_keys(scores)
    return (keys >= select(keys, k)).astype(scores.dtype)


_straight_through = jax.custom_vjp(_mask, nondiff_argnums=(0,))
_straight_through.defvjp(
    lambda select, scores, k: (_mask(select, scores, k), None),
    lambda select, _, mask_gradient: (mask_gradient, None),
)
