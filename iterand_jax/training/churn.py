"""Mask churn: the fraction of mask entries that changed since the last log step.

The masks of that step are stored in the state as packed bits, one bit per weight, so
that a resumed run logs the same numbers as an uninterrupted one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PyTree = Any


def packed_masks(masks: PyTree) -> PyTree:
    """Masks packed eight entries per byte: uint8 (ceil(size / 8),) each.

    >>> masks = {"kernel": jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])}
    >>> [f"{byte:08b}" for byte in packed_masks(masks)["kernel"]]
    ['10001100']
    """
    return jax.tree.map(lambda m: jnp.packbits(m != 0), masks)


def mask_churn(before: PyTree, masks: PyTree) -> tuple[PyTree, PyTree]:
    """The packed masks, and for each the number of entries that changed.

    Args:
      before: packed masks of an earlier step.
      masks: the masks now, nonzero for kept.

    >>> before = {"kernel": jnp.array([0b10000000], jnp.uint8)}
    >>> masks = {"kernel": jnp.array([0.0, 1.0, 0.0, 0.0])}
    >>> mask_churn(before, masks)[1]
    {'kernel': Array(2, dtype=int32)}
    """
    after = packed_masks(masks)
    return after, jax.tree.map(_differing, before, after)


def _differing(one: Array, other: Array) -> Array:
    return jnp.sum(lax.population_count(one ^ other), dtype=jnp.int32)


def record(changed: PyTree, masks: PyTree) -> dict[str, Any]:
    """The fields of a log record for the numbers of changed entries.

    Returns:
      {"mask_churn": the share of all entries that changed, "layer_churn": that of each
      layer, to three digits, in the order of the tree's leaves}. Paths are omitted:
      with ResNet101's 105 layers they would make a run's 21,000 log lines 120 MB.

    >>> masks = {"a": jnp.ones(8), "b": jnp.ones(12)}
    >>> record({"a": jnp.int32(1), "b": jnp.int32(4)}, masks)
    {'mask_churn': 0.25, 'layer_churn': [0.125, 0.333]}
    """
    sizes = [leaf.size for leaf in jax.tree.leaves(masks)]
    counts = [int(count) for count in jax.tree.leaves(changed)]
    shares = [count / size for count, size in zip(counts, sizes, strict=True)]
    return {
        "mask_churn": sum(counts) / sum(sizes),
        "layer_churn": [float(f"{share:.3g}") for share in shares],
    }
