"""Configs: resolving defaults, and one-line errors before anything compiles."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import linen as nn
from ml_collections import ConfigDict

from iterand_jax.data import imagenet_feed
from iterand_jax.data.datasets import DATASETS, Dataset
from iterand_jax.data.feeds import normalizer
from iterand_jax.masks import pattern_of
from iterand_jax.methods import METHODS
from iterand_jax.methods.magnitude import SPARSITY_OF
from iterand_jax.networks import NETWORKS
from iterand_jax.training import fields, leaves, pruning, released
from iterand_jax.training.choices import configs_with
from iterand_jax.training.config_json import completed
from iterand_jax.training.of_methods import ALWAYS_SAVED, of_method
from iterand_jax.training.procedures import PROCEDURES
from iterand_jax.training.schedules import OPTIONS, SCHEDULES, get_schedule

BEST = ("accuracy", "loss")
DTYPES = ("float32", "bfloat16")
MATMUL_PRECISIONS = ("default", "high", "highest")
CHOICES = {
    "dtype": DTYPES,
    "matmul_precision": MATMUL_PRECISIONS,
    "resample": ("after", "before"),
    "sparsity_of": SPARSITY_OF,
}
"""The possible values of fields that have few."""


class Given(NamedTuple):
    """Objects that replace names in a config; None where the config's name is used."""

    network: nn.Module | None = None
    dataset: Dataset | None = None


NOTHING_GIVEN = Given()


def resolve(config: ConfigDict, given: Given = NOTHING_GIVEN) -> ConfigDict:
    """The complete, checked config: None fields are filled from the method's recipe.

    Fields that the method does not use (K_per for SGD) stay None. Names that `given`
    replaces are not looked up. `fields.FIELDS` has the type and range of each field.

    Raises:
      ValueError: an invalid value; the message lists the possible ones.
    """
    resolved = ConfigDict(fields.plain(config.to_dict()))
    fields.check(resolved)
    recipe = _recipe(resolved)
    del resolved["recipe"]
    own = of_method(config.method)
    own.check_recipe(recipe)
    own.check_taken(resolved)
    says_sparsity = resolved.pattern is not None and "sparsity" in own.taken
    if says_sparsity and resolved.sparsity is None:  # in place of the recipe's own
        resolved.sparsity = pattern_of(resolved.pattern).sparsity
    for field, value in recipe.items():
        if field not in resolved or resolved[field] is None:
            resolved[field] = value
    own.check_needed(resolved)
    fields.check(resolved)
    _check_choices(resolved)
    pruning.check_used(resolved, is_procedure=config.method in PROCEDURES)
    if resolved.released:
        settings = released.settings(resolved, config.learning_rate, given)
        resolved.update_from_flattened_dict(settings)
    _check(resolved, given)
    return resolved.lock()


def _recipe(config: ConfigDict) -> ConfigDict:
    """The recipe of the method that a config names."""
    recipes = config.get("recipe")
    if not isinstance(recipes, ConfigDict) or not all(
        isinstance(name, str) and isinstance(recipe, ConfigDict)
        for name, recipe in recipes.items()
    ):
        raise ValueError(
            f"recipe must hold a group of fields for each method; got "
            f"{fields.shown(recipes)}"
        )
    method, possible = config.method, methods_of(config)
    if method not in possible and (method in METHODS or method in PROCEDURES):
        others = configs_with(method)
        raise ValueError(
            f"the config has no recipe for the method {method!r}; possible: "
            f"{', '.join(possible)}{'; configs that have one: ' if others else ''}"
            f"{', '.join(others)}"
        )
    _check_choice("method", method, possible)
    return recipes[method]


def methods_of(config: ConfigDict) -> list[str]:
    """The methods that a config has a recipe for."""
    known = (*METHODS, *PROCEDURES)
    own = [name for name in config.recipe if ":" in name]
    return [name for name in known if name in config.recipe] + own


def from_saved(saved: Mapping[str, Any], given: Given = NOTHING_GIVEN) -> ConfigDict:
    """The checked config of a config.json, completed by newer fields.

    Its fields are checked as those of a config that `resolve` has completed. It may
    come from anybody: no module that it names is imported.

    Raises:
      ValueError: as `resolve`.
    """
    whole = completed(saved)
    fields.FIELDS["method"].check("method", whole["method"])
    own = of_method(whole["method"])
    own.check_taken(whole)
    fields.check(whole)
    missing = [name for name in ALWAYS_SAVED if name not in saved]
    if missing or "recipe" in saved:
        reason = f"lacks {', '.join(missing)}" if missing else "has a recipe"
        raise ValueError(f"it {reason}, unlike the config.json of a run")
    own.check_needed(whole)
    config = ConfigDict(whole)
    _check_choices(config)
    _check(config, given, importing=False)
    return config.lock()


def _check_choices(config: ConfigDict) -> None:
    for field, possible in CHOICES.items():
        _check_choice(field, config[field], possible)


