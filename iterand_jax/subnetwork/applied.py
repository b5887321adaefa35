"""Masks that are given, and what a sampling rate may be."""

from typing import Any

import jax
import jax.numpy as jnp

from iterand_jax.masks import Scalar
from iterand_jax.runtime.checks import check_array, check_fraction
from iterand_jax.subnetwork.pairs import check_pair
from iterand_jax.trees import leaves_of, map_pair

__all__ = ["apply_masks", "check_masks", "check_sampling_rate"]

PyTree = Any


def apply_masks(weights: PyTree, mask_tree: PyTree) -> PyTree:
    """weights * mask where there is a mask; other leaves (None) are unchanged.

    Gradients reach the kept weights only.

    Raises:
      ValueError: trees that do not fit, or a mask that `check_masks` refuses.

    >>> apply_masks({"kernel": jnp.array([5.0, 6.0])}, {"kernel": jnp.array([0, 1])})
    {'kernel': Array([0., 6.], dtype=float32)}
    """
    check_pair(mask_tree, weights, what="mask")
    check_masks(mask_tree)
    return map_pair(lambda _, m, w: w * m.astype(w.dtype), mask_tree, weights)


def check_masks(mask_tree: PyTree) -> None:
    """Raises ValueError for a mask with other values than 0 and 1, scores for example.

    Traced masks are not checked.

    >>> check_masks({"kernel": jnp.array([0.3, 1.0])})
    Traceback (most recent call last):
    ...
    ValueError: the mask of the leaf 'kernel' has other values than 1 for kept and 0 \
for pruned; scores are turned into masks by Subnetwork.masks
    """
    for path, mask in leaves_of(mask_tree).items():
        check_array(path, mask)
        if isinstance(mask, jax.core.Tracer):
            continue
        with jax.ensure_compile_time_eval():  # masks from outside a traced function
            is_mask = bool(jnp.all((mask == 0) | (mask == 1)))
        if not is_mask:
            raise ValueError(
                f"the mask of the leaf {path!r} has other values than 1 for kept and 0 "
                f"for pruned; scores are turned into masks by Subnetwork.masks"
            )


def check_sampling_rate(sampling_rate: Scalar) -> None:
    """Raises ValueError unless r is in [0, 1]; a traced r is not checked.

    >>> check_sampling_rate(2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: sampling_rate is ..., a number in [0, 1]; got 2
    """
    meaning = "sampling_rate is the fraction of pruned weights resampled"
    check_fraction(sampling_rate, meaning, or_one=True)
