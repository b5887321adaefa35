"""Pruning of randomly initialized networks, with iterative randomization (IteRand).

The names below are the API for arrays and for pytrees; importing them needs only jax.
The API for Linen modules is `iterand_jax.linen`. `train` and `python -m
iterand_jax.main` train; `python -m iterand_jax.export` saves the subnetwork that was
found, and `load_ticket` reads it.
"""

from os import PathLike
from typing import TYPE_CHECKING

from iterand_jax import layers
from iterand_jax.distributions import DISTRIBUTIONS, Distribution
from iterand_jax.masks import threshold, topk_mask
from iterand_jax.methods import (
    Method,
    edge_popup,
    fixed_mask,
    iterand,
    register_method,
    sgd,
)
from iterand_jax.rules import DEFAULT_RULES, OUTPUTS_FIRST_RULES, Rule, rules_of
from iterand_jax.subnetwork import Subnetwork, apply_masks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flax import linen as nn

    from iterand_jax.data.datasets import Dataset
    from iterand_jax.tickets.ticket import Ticket
    from iterand_jax.training.api import Result

__all__ = [
    "DEFAULT_RULES",
    "DISTRIBUTIONS",
    "OUTPUTS_FIRST_RULES",
    "Distribution",
    "Method",
    "Rule",
    "Subnetwork",
    "apply_masks",
    "edge_popup",
    "fixed_mask",
    "iterand",
    "layers",
    "load_ticket",
    "register_dataset",
    "register_method",
    "register_network",
    "rules_of",
    "sgd",
    "threshold",
    "topk_mask",
    "train",
]


def load_ticket(
    path: "str | PathLike[str]", network: "nn.Module | None" = None
) -> "Ticket":
    """Reads a packed ticket and rebuilds it bit for bit: see `iterand_jax.tickets`.

        ticket = iterand_jax.load_ticket("ticket.safetensors")
        logits = ticket.apply(images)  # pixels from 0 to 255, (N, H, W, C)

    A network from outside this library is passed as `network`, registered by
    `register_network`, or defined in a module that was imported before. The arrays are
    `ticket.params`, `ticket.masks` and `ticket.batch_stats`.

    Raises:
      ValueError: in one line, a file that is missing, not a ticket, truncated, of
        another version, or corrupt.

    >>> load_ticket("nowhere.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: cannot read the ticket nowhere.safetensors: ...
    """
    from iterand_jax.tickets import ticket as tickets

    return tickets.load(path, network)


def register_network(
    name: str, factory: "Callable[..., Any]", *, takes_texts: bool = False
) -> None:
    """Registers a network under a name: see `iterand_jax.networks.register_network`.

    >>> from iterand_jax.networks import resnet
    >>> register_network("my_resnet", resnet.ResNet18)
    """
    from iterand_jax import networks

    networks.register_network(name, factory, takes_texts=takes_texts)


def register_dataset(name: str, dataset: "Dataset") -> None:
    """Registers a dataset under a name: see `iterand_jax.data.datasets`.

    >>> from iterand_jax.data import own
    >>> x, y = [[0.0], [1.0], [0.5], [0.2]], [0, 1, 1, 0]
    >>> register_dataset("my_numbers", own.from_arrays(x, y, test=(x, y)))
    """
    from iterand_jax.data import datasets

    datasets.register_dataset(name, dataset)


def train(what: "Any", data: "Any" = None, **options: "Any") -> "Result":
    """Trains a config by its name, or your own network on arrays.

        result = iterand_jax.train("digits", {"epochs": 3, "network.width": 0.25})
        result = iterand_jax.train(MyNetwork(), (x, y), test=(x_test, y_test))
        result.test_accuracy, result.params, result.masks, result.ticket

    `iterand_jax.training.api.train` documents the arguments.

    >>> train("nope")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ...nope...
    """
    from iterand_jax.training import api

    return api.train(what, data, **options)
