"""Errors for probable mistakes: a rule never used, a normalization's scale pruned."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jax import Array

from iterand_jax.rules.defaults import DEFAULT_RULES, OUTPUTS_FIRST_RULES
from iterand_jax.rules.patterns import covers
from iterand_jax.rules.rule import ModelRule, Rule

__all__ = ["check_normalization", "check_rules"]

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


def check_normalization(
    rule_of: Callable[[str, Array], Rule], leaves: Mapping[str, Array]
) -> None:
    """Raises ValueError where a rule by name would prune what looks like a scale.

    A linear map of two or more axes never has a bias of the same shape as its kernel;
    a normalization over several axes has.

    Args:
      rule_of: (path, leaf) -> the rule that claims it.
      leaves: {path: leaf} of the whole tree.
    """
    for path, leaf in leaves.items():
        rule = rule_of(path, leaf)
        if not rule.prune or rule.ndims is None:
            continue  # not pruned by its name alone
        bias = "/".join((*path.split("/")[:-1], "bias"))
        if bias in leaves and leaves[bias].shape == leaf.shape:
            raise ValueError(
                f"the leaf {path!r} of shape {leaf.shape} has a bias of the same "
                f"shape, as a normalization has, and the rule {rule.pattern!r} would "
                f"prune it; put Rule({path!r}, False) before it, or take rules from "
                f"the model by iterand_jax.rules_of"
            )
