"""Methods that train scores: edge-popup, IteRand, biprop, multicoated supermasks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from iterand_jax.methods.method import Method, check_fields, check_subnetwork
from iterand_jax.runtime.checks import check_at_least
from iterand_jax.subnetwork import Subnetwork, check_sampling_rate

__all__ = ["biprop", "biprop_iterand", "edge_popup", "iterand", "multicoated"]


def edge_popup(subnetwork: Subnetwork) -> Method:
    """Training of the scores alone: the weights stay at their initial values.

    >>> import jax.numpy as jnp
    >>> method = edge_popup(Subnetwork(sparsity=0.5))
    >>> params = {"kernel": jnp.zeros((8, 2))}
    >>> scores, weights = method.init(jax.random.key(0), params)
    >>> int((method.params(scores, weights, 0)["kernel"] != 0).sum())
    8
    """
    check_subnetwork(subnetwork)
    return Method(
        init=subnetwork.init,
        params=lambda scores, weights, step: subnetwork.at(step).prune(scores, weights),
        weights=lambda scores, weights: weights,
        masks=lambda scores, weights, step: subnetwork.at(step).masks(scores),
        resampling=None if subnetwork.distribution is None else (0, 0.0),
        rescales=subnetwork.values != "masked" or bool(subnetwork.coats),
        ranked=subnetwork.ranked,
    )


def iterand(subnetwork: Subnetwork, *, k_per: int, sampling_rate: float) -> Method:
    """edge-popup, with a random part of the pruned weights resampled every K_per steps.

    With sampling_rate 0 it is edge-popup, bit for bit.

    Args:
      subnetwork: how the network is initialized and pruned.
      k_per: K_per, the randomization period in steps, at least 1.
      sampling_rate: r in [0, 1], the probability that a pruned weight is resampled.

    Raises:
      ValueError: k_per below 1, a sampling rate outside [0, 1], or a subnetwork of
        given weights (distribution=None), which nothing can resample.

    >>> import jax.numpy as jnp
    >>> method = iterand(Subnetwork(sparsity=0.5), k_per=300, sampling_rate=1.0)
    >>> params = {"kernel": jnp.zeros((8, 2))}
    >>> scores, weights = method.init(jax.random.key(0), params)
    >>> weights, redrawn = method.refresh(jax.random.key(0), 300, scores, weights)
    >>> method.refresh_every, int(redrawn)
    (300, 8)
    """
    check_subnetwork(subnetwork)
    check_at_least(1, k_per, "k_per is the period in steps")
    check_sampling_rate(sampling_rate)
    subnetwork.drawn_from  # noqa: B018 - given weights are refused before training

    def refresh(key, step, scores, weights):
        key, now = jax.random.fold_in(key, step), subnetwork.at(step)
        return now.rerandomize_and_count(key, scores, weights, sampling_rate)

    return dataclasses.replace(
        edge_popup(subnetwork),
        refresh=refresh,
        refresh_every=k_per,
        resampling=(k_per, sampling_rate),
    )


def biprop(subnetwork: Subnetwork) -> Method:
    """Training of the scores of a network whose kept weights are binary.

    edge-popup with three changes (Diffenderfer and Kailkhura 2021, MPT-1/32): kept are
    the weights whose scores have the largest magnitudes; in place of a kept weight the
    network has its sign times the mean magnitude of the kept weights of its leaf; and
    the gradient of a score is its sign times the weight times the gradient of the
    effective weight, in which that mean is a constant.

    With `scope=("*",)` one threshold is that of all leaves, as in its global form.

    Raises:
      ValueError: a subnetwork with `ranked_by` or `values` of its own.

    >>> import jax.numpy as jnp
    >>> method = biprop(Subnetwork(sparsity=0.5, distribution="kaiming_normal"))
    >>> scores = {"kernel": jnp.array([0.1, -0.3, 0.2, -0.1])}
    >>> weights = {"kernel": jnp.array([1.0, 2.0, -4.0, 3.0])}
    >>> method.params(scores, weights, 0)["kernel"].tolist()
    [0.0, 3.0, -3.0, 0.0]
    """
    return edge_popup(_binary(subnetwork))


def multicoated(subnetwork: Subnetwork, *, coats: Sequence[float]) -> Method:
    """edge-popup with several thresholds of the same scores, whose masks are added.

    The effective weight is w / sqrt(1 - p) times the number of thresholds that |score|
    reaches, with p the sparsity of the first; each mask is straight-through, so that
    their gradients add up (Okoshi et al. 2022). Their scale is sqrt(1 / p_1), which is
    this one if p_1 is what the first coat keeps; which it is has not been settled.

    Args:
      subnetwork: how the network is initialized and pruned; its sparsity is p.
      coats: the sparsities of the further coats, rising from p.

    Raises:
      ValueError: coats that do not rise, none, or a subnetwork with `coats`,
        `ranked_by` or `values` of its own.

    >>> import jax.numpy as jnp
    >>> method = multicoated(Subnetwork(sparsity=0.75), coats=(0.9,))
    >>> scores = {"kernel": jnp.array([0.1, -0.4, 0.3, 0.2, 0, 0, 0, 0])}
    >>> weights = {"kernel": jnp.ones(8)}
    >>> method.params(scores, weights, 0)["kernel"].tolist()
    [0.0, 4.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    _check_own(subnetwork, "multicoated", coats=())
    if not coats:
        raise ValueError("coats=(): one threshold alone is edge_popup")
    several = dataclasses.replace(
        subnetwork, ranked_by="magnitude", values="scaled", coats=tuple(coats)
    )
    return edge_popup(several)


def biprop_iterand(
    subnetwork: Subnetwork, *, k_per: int, sampling_rate: float
) -> Method:
    """`biprop`, with the re-randomization of `iterand`.

    A refresh leaves the kept weights, and so their mean magnitude, as they are.

    Raises:
      ValueError: as `biprop` and `iterand`.

    >>> subnetwork = Subnetwork(sparsity=0.5, distribution="kaiming_normal")
    >>> method = biprop_iterand(subnetwork, k_per=300, sampling_rate=0.1)
    >>> method.refresh_every, method.rescales
    (300, True)
    """
    binary = _binary(subnetwork)
    return iterand(binary, k_per=k_per, sampling_rate=sampling_rate)


def _binary(subnetwork: Subnetwork) -> Subnetwork:
    _check_own(subnetwork, "biprop", coats=())
    return dataclasses.replace(subnetwork, ranked_by="magnitude", values="binary")


def _check_own(subnetwork: Subnetwork, name: str, **others: Any) -> None:
    """Raises ValueError for fields that a method sets itself."""
    why = (
        f"{name} ranks magnitudes and says itself what a mask makes of a weight; "
        f"possible: edge_popup and iterand"
    )
    check_fields(subnetwork, why, ranked_by="score", values="masked", **others)
