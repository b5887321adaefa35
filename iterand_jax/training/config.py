"""Configs: what follows from what, and one-line errors before anything compiles."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from iterand_jax import masks, subnetwork
from iterand_jax.data.augment import get_augmentation
from iterand_jax.distributions import get_distribution
from iterand_jax.methods import METHODS
from iterand_jax.networks import NETWORKS
from iterand_jax.training.schedules import SCHEDULES

OF_THE_METHOD = (
    "distribution",
    "learning_rate",
    "weight_decay",
    "sparsity",
    "k_per",
    "sampling_rate",
)
DTYPES = ("float32", "bfloat16")


def resolve(config: ConfigDict) -> ConfigDict:
    """The complete, checked config: what was left None comes from the method's recipe.

    Fields that mean nothing to the method (K_per for SGD) stay None.

    Raises:
      ValueError: in one line, the value that is not possible and those that are.
    """
    _check_choice("method", config.method, METHODS)
    recipe = config.recipe[config.method]
    resolved = ConfigDict(config.to_dict())
    del resolved["recipe"]
    for field in OF_THE_METHOD:
        if field not in recipe:
            if resolved[field] is not None:
                raise ValueError(
                    f"{field}={resolved[field]} means nothing to the method "
                    f"{config.method}; its own fields are {', '.join(recipe)}"
                )
        elif resolved[field] is None:
            resolved[field] = recipe[field]
    _check(resolved)
    return resolved.lock()


def _check(config: ConfigDict) -> None:
    _check_choice("network", config.network.name, NETWORKS)
    _check_choice("schedule", config.schedule, SCHEDULES)
    _check_choice("dtype", config.dtype, DTYPES)
    get_augmentation(config.augmentation)
    get_distribution(config.distribution)
    if config.sparsity is not None:
        masks.check_sparsity(config.sparsity)
    if config.sampling_rate is not None:
        subnetwork.check_sampling_rate(config.sampling_rate)
    whole = ("epochs", "batch_size", "eval_batch_size", "log_every_steps")
    for field in (*whole, "keep_checkpoints", "k_per"):
        if config[field] is not None and config[field] < 1:
            raise ValueError(
                f"{field} is a whole number of at least 1; got {config[field]}"
            )
    for field, value in (
        ("seed", config.seed),
        ("checkpoint_every_steps", config.checkpoint_every_steps),
        ("dataset.split_seed", config.dataset.split_seed),
    ):
        if value < 0:
            raise ValueError(f"{field} is a whole number from 0; got {value}")
    if not 0 < config.learning_rate < float("inf"):
        raise ValueError(
            f"learning_rate is a finite number above 0; got {config.learning_rate:g}"
        )
    if not all(std > 0 for std in config.dataset.std):
        raise ValueError(f"dataset.std are numbers above 0; got {config.dataset.std}")
    for field, below in (("weight_decay", float("inf")), ("momentum", 1)):
        if not 0 <= config[field] < below:
            raise ValueError(f"{field} is in [0, {below:g}); got {config[field]:g}")
    if not 0 < config.dataset.validation_fraction < 1:
        raise ValueError(
            f"dataset.validation_fraction is in (0, 1); "
            f"got {config.dataset.validation_fraction:g}"
        )


def _check_choice(what: str, name: str, possible) -> None:
    if name not in possible:
        raise ValueError(f"unknown {what} {name!r}; possible: {', '.join(possible)}")


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON, the same text for the same config."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def differences(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Lines "field: value / other value" for the fields in which two configs differ."""
    flat, other_flat = _flatten(config), _flatten(other)
    return [
        f"{field}: {flat.get(field, '(none)')} / {other_flat.get(field, '(none)')}"
        for field in sorted(flat.keys() | other_flat.keys())
        if flat.get(field, "(none)") != other_flat.get(field, "(none)")
    ]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(config)).items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