def _check(config: ConfigDict, given: Given, *, importing: bool = True) -> None:
    _check_schedule(config)
    _check_dataset(config, given, importing)
    _check_leaves(config, given, importing)
    _check_best(config)
    _check_replicas(config, given, importing)
    if config.method in PROCEDURES:
        PROCEDURES[config.method].check(config)
    pruning.check(config)
    pruning.check_method(config, is_procedure=config.method in PROCEDURES)
    if given.network is not None:
        _check_given_network(config)
    _check_seeds(config)
    _check_kept_epochs(config)


def _check_given_network(config: ConfigDict) -> None:
    """Raises ValueError for what a network that is given has by itself."""
    for field, value, possible in (
        ("affine", config.affine, (None, True)),
        ("network.width", config.network.width, (1.0,)),
        ("unbiased_variances", config.unbiased_variances, (False,)),
    ):
        if value not in possible:
            raise ValueError(
                f"{field}={value}: the network is given, so what it has is its own; "
                f"possible: {', '.join(map(str, possible))}"
            )


def _check_seeds(config: ConfigDict) -> None:
    """Checks that the last seed of replicas is a seed, too."""
    largest = fields.LARGEST_SEED - config.replicas + 1
    if config.seed > largest:
        raise ValueError(
            f"seed must be an integer from 0 to {largest} with replicas="
            f"{config.replicas}; got {config.seed}"
        )


def _check_kept_epochs(config: ConfigDict) -> None:
    for epoch in config.keep_checkpoint_epochs:
        if epoch > config.epochs:
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
    # Building it checks that its parts fit into the epochs.
    get_schedule(
        config.schedule,
        config.learning_rate,
        epochs=config.epochs,
        steps_per_epoch=1,
        **{field: config[field] for field in taken},
    )
    if config.schedule == "multistep":
        reached = [epoch for epoch in config.milestones if epoch < config.epochs]
        last = config.learning_rate * config.decay_factor ** len(reached)
        what = f"the rate after {len(reached)} milestones of decay_factor"
        fields.FIELDS["learning_rate"].check(what, last)


def _check_dataset(config: ConfigDict, given: Given, importing: bool) -> None:
    name, network = config.dataset.name, config.network.name
    dataset = given.dataset or DATASETS.get(name, importing=importing)
    entry = None if given.network else NETWORKS.get(network, importing=importing)
    for field, value in config.dataset.items():
        if field == "name" or field in dataset.optional:
            continue
        if (value is not None) != (field in dataset.options):
            fields = (*dataset.options, *dataset.optional)
            raise ValueError(
                f"dataset.{field}={value}: the fields of the dataset {name} are "
                f"{', '.join(fields)}"
            )
    fraction, seed = config.dataset.validation_fraction, config.dataset.split_seed
    if "split_seed" in dataset.optional and (fraction is None) != (seed is None):
        raise ValueError(
            f"dataset.validation_fraction={fraction} and dataset.split_seed={seed}; "
            f"possible: both or neither"
        )
    if dataset.augmentations:
        _check_choice("augmentation", config.augmentation, dataset.augmentations)
    elif config.augmentation is not None:
        raise ValueError(
            f"augmentation={config.augmentation} is not used by the dataset {name}"
        )
    if config.dataset.on_bad_image is not None:
        possible = imagenet_feed.ON_BAD_IMAGE
        _check_choice("dataset.on_bad_image", config.dataset.on_bad_image, possible)
    if config.dataset.mean is not None:
        channels, dtype = dataset.inputs[0].shape[-1], dataset.inputs[0].dtype
        normalizer(
            config.dataset.mean, config.dataset.std, channels=channels, dtype=dtype
        )
    if entry is not None and entry.takes_texts != dataset.is_text:
        text = dataset.is_text
        takers = [n for n, e in NETWORKS.table.items() if e.takes_texts == text]
        raise ValueError(
            f"the network {network} does not fit the dataset {name}; "
            f"possible: {', '.join(takers)}"
        )


def _check_leaves(config: ConfigDict, given: Given, importing: bool) -> None:
    """Checks what is said of single leaves, as far as it needs no network."""
    treatments = leaves.parse(config.unpruned or ())
    vectors = config.network.vectors
    dataset = given.dataset or DATASETS.get(config.dataset.name, importing=importing)
    if vectors is not None and not dataset.is_text:
        raise ValueError(
            f"network.vectors={vectors}: the dataset {config.dataset.name} has no "
            f"words; possible: None"
        )
    if config.method in PROCEDURES:
        fixed = [t.pattern for t in treatments if t.how == "fixed"]
        for field, value in (("network.vectors", vectors), ("unpruned", fixed)):
            if value:
                raise ValueError(
                    f"the method {config.method} trains all weights that it does not "
                    f"prune, and rewinds them: {field}={value} is not possible"
                )


def _check_best(config: ConfigDict) -> None:
    if config.test_best is None:
        return
    _check_choice("test_best", config.test_best, BEST)
    if config.dataset.validation_fraction is None:
        raise ValueError(
            f"test_best={config.test_best}: {config.dataset.name} has no validation "
            f"images beside those that it is tested on; possible: None"
        )


def _check_replicas(config: ConfigDict, given: Given, importing: bool) -> None:
    if config.replicas <= 1:
        return
    dataset = given.dataset or DATASETS.get(config.dataset.name, importing=importing)
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
