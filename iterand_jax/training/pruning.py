"""How the network of a config is pruned: its subnetwork, and checks of these fields.

The fields of a sparsity schedule are in epochs or steps. A `rules.Schedule` counts in
steps, so those in epochs wait for the steps of an epoch: of the feed in training, of a
checkpoint's record where there is no data.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from iterand_jax.masks import VALUES, pattern_of
from iterand_jax.methods import Method, build_method
from iterand_jax.rules import Rule, Schedule
from iterand_jax.rules.defaults import DEFAULT_RULES
from iterand_jax.rules.ratios import RATIOS
from iterand_jax.rules.schedules import FORMS
from iterand_jax.subnetwork import Subnetwork

OF_SCORES = (
    "scope",
    "ranked_by",
    "kept_values",
    "layer_sparsities",
    "pattern",
    "sparsity_schedule",
    "sparsity_from",
    "sparsity_begin",
    "sparsity_end",
    "sparsity_in",
)
"""The fields that only methods that prune take."""

OF_METHODS = (
    "coats",
    "pruned_share",
    "locked_share",
    "frozen_by",
    "recycled_share",
    "threshold",
    "threshold_rate",
    "freezings",
    "gate_penalty",
    "gate_noise",
)
"""The fields of single methods that say how they prune."""

CONSTANT, EPOCHS, STEPS = "constant", "epochs", "steps"
_AGAINST_RULES = ("scope", "pattern", "sparsity_schedule")
_OF_SCHEDULES = OF_SCORES[6:]


def subnetwork_of(
    config: ConfigDict, rules: Iterable[Rule] = DEFAULT_RULES, steps_per_epoch: int = 1
) -> Subnetwork:
    """How a resolved config initializes and prunes a network.

    Args:
      config: resolved.
      rules: of the network.
      steps_per_epoch: to count a schedule's epochs in steps.
    """
    return Subnetwork(
        sparsity_of(config, steps_per_epoch),
        config.distribution,
        rules=tuple(rules),
        rank=config.rank,
        scope=tuple(config.scope or ()),
        ranked_by=config.ranked_by or "score",
        values=config.kept_values or "masked",
        pattern=config.pattern,
    )


def sparsity_text(sparsity: float, pattern: str | None = None) -> str:
    """A sparsity in words, and the pattern that makes it.

    Raises:
      ValueError: there is no such pattern.

    >>> sparsity_text(0.5), sparsity_text(0.5, "2:4")
    ('sparsity 0.5', 'sparsity 0.5 by 2:4')
    """
    if pattern is None:
        return f"sparsity {sparsity:g}"
    pattern_of(pattern)
    return f"sparsity {sparsity:g} by {pattern}"


def options(config: ConfigDict) -> dict[str, Any]:
    """The fields of a config that say how it is pruned, those that are set."""
    names = (*OF_SCORES, *OF_METHODS, "affine")
    found = {name: config[name] for name in names if config[name] is not None}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def waits_for_epochs(config: ConfigDict) -> bool:
    """Whether the masks of a step depend on how many steps an epoch has."""
    return _is_scheduled(config) and config.sparsity_in != STEPS


def sparsity_of(config: ConfigDict, steps_per_epoch: int = 1) -> float | Schedule:
    """The sparsity of a resolved config, or its schedule in steps; 0.0 for none."""
    if not _is_scheduled(config):
        if config.pattern is not None and config.sparsity is None:
            return pattern_of(config.pattern).sparsity
        return config.sparsity or 0.0
    unit = 1 if config.sparsity_in == STEPS else steps_per_epoch
    return Schedule(
        to=config.sparsity,
        start=config.sparsity_from,
        begin=unit * (config.sparsity_begin or 0),
        end=unit * config.sparsity_end,
        form=config.sparsity_schedule,
    )


def check(config: ConfigDict) -> None:
    """Raises ValueError for fields that say no subnetwork, or not that of a training.

    Steps can be compared with those of the training only by `check_steps`.
    """
    form, unit = config.sparsity_schedule, config.sparsity_in
    if form not in (None, CONSTANT, *FORMS):
        possible = ", ".join((CONSTANT, *FORMS))
        raise ValueError(f"unknown sparsity_schedule {form!r}; possible: {possible}")
    if unit not in (None, EPOCHS, STEPS):
        raise ValueError(f"unknown sparsity_in {unit!r}; possible: {EPOCHS}, {STEPS}")
    for field in _OF_SCHEDULES:
        if not _is_scheduled(config) and config[field] is not None:
            raise ValueError(
                f"{field}={config[field]} is of a schedule, and sparsity_schedule is "
                f"{form}; possible: {', '.join(FORMS)}"
            )
    for field in ("sparsity_from", "sparsity_end", "sparsity"):
        if _is_scheduled(config) and config[field] is None:
            raise ValueError(f"sparsity_schedule={form} needs a value for {field}")
    if _is_scheduled(config) and config.resample != "after":
        raise ValueError(
            f"resample={config.resample} is before the step whose masks a schedule "
            f"says; possible with sparsity_schedule={form}: after"
        )
    if config.layer_sparsities not in (None, *RATIOS):
        raise ValueError(
            f"unknown layer_sparsities {config.layer_sparsities!r}; possible: "
            f"{', '.join(RATIOS)}"
        )
    for field in _AGAINST_RULES if config.layer_sparsities else ():
        if config[field] not in (None, (), CONSTANT):
            raise ValueError(
                f"layer_sparsities={config.layer_sparsities} makes of one number a "
                f"sparsity for each layer; it is not possible with "
                f"{field}={config[field]}"
            )
    if config.kept_values not in (None, *VALUES):
        raise ValueError(
            f"unknown kept_values {config.kept_values!r}; possible: {', '.join(VALUES)}"
        )
    if waits_for_epochs(config):
        _check_within(config, config.epochs, EPOCHS)
    subnetwork_of(config)  # it checks its own arguments
    if config.pattern is not None:
        _check_agrees(config, pattern_of(config.pattern).sparsity)


def _check_agrees(config: ConfigDict, removed: float) -> None:
    """Raises ValueError for a sparsity that is not that of the pattern.

    A `Subnetwork` takes 0.5 for one that is not given.
    """
    given = removed if config.sparsity is None else config.sparsity
    if not math.isclose(given, removed, rel_tol=1e-6):
        raise ValueError(
            f"pattern={config.pattern} removes {removed:g} of the weights, and "
            f"sparsity is {given:g}; possible: {removed:g}, or None"
        )


def check_steps(config: ConfigDict, steps: int) -> None:
    """Raises ValueError for a schedule in steps that is not within those of a run."""
    if _is_scheduled(config) and not waits_for_epochs(config):
        _check_within(config, steps, STEPS)
    if config.freezings is not None and config.freezings * config.k_per > steps:
        often = steps // config.freezings
        possible = (
            f"a k_per of at most {often:,}, or fewer"
            if often
            else f"at most {steps:,} freezings"
        )
        raise ValueError(
            f"freezings={config.freezings}, every {config.k_per:,} steps, end at step "
            f"{config.freezings * config.k_per:,}, and the training has {steps:,}; "
            f"possible: {possible}"
        )


def check_used(config: ConfigDict, *, is_procedure: bool) -> None:
    """Raises ValueError for a rule that the method of a config does not follow.

    Of a config that is given: one that is read back may have what `released` set.
    """

    def check(field: str, default: str, used: Callable[[], bool], why: str) -> None:
        if config[field] != default and not used():
            raise ValueError(
                f"{field}={config[field]} is not used by the method {config.method}, "
                f"{why}; possible: {default}"
            )

    def ranks() -> bool:
        return not is_procedure and _ranks(config)

    def resamples() -> bool:
        return not is_procedure and bool(_method_of(config).refresh_every)

    of_layers = "whose sparsity is of the pruned layers"
    check("sparsity_of", "pruned", lambda: is_procedure, of_layers)
    check("rank", "count", ranks, "which ranks no scores")
    check("resample", "after", resamples, "which resamples nothing")


def check_method(config: ConfigDict, *, is_procedure: bool) -> None:
    """Raises ValueError for fields of this module that a method does not take."""
    taken = [field for field in OF_SCORES if config[field] is not None]
    if taken and (is_procedure or not _ranks(config)):
        raise ValueError(
            f"{taken[0]}={config[taken[0]]} is not used by the method {config.method}, "
            f"which trains weights; possible: a method that trains scores"
        )


def _ranks(config: ConfigDict) -> bool:
    return _method_of(config).masks is not None


def _method_of(config: ConfigDict) -> Method:
    return build_method(config.method, subnetwork_of(config), config)


def _is_scheduled(config: ConfigDict) -> bool:
    return config.sparsity_schedule not in (None, CONSTANT)


def _check_within(config: ConfigDict, length: int, unit: str) -> None:
    begin, end = config.sparsity_begin or 0, config.sparsity_end
    if not begin < end <= length:
        raise ValueError(
            f"the sparsity changes from sparsity_begin={begin} to sparsity_end={end}, "
            f"in {unit}, and the training has {length:,}; possible: 0 <= "
            f"sparsity_begin < sparsity_end <= {length:,}"
        )
