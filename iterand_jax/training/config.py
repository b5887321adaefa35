"""Configs: resolving defaults, and one-line errors before anything compiles."""

import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn
from ml_collections import ConfigDict

from iterand_jax import masks, subnetwork
from iterand_jax.configs import default
from iterand_jax.data.datasets import DATASETS, Dataset
from iterand_jax.distributions import get_distribution
from iterand_jax.methods import METHODS, method_fields
from iterand_jax.networks import NETWORKS
from iterand_jax.training.procedures import PROCEDURES
from iterand_jax.training.schedules import OPTIONS, SCHEDULES

OF_THE_METHOD = (
    "distribution",
    "learning_rate",
    "weight_decay",
    "sparsity",
    "k_per",
    "sampling_rate",
    "retrainings",
    "rewind_epochs",
    "unpruned",
)
DTYPES = ("float32", "bfloat16")
LARGEST_SEED = 2**32 - 1
MATMUL_PRECISIONS = ("default", "high", "highest")


class Given(NamedTuple):
    """Objects that replace names in a config; None where the config's name is used."""

    network: nn.Module | None = None
    dataset: Dataset | None = None


NOTHING_GIVEN = Given()


def resolve(config: ConfigDict, given: Given = NOTHING_GIVEN) -> ConfigDict:
    """The complete, checked config: None fields are filled from the method's recipe.

    Fields that the method does not use (K_per for SGD) stay None. Names that `given`
    replaces are not looked up.

    Raises:
      ValueError: an invalid value; the message lists the possible ones.
    """
    _check_choice("method", config.method, methods_of(config))
    recipe = config.recipe[config.method]
    own = [*OF_THE_METHOD]
    if config.method not in PROCEDURES:
        own += [f for f in method_fields(config.method) if f not in own]
    resolved = ConfigDict(config.to_dict())
    del resolved["recipe"]
    for field in OF_THE_METHOD:
        if field not in recipe and resolved[field] is not None:
            raise ValueError(
                f"{field}={resolved[field]} is not used by the method "
                f"{config.method}; its own fields are {', '.join(recipe)}"
            )
    for field, value in recipe.items():
        if field not in own:
            raise ValueError(
                f"recipe.{config.method}.{field} is not used by the method; its "
                f"fields are {', '.join(own)}"
            )
        if field not in resolved or resolved[field] is None:
            resolved[field] = value
    _check(resolved, given)
    return resolved.lock()


def methods_of(config: ConfigDict) -> list[str]:
    """The methods that a config has a recipe for."""
    known = (*METHODS, *PROCEDURES)
    own = [name for name in config.recipe if ":" in name]
    return [name for name in known if name in config.recipe] + own


def _check(config: ConfigDict, given: Given) -> None:
    _check_choice("dtype", config.dtype, DTYPES)
    _check_choice("matmul_precision", config.matmul_precision, MATMUL_PRECISIONS)
    _check_schedule(config)
    _check_dataset(config, given)
    _check_replicas(config, given)
    if config.method in PROCEDURES:
        PROCEDURES[config.method].check(config)
    get_distribution(config.distribution)
    if config.sparsity is not None:
        masks.check_sparsity(config.sparsity)
    if config.sampling_rate is not None:
        subnetwork.check_sampling_rate(config.sampling_rate)
    whole = ("epochs", "batch_size", "accumulate_steps", "eval_batch_size", "replicas")
    for field in (
        *whole,
        "log_every_steps",
        "keep_checkpoints",
        "k_per",
        "retrainings",
    ):
        if config[field] is not None and config[field] < 1:
            raise ValueError(
                f"{field} must be an integer of at least 1; got {config[field]}"
            )
    for field, value in (
        ("steps_per_dispatch", config.steps_per_dispatch),
        ("checkpoint_every_steps", config.checkpoint_every_steps),
        ("checkpoint_every_seconds", config.checkpoint_every_seconds),
        ("keep_best_checkpoints", config.keep_best_checkpoints),
        ("dataset.split_seed", config.dataset.split_seed),
        ("rewind_epochs", config.rewind_epochs),
    ):
        if value is not None and value < 0:
            raise ValueError(f"{field} must be an integer from 0; got {value}")
    _check_seeds(config)
    _check_kept_epochs(config)
    if not 0 < config.learning_rate < float("inf"):
        raise ValueError(
            f"learning_rate must be finite and above 0; got {config.learning_rate:g}"
        )
    if not all(std > 0 for std in config.dataset.std or ()):
        raise ValueError(f"dataset.std must be above 0; got {config.dataset.std}")
    for field, below in (("weight_decay", float("inf")), ("momentum", 1)):
        if not 0 <= config[field] < below:
            raise ValueError(
                f"{field} must be in [0, {below:g}); got {config[field]:g}"
            )
    fraction = config.dataset.validation_fraction
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(
            f"dataset.validation_fraction must be in (0, 1); got {fraction:g}"
        )


