"""The trees and functions of a training method."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from iterand_jax.runtime.checks import described
from iterand_jax.subnetwork import Subnetwork

__all__ = ["Method"]

PyTree = Any


def _no_refresh(key, step, trainable, frozen):
    del key, step, trainable
    return frozen, jnp.int32(0)


def _as_they_are(trainable):
    return trainable


def _on_all(function, frozen):
    return function(frozen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A training method; see `iterand_jax.methods`.

    Attributes:
      init: (key, params) -> (trainable, frozen).
      params: (trainable, frozen, step) -> the parameters that the network sees. The
        step is an int32 scalar, traced in training: the number of steps done.
      weights: (trainable, frozen) -> all weights, kept and pruned.
      masks: (trainable, frozen, step) -> a tree of the structure of the weights,
        nonzero for kept, None for leaves that are not pruned; or None for a method
        that prunes nothing. params are weights * masks, unless it `rescales`.
      refresh: (key, step, trainable, frozen) -> (frozen, redrawn).
      refresh_every: steps between refreshes, 0 for a method without them.
      trains_weights: whether it trains weights, not scores. If so, the networks of the
        paper have biases and normalization scales.
      masks_change: whether masks change while it trains, so that there is churn to log.
      resampling: (K_per, r) if the weights are those that `Subnetwork` draws from the
        seed and resamples every K_per steps, (0, 0.0) if they are never resampled, so
        that a ticket need not store them; None for weights that are trained or
        initialized in another way.
      rescales: whether params, where the masks keep a weight, have another value than
        the weight, so that a ticket stores that.
      ranked: trainable -> what the masks rank, the largest of which they keep; for
        a method that trains scores.
      noisy: (key, trainable, frozen, step) -> what the network sees in a training step
        instead of params, with a key of the step; None for params.
      penalty: trainable -> a scalar that is added to the loss; None without.
      project: trainable -> what becomes of it after each update.
      on_weights: (function of a tree of weights, frozen) -> frozen with its weights as
        the function returns them; for a method that trains scores.

    >>> from iterand_jax.methods import edge_popup
    >>> subnetwork = Subnetwork(sparsity=0.5)
    >>> method = dataclasses.replace(edge_popup(subnetwork), trains_weights=True)
    >>> method.refresh_every
    0
    """

    init: Callable[[Array, PyTree], tuple[PyTree, PyTree]]
    params: Callable[[PyTree, PyTree, Any], PyTree]
    weights: Callable[[PyTree, PyTree], PyTree]
    masks: Callable[[PyTree, PyTree, Any], PyTree] | None = None
    refresh: Callable[[Array, Any, PyTree, PyTree], tuple[PyTree, Array]] = (
        dataclasses.field(default_factory=lambda: _no_refresh)
    )
    refresh_every: int = 0
    trains_weights: bool = False
    masks_change: bool = True
    resampling: tuple[int, float] | None = None
    rescales: bool = False
    ranked: Callable[[PyTree], PyTree] = dataclasses.field(
        default_factory=lambda: _as_they_are
    )
    noisy: Callable[[Array, PyTree, PyTree, Any], PyTree] | None = None
    penalty: Callable[[PyTree], Array] | None = None
    project: Callable[[PyTree], PyTree] = dataclasses.field(
        default_factory=lambda: _as_they_are
    )
    on_weights: Callable[[Callable[[PyTree], PyTree], PyTree], PyTree] = (
        dataclasses.field(default_factory=lambda: _on_all)
    )


def check_subnetwork(subnetwork: Any) -> None:
    """Raises ValueError for what is not a `Subnetwork`."""
    if not isinstance(subnetwork, Subnetwork):
        raise ValueError(
            f"a method takes a Subnetwork first, Subnetwork(sparsity=0.5) say; got "
            f"{described(subnetwork)}"
        )


def check_fields(subnetwork: Any, why: str, **only: Any) -> None:
    """Raises ValueError for fields of a subnetwork with another value than the only."""
    check_subnetwork(subnetwork)
    for field, possible in only.items():
        value = getattr(subnetwork, field)
        if value != possible:
            raise ValueError(f"{field}={value!r} is not possible: {why}")


def check_number(value: Any, name: str, *, or_zero: bool = False) -> None:
    """Raises ValueError unless a number is above 0, or not below."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not (real and 0 <= value < math.inf and (value or or_zero)):
        possible = "of at least 0" if or_zero else "above 0"
        raise ValueError(f"{name} is a number {possible}; got {described(value)}")


def check_ranks_nothing(subnetwork: Any, name: str, why: str) -> None:
    """Raises ValueError for fields of a subnetwork that say what is ranked."""
    check_fields(
        subnetwork,
        f"the method {name} ranks nothing, {why}",
        pattern=None,
        sparsity=0.0,
        scope=(),
        coats=(),
        ranked_by="score",
        values="masked",
    )
