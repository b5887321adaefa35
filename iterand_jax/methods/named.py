"""Methods by name, with their hyperparameters."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from iterand_jax.methods.adaptive import (
    adaptive_threshold,
    adaptive_threshold_iterand,
)
from iterand_jax.methods.gates import relaxed_bernoulli
from iterand_jax.methods.method import Method
from iterand_jax.methods.mined import gem_miner
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
    gradual_magnitude,
    random_pruning,
    sgd,
    unfilled_mask,
)
from iterand_jax.runtime.registry import Registry
from iterand_jax.subnetwork import Subnetwork

__all__ = ["METHODS", "build_method", "method_fields", "register_method"]


def _as_factory(value: Any) -> Callable[..., Method]:
    if not callable(value):
        raise ValueError(f"{value!r} is not a function that takes a Subnetwork")
    return value


METHODS: Registry[Callable[..., Method]] = Registry(
    "method",
    {
        "sgd": sgd,
        "edge_popup": edge_popup,
        "iterand": iterand,
        "biprop": biprop,
        "biprop_iterand": biprop_iterand,
        "multicoated": multicoated,
        "partially_frozen": partially_frozen,
        "recycling": recycling,
        "signed_supermask": signed_supermask,
        "adaptive_threshold": adaptive_threshold,
        "adaptive_threshold_iterand": adaptive_threshold_iterand,
        "gem_miner": gem_miner,
        "relaxed_bernoulli": relaxed_bernoulli,
        "random": random_pruning,
        "magnitude": gradual_magnitude,
    },
    as_entry=_as_factory,
)
"""Methods by name: (subnetwork, *, the method's hyperparameters) -> Method."""

_OF_PROCEDURES: Mapping[str, Callable[..., Method]] = {"fixed_mask": unfilled_mask}
"""Methods that need the results of an earlier run, so that no config can name them."""


def register_method(name: str, factory: Callable[..., Method]) -> None:
    """Registers a method under a name, for configs and all commands.

    Args:
      name: the value of `config.method`; the config needs a recipe of that name.
      factory: takes a `Subnetwork`, and as keywords the method's own hyperparameters,
        which are the fields of its recipe: `def build(subnetwork, *, k_per)`.

    Raises:
      ValueError: the name is taken by another method.

    >>> register_method("edge_popup", edge_popup)  # the same function: no change
    """
    if name in _OF_PROCEDURES:
        raise ValueError(f"there is another method {name!r} already")
    METHODS.register(name, factory)


def _factory(name: str) -> Callable[..., Method]:
    return _OF_PROCEDURES.get(name) or METHODS.get(name)


def method_fields(name: str) -> dict[str, bool]:
    """The hyperparameters of a method, and whether each is required.

    Raises:
      ValueError: an unknown name.

    >>> method_fields("iterand")
    {'k_per': True, 'sampling_rate': True}
    """
    _, *own = inspect.signature(_factory(name)).parameters.values()
    for field in own:
        if field.kind in (field.VAR_KEYWORD, field.VAR_POSITIONAL):
            raise ValueError(
                f"the factory of the method {name!r} takes {field}; each "
                f"hyperparameter must be a named argument"
            )
    return {field.name: field.default is field.empty for field in own}


def build_method(name: str, subnetwork: Subnetwork, fields: Mapping) -> Method:
    """Builds the method of a registered name from those of the fields that it takes.

    Raises:
      ValueError: an unknown name, a missing field, or a value that it does not accept.

    >>> fields = {"k_per": 300, "sampling_rate": 0.1, "epochs": 100}
    >>> build_method("iterand", Subnetwork(), fields).refresh_every
    300
    """
    own = {}
    for field, needed in method_fields(name).items():
        if field in fields and fields[field] is not None:
            own[field] = fields[field]
        elif needed:
            raise ValueError(f"the method {name!r} needs a value for {field}")
    return _factory(name)(subnetwork, **own)