def _check_seeds(config: ConfigDict) -> None:
    """Checks that seeds fit in 32 bits: a key uses no more, so others would repeat.

    With replicas this holds for the last seed, too.
    """
    last = config.seed + config.replicas - 1
    if config.seed < 0 or last > LARGEST_SEED:
        of_replicas = f" with replicas={config.replicas}" if config.replicas > 1 else ""
        raise ValueError(
            f"seed must be an integer from 0 to "
            f"{LARGEST_SEED - config.replicas + 1}{of_replicas}; got {config.seed}"
        )


def _check_kept_epochs(config: ConfigDict) -> None:
    for epoch in config.keep_checkpoint_epochs:
        whole = isinstance(epoch, int) and not isinstance(epoch, bool)
        if not whole or not 1 <= epoch <= config.epochs:
            raise ValueError(
                f"keep_checkpoint_epochs must be integers from 1 to {config.epochs}, "
                f"the epochs of the run; got {epoch!r}"
            )


def _check_schedule(config: ConfigDict) -> None:
    _check_choice("schedule", config.schedule, SCHEDULES)
    taken = OPTIONS.get(config.schedule, ())
    for field in itertools.chain.from_iterable(OPTIONS.values()):
        if (config[field] is not None) != (field in taken):
            raise ValueError(
                f"{field}={config[field]}: the fields of the schedule "
                f"{config.schedule} are {', '.join(taken) or 'none'}"
            )
    for field in ("warmup_epochs", "final_epochs"):
        if field in taken and config[field] < 0:
            raise ValueError(f"{field} must be an integer from 0; got {config[field]}")
    for field in ("final_learning_rate", "decay_factor"):
        if field in taken and not 0 < config[field] < float("inf"):
            raise ValueError(
                f"{field} must be finite and above 0; got {config[field]:g}"
            )
    if "milestones" in taken and not all(m >= 1 for m in config.milestones):
        raise ValueError(f"milestones must be epochs from 1; got {config.milestones}")


def _check_dataset(config: ConfigDict, given: Given) -> None:
    name, network = config.dataset.name, config.network.name
    dataset = given.dataset or DATASETS.get(name, importing=True)
    entry = None if given.network else NETWORKS.get(network, importing=True)
    for field, value in config.dataset.items():
        if field != "name" and (value is not None) != (field in dataset.options):
            raise ValueError(
                f"dataset.{field}={value}: the fields of the dataset {name} are "
                f"{', '.join(dataset.options)}"
            )
    if dataset.augmentations:
        _check_choice("augmentation", config.augmentation, dataset.augmentations)
    elif config.augmentation is not None:
        raise ValueError(
            f"augmentation={config.augmentation} is not used by the dataset {name}"
        )
    if entry is not None and entry.takes_texts != dataset.is_text:
        text = dataset.is_text
        takers = [n for n, e in NETWORKS.table.items() if e.takes_texts == text]
        raise ValueError(
            f"the network {network} does not fit the dataset {name}; "
            f"possible: {', '.join(takers)}"
        )


def _check_replicas(config: ConfigDict, given: Given) -> None:
    if config.replicas <= 1:
        return
    dataset = given.dataset or DATASETS.get(config.dataset.name, importing=True)
    if not dataset.resident:
        possible = [name for name, d in DATASETS.table.items() if d.resident]
        raise ValueError(
            f"replicas={config.replicas}: the dataset {config.dataset.name} supports "
            f"one seed at a time; possible: {', '.join(possible)}"
        )
    if config.keep_checkpoints < 2:
        raise ValueError(
            f"replicas={config.replicas} need keep_checkpoints of at least 2, so that "
            f"all have a common step saved; got {config.keep_checkpoints}"
        )


def replicas_of(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the replicas that a resolved config trains in one program.

    Each is the config of a single run; the seeds are consecutive.
    """
    configs = []
    for index in range(config.replicas):
        own = ConfigDict(config.to_dict())
        own.update(seed=config.seed + index, replicas=1)
        configs.append(own.lock())
    return configs


def _check_choice(what: str, name: str, possible) -> None:
    if name not in possible:
        raise ValueError(f"unknown {what} {name!r}; possible: {', '.join(possible)}")


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON, the same text for the same config."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config, with the defaults of fields that are newer than it."""
    whole = default.get_config().to_dict()
    del whole["recipe"]
    for field, value in saved.items():
        nested = isinstance(value, Mapping) and field in whole
        whole[field] = {**whole[field], **value} if nested else value
    return whole


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
