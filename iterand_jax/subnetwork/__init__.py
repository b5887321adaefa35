"""A random network and its scores as two pytrees, pruned by pure functions.

Trainable scores and frozen weights are separate pytrees of one structure. `prune` turns
the two into the parameters that the network sees, and its gradient reaches the scores
only. The trees may come from any library: Flax Linen or NNX, Equinox, dicts of arrays.

    subnetwork = Subnetwork(sparsity=0.5, distribution="signed_constant")
    scores, weights = subnetwork.init(key, params)
    logits = model.apply({"params": subnetwork.prune(scores, weights)}, x)
    weights = subnetwork.rerandomize(key, scores, weights, sampling_rate=0.1)

Rules on a leaf's path and shape say which leaves are pruned: the first rule that
matches claims the leaf, and every leaf must be claimed. A leaf that is not pruned keeps
the value it had in `params`, frozen, and is None in the tree of scores.

The argument order is the same everywhere: scores before weights, trainable before
frozen, since `jax.grad` differentiates with respect to the first argument. Swapped
trees are refused by the path of a leaf that is not pruned; of a network whose leaves
are all pruned they look alike, and naming the arguments is safe:
`subnetwork.prune(scores=scores, weights=weights)`.

Every draw is keyed by the leaf's path, so it depends neither on the other leaves nor on
the number of devices.

    fields    what a subnetwork is described by
    leaves    what that means for the leaves of a tree
    pruned    the operations, of which `Subnetwork` is made
    applied   masks that are given
    pairs     what two trees must agree in
"""

from iterand_jax.subnetwork.applied import (
    apply_masks,
    check_masks,
    check_sampling_rate,
)
from iterand_jax.subnetwork.fields import RANKED_BY
from iterand_jax.subnetwork.pruned import Subnetwork

__all__ = [
    "RANKED_BY",
    "Subnetwork",
    "apply_masks",
    "check_masks",
    "check_sampling_rate",
]
