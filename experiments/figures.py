"""The figures of a report: ours as filled markers, the paper's as hollow ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.catalogue import published
from experiments.evidence import FULL, Entry, Version, data_of
from experiments.metrics import METRICS
from experiments.names import shown
from experiments.sweep import Experiment, HeatMap, Lines
from iterand_jax.runtime.pictures import new_figure, set_title

PAPER, OURS = "paper", "ours"

COLORS = {
    "iterand": "#c23b3b",
    "edge_popup": "#3b6ec2",
    "sgd": "#444444",
    "imp": "#2f8f5b",
}
STYLES = {"SC": ("-", "o"), "KU": ("--", "s"), None: ("-", "o")}


def draw(experiment: Experiment, version: Version) -> Figure:
    """Draws a version of an experiment as the paper does.

    Full runs share their axes with the paper's points; shortened ones, which end far
    below, have axes of their own beside them.
    """
    spec = experiment.figure
    columns = _columns(version, spec)
    width = 1.6 + 4.4 * len(columns)
    figure = new_figure(width, 5)
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for ax, (panel, whose) in zip(axes, columns, strict=True):
        if isinstance(spec, HeatMap):
            image = _heat_map(ax, experiment, version, panel, spec)
            about = _names_of_data(version).get(panel) or _data_note(version.entries)
            ax.set_title(about.removeprefix(", "), fontsize=10)
            title = METRICS[experiment.metrics[0]].title
            figure.colorbar(image, ax=ax, label=title)
        else:
            members = _members(version, spec, panel)
            _lines(ax, experiment, version, members, spec, whose)
            about = "" if len(whose) > 1 else f" ({whose[0]})"
            about += _data_note(members) if OURS in whose else ""
            ax.set_title((shown(panel or "") + about).strip(), fontsize=10)
            ax.grid(alpha=0.25)
    if isinstance(spec, Lines):
        _legend(figure, axes)
    set_title(figure, _title(experiment, version), 10)
    return figure


def _columns(
    version: Version, spec: Lines | HeatMap
) -> list[tuple[Any, tuple[str, ...]]]:
    """What each axes show: a panel, of a heat map the data, and whose numbers."""
    if isinstance(spec, HeatMap):
        return [(data, (OURS,)) for data in _names_of_data(version) or [None]]
    columns: list[tuple[Any, tuple[str, ...]]] = []
    for panel in (spec.panel and _values(version.entries, spec.panel)) or [None]:
        if version.key == FULL:
            columns.append((panel, (PAPER, OURS)))
        else:
            columns.append((panel, (OURS,)))
            if any(entry.paper for entry in _members(version, spec, panel)):
                columns.append((panel, (PAPER,)))
    return columns


def _data_note(entries: Sequence[Entry]) -> str:
    """Says of ours that some of it was not trained on a dataset's official data."""
    official = all(entry.official for entry in entries if entry.lines)
    return "" if official else ", not the official data"


def _names_of_data(version: Version) -> dict[str, str]:
    """What to call the data of each fingerprint: nothing where there is only one."""
    names: dict[str, str] = {}
    for entry in version.entries:
        data = data_of(entry)
        if data is not None:
            names[data] = f"{data[:6]}, {'' if entry.official else 'not '}official"
    return names if len(names) > 1 else dict.fromkeys(names, "")


