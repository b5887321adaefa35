"""Pruning of randomly initialized networks, with iterative randomization (IteRand).

The names below are the array and tree doors; importing them needs only jax. The Linen
door is `iterand_jax.linen`, the trainer `python -m iterand_jax.main`. What a training
found is taken away by `python -m iterand_jax.export` and read by `load_ticket`.
"""

from os import PathLike
from typing import TYPE_CHECKING

from iterand_jax import layers
from iterand_jax.distributions import DISTRIBUTIONS, Distribution
from iterand_jax.masks import threshold, topk_mask
from iterand_jax.methods import Method, edge_popup, fixed_mask, iterand, sgd
from iterand_jax.rules import DEFAULT_RULES, OUTPUTS_FIRST_RULES, Rule
from iterand_jax.subnetwork import Subnetwork, apply_masks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from iterand_jax.data.datasets import Dataset
    from iterand_jax.tickets.ticket import Ticket

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
    "register_network",
    "sgd",
    "threshold",
    "topk_mask",
]


def load_ticket(path: "str | PathLike[str]") -> "Ticket":
    """A packed ticket, read and rebuilt bit for bit: see `iterand_jax.tickets`.

        ticket = iterand_jax.load_ticket("ticket.safetensors")
        logits = ticket.apply(images)  # pixels from 0 to 255, (N, H, W, C)

    Its arrays are `ticket.params`, `ticket.masks` and `ticket.batch_stats`.

    Raises:
      ValueError: in one line, a file that is not there, is not a ticket, is cut short,
        of another version, or damaged.

    >>> load_ticket("nowhere.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: cannot read the ticket nowhere.safetensors: ...
    """
    from iterand_jax.tickets import ticket as tickets

    return tickets.load(path)


def register_network(
    name: str, factory: "Callable[..., Any]", *, takes_texts: bool = False
) -> None:
    """Makes a network known by a name: see `iterand_jax.networks.register_network`."""
    from iterand_jax import networks

    networks.register_network(name, factory, takes_texts=takes_texts)


def register_dataset(name: str, dataset: "Dataset") -> None:
    """Makes a dataset known by a name: see `iterand_jax.data.datasets`."""
    from iterand_jax.data import datasets

    datasets.register_dataset(name, dataset)
