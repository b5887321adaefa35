"""Scores of a part of the weights: the rest is pruned or kept by the seed."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iterand_jax import masks
from iterand_jax.keys import leaf_key
from iterand_jax.methods.method import Method, check_subnetwork
from iterand_jax.methods.scores import edge_popup
from iterand_jax.rules import Schedule
from iterand_jax.rules.ratios import RATIOS, ratios
from iterand_jax.rules.scopes import groups_of
from iterand_jax.runtime.checks import check_fraction
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import map_paths

__all__ = ["partially_frozen"]

PyTree = Any


class _Frozen(NamedTuple):
    """The frozen tree: the weights, and -1, 0 or 1 for pruned, free and locked."""

    weights: PyTree
    fixed: PyTree


def partially_frozen(
    subnetwork: Subnetwork,
    *,
    pruned_share: float,
    locked_share: float,
    frozen_by: str = "uniform",
) -> Method:
    """edge-popup with a part of the weights pruned for ever, and a part locked in.

    The two parts are drawn once, with the weights (Otsuka et al. 2025). Of the rest the
    scores decide, so that all together have the subnetwork's sparsity: the threshold of
    a leaf, or of a scope, counts what is fixed. Scores of fixed weights get no
    gradient.

    The paper's scale 1 / sqrt(1 - p) is `values="scaled"`, its rank of magnitudes
    `ranked_by="magnitude"`, its one threshold `scope=("*",)`. Which p of a layer its
    scale has was not at hand: here it is what the masks remove of the leaf.

    Args:
      subnetwork: how the network is initialized and pruned.
      pruned_share: the fraction of all weights that is pruned for ever, in [0, 1).
      locked_share: the fraction that is kept for ever, in [0, 1).
      frozen_by: the rule that says how much of each layer (`rules.ratios.RATIOS`): what
        is not pruned for ever, and what is locked in, follow it both.

    Raises:
      ValueError: in one line, shares outside [0, 1), an unknown rule, or a leaf or
        scope that cannot have its sparsity with so much fixed.

    >>> subnetwork = Subnetwork(sparsity=0.5)
    >>> method = partially_frozen(subnetwork, pruned_share=0.25, locked_share=0.25)
    >>> scores, frozen = method.init(jax.random.key(0), {"kernel": jnp.zeros((8, 5))})
    >>> [int((frozen.fixed["kernel"] == part).sum()) for part in (-1, 0, 1)]
    [10, 20, 10]
    >>> kept = method.masks(scores, frozen, 0)["kernel"]
    >>> int(kept.sum()), int(kept[frozen.fixed["kernel"] == 1].sum())
    (20, 10)
    """
    check_subnetwork(subnetwork)
    check_fraction(pruned_share, "pruned_share is a fraction of weights", or_one=False)
    check_fraction(locked_share, "locked_share is a fraction of weights", or_one=False)
    if frozen_by not in RATIOS:
        raise ValueError(
            f"unknown frozen_by {frozen_by!r}; possible: {', '.join(RATIOS)}"
        )
    ranking = dataclasses.replace(subnetwork, ranked_by="score")

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        shares = _shares(subnetwork, params, pruned_share, locked_share, frozen_by)

        def fix(path, leaf):
            return None if path not in shares else _fixed(key, path, leaf, shares[path])

        return scores, _Frozen(weights, map_paths(fix, params))

    def ranked(scores, frozen):
        def one(fixed, score):
            ends = jnp.where(fixed > 0, jnp.inf, -jnp.inf).astype(score.dtype)
            return jnp.where(fixed == 0, score, ends)

        return jax.tree.map(one, frozen.fixed, subnetwork.ranked(scores))

    return dataclasses.replace(
        edge_popup(subnetwork),
        init=init,
        params=lambda scores, frozen, step: ranking.at(step).prune(
            ranked(scores, frozen), frozen.weights
        ),
        weights=lambda scores, frozen: frozen.weights,
        masks=lambda scores, frozen, step: ranking.at(step).masks(
            ranked(scores, frozen)
        ),
    )


def _fixed(key: Any, path: str, leaf: Any, shares: tuple[float, float]) -> Any:
    """-1, 0 and 1 of a leaf: random numbers are cut at both ends."""
    pruned, locked = shares
    drawn = jax.random.uniform(leaf_key(key, path, "fixed"), leaf.shape)
    kept = masks.topk_mask(drawn, pruned)
    lock = masks.topk_mask(drawn, 1 - locked) if locked else jnp.zeros_like(kept)
    return (kept + lock - 1).astype(jnp.int8)


def _shares(
    subnetwork: Subnetwork, params: PyTree, pruned: float, locked: float, rule: str
) -> dict[str, tuple[float, float]]:
    """(pruned for ever, locked in) of each pruned leaf.

    Raises:
      ValueError: they leave a leaf or a group of leaves another sparsity than its own.
    """
    layers = subnetwork.layers(params)
    never = ratios(rule, pruned, layers)
    free = ratios(rule, 1 - locked, layers) if locked else dict.fromkeys(layers, 1.0)
    shares = {path: (never[path], 1 - free[path]) for path in layers}
    paths, schedule = [*layers], subnetwork.sparsity
    ends = [subnetwork]
    if isinstance(schedule, Schedule):
        ends = [
            dataclasses.replace(subnetwork, sparsity=p)
            for p in (schedule.start, schedule.to)
        ]
    for group in groups_of(subnetwork.scope, paths):
        own = [paths[index] for index in group]
        size = sum(layers[path].size for path in own)
        least, most = (
            sum(layers[path].size * shares[path][end] for path in own) / size
            for end in (0, 1)
        )
        for one in ends:
            sparsity = float(one.sparsity_of(own))
            if not least <= sparsity <= 1 - most:
                raise ValueError(
                    f"frozen_by={rule}: of {', '.join(own)} the fraction {least:.4g} "
                    f"is pruned for ever and {most:.4g} locked in; possible: a "
                    f"sparsity from {least:.4g} to {1 - most:.4g}, not {sparsity:g}"
                )
    return shares
