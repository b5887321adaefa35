"""Masks that keep the n best of every m weights along an axis: N:M patterns as "2:4".

What is decided here and in `Subnetwork`, which takes a pattern for all of its leaves:

- Groups lie along the input axis of a leaf, one after another from its first index on.
  Of a convolution (h, w, inputs, outputs) they are of m input channels at one place of
  the window and for one output, as NVIDIA's TensorRT groups the input channels of a
  kernel (outputs, inputs, h, w). Flattened for a product of matrices, a kernel is
  (outputs, h * w * inputs) with the inputs fastest, so that m neighbours of a row are
  a group, as `torch.sparse.to_sparse_semi_structured` reads it.
- Of several input axes, as the heads and features of an attention's output, groups lie
  along the last, which is fastest when they are flattened.
- An input axis that is no multiple of m is refused: images of 1 or 3 channels make a
  first convolution such a leaf, which a rule leaves unpruned. A grouped convolution has
  inputs / groups of them, a depthwise one 1.
- Exactly n of m are kept, always. Scores are ranked by `order_keys`, as everywhere:
  both zeros are equal, and every NaN is above infinity. Scores that tie cannot all be
  kept, as they are at a threshold: here the first ones along the axis are.
- The pattern says the sparsity, 1 - n/m. There is no threshold, so that there is
  nothing to share (a scope), to move (a schedule) or to add (coats).
- A group never leaves its slice of a stack. Where shards of an axis cut groups, it is
  gathered first.

The gradient goes straight through, as that of `topk_mask`.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from iterand_jax.masks.counts import check_scores, check_scores_dtype
from iterand_jax.masks.topk import order_keys
from iterand_jax.runtime.checks import described
from iterand_jax.selection import sharded_axes

__all__ = ["MOST", "Pattern", "nm_mask", "pattern_of"]

MOST = 32
"""The largest m: each weight is compared with the m of its group."""


class Pattern(NamedTuple):
    """A pattern n:m.

    Attributes:
      kept: n, how many weights are kept of each group.
      of: m, the size of a group.
    """

    kept: int
    of: int

    @property
    def sparsity(self) -> float:
        """The fraction removed, 1 - n/m."""
        return (self.of - self.kept) / self.of


def pattern_of(text: Any) -> Pattern:
    """The pattern of a text as "2:4".

    Raises:
      ValueError: in one line, another text, or a pattern that removes nothing or all.

    >>> pattern_of("2:4"), pattern_of("1:4").sparsity
    (Pattern(kept=2, of=4), 0.75)
    >>> pattern_of("4:2")
    Traceback (most recent call last):
    ...
    ValueError: pattern is 'n:m', the n kept of every m with 1 <= n < m <= 32, '2:4' \
say; got '4:2'
    """
    texts = isinstance(text, str) and re.fullmatch("([1-9][0-9]?):([1-9][0-9]?)", text)
    pattern = Pattern(*map(int, texts.groups())) if texts else None
    if pattern is None or not 1 <= pattern.kept < pattern.of <= MOST:
        raise ValueError(
            f"pattern is 'n:m', the n kept of every m with 1 <= n < m <= {MOST}, '2:4' "
            f"say; got {described(text)}"
        )
    return pattern


def nm_mask(scores: Array, pattern: str, axis: int) -> Array:
    """The mask of the n largest of every m scores along an axis, straight-through.

    Args:
      scores: of any shape; a floating point array.
      pattern: "n:m", as for `pattern_of`.
      axis: of the inputs, whose size is a multiple of m.

    Returns:
      1 kept, 0 pruned, in the shape and dtype of the scores.

    Raises:
      ValueError: another pattern, or an axis that is no multiple of m.

    >>> import jax.numpy as jnp
    >>> nm_mask(jnp.array([3.0, 1.0, 1.0, 2.0, 0.0, 0.0, -0.0, 0.0]), "2:4", axis=0)
    Array([1., 0., 0., 1., 1., 1., 0., 0.], dtype=float32)
    """
    kept, of = pattern_of(pattern)
    check_scores(scores)
    check_scores_dtype(scores.dtype)
    if not -scores.ndim <= axis < scores.ndim or scores.shape[axis] % of:
        raise ValueError(
            f"pattern={pattern!r} is of an axis whose size is a multiple of {of}; got "
            f"axis {axis} of {scores.shape}"
        )
    mask = _straight_through(scores, kept, of, axis % scores.ndim)
    place = getattr(scores, "sharding", None)
    if isinstance(mask, jax.core.Tracer) or not isinstance(place, NamedSharding):
        return mask
    return jax.device_put(mask, place)  # a reshape may have moved shards of Auto axes


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _mask(scores: Array, kept: int, of: int, axis: int) -> Array:
    best = functools.partial(_best, kept=kept, of=of, axis=axis)
    sharding = jax.typeof(scores).sharding
    spec = [*sharding.spec, *[None] * (scores.ndim - len(sharding.spec))]
    if not sharded_axes(scores) or spec[axis] is None:
        return best(scores)
    parts = spec[axis] if isinstance(spec[axis], tuple) else (spec[axis],)
    shards = functools.reduce(lambda n, name: n * sharding.mesh.shape[name], parts, 1)
    if scores.shape[axis] % (shards * of) == 0:  # every group lies on one device
        return jax.shard_map(
            best,
            mesh=sharding.mesh,
            in_specs=sharding.spec,
            out_specs=sharding.spec,
            axis_names={*sharded_axes(scores)},
        )(scores)
    spec[axis] = None
    whole = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return jax.sharding.reshard(best(jax.sharding.reshard(scores, whole)), sharding)


def _best(scores: Array, *, kept: int, of: int, axis: int) -> Array:
    """1 for a score that fewer than so many of its group are better than.

    A group is small, so that comparing all pairs needs no sort, and is one pass.
    """
    before, after = scores.shape[:axis], scores.shape[axis + 1 :]
    groups = order_keys(scores).reshape(*before, scores.shape[axis] // of, of, *after)
    own, others = (jnp.expand_dims(groups, axis + n) for n in (2, 1))
    place = functools.partial(lax.broadcasted_iota, jnp.int32, (of, of))
    earlier = (place(1) < place(0)).reshape(
        *(1 for _ in before), 1, of, of, *(1 for _ in after)
    )
    better = (others > own) | ((others == own) & earlier)
    rank = jnp.sum(better, axis=axis + 2, dtype=jnp.int32)
    return (rank < kept).reshape(scores.shape).astype(scores.dtype)


_straight_through = jax.custom_jvp(_mask, nondiff_argnums=(1, 2, 3))


@_straight_through.defjvp
def _derivative_is_that_of_the_scores(kept, of, axis, primals, tangents):
    return _straight_through(*primals, kept, of, axis), tangents[0]
