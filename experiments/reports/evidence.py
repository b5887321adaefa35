"""The ledger's runs of an experiment, grouped by length, data and precision.

Full runs, the miniature and every other number of epochs are separate versions, which
no mean and no table mixes. Within a version, runs on different data are kept separate,
and so are runs in different precision: with bfloat16 activations, or in float32 on a
CPU and on a GPU that computes products in TF32.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper.catalogue import Number, paper_numbers, place
from experiments.paper.experiment import (
    Cell,
    Experiment,
    Order,
    full_epochs,
    with_precision,
)
from experiments.reports.metrics import METRICS, Statistics, statistics_of
from experiments.sweeps.ledger import Ledger, Line, full_config, precision
from experiments.sweeps.runs import Run, folder_name, precision_suffix
from iterand_jax.training.config import DTYPES, MATMUL_PRECISIONS

FULL, MINIATURE = "full", "miniature"

IN_PROPORTION = ("milestones", "warmup_epochs", "final_epochs", "rewind_epochs")
"""Fields of a schedule in epochs, which scale with the length of the run."""

COMPARABLE = {"epochs", "k_per", *IN_PROPORTION}
"""Fields that may differ while the paper's number is still shown beside ours."""


class Entry(NamedTuple):
    """A cell and its runs on one dataset and in one precision.

    Attributes:
      cell: of the table.
      lines: its ledger lines, by seed; empty if it was not run.
      departures: how the cell's config differs from the paper's, field -> (ours,
        paper's).
      paper: the paper's numbers, by metric; empty if the cell is not in the paper.
    """

    cell: Cell
    lines: Sequence[Line]
    departures: Mapping[str, tuple[Any, Any]]
    paper: Mapping[str, Number]

    def statistics(self, metric: str) -> Statistics | None:
        """The statistics of our runs; None if it was not run."""
        return statistics_of(METRICS[metric], self.lines)

    @property
    def official(self) -> bool:
        """Whether the data are the official ones."""
        return all(line["dataset_official"] for line in self.lines)

    @property
    def precision(self) -> str:
        """The precision of its runs; "" for float32, the default."""
        return precision_of(self.lines[0]) if self.lines else ""


class Version(NamedTuple):
    """The runs of an experiment with the same length.

    Attributes:
      key: FULL, MINIATURE or "3_epochs".
      title: for the report.
      seeds: the number that each cell should have.
      entries: in the order of the table.
    """

    key: str
    title: str
    seeds: int
    entries: Sequence[Entry]

    @property
    def lines(self) -> list[Line]:
        """The ledger lines of all entries."""
        return [line for entry in self.entries for line in entry.lines]

    @property
    def runs(self) -> int:
        """The number of runs of the complete version."""
        return self.seeds * len({entry.cell.name for entry in self.entries})

    @property
    def missing(self) -> list[Run]:
        """The runs without a ledger line, on any data."""
        done = {
            (entry.cell.name, line["seed"])
            for entry in self.entries
            for line in entry.lines
        }
        cells = {entry.cell.name: entry.cell for entry in self.entries}
        return [
            Run(cell, seed, cell.config(seed))
            for cell in cells.values()
            for seed in range(self.seeds)
            if (cell.name, seed) not in done
        ]


def versions(experiment: Experiment, ledger: Ledger) -> list[Version]:
    """The full version, the miniature, and every other that has runs."""
    small, seeds = experiment.miniature, experiment.seeds
    full = _version(
        experiment, ledger, FULL, experiment.full, experiment.cells(), seeds
    )
    miniature = _version(
        experiment,
        ledger,
        MINIATURE,
        f"Miniature: {small.note}",
        experiment.miniature_cells(),
        small.seeds,
    )
    found = [full, miniature]
    shown = {_identity(line) for version in found for line in version.lines}
    for epochs in sorted({line["epochs"] for line in ledger}):
        cells = [
            cell for cell in experiment.cells(epochs) if full_epochs(cell) != epochs
        ]
        title = f"With {epochs} epochs"
        version = _version(experiment, ledger, f"{epochs}_epochs", title, cells, seeds)
        if any(_identity(line) not in shown for line in version.lines):
            found.append(version)
    return found


