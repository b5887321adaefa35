"""Exact top-k masks in linear time, with a straight-through gradient.

edge-popup keeps the weights whose scores are largest. The threshold between kept and
pruned is one order statistic of the scores, so no sort is needed: floats are mapped to
unsigned integers of the same order, and `selection` finds the k-th smallest of these
by counting, for all leaves of a network at once. The result is exact for ties, signed
zeros, infinities and subnormals, because only integers are ever compared.

This module is the only place that decides what is kept:

- `sparsity` is the fraction removed. Of n scores, round(sparsity * n) are removed (ties
  to even), but never all of them. With `rank="quantile"` round(sparsity * (n - 1)) are,
  as many as are below the score nearest to that quantile: one fewer at most.
- Scores are ranked as they are, not by their absolute values. -0.0 and 0.0 are equal,
  and NaN ranks above infinity, with either sign. (0 / 0 is a NaN with a sign on x86,
  which `jax.lax.top_k` and `jax.numpy.partition` rank below all numbers.)
- Scores that tie with the smallest kept score are all kept. (Of a pattern as 2:4
  exactly n of every m are, so that there the first of equal ones are.)

    counts    how many are removed
    topk      which are kept: of a leaf, or of leaves that share a threshold
    groups    which n are kept of every m: N:M patterns
    values    what a mask makes of a weight
"""

from iterand_jax.masks.counts import (
    RANKS,
    check_rank,
    check_scores_dtype,
    check_sparsity,
    num_pruned,
)
from iterand_jax.masks.groups import Pattern, nm_mask, pattern_of
from iterand_jax.masks.topk import (
    coat_masks,
    order_keys,
    partial_counts,
    threshold,
    thresholds,
    topk_mask,
    topk_masks,
    topk_masks_of_slices,
)
from iterand_jax.masks.values import VALUES, masked, pruned, values_of
from iterand_jax.masks.values import Values as Values
from iterand_jax.selection import Scalar as Scalar

__all__ = [
    "RANKS",
    "VALUES",
    "Pattern",
    "check_rank",
    "check_scores_dtype",
    "check_sparsity",
    "coat_masks",
    "masked",
    "nm_mask",
    "num_pruned",
    "order_keys",
    "partial_counts",
    "pattern_of",
    "pruned",
    "threshold",
    "thresholds",
    "topk_mask",
    "topk_masks",
    "topk_masks_of_slices",
    "values_of",
]
