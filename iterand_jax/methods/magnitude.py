"""Masks by the magnitude of trained weights, ranked over all layers together.

Sparsity is a fraction of all weights in the pruned layers, or of the weights of all
layers, as OpenLTH counts it: the layers that are not pruned then leave fewer to the
others. In iterative magnitude
pruning with n retrainings to the sparsity p, each removes the same fraction of the
remaining weights, so that the k-th has sparsity 1 - (1 - p)^(k / n).
"""

from typing import Any

import jax
import jax.numpy as jnp

from iterand_jax import masks
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.trees import map_paths

__all__ = ["SPARSITY_OF", "magnitude_masks", "magnitudes", "sparsities"]

PyTree = Any
SPARSITY_OF = ("pruned", "all")
"""The layers whose weights sparsity is a fraction of."""


def sparsities(sparsity: float, retrainings: int) -> list[float]:
    """The sparsity of each retraining, up to `sparsity` by equal fractions.

    >>> [round(s, 4) for s in sparsities(0.488, 3)]
    [0.2, 0.36, 0.488]
    """
    return [
        1 - (1 - sparsity) ** (index / retrainings)
        for index in range(1, retrainings + 1)
    ]


def magnitudes(subnetwork: Subnetwork, weights: PyTree) -> PyTree:
    """|w| of the leaves that are pruned, None for the others.

    >>> weights = {"kernel": jnp.array([[1.0, -5.0]]), "bias": jnp.zeros(2)}
    >>> magnitudes(Subnetwork(), weights)
    {'bias': None, 'kernel': Array([[1., 5.]], dtype=float32)}
    """
    pruned = subnetwork.fan_ins(weights)
    return map_paths(
        lambda path, leaf: jnp.abs(leaf) if path in pruned else None, weights
    )


def magnitude_masks(
    subnetwork: Subnetwork,
    weights: PyTree,
    sparsity: float,
    sparsity_of: str = "pruned",
) -> PyTree:
    """Masks of the weights of the largest magnitude over all pruned leaves together.

    Args:
      subnetwork: its rules say which leaves are pruned; its own sparsity is not used.
      weights: the parameters; pruned ones are 0, and stay pruned at a larger sparsity.
      sparsity: the fraction removed of all weights in pruned leaves.
      sparsity_of: "pruned" for this, "all" for the fraction of the weights of all
        layers: leaves of two or more axes, so without biases and normalization.

    Raises:
      ValueError: a sparsity of all that would remove every weight of the pruned leaves,
        or a subnetwork with a pattern, which is not ranked over all leaves.

    Returns:
      A tree of the structure of the weights: 1 kept and 0 pruned in the leaf's shape
      and dtype, None for other leaves.

    >>> weights = {"a": {"kernel": jnp.array([[1.0, -5.0]])}, "bias": jnp.zeros(1)}
    >>> weights["b"] = {"kernel": jnp.array([[0.0], [2.0]])}
    >>> found = magnitude_masks(Subnetwork(), weights, 0.5)
    >>> found["a"]["kernel"], found["b"]["kernel"].ravel(), found["bias"]
    (Array([[0., 1.]], dtype=float32), Array([0., 1.], dtype=float32), None)
    """
    if subnetwork.pattern:
        raise ValueError(
            f"pattern={subnetwork.pattern!r} is not possible: magnitude_masks have one "
            f"threshold for all leaves; possible: the masks of a Subnetwork, of "
            f"magnitudes(subnetwork, weights)"
        )
    leaves, structure = jax.tree.flatten(magnitudes(subnetwork, weights))
    if sparsity_of == "all":
        layers = [leaf.size for leaf in jax.tree.leaves(weights) if leaf.ndim > 1]
        size = sum(leaf.size for leaf in leaves)
        sparsity = _of_pruned(sparsity, sum(layers), size)
    kept = masks.topk_masks(leaves, [sparsity], groups=[range(len(leaves))])
    return jax.tree.unflatten(structure, kept)


def _of_pruned(sparsity: float, total: int, pruned: int) -> float:
    """The sparsity of the pruned layers that removes as many as one of all layers.

    >>> size = 9_217_728  # of VGG11's convolutions; its linear layer has 5,120
    >>> size - round(size * _of_pruned(0.99, size + 5120, size))
    87108
    """
    removed = masks.num_pruned(total, sparsity)
    if removed >= pruned:
        raise ValueError(
            f"sparsity {sparsity:g} of all {total:,} weights removes {removed:,}, and "
            f"the pruned layers have {pruned:,}; possible: below {pruned / total:g}"
        )
    return float(removed / pruned)
