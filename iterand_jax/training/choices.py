"""The names that a config may hold, by what they name."""

from collections.abc import Iterable, Mapping

from iterand_jax.configs import names
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
        "Methods": (*METHODS, *PROCEDURES),
        "Networks": NETWORKS,
        "Datasets": DATASETS,
        "Distributions": DISTRIBUTIONS,
        "Augmentations": AUGMENTATIONS,
        "Schedules": SCHEDULES,
    }
