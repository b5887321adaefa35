"""The figures of a report: ours as filled markers, the paper's as hollow ones.

Cells without runs have no panel, and the paper's numbers are shown only next to ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, Transform

from experiments.paper.experiment import Experiment, HeatMap, Lines
from experiments.paper.names import shown
from experiments.reports.evidence import FULL, Entry, Version, kind_of
from experiments.reports.metrics import METRICS
from iterand_jax.runtime.pictures import new_figure, set_title

PAPER, OURS = "paper", "ours"

COLORS = {
    "iterand": "#c23b3b",
    "edge_popup": "#3b6ec2",
    "sgd": "#444444",
    "imp": "#2f8f5b",
    "edge_popup_global": "#7fb0f0",
    "iterand_global": "#f09a9a",
    "biprop": "#8a5bb5",
    "biprop_global": "#c39be0",
    "biprop_iterand": "#d98a2b",
    "recycling": "#1f9ea3",
    "multicoated": "#6f7a1e",
    "partially_frozen": "#c45a9b",
    "signed_supermask": "#7a5230",
    "adaptive_threshold": "#1d3f7a",
    "adaptive_threshold_iterand": "#7a1d1d",
    "gem_miner": "#e0b400",
    "relaxed_bernoulli": "#5fb37a",
    "random_erk": "#9a9a9a",
    "magnitude": "#2f8f5b",
}
# Horizontal distance of overlapping points of two series, in points (1/72 inch).
ASIDE = 6
STYLES = {"SC": ("-", "o"), "KU": ("--", "s"), None: ("-", "o")}


def draw(experiment: Experiment, version: Version) -> Figure:
    """Plots the runs of a version of an experiment in the form of the paper's figure.

    The paper's points are drawn beside full runs only: short ones end far below.

    Raises:
      ValueError: nothing was run.
    """
    entries, spec = (
        [entry for entry in version.entries if entry.lines],
        experiment.figure,
    )
    if not entries:
        raise ValueError(f"nothing of {experiment.name} was run: there is no figure")
    names = {kind_of(entry): kind_name(entry) for entry in entries}
    panels = list(names) if isinstance(spec, HeatMap) else _values(entries, spec.panel)
    figure = new_figure(1.6 + 4.4 * len(panels), 5)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        if isinstance(spec, HeatMap):
            members = [entry for entry in entries if kind_of(entry) == panel]
            image = _heat_map(ax, experiment, members, spec)
            figure.colorbar(image, ax=ax, label=METRICS[experiment.metrics[0]].title)
            ax.set_title(names[panel] if len(names) > 1 else "", fontsize=10)
        else:
            members = [e for e in entries if panel in _values([e], spec.panel)]
            whose = (PAPER, OURS) if version.key == FULL else (OURS,)
            shown_names = names if len(names) > 1 else {}
            _lines(ax, experiment, spec, members, whose, shown_names)
            ax.set_title(shown(panel or ""), fontsize=10)
    if isinstance(spec, Lines):
        legend_below(figure, axes, columns=2 * len(axes))
    set_title(figure, version_title(experiment, version, entries), 10)
    return figure


def legend_below(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """One legend below all axes, with each label once."""
    handles: dict[str, Any] = {}
    for ax in axes:
        found, texts = ax.get_legend_handles_labels()
        handles |= dict(zip(texts, found, strict=True))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), columns),
        fontsize=8,
    )


def kind_name(entry: Entry) -> str:
    """The data, shortened, and the precision of an entry's runs."""
    data, precision = kind_of(entry)
    words = f"{data[:6]}, {'' if entry.official else 'not '}official"
    return f"{words}, {precision}" if precision else words


def version_title(
    experiment: Experiment,
    version: Version,
    entries: Sequence[Entry],
    about: str | None = None,
) -> str:
    """One line: the experiment, its length, and any other data or precision.

    Args:
      experiment: of which the figure is.
      version: of it.
      entries: those that are drawn.
      about: what is drawn; None for what the title of the experiment says.
    """
    name, colon, what = experiment.title.partition(":")
    if about is not None:
        colon, what = ":", f" {about}"
    if version.key != FULL:
        name += f", {version.key.replace('_', ' ')}"
    official = [entry.official for entry in entries]
    if not all(official):
        what += f", not {'all ' if any(official) else ''}on official data"
    precisions = dict.fromkeys(entry.precision or "float32" for entry in entries)
    if [*precisions] != ["float32"]:
        what += f", in {' and '.join(precisions)}"
    return name + colon + what


def _values(entries: Sequence[Entry], label: str | None) -> list[Any]:
    """The values of a label, in the order of the table; [None] if it has none."""
    found = (entry.cell.labels.get(label) for entry in entries) if label else ()
    return list(dict.fromkeys(v for v in found if v is not None)) or [None]


