"""Pruning of randomly initialized networks, with iterative randomization (IteRand).

The names below are the array and tree doors; importing them needs only jax. The Linen
door is `iterand_jax.linen`, the trainer `python -m iterand_jax.main`.
"""

from iterand_jax import layers
from iterand_jax.distributions import DISTRIBUTIONS, Distribution
from iterand_jax.masks import threshold, topk_mask
from iterand_jax.methods import Method, edge_popup, fixed_mask, iterand, sgd
from iterand_jax.subnetwork import (
    DEFAULT_RULES,
    OUTPUTS_FIRST_RULES,
    Rule,
    Subnetwork,
    apply_masks,
)

__all__ = [
    "DEFAULT_RULES",
    "DISTRIBUTIONS",
    "OUTPUTS_FIRST_RULES",
    "Distribution",
    "Method",
    "Rule",
    "Subnetwork",
    "apply_masks",
    "edge_popup",
    "fixed_mask",
    "iterand",
    "layers",
    "sgd",
    "threshold",
    "topk_mask",
]