def pairs(entries: Sequence[Entry], order: Order) -> list[tuple[Entry, Entry]]:
    """The (better, worse) entries of an order, equal in all other labels."""

    def rest(entry: Entry) -> tuple[Any, ...]:
        labels = {k: v for k, v in entry.cell.labels.items() if k != order.label}
        return frozenset(labels.items()), kind_of(entry)

    def having(value: Any) -> list[Entry]:
        return [e for e in entries if e.cell.labels.get(order.label) == value]

    worse = {rest(entry): entry for entry in having(order.worse)}
    return [
        (entry, worse[rest(entry)])
        for entry in having(order.better)
        if rest(entry) in worse
    ]


def kind_of(entry: Entry) -> tuple[str, str]:
    """(fingerprint of the data, precision) of an entry's runs; "" without runs."""
    data = entry.lines[0]["dataset_fingerprint"] if entry.lines else ""
    return data, entry.precision


def precision_of(line: Line) -> str:
    """The precision of a run as reports name it: "" for float32 by default.

    A matmul_precision that was set is named too: such a run may share its seed with
    one without, and no mean counts a seed twice.
    """
    chosen = full_config(line["config"])["matmul_precision"]
    words = precision(line)
    if chosen != "default":
        return f"{words}, matmul_precision {chosen}"
    return "" if words == "float32" else words


def _identity(line: Line) -> tuple[str, int, str]:
    return line["folder"], line["seed"], line["dataset_fingerprint"]


def _version(
    experiment: Experiment,
    ledger: Ledger,
    key: str,
    title: str,
    cells: Sequence[Cell],
    seeds: int,
) -> Version:
    entries = []
    numbers = paper_numbers(experiment.name)
    for cell in cells:
        departures = _departures(experiment, cell)
        paper = {
            metric: numbers[place(cell.labels, metric)]
            for metric in experiment.metrics
            if departures.keys() <= COMPARABLE and place(cell.labels, metric) in numbers
        }
        by_kind: dict[tuple[str, str], list[Line]] = {}
        for line in _lines(cell, ledger):
            kind = line["dataset_fingerprint"], precision_of(line)
            by_kind.setdefault(kind, []).append(line)
        for lines in by_kind.values() or [[]]:
            entries.append(Entry(cell, lines, departures, paper))
    return Version(key, title, seeds, entries)


def _lines(cell: Cell, ledger: Ledger) -> Iterator[Line]:
    """The lines of a cell in every precision, by precision and seed."""
    name = folder_name(cell.config(0))
    for dtype, chosen in itertools.product(DTYPES, MATMUL_PRECISIONS):
        own = with_precision(cell, dtype=dtype, matmul_precision=chosen)
        for seed in ledger.seeds(name + precision_suffix(dtype, chosen)):
            yield from ledger.of(Run(own, seed, own.config(seed)))


@functools.cache
def _whole_config(
    base: str, overrides: tuple[tuple[str, Any], ...]
) -> Mapping[str, Any]:
    """All fields of a cell's config, which several versions of a table ask for."""
    return full_config(Cell({}, base, dict(overrides)).config(0).to_dict())


def _departures(experiment: Experiment, cell: Cell) -> dict[str, tuple[Any, Any]]:
    """The fields in which a cell differs from the paper's run of its labels."""
    configs = {**experiment.miniature.configs, **experiment.configs}
    full = experiment.cell(cell.labels, configs)
    if (cell.base, cell.overrides) == (full.base, full.overrides):
        return {}
    ours, theirs = (
        _whole_config(which.base, tuple(which.overrides.items()))
        for which in (cell, full)
    )
    return {
        field: (value, theirs[field])
        for field, value in ours.items()
        if value != theirs[field]
    }
