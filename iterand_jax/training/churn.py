"""Mask churn: how much of the masks changed since they were last looked at.

The masks lie in the state as packed bits, an eighth of a byte per weight, so that a run
that continues from a checkpoint tells the same numbers as one that was never stopped.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.subnetwork import Subnetwork

PyTree = Any


def packed_masks(subnetwork: Subnetwork, scores: PyTree) -> PyTree:
    """The masks of the scores, eight weights to a byte: uint8 (ceil(size / 8),) each.

    >>> scores = {"kernel": jnp.array([[3.0, 0.0, 2.0], [1.0, 5.0, 4.0]])}
    >>> [f"{byte:08b}" for byte in packed_masks(Subnetwork(0.5), scores)["kernel"]]
    ['10001100']
    """
    return jax.tree.map(lambda m: jnp.packbits(m != 0), subnetwork.masks(scores))


def mask_churn(
    subnetwork: Subnetwork, before: PyTree, scores: PyTree
) -> tuple[PyTree, PyTree]:
    """Packed masks of the scores, and of each the number of entries that changed.

    Args:
      subnetwork: how the scores prune.
      before: packed masks of earlier scores.
      scores: the scores now.

    >>> before = {"kernel": jnp.array([0b10000000], jnp.uint8)}
    >>> scores = {"kernel": jnp.array([1.0, 2.0, 0.0, -1.0])}
    >>> mask_churn(Subnetwork(0.75), before, scores)[1]
    {'kernel': Array(2, dtype=int32)}
    """
    after = packed_masks(subnetwork, scores)
    return after, jax.tree.map(_differing, before, after)


def _differing(one: Array, other: Array) -> Array:
    return jnp.sum(lax.population_count(one ^ other), dtype=jnp.int32)


def told(changed: PyTree, scores: PyTree) -> dict[str, Any]:
    """What a log line tells of the numbers of changed entries.

    Returns:
      {"mask_churn": the share of all entries that changed, "layer_churn": that of each
      layer, to three digits, in the order of the tree's leaves}. Without the paths: of
      ResNet101's 105 layers these would make the 21,000 lines of a run 120 MB.

    >>> scores = {"a": jnp.ones(8), "b": jnp.ones(12)}
    >>> told({"a": jnp.int32(1), "b": jnp.int32(4)}, scores)
    {'mask_churn': 0.25, 'layer_churn': [0.125, 0.333]}
    """
    sizes = [leaf.size for leaf in jax.tree.leaves(scores)]
    counts = [int(count) for count in jax.tree.leaves(changed)]
    shares = [count / size for count, size in zip(counts, sizes, strict=True)]
    return {
        "mask_churn": sum(counts) / sum(sizes),
        "layer_churn": [float(f"{share:.3g}") for share in shares],
    }
