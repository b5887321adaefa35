"""The methods of strong lottery tickets since 2019, one interface.

They prune randomly initialized networks: edge-popup, iterative randomization (IteRand)
and the methods after them. `iterand_jax.methods` lists them.

The names below are the API for arrays and for pytrees; importing them needs only jax.
The API for Linen modules is `iterand_jax.linen`. `train` and `python -m
iterand_jax.main` train; `python -m iterand_jax.export` saves the subnetwork that was
found, and `load_ticket` reads it.
"""

from os import PathLike
from typing import TYPE_CHECKING

# First: Ctrl-C while JAX is imported, in a process that is a command of this package.
from iterand_jax.runtime import early as _early  # noqa: F401

# isort: split
from iterand_jax import layers
from iterand_jax.distributions import DISTRIBUTIONS, Distribution
from iterand_jax.masks import threshold, topk_mask, topk_masks
from iterand_jax.methods import (
    Method,
    adaptive_threshold,
    adaptive_threshold_iterand,
    biprop,
    biprop_iterand,
    edge_popup,
    fixed_mask,
    gem_miner,
    gradual_magnitude,
    iterand,
    multicoated,
    partially_frozen,
    random_pruning,
    recycling,
    register_method,
    relaxed_bernoulli,
    sgd,
    signed_supermask,
)
from iterand_jax.rules import (
    DEFAULT_RULES,
    OUTPUTS_FIRST_RULES,
    Rule,
    Schedule,
    rules_of,
)
from iterand_jax.subnetwork import Subnetwork, apply_masks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from flax import linen as nn
    from jax import Array

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
    "Schedule",
    "Subnetwork",
    "adaptive_threshold",
    "adaptive_threshold_iterand",
    "apply_masks",
    "biprop",
    "biprop_iterand",
    "edge_popup",
    "fixed_mask",
    "gem_miner",
    "gradual_magnitude",
    "iterand",
    "layers",
    "load_ticket",
    "multicoated",
    "partially_frozen",
    "random_pruning",
    "recycling",
    "register_dataset",
    "register_method",
    "register_network",
    "relaxed_bernoulli",
    "rules_of",
    "save_ticket",
    "sgd",
    "signed_supermask",
    "threshold",
    "topk_mask",
    "topk_masks",
    "train",
]


def save_ticket(
    path: "str | PathLike[str]",
    weights: "Any",
    masks: "Any",
    batch_stats: "Any" = None,
    *,
    subnetwork: Subnetwork | None = None,
    key: "Array | None" = None,
    refresh_key: "Array | None" = None,
    step: int | None = None,
    k_per: int = 0,
    sampling_rate: float = 0.0,
) -> None:
    """Writes the weights of any tree and their masks as one small file.

    It holds a bit for each masked weight, and of what is kept the values, or, with
    `subnetwork` and `key`, only what the seed does not give: nothing for edge-popup,
    and for IteRand the number of the refresh that drew each weight last. A leaf whose
    kept weights are not those draws is stored as values, so what is read back is always
    bit for bit what was written, with 0.0 where weights are pruned.

    Args:
      path: of the file, in a folder that is there; or a URL, as gs://BUCKET/FILE.
      weights: a tree of arrays: of Linen, of NNX (a state or a pure dict), of Equinox
        (what `equinox.partition` returns), or a custom one.
      masks: as `Subnetwork.masks` returns them: 1 kept and 0 pruned in the shape of the
        leaf, None for a leaf without a mask, which is stored whole.
      batch_stats: a tree of running statistics, stored whole; None for none.
      subnetwork: that drew the weights; None for given or trained ones, and for what
        `prune` returns where its `values` are not "masked".
      key: that `subnetwork.init` was given.
      refresh_key: into which refreshes folded their steps; by default `key`.
      step: steps done; needed with k_per.
      k_per: steps between two refreshes, 0 for weights that were never resampled.
      sampling_rate: r of the refreshes.

    Raises:
      ValueError: in one line, what is no tree of arrays, masks that do not fit the
        weights, a key without a subnetwork, what says how they were resampled without
        a key or without the rest of it, or a folder that is not there.

    >>> import jax, tempfile
    >>> subnetwork, key = Subnetwork(0.5, "kaiming_uniform"), jax.random.key(0)
    >>> params = {"kernel": jax.numpy.zeros((300, 40)), "bias": jax.numpy.ones(40)}
    >>> scores, weights = subnetwork.init(key, params)
    >>> masks = subnetwork.masks(scores)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = folder + "/ticket.safetensors"
    ...     save_ticket(path, weights, masks, subnetwork=subnetwork, key=key)
    ...     ticket = load_ticket(path, like=params)
    >>> ticket
    Ticket of a tree of arrays: 12,040 parameters in 2 leaves
      masks keep 6,000 of 12,000 weights in 1 leaves
      weights: kaiming_uniform of a key
    """
    from iterand_jax.tickets import ticket as tickets
    from iterand_jax.tickets import tree

    file, statistics = tree.target(path), {} if batch_stats is None else batch_stats
    draws = tree.key_draws(
        weights,
        subnetwork,
        key=key,
        refresh_key=refresh_key,
        step=step,
        k_per=k_per,
        sampling_rate=sampling_rate,
    )
    description, mask_tree = tree.describe(weights, masks, statistics, draws)
    tickets.save(tickets.Ticket.of(description, weights, mask_tree, statistics), file)


def load_ticket(
    path: "str | PathLike[str]",
    network: "nn.Module | None" = None,
    *,
    like: "Any" = None,
    batch_stats: "Any" = None,
    revision: str | None = None,
    token: "str | bool | None" = None,
    cache_dir: "str | PathLike[str] | None" = None,
    local_files_only: bool = False,
) -> "Ticket":
    """A packed ticket, read and rebuilt bit for bit: see `iterand_jax.tickets`.

        ticket = iterand_jax.load_ticket("ticket.safetensors")
        logits = ticket.apply(images)  # pixels from 0 to 255, (N, H, W, C)

    It may lie at a URL that fsspec reaches (gs://, s3://, memory://), or in a
    repository of the Hugging Face Hub:

        ticket = iterand_jax.load_ticket("hf://user/repo@revision")

    A network that is not this library's is given, registered by `register_network`, or
    of a module that was imported before. Its arrays are `ticket.params`,
    `ticket.masks` and `ticket.batch_stats`.

    What `save_ticket` wrote is put into your own model:

        params = iterand_jax.load_ticket("ticket.safetensors", like=params).params

    Args:
      path: of the file, or a URL of it; hf://user/repo[@revision][/FILE] has
        ticket.safetensors where no FILE is named.
      network: that the ticket names and does not contain.
      like: a tree of the structure, shapes and dtypes of the parameters (arrays or
        `jax.ShapeDtypeStruct`). Without it the params of a tree are {path: array}.
      batch_stats: the same of the running statistics, if the file has some.
      revision: of a repository of the Hub: a branch, a tag or a commit.
      token: for a private one; None for that of `hf auth login` or $HF_TOKEN.
      cache_dir: where its files are kept; None for the cache of all hub libraries.
      local_files_only: whether to use what is in that cache, and no network.

    Raises:
      ValueError: in one line, a file that is not there, is not a ticket, is cut short,
        of another version, or damaged; or of another tree than `like`. Of the Hub, a
        repository, revision or ticket that is not there, or no network and no copy.

    >>> load_ticket("nowhere.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: cannot read the ticket nowhere.safetensors: ...
    """
    from iterand_jax.tickets import ticket as tickets

    return tickets.load(
        path,
        network,
        like=like,
        batch_stats=batch_stats,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )


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
