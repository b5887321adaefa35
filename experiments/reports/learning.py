"""Learning curves: our validation accuracy by epoch, with both ends of a run.

Only runs whose line has the accuracies of all epochs are drawn. Curves and filled
markers are ours (validation by epoch, and test at the end); hollow markers are the
paper's test accuracies, beside full runs only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.paper.experiment import Experiment
from experiments.paper.names import shown
from experiments.reports.evidence import FULL, Entry, Version, kind_of
from experiments.reports.figures import (
    COLORS,
    STYLES,
    kind_name,
    legend_below,
    version_title,
)
from experiments.sweeps.ledger import Line
from experiments.sweeps.plan import COMPARED
from iterand_jax.runtime.pictures import new_figure, set_title

METRIC = "test_accuracy"
COLUMNS = 3
ABOUT = "validation accuracy by epoch"


def drawable(version: Version) -> list[Entry]:
    """The entries that have a curve, of two epochs or more, with those lines alone."""
    found = [
        entry._replace(lines=[line for line in entry.lines if len(_curve(line)) > 1])
        for entry in version.entries
    ]
    return [entry for entry in found if entry.lines]


def draw(experiment: Experiment, version: Version) -> Figure:
    """A panel for each column of the table: cells that differ in method alone.

    Raises:
      ValueError: no run has a curve.
    """
    panels: dict[str, list[Entry]] = {}
    entries = drawable(version)
    if not entries:
        raise ValueError(f"no run of {experiment.name} has a learning curve")
    kinds = {kind_of(entry) for entry in entries}
    for entry in entries:
        name = _panel(entry.cell.labels)
        if len(kinds) > 1:
            name += f" ({kind_name(entry)})"
        panels.setdefault(name, []).append(entry)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(1.6 + 5 * columns, 1.2 + 4 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, members) in zip(axes, panels.items(), strict=False):
        for entry in members:
            _draw(ax, entry, paper=version.key == FULL)
        seeds = sorted({len(entry.lines) for entry in members})
        number = "1 seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
        ax.set_title(f"{name}, {number}", fontsize=10)
        ax.set_xlabel("epoch")
        ax.set_ylabel("accuracy (%)")
        ax.grid(alpha=0.25)
    for ax in axes[len(panels) :]:
        ax.remove()
    legend_below(figure, axes[: len(panels)], columns=4)
    title = version_title(experiment, version, entries, about=ABOUT)
    set_title(figure, title, 10)
    return figure


def _curve(line: Line) -> Sequence[float]:
    found = line.get("validation_accuracies", ())
    return found if len(found) == line["epochs"] else ()


def _panel(labels: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in labels.items() if name not in COMPARED}
    return ", ".join(
        shown(value) if isinstance(value, str) else f"{shown(name)} {shown(value)}"
        for name, value in rest.items()
    )


def _draw(ax: Axes, entry: Entry, *, paper: bool) -> None:
    """The curve of each seed, thin, their mean, and the test accuracies."""
    labels = entry.cell.labels
    method, distribution = labels["method"], labels.get("distribution")
    style, marker = STYLES[distribution]
    color = COLORS[method]
    curves = np.array([_curve(line) for line in entry.lines])
    epochs = np.arange(1, curves.shape[1] + 1)
    if len(curves) > 1:
        ax.plot(epochs, curves.T, color=color, lw=0.5, alpha=0.35)
    name = " ".join(shown(value) for value in (method, distribution) if value)
    text = f"{name}, validation"
    ax.plot(epochs, curves.mean(axis=0), color=color, ls=style, lw=1.4, label=text)
    ends: dict[str, Any] = {"marker": marker, "ls": "none", "clip_on": False}
    ours, theirs = entry.statistics(METRIC), entry.paper.get(METRIC)
    assert ours is not None
    ax.plot(epochs[-1], ours.mean, markersize=5, color=color, **ends)
    ax.plot([], [], "o", markersize=5, color="grey", label="our test at the end")
    if paper and theirs:
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markersize": 8}
        ax.plot(epochs[-1], theirs.mean, color=color, **hollow, **ends)
        ax.plot([], [], "o", color="grey", label="the paper's test", **hollow)