def _members(version: Version, spec: Lines, panel: Any) -> list[Entry]:
    if panel is None or spec.panel is None:
        return list(version.entries)
    return [e for e in version.entries if e.cell.labels.get(spec.panel) == panel]


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One for all panels, below them."""
    handles: dict[str, Any] = {}
    for ax in axes:
        found, names = ax.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(len(handles), 2 * len(axes)),
            fontsize=8,
        )


def _title(experiment: Experiment, version: Version) -> str:
    """In a line: the text around the picture says what a version shortens."""
    number, colon, about = experiment.title.partition(":")
    if version.key != FULL:
        number += f", {version.key.replace('_', ' ')}"
    if not any(entry.lines for entry in version.entries):
        number += ", not run"
    return number + colon + about


def _values(entries: Sequence[Entry], label: str) -> list[Any]:
    """The values of a label, in the order of the table."""
    found = (entry.cell.labels.get(label) for entry in entries)
    return list(dict.fromkeys(value for value in found if value is not None))


def _lines(
    ax: Axes,
    experiment: Experiment,
    version: Version,
    entries: Sequence[Entry],
    spec: Lines,
    whose: Sequence[str],
) -> None:
    metric = experiment.metrics[0]
    words = [v for v in _values(entries, spec.x) if isinstance(v, str)]
    series: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        labels = entry.cell.labels
        data = data_of(entry)
        for owner in whose:
            # The paper's numbers are the same whatever data ours are on.
            own = data if owner == OURS else None
            key = owner, labels["method"], labels.get("distribution"), own
            series.setdefault(key, []).append(entry)
    names = _names_of_data(version)
    for (owner, method, distribution, data), members in series.items():
        points = {
            (_x(entry, spec, words, owner), *number)
            for entry in members
            for number in [_number(entry, metric, owner)]
            if number is not None
        }
        if not points:
            continue
        line, marker = STYLES[distribution]
        color, label = COLORS[method], f"{shown(method)} {distribution or ''}"
        about = names.get(data, "") if data else ""
        label = f"{label.strip()}, {owner}" + (about and f" ({about})")
        alpha = 0.4 if about and data != next(iter(names)) else 1.0
        first = next(iter(points))
        if first[0] is None:
            _level(ax, first[1:], label, color, line, alpha)
            continue
        ours = owner == OURS
        style = line if ours else ":"
        x, y, error = np.array(sorted(points), float).T
        ax.errorbar(
            x,
            y,
            error,
            label=label,
            color=color,
            alpha=alpha,
            marker=marker,
            markersize=5 if ours else 7,
            markerfacecolor=color if ours else "none",
            linestyle="none" if words or spec.panel is None else style,
            linewidth=1.6 if ours else 0.8,
            capsize=3,
        )
    if not ax.has_data():
        ax.text(0.5, 0.5, "not run", ha="center", transform=ax.transAxes)
    _axis(ax, spec, entries, words)
    ax.set_ylabel(METRICS[metric].title)
    printed = _published_range(experiment, version, entries)
    if printed:
        ax.axhspan(*printed, color="#e4e4e4", label="range of the paper's curves")


def _published_range(
    experiment: Experiment, version: Version, entries: Sequence[Entry]
) -> tuple[float, float] | None:
    """The range of values in a figure of the paper that prints no numbers."""
    ranges = published()[experiment.name].get("ranges", {})
    network = entries[0].cell.labels["network"]
    return tuple(ranges[network]) if version.key == FULL and network in ranges else None


def _number(entry: Entry, metric: str, owner: str) -> tuple[float, float] | None:
    """(mean, deviation), NaN where there is none."""
    found = entry.statistics(metric) if owner == OURS else entry.paper.get(metric)
    if found is None:
        return None
    return found.mean, np.nan if found.deviation is None else found.deviation


def _x(entry: Entry, spec: Lines, words: list[str], owner: str) -> float | None:
    value = entry.cell.labels.get(spec.x)
    if value in words:
        return words.index(value) + (0.1 if owner == OURS else -0.1)
    if value is None and spec.x in METRICS:
        number = _number(entry, spec.x, owner)
        return number[0] if number else None
    return value


def _level(
    ax: Axes,
    number: Sequence[float],
    label: str,
    color: str,
    line: str,
    alpha: float,
) -> None:
    """A method that has no x: its level, with a band of one deviation."""
    mean, deviation = number
    ax.axhline(mean, color=color, linestyle=line, label=label, alpha=alpha)
    ax.axhspan(mean - deviation, mean + deviation, color=color, alpha=0.12 * alpha)


def _axis(ax: Axes, spec: Lines, entries: Sequence[Entry], words: list[str]) -> None:
    metric = METRICS.get(spec.x)
    name = metric.title if metric else shown(spec.x)
    ax.set_xlabel("width $\\rho$" if name == "width" else name)
    if words:
        ax.set_xlabel("")
        ax.set_xticks(range(len(words)), [shown(word) for word in words])
        ax.set_xlim(-0.5, len(words) - 0.5)
        return
    if spec.log:
        ax.set_xscale("log")
    values = _values(entries, spec.x)
    if values:
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.set_xticks([], minor=True)
        crowded = len(values) > 5
        ax.tick_params(axis="x", labelsize=8, labelrotation=60 if crowded else 0)


def _heat_map(
    ax: Axes,
    experiment: Experiment,
    version: Version,
    data: str | None,
    spec: HeatMap,
):
    """Colours over two labels, with the number of one set of data in each place."""
    metric, entries = experiment.metrics[0], version.entries
    columns, rows = (sorted(_values(entries, label)) for label in (spec.x, spec.y))
    means = np.full((len(rows), len(columns)), np.nan)
    texts = np.full(means.shape, "not run", object)
    for entry in entries:
        found = entry.statistics(metric)
        labels = entry.cell.labels
        at = rows.index(labels[spec.y]), columns.index(labels[spec.x])
        if found is not None and data_of(entry) == data:
            means[at] = found.mean
            texts[at] = found.text(METRICS[metric].digits)
    box = {"color": "white", "alpha": 0.7, "linewidth": 0}
    for (row, column), text in np.ndenumerate(texts):
        ax.text(column, row, text, ha="center", va="center", fontsize=8, bbox=box)
    low, high = _published_range(experiment, version, entries) or (None, None)
    image = ax.imshow(
        means, origin="lower", cmap="YlOrRd", aspect="auto", vmin=low, vmax=high
    )
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlabel=shown(spec.x), ylabel=shown(spec.y))
    return image
