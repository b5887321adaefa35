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
) -> tuple[PyTree, Array]:
    """Packed masks of the scores, and the share of mask entries that changed (float32).

    Args:
      subnetwork: how the scores prune.
      before: packed masks of earlier scores.
      scores: the scores now.

    >>> before = {"kernel": jnp.array([0b10000000], jnp.uint8)}
    >>> scores = {"kernel": jnp.array([1.0, 2.0, 0.0, -1.0])}
    >>> float(mask_churn(Subnetwork(0.75), before, scores)[1])
    0.5
    """
    after = packed_masks(subnetwork, scores)
    changed = sum(
        jnp.sum(lax.population_count(a ^ b), dtype=jnp.int32)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )
    return after, changed / sum(leaf.size for leaf in jax.tree.leaves(scores))
