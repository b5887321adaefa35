"""Training methods as three pure functions over pytrees.

    init(key, params)                      -> (trainable, frozen)
    params(trainable, frozen)              -> params, differentiable in the first
    refresh(key, step, trainable, frozen)  -> (frozen, redrawn)

A train step needs no more: it differentiates the loss of `params(trainable, frozen)` by
`trainable`, and every `refresh_every` steps the loop replaces `frozen` by its refresh.
`redrawn`, an int32 scalar, counts the weights that the refresh drew anew.

    method       trainable   frozen    refresh
    sgd          weights     nothing   -
    fixed_mask   weights     masks     -
    edge_popup   scores      weights   -
    iterand      scores      weights   each pruned weight with probability r
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax.subnetwork import Subnetwork, apply_masks, check_sampling_rate

__all__ = [
    "METHODS",
    "SCORED",
    "Method",
    "edge_popup",
    "fixed_mask",
    "get_method",
    "iterand",
    "sgd",
]

PyTree = Any


class Method(NamedTuple):
    """A training method; see the text of its module.

    refresh_every is the number of steps between refreshes, 0 for a method without them.
    """

    init: Callable[[Array, PyTree], tuple[PyTree, PyTree]]
    params: Callable[[PyTree, PyTree], PyTree]
    refresh: Callable[[Array, Any, PyTree, PyTree], tuple[PyTree, Array]]
    refresh_every: int = 0


def _no_refresh(key, step, trainable, frozen):
    del key, step, trainable
    return frozen, jnp.int32(0)


def sgd(subnetwork: Subnetwork) -> Method:
    """Ordinary training of a dense network drawn from the subnetwork's D_param.

    Leaves that edge-popup would prune (kernels) are drawn; biases and normalization
    start as the network gave them. Everything trains; the sparsity plays no part.

    >>> method = sgd(Subnetwork(distribution="kaiming_uniform"))
    >>> method.init(jax.random.key(0), {"kernel": jnp.zeros((2, 2))})[1]
    {}
    """

    def init(key, params):
        weights, _ = subnetwork.init(key, params)
        return weights, {}

    return Method(init, lambda trainable, frozen: trainable, _no_refresh)


def fixed_mask(mask_tree: PyTree) -> Method:
    """Training of the weights that a tree of masks keeps; the others stay zero.

    mask_tree has the structure of the parameters, with None for leaves without a mask.

    >>> method = fixed_mask({"kernel": jnp.array([1, 0]), "bias": None})
    >>> params = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([5.0])}
    >>> weights, masks = method.init(jax.random.key(0), params)
    >>> method.params(weights, masks)["kernel"], method.params(weights, masks)["bias"]
    (Array([3., 0.], dtype=float32), Array([5.], dtype=float32))
    """

    def init(key, params):
        del key
        return apply_masks(params, mask_tree), mask_tree

    return Method(init, apply_masks, _no_refresh)


def edge_popup(subnetwork: Subnetwork) -> Method:
    """Training of the scores alone: the weights stay as they were drawn.

    >>> method = edge_popup(Subnetwork(sparsity=0.5))
    >>> params = {"kernel": jnp.zeros((8, 2))}
    >>> scores, weights = method.init(jax.random.key(0), params)
    >>> int((method.params(scores, weights)["kernel"] != 0).sum())
    8
    """

    def init(key, params):
        weights, scores = subnetwork.init(key, params)
        return scores, weights

    return Method(
        init, lambda scores, weights: subnetwork.prune(weights, scores), _no_refresh
    )


def iterand(subnetwork: Subnetwork, *, k_per: int, sampling_rate: float) -> Method:
    """edge-popup, with a part of the pruned weights drawn anew every K_per steps.

    With sampling_rate 0 it is edge-popup, bit for bit.

    Args:
      subnetwork: how the network is drawn and pruned.
      k_per: K_per, the randomization period in steps, at least 1.
      sampling_rate: r in [0, 1], the chance of each pruned weight to be redrawn.

    Raises:
      ValueError: k_per below 1, or a sampling rate outside [0, 1].

    >>> method = iterand(Subnetwork(sparsity=0.5), k_per=300, sampling_rate=1.0)
    >>> params = {"kernel": jnp.zeros((8, 2))}
    >>> scores, weights = method.init(jax.random.key(0), params)
    >>> weights, redrawn = method.refresh(jax.random.key(0), 300, scores, weights)
    >>> method.refresh_every, int(redrawn)
    (300, 8)
    """
    if k_per < 1:
        raise ValueError(f"k_per is the period in steps, at least 1; got {k_per}")
    check_sampling_rate(sampling_rate)

    def refresh(key, step, scores, weights):
        key = jax.random.fold_in(key, step)
        return subnetwork.rerandomize_and_count(key, weights, scores, sampling_rate)

    return edge_popup(subnetwork)._replace(refresh=refresh, refresh_every=k_per)


METHODS = ("sgd", "edge_popup", "iterand")
"""The methods that start from nothing; `fixed_mask` needs masks found before."""

SCORED = ("edge_popup", "iterand")
"""The methods that train scores; the others train weights."""


def get_method(
    name: str, subnetwork: Subnetwork, *, k_per: int, sampling_rate: float
) -> Method:
    """The method of a name in `METHODS`, or of "fixed_mask".

    That one begins with masks of ones for the leaves that the subnetwork prunes. They
    lie in its frozen tree, in which others can take their place.

    Raises:
      ValueError: an unknown name.

    >>> get_method("iterand", Subnetwork(), k_per=300, sampling_rate=0.1).refresh_every
    300
    """
    if name == "sgd":
        return sgd(subnetwork)
    if name == "edge_popup":
        return edge_popup(subnetwork)
    if name == "iterand":
        return iterand(subnetwork, k_per=k_per, sampling_rate=sampling_rate)
    if name == "fixed_mask":

        def init(key, params):
            weights, scores = subnetwork.init(key, params)
            return weights, jax.tree.map(jnp.ones_like, scores)

        return Method(init, apply_masks, _no_refresh)
    raise ValueError(f"unknown method {name!r}; possible: {', '.join(METHODS)}")
