"""Scores of a part of the weights: the rest is pruned or kept by the seed."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from iterand_jax import masks
from iterand_jax.distributions import placed_as
from iterand_jax.keys import leaf_key, random_bits, random_bits_in_shards
from iterand_jax.methods.method import Method, check_subnetwork
from iterand_jax.methods.scores import edge_popup
from iterand_jax.rules import Schedule
from iterand_jax.rules.ratios import RATIOS, Layer, ratios
from iterand_jax.rules.scopes import groups_of, in_scope
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
    """edge-popup with a part of the weights pruned permanently, and a part locked in.

    The two parts are drawn once, with the weights (Otsuka et al. 2025). Of the rest the
    scores decide, so that all together have the subnetwork's sparsity: the threshold of
    a leaf, or of a scope, counts what is fixed. Scores of fixed weights get no
    gradient.

    The paper's scale 1 / sqrt(1 - p) is `values="scaled"`, its rank of magnitudes
    `ranked_by="magnitude"`, its one threshold `scope=("*",)`. Which p of a layer its
    scale has was not at hand: here it is what the masks remove of the leaf.

    Args:
      subnetwork: how the network is initialized and pruned.
      pruned_share: the fraction of all weights that is pruned permanently, in [0, 1).
      locked_share: the fraction that is kept permanently, in [0, 1).
      frozen_by: the rule that says how much of each layer (`rules.ratios.RATIOS`): what
        is not pruned permanently, and what is locked in, follow it both.

    Raises:
      ValueError: in one line, shares outside [0, 1), an unknown rule, a leaf or scope
        that cannot have its sparsity with so much fixed, or a pattern, whose groups
        could not keep as many as they must.

    >>> subnetwork = Subnetwork(sparsity=0.5)
    >>> method = partially_frozen(subnetwork, pruned_share=0.25, locked_share=0.25)
    >>> scores, frozen = method.init(jax.random.key(0), {"kernel": jnp.zeros((8, 5))})
    >>> [int((frozen.fixed["kernel"] == part).sum()) for part in (-1, 0, 1)]
    [10, 20, 10]
    >>> kept = method.masks(scores, frozen, 0)["kernel"]
    >>> int(kept.sum()), int(kept[frozen.fixed["kernel"] == 1].sum())
    (20, 10)
    """
    _check_fields(subnetwork, pruned_share, locked_share, frozen_by)
    ranking = dataclasses.replace(subnetwork, ranked_by="score")

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        layers = subnetwork.layers(params)
        shares = _shares(layers, pruned_share, locked_share, frozen_by)
        _check_shares(subnetwork, layers, shares, frozen_by)
        return scores, _Frozen(weights, _drawn(key, params, layers, shares))

    def ranked(scores, frozen):
        return jax.tree.map(_with_ends, frozen.fixed, subnetwork.ranked(scores))

    return dataclasses.replace(
        edge_popup(subnetwork),
        init=init,
        params=lambda scores, frozen, step: ranking.at(step).prune(
            ranked(scores, frozen), frozen.weights
        ),
        weights=lambda scores, frozen: frozen.weights,
        on_weights=lambda function, frozen: frozen._replace(
            weights=function(frozen.weights)
        ),
        masks=lambda scores, frozen, step: ranking.at(step).masks(
            ranked(scores, frozen)
        ),
    )


def _check_fields(
    subnetwork: Subnetwork, pruned_share: float, locked_share: float, frozen_by: str
) -> None:
    check_subnetwork(subnetwork)
    check_fraction(pruned_share, "pruned_share is a fraction of weights", or_one=False)
    check_fraction(locked_share, "locked_share is a fraction of weights", or_one=False)
    if frozen_by not in RATIOS:
        raise ValueError(
            f"unknown frozen_by {frozen_by!r}; possible: {', '.join(RATIOS)}"
        )
    if subnetwork.pattern:
        raise ValueError(
            f"pattern={subnetwork.pattern!r} is not possible: the method "
            f"partially_frozen fixes weights wherever they lie in a group; possible: "
            f"edge_popup and iterand"
        )


def _with_ends(fixed: Array, score: Array) -> Array:
    """The scores, where they decide; beyond all others of what is fixed."""
    ends = jnp.where(fixed > 0, jnp.inf, -jnp.inf).astype(score.dtype)
    return jnp.where(fixed == 0, score, ends)


def _drawn(
    key: Array,
    params: PyTree,
    layers: Mapping[str, Layer],
    shares: Mapping[str, tuple[float, float]],
) -> PyTree:
    """-1, 0 and 1 of each leaf that has shares; None of others."""

    def fix(path, leaf):
        if path not in shares:
            return None
        own = leaf.shape, tuple(layers[path].axes.stack), shares[path]
        return placed_as(leaf, _fixed, leaf_key(key, path, "fixed"), *own)

    return map_paths(fix, params)


def _fixed(
    key: Array,
    shape: tuple[int, ...],
    stack: tuple[int, ...],
    shares: tuple[float, float],
    sharding: NamedSharding | None,
) -> Array:
    """-1, 0 and 1 of a leaf: random numbers of each slice are cut at both ends."""
    pruned, locked = shares
    if sharding is None:
        bits = random_bits(key, math.prod(shape)).reshape(shape)
    else:
        bits = random_bits_in_shards(key, shape, sharding)
    drawn = (bits >> 9).astype(jnp.float32)  # exact: 23 bits, in every mode of JAX
    cut = functools.partial(masks.topk_masks_of_slices, drawn, stack)
    kept = cut(pruned)
    lock = cut(1 - locked) if locked else jnp.zeros_like(kept)
    return (kept + lock - 1).astype(jnp.int8)


def _shares(
    layers: Mapping[str, Layer], pruned: float, locked: float, rule: str
) -> dict[str, tuple[float, float]]:
    """(pruned permanently, locked in) of each pruned leaf."""
    none = dict.fromkeys(layers, 0.0)
    never = ratios(rule, pruned, layers) if pruned else none
    free = ratios(rule, 1 - locked, layers) if locked else dict.fromkeys(layers, 1.0)
    return {path: (never[path], 1 - free[path]) for path in layers}


def _check_shares(
    subnetwork: Subnetwork,
    layers: Mapping[str, Layer],
    shares: Mapping[str, tuple[float, float]],
    rule: str,
) -> None:
    """Raises ValueError where a threshold would be among what is fixed.

    It is a matter of whole numbers: with one more pruned permanently than the sparsity
    removes, the threshold is that of what is pruned permanently, which it would keep.
    """
    paths = [*layers]
    for group in groups_of(subnetwork.scope, paths):
        own = [paths[index] for index in group]
        size = sum(layers[path].size for path in own)
        fixed = [_numbers(layers[path], shares[path]) for path in own]
        never, locked = map(sum, zip(*fixed, strict=True))
        alone = not in_scope(subnetwork.scope, own[0])
        slices = _slices(layers[own[0]]) if alone else 1
        for sparsity in _ends(subnetwork, own):
            of_one = masks.num_pruned(size // slices, sparsity, rank=subnetwork.rank)
            removed = slices * int(of_one)
            if not never <= removed <= size - locked:
                raise ValueError(
                    f"frozen_by={rule}: of the {size:,} weights of {', '.join(own)}, "
                    f"{never:,} are pruned permanently and {locked:,} locked in; "
                    f"sparsity {sparsity:g} removes {removed:,}, which is not from "
                    f"{never:,} to {size - locked:,}"
                )


def _slices(layer: Layer) -> int:
    return math.prod(layer.shape[axis] for axis in layer.axes.stack)


def _numbers(layer: Layer, shares: tuple[float, float]) -> tuple[int, int]:
    """How many weights of a leaf `_fixed` makes -1, and how many 1."""
    pruned, locked = shares
    slices = _slices(layer)
    size = layer.size // slices
    lock = size - int(masks.num_pruned(size, 1 - locked)) if locked else 0
    return slices * int(masks.num_pruned(size, pruned)), slices * lock


def _ends(subnetwork: Subnetwork, paths: Sequence[str]) -> list[float]:
    """The least and the largest sparsity of leaves that share a threshold."""
    schedule = subnetwork.sparsity
    if not isinstance(schedule, Schedule):
        return [float(subnetwork.sparsity_of(paths))]
    ends = (schedule.start, schedule.to)
    return [*ends, *(float(np.float32(p)) for p in ends)]  # as they are traced
