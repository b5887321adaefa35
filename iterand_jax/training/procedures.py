"""Procedures: methods that consist of a sequence of runs, given by their configs.

`config.method` names a method or a procedure. A procedure expands a resolved config to
the configs of its runs, which `stages` trains. All other code handles single runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from iterand_jax.methods.magnitude import sparsities


class Procedure(NamedTuple):
    """A training of several runs.

    Attributes:
      check: raises ValueError for a resolved config that it cannot train.
      stages: the resolved configs of its runs, in their order.
      fields: those that it needs of a config.
    """

    check: Callable[[ConfigDict], None]
    stages: Callable[[ConfigDict], list[ConfigDict]]
    fields: frozenset[str]


def _magnitude_stages(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the dense training and of each retraining, from a resolved one."""
    dense: dict[str, Any] = {
        "method": "sgd",
        "sparsity": None,
        "retrainings": None,
        "rewind_epochs": None,
        "unpruned": None,
    }
    early = {config.rewind_epochs} - {0}
    kept = tuple(sorted(early.union(config.keep_checkpoint_epochs)))
    own = [dense | {"keep_checkpoint_epochs": kept}]
    for sparsity in sparsities(config.sparsity, config.retrainings):
        pruned = {"method": "fixed_mask", "sparsity": sparsity}
        own.append(dense | pruned | {"unpruned": config.unpruned})
    configs = [ConfigDict(config.to_dict() | fields) for fields in own]
    return [stage.lock() for stage in configs]


def _check_magnitude(config: ConfigDict) -> None:
    if config.rewind_epochs >= config.epochs:
        raise ValueError(
            f"rewind_epochs={config.rewind_epochs} is not before the end of the dense "
            f"training of {config.epochs} epochs"
        )
    for field, only in (("checkpoint_every_steps", 0), ("replicas", 1)):
        if config[field] != only:
            raise ValueError(
                f"the method {config.method} rewinds to the end of an epoch and trains "
                f"one network after another: {field} must be {only}; got "
                f"{config[field]}"
            )


_OF_MAGNITUDE = frozenset(("sparsity", "retrainings", "rewind_epochs"))
PROCEDURES = {"imp": Procedure(_check_magnitude, _magnitude_stages, _OF_MAGNITUDE)}
"""By name; "imp" is iterative magnitude pruning."""


def stages(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the runs of a resolved config that names a procedure."""
    return PROCEDURES[config.method].stages(config)
