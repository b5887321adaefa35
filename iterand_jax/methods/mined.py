"""A method that rounds its scores, and prunes permanently those that stay low."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax import masks
from iterand_jax.distributions import Distribution, placed_as
from iterand_jax.keys import leaf_key
from iterand_jax.methods.method import Method, check_fields
from iterand_jax.methods.scores import edge_popup
from iterand_jax.rules import Schedule
from iterand_jax.runtime.checks import check_at_least
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import leaves_of, map_pair, map_paths

__all__ = ["gem_miner"]

PyTree = Any
UNIFORM = Distribution("uniform", lambda uniform, fan_in: uniform)


def gem_miner(subnetwork: Subnetwork, *, k_per: int, freezings: int) -> Method:
    """Training of scores in [0, 1] that are rounded; the lowest are pruned permanently.

    The mask of a score s is 1 where s > 1/2, with the gradient of s itself, and s is
    clamped to [0, 1] after every update. Every K_per steps the lowest share of the
    scores that are left, of all leaves together, is frozen at 0, so that after all
    freezings the sparsity is frozen (Gem-Miner, Sreenivasan et al. 2022). More may be
    pruned than is frozen: scores up to 1/2.

    The paper penalizes the squares of the scores, which is the optimizer's weight decay
    here. Its own text on how large that is, how scores start (here uniform in [0, 1])
    and how large a share is (here the same each time) was not at hand. Scores that tie
    at the border of a share stay, those at 1 too.

    A frozen score is one whose weight is 0 in the frozen tree: it has no gradient.

    Args:
      subnetwork: how the network is initialized, and the sparsity after all freezings.
      k_per: K_per, the steps from one freezing to the next, at least 1.
      freezings: their number, at least 1.

    Raises:
      ValueError: numbers below 1, or a subnetwork with a schedule, sparsities of single
        leaves, a pattern, coats, or `ranked_by` or `values` of its own.

    >>> method = gem_miner(Subnetwork(sparsity=0.75), k_per=10, freezings=2)
    >>> scores = {"kernel": jnp.array([0.6, 0.9, 0.1, 0.7])}
    >>> weights = {"kernel": jnp.array([1.0, 2.0, 3.0, 4.0])}
    >>> method.params(scores, weights, 0)["kernel"].tolist()
    [1.0, 2.0, 0.0, 4.0]
    >>> weights, frozen = method.refresh(jax.random.key(0), 10, scores, weights)
    >>> weights["kernel"].tolist(), int(frozen)
    ([0.0, 2.0, 0.0, 4.0], 2)
    >>> method.project({"kernel": jnp.array([-0.5, 1.5])})["kernel"].tolist()
    [0.0, 1.0]
    """
    sparsity = _check(subnetwork, k_per, freezings)
    together = dataclasses.replace(
        subnetwork,
        sparsity=Schedule(to=sparsity, end=freezings, form="gradual"),
        scope=subnetwork.scope or ("*",),
    )

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        return _uniform(key, scores), weights

    def find_masks(scores, weights, step):
        del step
        return _with_weights(_kept, scores, weights)

    def params(scores, weights, step):
        del step
        rounded = jax.tree.map(_rounded, scores)
        return map_pair(lambda path, m, w: masks.masked(w, m), rounded, weights)

    def refresh(key, step, scores, weights):
        del key
        return _freeze(together.at(step // k_per), scores, weights)

    return dataclasses.replace(
        edge_popup(subnetwork),
        init=init,
        params=params,
        masks=find_masks,
        refresh=refresh,
        refresh_every=k_per,
        project=lambda scores: jax.tree.map(lambda s: jnp.clip(s, 0, 1), scores),
    )


def _check(subnetwork: Subnetwork, k_per: int, freezings: int) -> float:
    """The sparsity after all freezings; raises ValueError as `gem_miner` says."""
    why = "the method gem_miner rounds scores, and freezes the lowest of all leaves"
    check_fields(
        subnetwork, why, pattern=None, coats=(), ranked_by="score", values="masked"
    )
    sparsity = subnetwork.sparsity
    if isinstance(sparsity, Mapping | Schedule):
        raise ValueError(f"sparsity={sparsity!r} is not possible: {why}")
    check_at_least(1, k_per, "k_per is the period in steps")
    check_at_least(1, freezings, "freezings is how often scores are frozen")
    return float(sparsity)


def _uniform(key: Array, scores: PyTree) -> PyTree:
    """The numbers in (0, 1) that scores were made of."""

    def start(path, score):
        own = leaf_key(key, path, "scores")
        return placed_as(score, UNIFORM.sample, own, score.shape, 1, score.dtype)

    return map_paths(start, scores)


def _kept(score: Array, weight: Array) -> Array:
    return ((score > 0.5) & (weight != 0)).astype(score.dtype)


def _freeze(
    subnetwork: Subnetwork, scores: PyTree, weights: PyTree
) -> tuple[PyTree, Array]:
    """(the weights, 0 where the lowest scores are frozen; how many newly are)."""
    lowest = _with_weights(lambda s, w: jnp.where(w == 0, -1, s), scores, weights)
    active = subnetwork.masks(lowest)
    new = map_pair(lambda path, a, w: jnp.where(a == 0, 0, w), active, weights)
    frozen = _with_weights(
        lambda a, w: jnp.sum((a == 0) & (w != 0), dtype=jnp.int32), active, weights
    )
    return new, sum(jax.tree.leaves(frozen), start=jnp.int32(0))


def _with_weights(
    f: Callable[[Array, Array], Array], scores: PyTree, weights: PyTree
) -> PyTree:
    """The tree of f(score, weight) of the leaves that have scores."""
    of = leaves_of(weights)
    return map_paths(lambda path, score: f(score, of[path]), scores)


@jax.custom_jvp
def _rounded(score: Array) -> Array:
    return (score > 0.5).astype(score.dtype)


@_rounded.defjvp
def _derivative_is_that_of_the_score(primals, tangents):
    return _rounded(*primals), tangents[0]
