"""The fields of a config that its method takes, and those that it needs.

One rule for a config that is given and for a config.json that is read back.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from iterand_jax.configs import default
from iterand_jax.methods import method_fields
from iterand_jax.training import fields, pruning
from iterand_jax.training.procedures import PROCEDURES

OF_EVERY_METHOD = ("distribution", "learning_rate", "weight_decay")
OF_THE_METHOD = (
    *OF_EVERY_METHOD,
    "sparsity",
    "k_per",
    "sampling_rate",
    "retrainings",
    "rewind_epochs",
    "unpruned",
    "affine",
    *pruning.OF_SCORES,
    *pruning.OF_METHODS,
)
NOT_IN_RECIPES = ("unpruned", "affine", *pruning.OF_SCORES)
"""Those of them that a method takes though its recipe does not have them."""

IN_RECIPES = tuple(field for field in OF_THE_METHOD if field not in NOT_IN_RECIPES)
"""The fields that a method may name among its hyperparameters, and then shares."""

ALWAYS_SAVED = ("method", *OF_EVERY_METHOD, "sparsity")
"""Fields that the config.json of every version has, None or not."""


class Own(NamedTuple):
    """The own fields of a method.

    Attributes:
      method: its name.
      taken: those that it takes, beside `NOT_IN_RECIPES`.
      needed: those of them that have to have a value.
    """

    method: str
    taken: tuple[str, ...]
    needed: frozenset[str]

    def check_taken(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError for a field that the method, or no config, has."""
        for name, value in fields.flattened(config).items():
            if name in self.taken or name in NOT_IN_RECIPES:
                continue
            if name not in fields.FIELDS:
                raise ValueError(f"there is no field {fields.shown(name)}; {self._own}")
            if name in OF_THE_METHOD and value is not None:
                shown = value if isinstance(value, float) else fields.shown(value)
                raise ValueError(
                    f"{name}={shown} is not used by the method "
                    f"{self.method}; {self._own}"
                )

    def check_recipe(self, recipe: Mapping[str, Any]) -> None:
        """Raises ValueError for a field of a recipe that the method does not take."""
        for name in recipe:
            if name not in self.taken and name not in NOT_IN_RECIPES:
                where = f"recipe.{self.method}.{name}"
                raise ValueError(f"{where} is not used by the method; {self._own}")

    def check_needed(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError for a field without a value that the method needs."""
        for field in sorted(self.needed):
            by_pattern = field == "sparsity" and config.get("pattern") is not None
            if config.get(field) is None and not by_pattern:
                raise ValueError(
                    f"the method {self.method!r} needs a value for {field}"
                )

    @property
    def _own(self) -> str:
        return f"the own fields of the method {self.method} are {', '.join(self.taken)}"


def of_method(method: str) -> Own:
    """The own fields of a method or procedure; imports nothing.

    Raises:
      ValueError: the name is not known, or a hyperparameter is no name for a field.

    >>> sorted(of_method("iterand").needed.difference(OF_EVERY_METHOD))
    ['k_per', 'sampling_rate', 'sparsity']
    """
    if method in PROCEDURES:
        needed = dict.fromkeys(sorted(PROCEDURES[method].fields), True)
    else:
        needed = method_fields(method)
        _check_names(method, needed)
        if method in _by_sparsity():
            needed = {"sparsity": True} | needed
        elif method not in default.get_config().recipe:
            needed = {"sparsity": False} | needed  # it is the user's who knows
    taken = dict.fromkeys(OF_EVERY_METHOD, True) | needed
    return Own(method, (*taken,), frozenset(f for f in taken if taken[f]))


@functools.cache
def _by_sparsity() -> frozenset[str]:
    """The methods of this package that remove a fraction which they are given."""
    recipes = default.get_config().recipe.items()
    return frozenset(
        ("fixed_mask", *(name for name, recipe in recipes if "sparsity" in recipe))
    )


def _check_names(method: str, hyperparameters: Iterable[str]) -> None:
    """Raises ValueError for one that would be a field of every config, too."""
    taken = {field.partition(".")[0] for field in default.FIELDS} | {"recipe"}
    for name in hyperparameters:
        if name in taken.difference(IN_RECIPES):
            raise ValueError(
                f"the method {method!r} has a hyperparameter {name!r}, which is a "
                f"field of every config; possible: another name, or one of "
                f"{', '.join(IN_RECIPES)}"
            )
