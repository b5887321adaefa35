"""Configs: resolving defaults, and one-line errors before anything compiles."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn
from ml_collections import ConfigDict

from iterand_jax.configs import default
from iterand_jax.data import imagenet_feed
from iterand_jax.data.datasets import DATASETS, Dataset
from iterand_jax.data.feeds import normalizer
from iterand_jax.masks import pattern_of
from iterand_jax.methods import METHODS, method_fields
from iterand_jax.methods.magnitude import SPARSITY_OF
from iterand_jax.networks import NETWORKS
from iterand_jax.training import fields, leaves, pruning, released
from iterand_jax.training.choices import configs_with
from iterand_jax.training.config_json import completed
from iterand_jax.training.procedures import PROCEDURES
from iterand_jax.training.schedules import OPTIONS, SCHEDULES, get_schedule

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
    own, needed = [*OF_THE_METHOD], {*OF_EVERY_METHOD}
    if config.method in PROCEDURES:
        needed |= PROCEDURES[config.method].fields
    else:
        of_method = method_fields(config.method)
        _check_names(config.method, of_method)
        own += [field for field in of_method if field not in own]
        needed |= {field for field, required in of_method.items() if required}
    for field in OF_THE_METHOD:
        taken = field in recipe or field in NOT_IN_RECIPES
        if not taken and resolved[field] is not None:
            raise ValueError(
                f"{field}={resolved[field]} is not used by the method "
                f"{config.method}; its own fields are {', '.join(recipe)}"
            )
    says_sparsity = resolved.pattern is not None and "sparsity" in recipe
    if says_sparsity and resolved.sparsity is None:  # in place of the recipe's own
        resolved.sparsity = pattern_of(resolved.pattern).sparsity
    for field, value in recipe.items():
        if field not in own:
            raise ValueError(
                f"recipe.{config.method}.{field} is not used by the method; its "
                f"fields are {', '.join(own)}"
            )
        if field not in resolved or resolved[field] is None:
            resolved[field] = value
    for field in sorted(needed):
        if resolved.get(field) is None:
            raise ValueError(f"the method {config.method!r} needs a value for {field}")
    fields.check(resolved)
    if resolved.released:
        settings = released.settings(resolved, config.learning_rate, given)
        resolved.update_from_flattened_dict(settings)
    _check(resolved, given)
    pruning.check_method(resolved, is_procedure=config.method in PROCEDURES)
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


def methods_of(config: ConfigDict) -> list[str]:
    """The methods that a config has a recipe for."""
    known = (*METHODS, *PROCEDURES)
    own = [name for name in config.recipe if ":" in name]
    return [name for name in known if name in config.recipe] + own


def from_saved(saved: Mapping[str, Any], given: Given = NOTHING_GIVEN) -> ConfigDict:
    """The checked config of a config.json, completed by newer fields.

    It may come from anybody: no module that it names is imported.

    Raises:
      ValueError: as `resolve`.
    """
    config = ConfigDict(completed(saved))
    fields.check(config)
    _check(config, given, importing=False)
    return config.lock()


def _check(config: ConfigDict, given: Given, *, importing: bool = True) -> None:
    for field, possible in CHOICES.items():
        _check_choice(field, config[field], possible)
    _check_schedule(config)
    _check_dataset(config, given, importing)
    _check_leaves(config, given, importing)
    _check_best(config)
    _check_replicas(config, given, importing)
    if config.method in PROCEDURES:
        PROCEDURES[config.method].check(config)
    pruning.check(config)
    if given.network is not None and config.affine is False:
        raise ValueError(
            "affine=False: the network is given, so what it has is its own; possible: "
            "None, True"
        )
    _check_seeds(config)
    _check_kept_epochs(config)


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
