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

__all__ = ["adaptive_threshold", "adaptive_threshold_iterand"]


def adaptive_threshold(
    subnetwork: Subnetwork, *, threshold_rate: float = 1.0
) -> Method:
    """edge-popup in which each leaf learns its threshold, around a common one.

    A weight is kept where s - t_l is among the largest of all leaves, so that they have
    the sparsity together and each its own. The threshold t_l of a leaf of n weights is
    trained with the scores, straight-through: its gradient is minus the sum of theirs,
    times threshold_rate / sqrt(n), so that of independent gradients it is as large as
    one. For SGD that is the same as adding the gradient of -t_l to that of every score
    of the leaf, also with momentum and weight decay, which is what is done here: there
    is nothing to store.

    IteRand's paper names "an adaptive threshold" as future work (with Table 7) and has
    no formula: this one is a choice of this library. Straight-through thresholds that
    are trained, of weights, are those of dynamic sparse training (Liu et al. 2020).

    Args:
      subnetwork: how the network is initialized and pruned; without a `scope` it gets
        ("*",), one threshold for all leaves that those of single leaves move from.
      threshold_rate: 0 for edge-popup with that scope, bit for bit.

    Raises:
      ValueError: a rate that is negative or no number, or a subnetwork with a pattern,
        or that ranks magnitudes.

    >>> method = adaptive_threshold(Subnetwork(sparsity=0.5))
    >>> scores = {"a": jnp.array([0.9, 0.8, 0.7, 0.6]), "b": jnp.array([0.5, 0.4])}
    >>> ones = jax.tree.map(jnp.ones_like, scores)
    >>> method.params(scores, ones, 0)["a"].tolist()  # of all six the best three
    [1.0, 1.0, 1.0, 0.0]
    >>> gradient = jax.grad(lambda s: method.params(s, ones, 0)["a"][0])(scores)
    >>> gradient["a"].tolist(), gradient["b"].tolist()
    ([1.5, 0.5, 0.5, 0.5], [0.0, 0.0])
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

    def params(scores, weights, step):
        if rate:
            moved = functools.partial(_with_threshold, rate)
            scores = jax.tree.map(moved, scores)
        return method.params(scores, weights, step)

    return dataclasses.replace(method, params=params)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_threshold(rate: float, scores: Array) -> Array:
    """s - t with t = 0, whose gradient with respect to s is that for both."""
    del rate
    return scores


@_with_threshold.defjvp
def _derivative_adds_that_of_the_threshold(rate, primals, tangents):
    (scores,), (tangent,) = primals, tangents
    return scores, tangent + rate / math.sqrt(scores.size) * jnp.sum(tangent)
