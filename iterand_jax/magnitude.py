"""Masks by the magnitude of trained weights, ranked over all layers together.

Sparsity is a fraction of all weights in the pruned layers. In iterative magnitude
pruning with n retrainings to the sparsity p, each removes the same fraction of the
remaining weights, so that the k-th has sparsity 1 - (1 - p)^(k / n).
"""

from typing import Any

import jax
import jax.numpy as jnp

from iterand_jax import masks
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import path_string

__all__ = ["magnitude_masks", "sparsities"]

PyTree = Any


def sparsities(sparsity: float, retrainings: int) -> list[float]:
    """The sparsity of each retraining, up to `sparsity` by equal fractions.

    >>> [round(s, 4) for s in sparsities(0.488, 3)]
    [0.2, 0.36, 0.488]
    """
    return [
        1 - (1 - sparsity) ** (index / retrainings)
        for index in range(1, retrainings + 1)
    ]


def magnitude_masks(subnetwork: Subnetwork, weights: PyTree, sparsity: float) -> PyTree:
    """Masks of the weights of the largest magnitude over all pruned leaves together.

    Args:
      subnetwork: its rules say which leaves are pruned; its own sparsity is not used.
      weights: the parameters; pruned ones are 0, and stay pruned at a larger sparsity.
      sparsity: the fraction removed of all weights in pruned leaves.

    Returns:
      A tree of the structure of the weights: 1 kept and 0 pruned in the leaf's shape
      and dtype, None for other leaves.

    >>> weights = {"a": {"kernel": jnp.array([[1.0, -5.0]])}, "bias": jnp.zeros(1)}
    >>> weights["b"] = {"kernel": jnp.array([[0.0], [2.0]])}
    >>> found = magnitude_masks(Subnetwork(), weights, 0.5)
    >>> found["a"]["kernel"], found["b"]["kernel"].ravel(), found["bias"]
    (Array([[0., 1.]], dtype=float32), Array([0., 1.], dtype=float32), None)
    """

    def magnitude(path, leaf):
        pruned = subnetwork.fan_in(path_string(path), leaf) is not None
        return jnp.abs(leaf) if pruned else None

    magnitudes = jax.tree_util.tree_map_with_path(magnitude, weights)
    leaves, structure = jax.tree.flatten(magnitudes)
    everything = jnp.concatenate([leaf.ravel() for leaf in leaves])
    least = masks.threshold(everything, sparsity)
    kept = [(leaf >= least).astype(leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(structure, kept)
