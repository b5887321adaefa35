"""Tables and figures as data: cells are labels, a config file and overrides."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.paper.names import label_text
from iterand_jax.configs import load
from iterand_jax.training.config import resolve

Labels = Mapping[str, Any]

FIELDS = {
    "method": "method",
    "distribution": "distribution",
    "width": "network.width",
    "sparsity": "sparsity",
    "k_per": "k_per",
    "sampling_rate": "sampling_rate",
}
"""The field of a config that each label sets; "network" chooses the config file."""

DISTRIBUTIONS = {"SC": "signed_constant", "KU": "kaiming_uniform"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table: a config to train.

    Attributes:
      labels: its labels in the table, in the order of the columns.
      base: the name of a config file, which holds the paper's run.
      overrides: fields of the config that differ from it.
    """

    labels: Labels
    base: str
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The labels as text, such as "conv6 iterand SC width=0.25"."""
        return " ".join(label_text(*label) for label in self.labels.items())

    def draft(self, seed: int, replicas: int = 1) -> ConfigDict:
        """The config of a run before it is resolved, as a config file returns it."""
        config = load(self.base)
        own = {"seed": seed, "replicas": replicas}
        config.update_from_flattened_dict({**self.overrides, **own})
        return config

    def config(self, seed: int) -> ConfigDict:
        """The resolved config of a run.

        Raises:
          ValueError: the config is invalid.
        """
        return resolve(self.draft(seed))


class Part(NamedTuple):
    """Cells of a miniature that are shortened in the same way.

    Attributes:
      rows: the labels of each cell.
      epochs: of each cell.
      overrides: other fields that differ from the config file.
    """

    rows: Sequence[Labels]
    epochs: int
    overrides: Mapping[str, Any] = {}


class Miniature(NamedTuple):
    """A small version of an experiment for a CPU, reported as such.

    Attributes:
      note: a description for the report.
      parts: its cells. K_per follows the epochs in proportion, unless it is a label
        or an override.
      seeds: of each cell.
      configs: config files of networks, where they differ from the experiment's.
    """

    note: str
    parts: Sequence[Part]
    seeds: int = 1
    configs: Mapping[str, str] = {}


class Lines(NamedTuple):
    """A line plot: panels by one label, x by another, and lines by the rest.

    Attributes:
      x: the label on the x-axis, or a metric that the paper prints.
      panel: the label with one panel per value; None for a single panel.
      log: whether x is logarithmic.
    """

    x: str
    panel: str | None = "network"
    log: bool = False


class HeatMap(NamedTuple):
    """A heat map over two labels."""

    x: str
    y: str


class Order(NamedTuple):
    """A ranking that a paper reports, between cells that differ in one label.

    Attributes:
      label: the one that differs.
      better: its value in the better cell.
      worse: its value in the other.
    """

    label: str
    better: Any
    worse: Any


ITERAND_IS_BETTER = Order("method", "iterand", "edge_popup")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
      name: as on the command line.
      title: what the paper shows there.
      configs: network, or "network method", -> config file of the paper's run.
      rows: the labels of each cell.
      seeds: of each cell.
      figure: how it is plotted.
      miniature: its small version.
      overrides: fields of the config that all cells share.
      metrics: what is compared, names in `metrics.METRICS`; the first is plotted.
      orders: the rankings that the paper reports, or that of later methods are asked.
      note: what a reader should know, for the report.
      variants: value of a label -> the fields of the config that it stands for, beside
        the one that its label sets.
      full: the title of the runs of full length.
    """

    name: str
    title: str
    configs: Mapping[str, str]
    rows: Sequence[Labels]
    seeds: int
    figure: Lines | HeatMap
    miniature: Miniature
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: tuple[str, ...] = ("test_accuracy",)
    orders: Sequence[Order] = (ITERAND_IS_BETTER,)
    note: str = ""
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    full: str = "As in the paper"

    def cells(self, epochs: int | None = None) -> list[Cell]:
        """The cells as in the paper, or all of them with this number of epochs."""
        cells = [self.cell(row) for row in self.rows]
        return cells if epochs is None else [shortened(cell, epochs) for cell in cells]

    def cell(
        self,
        labels: Labels,
        configs: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Cell:
        """The cell of labels, with these config files and overrides beside its own."""
        every = {**self.configs, **(configs or {})}
        fields = {**self.overrides, **(overrides or {})}
        return make_cell(labels, every, fields, self.variants)

    def miniature_cells(self) -> list[Cell]:
        """The cells of the miniature."""
        cells = []
        for rows, epochs, overrides in self.miniature.parts:
            for row in rows:
                cell = self.cell(row, self.miniature.configs, overrides)
                given = "k_per" in row or "k_per" in overrides
                cells.append(shortened(cell, epochs, k_per=not given))
        return cells


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """The labels of every combination; the last axis varies fastest.

    >>> grid(method=["sgd"], width=[0.5, 1.0])
    [{'method': 'sgd', 'width': 0.5}, {'method': 'sgd', 'width': 1.0}]
    """
    return [
        dict(zip(axes, values, strict=True))
        for values in itertools.product(*axes.values())
    ]


def make_cell(
    labels: Labels,
    configs: Mapping[str, str],
    overrides: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Cell:
    """Makes the cell of labels: each sets a field of the network's config."""
    fields: dict[str, Any] = {}
    for label, value in labels.items():
        if label != "network":
            fields[FIELDS[label]] = DISTRIBUTIONS.get(value, value)
    for value in labels.values():
        fields |= variants.get(value, {})
    network = labels["network"]
    base = configs.get(f"{network} {labels['method']}") or configs[network]
    return Cell(labels, base, fields | dict(overrides))


def shortened(cell: Cell, epochs: int, *, k_per: bool = False) -> Cell:
    """A cell with other epochs; its schedule's epochs are scaled in proportion.

    Args:
      cell: as in the paper.
      epochs: instead of the paper's.
      k_per: whether to scale IteRand's K_per too, so that the number of
        re-randomizations stays the same.
    """
    full = load(cell.base)
    share = epochs / full.epochs
    fields: dict[str, Any] = {"epochs": epochs}
    for field in ("warmup_epochs", "final_epochs"):
        if full[field] is not None:
            fields[field] = round(share * full[field])
    if full.milestones is not None:
        fields["milestones"] = tuple(max(1, round(share * m)) for m in full.milestones)
    if "imp" in full.recipe:
        fields["rewind_epochs"] = round(share * full.recipe.imp.rewind_epochs)
    for field in ("sparsity_begin", "sparsity_end"):
        if cell.overrides.get(field) is not None:
            least = int(field == "sparsity_end")
            fields[field] = max(least, round(share * cell.overrides[field]))
    period = full.recipe.get(cell.overrides["method"], {}).get("k_per")
    if k_per and period is not None:
        fields["k_per"] = max(1, round(share * period))
    return dataclasses.replace(cell, overrides={**cell.overrides, **fields})


def with_precision(cell: Cell, **fields: str | None) -> Cell:
    """A cell with another dtype or matmul_precision; None keeps the cell's own."""
    given = {field: value for field, value in fields.items() if value is not None}
    return dataclasses.replace(cell, overrides={**cell.overrides, **given})


def full_epochs(cell: Cell) -> int:
    """The epochs of the paper's run."""
    return load(cell.base).epochs
