"""The top-k masks of `iterand_jax.masks`: thresholds by counting, straight-through."""

import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.masks.counts import check_scores, check_scores_dtype, num_pruned
from iterand_jax.runtime.checks import described
from iterand_jax.selection import Keys, Scalar, is_explicit, is_spread, select_all

__all__ = [
    "coat_masks",
    "order_keys",
    "partial_counts",
    "threshold",
    "thresholds",
    "topk_mask",
    "topk_masks",
    "topk_masks_of_slices",
]

Select = Callable[[Sequence[Keys], Sequence[int | Array]], list[Array]]
"""(keys, ks) -> the k-th smallest (from 0) of each entry of unsigned integers."""

Groups = Sequence[Sequence[int]]
"""Indices of the leaves that share a threshold."""


def order_keys(scores: Array) -> Array:
    """Unsigned integers that compare as the scores do, of the same shape and width.

    float16, bfloat16, float32 and float64 become uint16, uint16, uint32 and uint64.
    Both zeros share one key, and every NaN gets the largest.

    >>> import jax.numpy as jnp
    >>> keys = order_keys(jnp.array([2.0, -1.0, -0.0, 0.0]))
    >>> bool(keys[1] < keys[2]), bool(keys[2] == keys[3]), bool(keys[3] < keys[0])
    (True, True, True)
    """
    check_scores(scores)
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
    rank: str = "count",
    groups: Groups | None = None,
) -> list[Array]:
    """The masks of the largest scores of each leaf, 1 kept, 0 pruned, straight-through.

    Forward: m_i = 1 where s_i is at least the exact threshold of its leaf (or of its
    group of leaves), else 0, in the shape and dtype of the scores. Backward: dL/ds =
    dL/dm, as if the mask were the scores, so that with weights * mask the gradient of a
    score is the gradient of the effective weight times the frozen weight (edge-popup;
    section 2 of the paper).

    Args:
      scores: floating point arrays, of any non-empty shapes and any dtypes.
      sparsities: the fraction removed of each leaf, in [0, 1); may be traced scalars.
      select: finds order statistics; the default is chosen per platform.
      rank: how many scores a sparsity removes, one of `RANKS`.
      groups: the indices of the leaves that share a threshold, each leaf in one group;
        there is then one sparsity for each group. By default each leaf is alone.

    Raises:
      ValueError: a sparsity outside [0, 1), no scores, scores that are not floats, or
        a leaf that is in no group or in two.

    >>> import jax.numpy as jnp
    >>> topk_masks([jnp.array([0.3, -2.0, 0.1, 0.7]), jnp.arange(2.0)], [0.5, 0.5])
    [Array([1., 0., 0., 1.], dtype=float32), Array([0., 1.], dtype=float32)]
    >>> both = [jnp.array([0.3, -2.0, 0.1, 0.7]), jnp.arange(2.0)]
    >>> topk_masks(both, [0.5], groups=[(0, 1)])
    [Array([1., 0., 0., 1.], dtype=float32), Array([0., 1.], dtype=float32)]
    """
    if groups is not None:
        groups = tuple(map(tuple, groups))
        if sorted(i for group in groups for i in group) != [*range(len(scores))]:
            raise ValueError(
                f"groups of the indices of {len(scores)} leaves, each once; got "
                f"{groups!r:.60}"
            )
    ks = _nums_pruned(scores, sparsities, rank, groups)
    return _straight_through(select, groups, list(scores), [ks])


def coat_masks(
    scores: Sequence[Array],
    coats: Sequence[Sequence[Scalar]],
    *,
    select: Select = select_all,
    rank: str = "count",
    groups: Groups | None = None,
) -> list[Array]:
    """The sum of the masks of several sparsities: how many thresholds a score reaches.

    The scores are turned into order keys once, and all thresholds are found together.
    Each mask is straight-through, so that the gradient of a score is that of the sum,
    once for each coat (multicoated supermasks, Okoshi et al. 2022).

    Args:
      scores: as for `topk_masks`.
      coats: for each coat, the sparsities that `topk_masks` takes.
      select: finds order statistics.
      rank: how many scores a sparsity removes, one of `RANKS`.
      groups: as for `topk_masks`.

    >>> import jax.numpy as jnp
    >>> coat_masks([jnp.array([0.3, -2.0, 0.1, 0.7])], [[0.25], [0.75]])
    [Array([1., 0., 1., 2.], dtype=float32)]
    """
    ks = [_nums_pruned(scores, sparsities, rank, groups) for sparsities in coats]
    return _straight_through(select, groups, list(scores), ks)


def topk_mask(
    scores: Array,
    sparsity: Scalar,
    *,
    select: Select = select_all,
    rank: str = "count",
) -> Array:
    """The mask of the largest scores of one array: `topk_masks` of it alone.

    Args:
      scores: a floating point array of any non-empty shape.
      sparsity: the fraction removed, in [0, 1); may be a traced scalar.
      select: as in `topk_masks`.
      rank: how many scores a sparsity removes, one of `RANKS`.

    Returns:
      1 kept, 0 pruned, in the shape and dtype of the scores; straight-through.

    Raises:
      ValueError: as `topk_masks`.

    >>> import jax.numpy as jnp
    >>> topk_mask(jnp.array([0.3, -2.0, 0.1, 0.7]), sparsity=0.5)
    Array([1., 0., 0., 1.], dtype=float32)
    """
    return topk_masks([scores], [sparsity], select=select, rank=rank)[0]


