"""Methods whose layers have thresholds that adapt, beside the scores."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax.methods.method import Method, check_fields, check_number
from iterand_jax.methods.scores import edge_popup, iterand
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import map_paths

__all__ = ["adaptive_threshold", "adaptive_threshold_iterand"]


def adaptive_threshold(
    subnetwork: Subnetwork, *, threshold_rate: float = 1.0
) -> Method:
    """edge-popup in which each leaf learns its threshold, around a common one.

    A weight is kept where sqrt(f / 6) (s - t_l) is among the largest of all leaves, so
    that they have the sparsity together and each its own. With the fan-in f all scores
    start between -1 and 1, and all leaves with equal shares. The threshold t_l of a
    leaf of n weights, 0 at first, is trained with the scores, straight-through: its
    gradient is minus the sum of theirs, times threshold_rate / sqrt(n), so that of
    independent gradients it is as large as one. For SGD that is the same as adding the
    gradient of -t_l to that of every score of the leaf, also with momentum and weight
    decay, which is what is done here: there is nothing to store.

    IteRand's paper names "an adaptive threshold" as future work (with Table 7) and has
    no formula: this one is a choice of this library. Straight-through thresholds that
    are trained, of weights, are those of dynamic sparse training (Liu et al. 2020).

    Args:
      subnetwork: how the network is initialized and pruned; without a `scope` it gets
        ("*",), one threshold for all leaves that those of single leaves move from.
      threshold_rate: at least 0, where thresholds do not move.

    Raises:
      ValueError: a rate that is negative or no number, or a subnetwork with a pattern,
        or that ranks magnitudes.

    >>> method = adaptive_threshold(Subnetwork(sparsity=0.5))
    >>> a, b = jnp.array([[0.9, 0.8, 0.7, 0.6]]), jnp.array([[0.5, 0.4]])
    >>> scores = {"a": {"kernel": a}, "b": {"kernel": b}}
    >>> ones = jax.tree.map(jnp.ones_like, scores)
    >>> def seen(scores):
    ...     return method.params(scores, ones, 0)["a"]["kernel"]
    >>> seen(scores).tolist()  # of all six the best three
    [[1.0, 1.0, 1.0, 0.0]]
    >>> gradient = jax.grad(lambda scores: seen(scores)[0, 0])(scores)
    >>> gradient["a"]["kernel"].tolist(), gradient["b"]["kernel"].tolist()
    ([[1.5, 0.5, 0.5, 0.5]], [[0.0, 0.0]])
    """
    return _adaptive(edge_popup, subnetwork, threshold_rate)


def adaptive_threshold_iterand(
    subnetwork: Subnetwork,
    *,
    k_per: int,
    sampling_rate: float,
    threshold_rate: float = 1.0,
) -> Method:
    """`adaptive_threshold`, with the re-randomization of `iterand`.

    Raises:
      ValueError: as `adaptive_threshold` and `iterand`.

    >>> method = adaptive_threshold_iterand(Subnetwork(), k_per=300, sampling_rate=0.1)
    >>> method.refresh_every, method.resampling
    (300, (300, 0.1))
    """
    resampled = functools.partial(iterand, k_per=k_per, sampling_rate=sampling_rate)
    return _adaptive(resampled, subnetwork, threshold_rate)


def _adaptive(
    of: Callable[[Subnetwork], Method], subnetwork: Subnetwork, rate: float
) -> Method:
    why = "an adaptive threshold is of scores of all leaves; possible: edge_popup"
    check_fields(subnetwork, why, pattern=None, ranked_by="score")
    check_number(rate, "threshold_rate", or_zero=True)
    method = of(dataclasses.replace(subnetwork, scope=subnetwork.scope or ("*",)))

    def ranked(scores):
        def one_leaf(path, score):
            fan_in = subnetwork.fan_in(path, score)
            if fan_in is None:  # trained beside the scores
                return score
            return _with_threshold(math.sqrt(fan_in / 6), rate, score)

        return map_paths(one_leaf, scores)

    return dataclasses.replace(
        method,
        params=lambda scores, weights, step: method.params(
            ranked(scores), weights, step
        ),
        masks=lambda scores, weights, step: method.masks(  # type: ignore[misc]
            ranked(scores), weights, step
        ),
        refresh=lambda key, step, scores, weights: method.refresh(
            key, step, ranked(scores), weights
        ),
        ranked=ranked,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _with_threshold(factor: float, rate: float, scores: Array) -> Array:
    """factor (s - t) with t = 0; straight-through, its gradient is that for s and t."""
    del rate
    return factor * scores


@_with_threshold.defjvp
def _derivative_adds_that_of_the_threshold(factor, rate, primals, tangents):
    (scores,), (tangent,) = primals, tangents
    of_threshold = rate / math.sqrt(scores.size) * jnp.sum(tangent)
    return factor * scores, tangent + of_threshold
