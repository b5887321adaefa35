"""Methods that train weights: SGD, and fixed masks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from iterand_jax.methods.magnitude import magnitudes
from iterand_jax.methods.method import Method, check_subnetwork
from iterand_jax.rules import Schedule
from iterand_jax.subnetwork import Subnetwork, apply_masks, check_masks

__all__ = [
    "fixed_mask",
    "gradual_magnitude",
    "random_pruning",
    "sgd",
    "unfilled_mask",
]

PyTree = Any
_OF_SCORES = ("ranked_by", "values", "coats")


def sgd(subnetwork: Subnetwork) -> Method:
    """Ordinary training of a dense network drawn from the subnetwork's D_param.

    Leaves that edge-popup would prune (kernels) are drawn; biases and normalization
    keep the network's initial values. Everything trains; what says how the subnetwork
    is pruned, such as its sparsity, is not used.

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


def random_pruning(subnetwork: Subnetwork) -> Method:
    """Training of the weights of a random mask, which is drawn once with the weights.

    The baseline of sparse training: of each leaf a random part is kept, as large as the
    leaf's sparsity says (`Subnetwork.spread` for rules such as ERK; Gadhikar et al.
    2023). It is the mask of random scores, which are then forgotten.

    Raises:
      ValueError: a subnetwork with a scope, a schedule, or `ranked_by`, `values` or
        `coats` of its own: nothing is ranked.

    >>> method = random_pruning(Subnetwork(0.75, "kaiming_uniform"))
    >>> params = {"kernel": jnp.zeros((8, 2)), "bias": jnp.zeros(2)}
    >>> weights, masks = method.init(jax.random.key(0), params)
    >>> int(masks["kernel"].sum()), int((weights["kernel"] != 0).sum())
    (4, 4)
    """
    _check_plain(subnetwork, "random", ("scope", "sparsity", *_OF_SCORES))

    def init(key, params):
        scores, weights = subnetwork.init(key, params)
        kept = jax.lax.stop_gradient(subnetwork.masks(scores))
        return apply_masks(weights, kept), kept

    return dataclasses.replace(fixed_mask({}), init=init)


def gradual_magnitude(subnetwork: Subnetwork) -> Method:
    """Training of the weights of the largest magnitudes, with a sparsity that rises.

    Gradual magnitude pruning (Zhu and Gupta 2017): the masks of a step keep the largest
    weights, by the sparsity of that step (a `Schedule`, cubic in the paper). A pruned
    weight gets no gradient and may come back: momentum and weight decay alone change
    it. Masks are those of every step, and not of every hundredth as in the paper. Of
    weights that tie at the border all are kept: of a signed constant, until the first
    update, the whole network.

    With `scope=("*",)` one threshold is that of all leaves.

    Raises:
      ValueError: a subnetwork with `ranked_by`, `values` or `coats` of its own.

    >>> from iterand_jax.rules import Schedule
    >>> schedule = Schedule(to=0.5, start=0.0, begin=0, end=10)
    >>> method = gradual_magnitude(Subnetwork(schedule))
    >>> weights = {"kernel": jnp.array([[1.0, -3.0], [2.0, 0.5]])}
    >>> method.params(weights, {}, 0)["kernel"].tolist()
    [[1.0, -3.0], [2.0, 0.5]]
    >>> method.params(weights, {}, 10)["kernel"].tolist()
    [[0.0, -3.0], [2.0, 0.0]]
    """
    _check_plain(subnetwork, "magnitude", _OF_SCORES)

    def masks(weights, frozen, step):
        del frozen
        ranked = magnitudes(subnetwork, jax.lax.stop_gradient(weights))
        return subnetwork.at(step).masks(ranked)

    return dataclasses.replace(
        sgd(subnetwork),
        params=lambda weights, frozen, step: apply_masks(
            weights, masks(weights, frozen, step)
        ),
        masks=masks,
    )


def _check_plain(subnetwork: Subnetwork, name: str, fields: Sequence[str]) -> None:
    """Raises ValueError for a subnetwork with fields that a method does not use."""
    check_subnetwork(subnetwork)
    plain = {"scope": (), "ranked_by": "score", "values": "masked", "coats": ()}
    for field in fields:
        value = getattr(subnetwork, field)
        scheduled = isinstance(value, Schedule)
        if scheduled or (field in plain and value != plain[field]):
            raise ValueError(
                f"{field}={value!r} is not possible: the method {name} does not use "
                f"it; possible: edge_popup and iterand"
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