def topk_masks_of_slices(
    scores: Array,
    stack: Sequence[int],
    sparsity: Scalar,
    *,
    rank: str = "count",
    coats: Sequence[Scalar] = (),
) -> Array:
    """The mask of an array that is a stack: each slice has its own threshold.

    Args:
      scores: of any shape.
      stack: the axes along which it is a stack of arrays.
      sparsity: the fraction removed from each slice.
      rank: how many scores a sparsity removes, one of `RANKS`.
      coats: further sparsities, whose masks are added as by `coat_masks`.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> topk_masks_of_slices(scores, (0,), sparsity=0.5)
    Array([[0., 1.],
           [0., 1.]], dtype=float32)
    """
    check_scores(scores)

    def mask(scores):
        if not coats:
            return topk_mask(scores, sparsity, rank=rank)
        return coat_masks([scores], [[p] for p in (sparsity, *coats)], rank=rank)[0]

    for axis in sorted(stack):
        mask = jax.vmap(mask, in_axes=axis, out_axes=axis)
    return mask(scores)


def partial_counts(array: Array) -> Array:
    """Partial counts of the true elements, as uint8 of at most 64 each.

    On CPU this takes half the time of a single sum; on GPU one kernel then adds up the
    counts of all leaves. For an array in shards it is one int32, their sum.

    >>> import jax.numpy as jnp
    >>> partial_counts(jnp.array([[True, False, True], [True, False, True]]))
    Array([2, 0, 2], dtype=uint8)
    """
    if is_spread(array) or is_explicit(array):
        return jnp.sum(array, dtype=jnp.int32)
    rows = math.gcd(array.size, 64)
    return jnp.sum(array.reshape(rows, -1), axis=0, dtype=jnp.uint8)


def _nums_pruned(
    scores: Sequence[Array],
    sparsities: Sequence[Scalar],
    rank: str = "count",
    groups: Groups | None = None,
) -> list[int | Array]:
    for own in scores:
        check_scores(own)
    sizes = [s.size for s in scores]
    if groups is not None:
        sizes = [sum(sizes[i] for i in group) for group in groups]
    try:
        pairs = list(zip(sizes, sparsities, strict=True))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{len(sizes)} sparsities are needed, one for each leaf or group; got "
            f"{described(sparsities)}"
        ) from error
    return [num_pruned(size, p, rank=rank) for size, p in pairs]


def _score_of_key(key: Array, dtype: jnp.dtype) -> Array:
    sign = jnp.asarray(1 << (key.dtype.itemsize * 8 - 1), key.dtype)
    bits = jnp.where(key >= sign, key ^ sign, ~key)
    return lax.bitcast_convert_type(bits, dtype)


# Jitted so that calls outside jit do not retrace: the loop's body is a new function
# in each call.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _masks(
    select: Select,
    groups: Groups | None,
    scores: list[Array],
    coats: list[list[int | Array]],
) -> list[Array]:
    if groups is None:
        keys = [order_keys(s) for s in scores]
        entries: list[Keys] = [*keys]
        group_of = [*range(len(scores))]
    else:
        keys = _keys_of_groups(groups, scores)
        entries = [[keys[i] for i in group] for group in groups]
        numbers = {i: n for n, group in enumerate(groups) for i in group}
        group_of = [numbers[i] for i in range(len(scores))]
    found = select(entries * len(coats), [k for ks in coats for k in ks])

    def of_leaf(key, group, dtype):
        smallest = found[group :: len(entries)]  # of each coat
        of_coats = ((key >= kept).astype(dtype) for kept in smallest)
        return functools.reduce(operator.add, of_coats)

    return [
        of_leaf(key, group, s.dtype)
        for key, group, s in zip(keys, group_of, scores, strict=True)
    ]


def _keys_of_groups(groups: Groups, scores: list[Array]) -> list[Array]:
    """The order keys of each leaf, which compare with those of its group."""
    keys = list(scores)
    for group in groups:
        # A wider float holds every narrower one, so that the order stays the same.
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*(scores[i].dtype for i in group))
        for i in group:
            keys[i] = order_keys(scores[i].astype(dtype))
    return keys


_straight_through = jax.custom_jvp(_masks, nondiff_argnums=(0, 1))


@_straight_through.defjvp
def _derivative_is_that_of_the_scores(select, groups, primals, tangents):
    """d mask = d scores, in forward and reverse mode and in every higher derivative."""
    mask_tree = _straight_through(select, groups, *primals)
    scores, _ = tangents
    coats = len(primals[1])
    if coats > 1:
        scores = [coats * s for s in scores]
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
