"""Methods that train weights: SGD, and fixed masks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from iterand_jax.methods.method import Method, check_subnetwork
from iterand_jax.subnetwork import Subnetwork, apply_masks, check_masks

__all__ = ["fixed_mask", "sgd", "unfilled_mask"]

PyTree = Any


def sgd(subnetwork: Subnetwork) -> Method:
    """Ordinary training of a dense network drawn from the subnetwork's D_param.

    Leaves that edge-popup would prune (kernels) are drawn; biases and normalization
    keep the network's initial values. Everything trains; the sparsity is not used.

    >>> method = sgd(Subnetwork(distribution="kaiming_uniform"))
    >>> method.init(jax.random.key(0), {"kernel": jnp.zeros((2, 2))})[1]
    {}
    """

    check_subnetwork(subnetwork)

    def init(key, params):
        _, weights = subnetwork.init(key, params)
        return weights, {}

    return Method(
        init=init,
        params=lambda weights, frozen, step: weights,
        weights=lambda weights, frozen: weights,
        trains_weights=True,
    )


def fixed_mask(mask_tree: PyTree) -> Method:
    """Training of the weights that a tree of masks keeps; the others stay zero.

    mask_tree has the structure of the parameters, with None for leaves without a mask;
    a value that is neither 0 nor 1 is a ValueError.

    >>> method = fixed_mask({"kernel": jnp.array([1, 0]), "bias": None})
    >>> params = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([5.0])}
    >>> weights, masks = method.init(jax.random.key(0), params)
    >>> pruned = method.params(weights, masks, 0)
    >>> pruned["kernel"], pruned["bias"]
    (Array([3., 0.], dtype=float32), Array([5.], dtype=float32))
    """

    if isinstance(mask_tree, Subnetwork):
        raise ValueError("fixed_mask takes a tree of masks; got a Subnetwork")
    check_masks(mask_tree)

    def init(key, params):
        del key
        return apply_masks(params, mask_tree), mask_tree

    return Method(
        init=init,
        params=lambda weights, mask_tree, step: apply_masks(weights, mask_tree),
        weights=lambda weights, mask_tree: weights,
        masks=lambda weights, mask_tree, step: mask_tree,
        trains_weights=True,
        masks_change=False,
    )


def unfilled_mask(subnetwork: Subnetwork) -> Method:
    """`fixed_mask` for weights drawn by a subnetwork, with masks that keep all.

    Each stage of magnitude pruning replaces the masks in the frozen tree and the
    weights in the trainable one.

    >>> method = unfilled_mask(Subnetwork())
    >>> method.init(jax.random.key(0), {"kernel": jnp.zeros((1, 2))})[1]
    {'kernel': Array([[1., 1.]], dtype=float32)}
    """

    check_subnetwork(subnetwork)

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        return weights, jax.tree.map(jnp.ones_like, scores)

    return dataclasses.replace(fixed_mask({}), init=init)