def _lines(
    ax: Axes,
    experiment: Experiment,
    spec: Lines,
    entries: Sequence[Entry],
    whose: Sequence[str],
    names: dict[tuple[str, str], str],
) -> None:
    metric = experiment.metrics[0]
    values = _values(entries, spec.x)
    words = [value for value in values if isinstance(value, str)]
    series = _series(entries, whose)
    at_places = [
        key
        for key, members in series.items()
        if any(entry.cell.labels.get(spec.x) is not None for entry in members)
    ]
    for key, members in series.items():
        owner, method, distribution, kind = key
        points = {
            (_x(entry, spec, words, owner), *number)
            for entry in members
            for number in [_number(entry, metric, owner)]
            if number is not None
        }
        if not points:
            continue
        line, _ = STYLES[distribution]
        label = f"{shown(method)} {distribution or ''}".strip() + f", {owner}"
        if kind in names:
            label += f" ({names[kind]})"
        style: dict[str, Any] = {
            "label": label,
            "color": COLORS[method],
            "alpha": 0.4 if kind in names and kind != next(iter(names)) else 1.0,
        }
        if spec.x in METRICS:  # a run without it has no place
            points = {point for point in points if point[0] is not None}
            if not points:
                continue
        x, mean, deviation = next(iter(points))
        if x is None:  # a method without x: a line with a band of one deviation
            ax.axhline(mean, linestyle=line, **style)
            style |= {"alpha": 0.12 * style["alpha"], "label": None}
            ax.axhspan(mean - deviation, mean + deviation, **style)
            continue
        aside = 0.0
        if key in at_places and not words:
            aside = ASIDE * (at_places.index(key) - (len(at_places) - 1) / 2)
        style["linestyle"] = (
            "none" if words or not spec.panel else line if owner == OURS else ":"
        )
        _draw_points(ax, points, key, aside, style)
    ax.set_ylabel(METRICS[metric].title)
    ax.grid(alpha=0.25)
    _label_x(ax, spec, values, words)


def _series(
    entries: Sequence[Entry], whose: Sequence[str]
) -> dict[tuple[Any, ...], list[Entry]]:
    """Entries by (owner, method, distribution, kind of data and precision)."""
    series: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        labels = entry.cell.labels
        for owner in whose:
            # The paper's numbers are the same whatever data ours are on.
            kind = kind_of(entry) if owner == OURS else None
            key = owner, labels["method"], labels.get("distribution"), kind
            series.setdefault(key, []).append(entry)
    return series


def _draw_points(
    ax: Axes,
    points: set[tuple[Any, ...]],
    key: tuple[Any, ...],
    aside: float,
    style: dict[str, Any],
) -> None:
    """Points (x, mean, deviation) of a series, shifted to the right by `aside`."""
    owner, method, distribution, _ = key
    ours = owner == OURS
    drawn = ax.errorbar(
        *np.array(sorted(points), float).T,
        marker=STYLES[distribution][1],
        markersize=5 if ours else 7,
        markerfacecolor=COLORS[method] if ours else "none",
        linewidth=1.6 if ours else 0.8,
        capsize=3,
        **style,
    )
    # Shifted from the start, they would not count for the limits of the axes.
    for artist in drawn.get_children():
        artist.set_transform(_points_aside(ax, aside))


def _label_x(ax: Axes, spec: Lines, values: list[Any], words: list[str]) -> None:
    if words:
        ax.set_xticks(range(len(words)), [shown(word) for word in words])
        ax.set_xlim(-0.5, len(words) - 0.5)
        return
    ax.set_xlabel(METRICS[spec.x].title if spec.x in METRICS else shown(spec.x))
    if spec.log:
        ax.set_xscale("log")
    if spec.log and spec.panel and values == [None]:  # a metric: plain numbers
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
        ax.tick_params(axis="x", which="both", labelsize=8, labelrotation=60)
    if values != [None]:
        ax.set_xticks(values, [f"{value:g}" for value in values], fontsize=8)
        ax.set_xticks([], minor=True)
        ax.tick_params(axis="x", labelrotation=60 if len(values) > 5 else 0)


def _points_aside(ax: Axes, points: float) -> Transform:
    """Data coordinates shifted to the right by points, on any scale."""
    shift = ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)
    return ax.transData + shift


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


def _heat_map(
    ax: Axes, experiment: Experiment, entries: Sequence[Entry], spec: HeatMap
) -> Any:
    """A heat map over two labels, with the number in each cell that was run."""
    metric = experiment.metrics[0]
    columns, rows = (sorted(_values(entries, label)) for label in (spec.x, spec.y))
    means = np.full((len(rows), len(columns)), np.nan)
    box = {"color": "white", "alpha": 0.7, "linewidth": 0}
    for entry in entries:
        labels, found = entry.cell.labels, entry.statistics(metric)
        at = rows.index(labels[spec.y]), columns.index(labels[spec.x])
        if found:
            means[at] = found.mean
            text = found.text(METRICS[metric].digits)
            ax.text(*at[::-1], text, ha="center", va="center", fontsize=8, bbox=box)
    image = ax.imshow(means, origin="lower", cmap="YlOrRd", aspect="auto")
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlabel=shown(spec.x), ylabel=shown(spec.y))
    return image
