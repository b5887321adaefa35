"""Training methods as pure functions over pytrees.

    init(key, params)                      -> (trainable, frozen)
    params(trainable, frozen, step)        -> what the network sees, differentiable in
                                              the first argument
    masks(trainable, frozen, step)         -> what is kept, None for a method without
    weights(trainable, frozen)             -> what the masks are applied to
    refresh(key, step, trainable, frozen)  -> (frozen, redrawn)

A train step needs no more: it differentiates the loss of `params` with respect to
`trainable`, and every `refresh_every` steps the loop replaces `frozen` by its refresh.
`redrawn`, an int32 scalar, counts the weights that the refresh resampled or changed.
Evaluation, mask churn, analysis and export call the same functions and never check the
method's name. A method may also have noise that the network sees in training alone
(`noisy`), a term of the loss (`penalty`), and bounds of what is trained (`project`).

The argument order is the same in the whole library: trainable before frozen, so scores
before weights, and weights before fixed masks, since `jax.grad` differentiates with
respect to the first argument.

    method          trainable   frozen    refresh
    sgd             weights     nothing   -
    fixed_mask      weights     masks     -
    edge_popup      scores      weights   -
    iterand         scores      weights   each pruned weight with probability r
    biprop          scores      weights   -
    biprop_iterand  scores      weights   each pruned weight with probability r
    multicoated     scores      weights   -
    partially_frozen  scores    weights, and what is pruned or locked in for ever
    recycling       scores      weights   the worst pruned copy the best kept ones
    signed_supermask  masks     weights   -
    adaptive_threshold          scores    weights   -
    adaptive_threshold_iterand  scores    weights   as iterand
    gem_miner       scores      weights   the lowest scores are frozen, their weights 0
    relaxed_bernoulli  gates    weights   -
    random          weights     masks     -
    magnitude       weights     nothing   -

How a method that trains scores prunes is said by its `Subnetwork`: which leaves share a
threshold (scope), what is ranked, what a mask makes of a weight (values), and a
sparsity that follows a schedule, of which each step has its own masks.

    method       the trees and functions of a method
    weights      methods that train weights
    magnitude    masks by the magnitudes of trained weights
    scores       methods that train scores
    partial      of which a part is fixed by the seed
    recycled     that copies its best weights over its worst
    signed       that turns signs
    adaptive     whose layers have thresholds that adapt
    mined        that rounds scores, and freezes the lowest
    gates        of noisy gates
    named        methods by name, with their hyperparameters
"""

from iterand_jax.methods.adaptive import (
    adaptive_threshold,
    adaptive_threshold_iterand,
)
from iterand_jax.methods.gates import relaxed_bernoulli
from iterand_jax.methods.method import Method
from iterand_jax.methods.mined import gem_miner
from iterand_jax.methods.named import (
    METHODS,
    build_method,
    method_fields,
    register_method,
)
from iterand_jax.methods.partial import partially_frozen
from iterand_jax.methods.recycled import recycling
from iterand_jax.methods.scores import (
    biprop,
    biprop_iterand,
    edge_popup,
    iterand,
    multicoated,
)
from iterand_jax.methods.signed import signed_supermask
from iterand_jax.methods.weights import (
    fixed_mask,
    gradual_magnitude,
    random_pruning,
    sgd,
    unfilled_mask,
)

__all__ = [
    "METHODS",
    "Method",
    "adaptive_threshold",
    "adaptive_threshold_iterand",
    "biprop",
    "biprop_iterand",
    "build_method",
    "edge_popup",
    "fixed_mask",
    "gem_miner",
    "gradual_magnitude",
    "iterand",
    "method_fields",
    "multicoated",
    "partially_frozen",
    "random_pruning",
    "recycling",
    "register_method",
    "relaxed_bernoulli",
    "sgd",
    "signed_supermask",
    "unfilled_mask",
]
