"""What the leaves of a tree are: which are pruned, and what their axes mean.

The first rule that matches a leaf claims it. Paths are joined by slashes.

    rule       a rule: the leaves it claims, and their input, output and stack axes
    defaults   rules for bare trees, by names and numbers of axes
    models     exact rules, read from a model by `rules_of`: linen, nnx, equinox
    checks     errors for rules that are probably mistakes
    patterns   shell-style patterns of paths
    sparsities, schedules, scopes   how much is removed, when, and of what together
    ratios     sparsities of layers that follow a rule of their shapes
"""

from iterand_jax.rules.defaults import DEFAULT_RULES, OUTPUTS_FIRST_RULES
from iterand_jax.rules.models import rules_of
from iterand_jax.rules.rule import Axes, Rule
from iterand_jax.rules.schedules import Schedule

__all__ = [
    "DEFAULT_RULES",
    "OUTPUTS_FIRST_RULES",
    "Axes",
    "Rule",
    "Schedule",
    "rules_of",
]
