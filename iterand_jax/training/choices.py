"""The names that a config may hold, by what they name."""

from collections.abc import Iterable, Mapping

from iterand_jax.configs import load, names
from iterand_jax.data.augment import AUGMENTATIONS
from iterand_jax.data.datasets import DATASETS
from iterand_jax.distributions import DISTRIBUTIONS
from iterand_jax.methods import METHODS
from iterand_jax.networks import NETWORKS
from iterand_jax.training.procedures import PROCEDURES
from iterand_jax.training.schedules import SCHEDULES


def choices() -> Mapping[str, Iterable[str]]:
    """{heading: names}, shipped and registered, in the order in which to show them."""
    return {
        "Configs": names(),
        "Methods": METHODS,
        **{
            f"Method of the configs {', '.join(configs_with(name))}": (name,)
            for name in PROCEDURES
        },
        "Networks": NETWORKS,
        "Datasets": DATASETS,
        "Distributions": DISTRIBUTIONS,
        "Augmentations": AUGMENTATIONS,
        "Schedules": SCHEDULES,
    }


def configs_with(method: str) -> list[str]:
    """The configs that have a recipe for a method.

    >>> configs_with("imp")
    ['cifar_resnet20_imp', 'cifar_vgg11_imp']
    """
    return [name for name in names() if method in load(name).recipe]
