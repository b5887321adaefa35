"""The settings released with the paper, where they differ from its text.

`config.released` sets them all; docs/released.md lists them. What is known of a run
depends on its data, network and method, so this is the one place that asks for their
names.
"""

from typing import Any

from ml_collections import ConfigDict

from iterand_jax.data import imagenet
from iterand_jax.data.datasets import DATASETS
from iterand_jax.networks import takes

__all__ = ["settings"]

CONV6_OF_TEXT, CONV6_LEARNING_RATE = 0.2, 0.3  # of its scores
IMAGENET_HELD_OUT = 0.01
IMAGENET_GPUS = 2


def settings(
    config: ConfigDict, learning_rate: float | None, given: Any
) -> dict[str, Any]:
    """The fields that `config.released` sets, by their dotted names.

    Args:
      config: with its recipe filled in.
      learning_rate: None if it is the recipe's; another one stays as it is.
      given: objects that replace the names of network and dataset.

    >>> from iterand_jax.configs import load
    >>> settings(load("cifar_vgg11_imp"), None, None)
    {'sparsity_of': 'all'}
    """
    if config.method == "imp":  # OpenLTH's, of which nothing else is known
        return {"sparsity_of": "all"}
    name, network = config.dataset.name, config.network.name
    dataset = given.dataset or DATASETS.get(name, importing=True)
    fields: dict[str, Any] = {"rank": "quantile", "resample": "before"}
    if given.network is None and takes(network, "unbiased"):
        fields["unbiased_variances"] = True
    if "partial_batches" in dataset.optional:
        fields["dataset.partial_batches"] = True
    if name == imagenet.NAME:
        fields["dataset.validation_fraction"] = IMAGENET_HELD_OUT
        fields["dataset.split_seed"] = 0
        fields["accumulate_steps"] = IMAGENET_GPUS
    of_text = learning_rate is None and config.learning_rate == CONV6_OF_TEXT
    if (network, name) == ("conv6", "cifar10") and of_text:
        fields["learning_rate"] = CONV6_LEARNING_RATE
    return fields
