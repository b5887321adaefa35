"""The runs of a sweep, and their selection by filters, seeds and shards.

A run is identified by its resolved config. So a run that was trained for one table also
counts for another with the same cell, and nothing here depends on the order of cells.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.paper.experiment import DISTRIBUTIONS, Cell
from experiments.paper.names import label_text
from iterand_jax.data.datasets import get_dataset
from iterand_jax.training import pruning
from iterand_jax.training.procedures import PROCEDURES


class Run(NamedTuple):
    """A cell with a seed.

    Attributes:
      cell: what is trained.
      seed: of the run.
      config: resolved.
    """

    cell: Cell
    seed: int
    config: ConfigDict

    @property
    def name(self) -> str:
        """The cell's name and the seed."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """The name of the folder that holds the seeds of this config."""
        return folder_name(self.config)


def folder_name(config: ConfigDict) -> str:
    """A readable name, the same for configs that differ in the seed alone.

    It consists of the fields that tables vary, of which those of scopes, schedules and
    the like are a digest. Configs that differ in other fields
    share a folder, where the second is refused with an error that names them.
    """
    short = {name: label for label, name in DISTRIBUTIONS.items()}
    parts = [
        config.dataset.name,
        config.network.name,
        f"w{config.network.width:g}",
        config.method,
        short.get(config.distribution, config.distribution),
    ]
    for prefix, value in (
        ("p", config.sparsity),
        ("K", config.k_per),
        ("r", config.sampling_rate),
    ):
        if value is not None:
            parts.append(f"{prefix}{value:g}")
    options = pruning.options(config)
    if options:
        parts.append(_digest(json.dumps(options, sort_keys=True))[:8])
    name = "_".join([*parts, f"{config.epochs}epochs"])
    return name + precision_suffix(config.dtype, config.matmul_precision)


def precision_suffix(dtype: str, matmul_precision: str) -> str:
    """The suffix of a folder's name for a precision other than the default.

    >>> precision_suffix("float32", "default"), precision_suffix("bfloat16", "highest")
    ('', '_bfloat16_highest')
    """
    fields = ((dtype, "float32"), (matmul_precision, "default"))
    return "".join(f"_{value}" for value, usual in fields if value != usual)


def runs_of(cells: Sequence[Cell], seeds: Sequence[int]) -> list[Run]:
    """Every cell with every seed.

    Raises:
      ValueError: a config is invalid.
    """
    return [
        Run(cell, seed, cell.config(seed))
        for cell, seed in itertools.product(cells, seeds)
    ]


def select(cells: Sequence[Cell], only: str) -> list[Cell]:
    """The cells that a filter such as "conv6,width=0.25,width=0.5" chooses.

    A term is label=value, or a word that is the value of a label. Terms of one label
    are alternatives; different labels must all agree.

    Raises:
      ValueError: a term that no cell has, or terms that no cell has together.
    """
    wanted: dict[str, set[str]] = {}
    for term in filter(None, (part.strip() for part in only.split(","))):
        label, value = _parse_term(term, cells)
        wanted.setdefault(label, set()).add(value)
    chosen = [
        cell
        for cell in cells
        if all(_value(cell, label) in values for label, values in wanted.items())
    ]
    if not chosen:
        raise ValueError(f"no cell is all of {only}; cells are: {_possible(cells)}")
    return chosen


def _parse_term(term: str, cells: Sequence[Cell]) -> tuple[str, str]:
    label, sign, text = term.partition("=")
    with contextlib.suppress(ValueError):
        text = f"{float(text):g}"
    for cell in cells:
        for name, value in cell.labels.items():
            if not sign and isinstance(value, str) and value == term:
                return name, value
            if sign and name == label and _value(cell, name) == text:
                return name, text
    raise ValueError(f"no cell is {term!r}; possible: {_possible(cells)}")


def _value(cell: Cell, label: str) -> str:
    value = cell.labels.get(label, "")
    return value if isinstance(value, str) else f"{value:g}"


def _possible(cells: Sequence[Cell]) -> str:
    names = dict.fromkeys(
        label_text(*label) for cell in cells for label in cell.labels.items()
    )
    return ", ".join(names)


def parse_seeds(text: str) -> list[int]:
    """The seeds of "3" (0, 1, 2) or of a range "2-4" (2, 3, 4).

    Raises:
      ValueError: anything else.

    >>> parse_seeds("3"), parse_seeds("2-4")
    ([0, 1, 2], [2, 3, 4])
    """
    first, sign, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not sign)):
        seeds = range(0)
    elif sign:
        seeds = range(int(first), int(last) + 1)
    else:
        seeds = range(int(first))
    if not seeds:
        raise ValueError(
            "--seeds must be a number (3: seeds 0, 1 and 2) or an ascending range "
            "(2-4); "
            f"got {text!r}"
        )
    return list(seeds)


def parse_shard(text: str) -> tuple[int, int]:
    """(which, of how many) of "2/8".

    Raises:
      ValueError: anything else.
    """
    index, sign, count = text.partition("/")
    if sign and index.isdecimal() and count.isdecimal():
        which, of = int(index), int(count)
        if 1 <= which <= of:
            return which, of
    raise ValueError(f"--shard must be from 1/N to N/N, such as 2/8; got {text!r}")


def shard(
    runs: Sequence[Run], which: int, of: int, *, whole_cells: bool = False
) -> list[Run]:
    """One of `of` disjoint shards of the runs, the same on every machine.

    Runs are distributed in the order of a hash of their names: in table order costs are
    periodic, which could put all the widest networks in one shard.

    Args:
      runs: all.
      which: the shard, from 1.
      of: the number of shards.
      whole_cells: whether the seeds of a cell stay together.
    """

    def name(run: Run) -> str:
        return run.folder if whole_cells else f"{run.folder} {run.seed}"

    names = sorted({name(run) for run in runs}, key=_digest)
    own = set(names[which - 1 :: of])
    return [run for run in runs if name(run) in own]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


Job = Sequence[Run]
"""Runs of one process, in one program if possible: seeds of one cell."""


def can_be_replicas(runs: Job) -> bool:
    """Whether runs of a cell can be replicas in one program, in their own folder."""
    config, seeds = runs[0].config, [run.seed for run in runs]
    return (
        len(seeds) > 1
        and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
        and get_dataset(config.dataset.name).resident
        and config.method not in PROCEDURES
    )


def jobs_of(runs: Sequence[Run], *, together: bool) -> list[Job]:
    """The seeds of a cell as one job if requested and possible, else one per run."""
    jobs: list[Job] = []
    for _, group in itertools.groupby(runs, key=lambda run: run.folder):
        seeds = list(group)
        one = together and can_be_replicas(seeds)
        jobs += [seeds] if one else [[run] for run in seeds]
    return jobs
