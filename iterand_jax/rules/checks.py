"""Probable mistakes of rules: one never used, one by name for another kind of leaf."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax import Array

from iterand_jax.rules.defaults import DEFAULT_RULES, OUTPUTS_FIRST_RULES
from iterand_jax.rules.patterns import covers
from iterand_jax.rules.rule import ModelRule, Rule, UnnamedRule

__all__ = ["check_biases", "check_rules", "scales_of", "warn_of_unnamed"]

DEFAULTS = (*DEFAULT_RULES, *OUTPUTS_FIRST_RULES)


def check_rules(rules: Sequence[Rule]) -> None:
    """Raises ValueError for a rule that is shadowed by a different, earlier one.

    Default rules and a model's rules are exempt: other rules may override them.

    >>> check_rules([Rule("*", True), Rule("a/b", False)])
    Traceback (most recent call last):
    ...
    ValueError: the rule for 'a/b' is never used: '*' before it claims all that it does
    """
    wide: list[Rule] = []
    exact: dict[str, Rule] = {}
    for rule in rules:
        if not (isinstance(rule, ModelRule) or rule in DEFAULTS):
            for earlier in (*wide, *filter(None, [exact.get(rule.pattern)])):
                same = dataclasses.replace(
                    earlier, pattern=rule.pattern, min_ndim=rule.min_ndim
                )
                if (
                    same != rule
                    and earlier.min_ndim <= rule.min_ndim
                    and covers(earlier.pattern, rule.pattern)
                ):
                    raise ValueError(
                        f"the rule for {rule.pattern!r} is never used: "
                        f"{earlier.pattern!r} before it claims all that it does"
                    )
        if set("*?[") & set(rule.pattern):
            wide.append(rule)
        else:
            exact.setdefault(rule.pattern, rule)


def scales_of(tree: Any, leaves: Mapping[str, Array]) -> frozenset[str]:
    """The paths of the leaves that are known to be scales of normalizations.

    They are in a normalization layer of Equinox, or they have a bias of the same shape,
    as no linear map of two or more axes has.

    Args:
      tree: of arrays, such as an Equinox model.
      leaves: its leaves by path.

    >>> import numpy as np
    >>> norm = {"weight": np.ones((4, 8)), "bias": np.zeros((4, 8))}
    >>> scales_of(norm, norm)
    frozenset({'weight'})
    """
    found = {path for path in leaves if _has_bias(path, leaves, _is_alike)}
    if sys.modules.get("equinox"):  # then only can a layer of it be in the tree
        from iterand_jax.rules import equinox

        found |= equinox.scales_of(tree)
    return frozenset(found)


def check_biases(
    rule_of: Callable[[str, Array], Rule], leaves: Mapping[str, Array]
) -> None:
    """Raises ValueError where a bias shows that a rule by name is wrong.

    A matrix and a convolution have a bias of one axis. A bias of several belongs to a
    stack of layers, or to a layer whose outputs have several axes.

    Args:
      rule_of: (path, leaf) -> the rule that claims it.
      leaves: {path: leaf} of the tree without its scales.
    """
    for path, leaf in leaves.items():
        rule = rule_of(path, leaf)
        if rule.prune and rule.ndims and _has_bias(path, leaves, _is_of_several):
            bias = leaves[_bias_of(path)]
            raise ValueError(
                f"the leaf {path!r} of shape {leaf.shape} has a bias of shape "
                f"{bias.shape}, as a stack of layers or a layer with several axes of "
                f"outputs has, and the rule {rule.pattern!r} assumes a matrix or a "
                f"convolution; put Rule({path!r}, True, in_axis=..., out_axis=..., "
                f"stack_axis=...) before it, or take rules from the model by "
                f"iterand_jax.rules_of"
            )


def warn_of_unnamed(
    rule_of: Callable[[str, Array], Rule], tree: Any, leaves: Mapping[str, Array]
) -> None:
    """Warns of leaves that may be linear maps, and that only the last default claims.

    They have two or more axes, are no bias, and are not known to be a scale.

    Args:
      rule_of: (path, leaf) -> the rule that claims it.
      tree: of arrays, such as an Equinox model.
      leaves: its leaves by path.

    >>> import numpy as np
    >>> tree = {"w": np.ones((8, 4)), "kernel": np.ones((4, 2)), "scale": np.ones(4)}
    >>> from iterand_jax import Subnetwork
    >>> with warnings.catch_warnings(action="always", record=True) as caught:
    ...     warn_of_unnamed(Subnetwork().rule_of, tree, tree)
    >>> str(caught[0].message).split(":")[0]
    'no rule names these leaves of two or more axes, so they stay unpruned and frozen'
    """
    scales = scales_of(tree, leaves)
    unnamed = [
        path
        for path, leaf in leaves.items()
        if isinstance(rule_of(path, leaf), UnnamedRule)
        and sum(size != 1 for size in leaf.shape) > 1
        and path not in scales
        and path.split("/")[-1] not in ("bias", "scale")
    ]
    if unnamed:
        path, rest = unnamed[0], len(unnamed) - 5
        first = ", ".join(f"{path} {leaves[path].shape}" for path in unnamed[:5])
        warnings.warn(
            f"no rule names these leaves of two or more axes, so they stay unpruned "
            f"and frozen: {first}{f' and {rest} more' if rest > 0 else ''}; put "
            f"Rule({path!r}, True, in_axis=..., out_axis=...) before the default rules "
            f"to prune, or Rule({path!r}, False) to leave as it is",
            stacklevel=3,
        )


def _bias_of(path: str) -> str:
    return "/".join((*path.split("/")[:-1], "bias"))


def _has_bias(
    path: str,
    leaves: Mapping[str, Array],
    test: Callable[[tuple[int, ...], tuple[int, ...]], bool],
) -> bool:
    """Whether a leaf has a bias beside it, and the shapes of both pass a test."""
    bias = _bias_of(path)
    return (
        bias != path and bias in leaves and test(leaves[path].shape, leaves[bias].shape)
    )


def _is_alike(shape: tuple[int, ...], bias: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape == bias


def _is_of_several(shape: tuple[int, ...], bias: tuple[int, ...]) -> bool:
    return sum(size != 1 for size in bias) > 1  # Equinox's are (outputs, 1, 1)
