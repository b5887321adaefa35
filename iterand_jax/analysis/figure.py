"""analysis.png: a report as a picture, a row per layer, and what changed over time."""

from pathlib import Path

import numpy as np

from iterand_jax.analysis.report import Report

BLUE, RED, GREY = "#4c78a8", "#e45756", "#999999"


def draw(found: Report, path: Path) -> None:
    """Draws sizes, signs, magnitudes, dead channels, overlaps, ages and mask churn.

    Args:
      found: what to draw; of overlaps, ages and churn, what it has.
      path: of the PNG that is written.

    Raises:
      ValueError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    over_layers = [_draw_sizes, _draw_signs, _draw_dead]
    over_layers += [] if found.constant else [_draw_magnitudes]
    over_layers += [_draw_overlaps] if found.overlaps else []
    over_time = [_draw_churn] if found.churn else []
    over_time += [] if found.no_ages else [_draw_ages]
    heights = [1.8 + 0.22 * len(found.layers)] + [2.8] * bool(over_time)
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    for part, drawings in zip(parts[:, 0], (over_layers, over_time), strict=False):
        panels = part.subplots(1, len(drawings), squeeze=False)[0]
        for axes, drawing in zip(panels, drawings, strict=True):
            drawing(axes, found)
            axes.grid(alpha=0.25)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if drawings is over_layers:
                axes.set_ylim(len(found.layers) - 0.4, -0.6)
                axes.set_yticks(range(len(found.layers)), labels=[])
        if drawings is over_layers:
            panels[0].set_yticklabels([layer.path for layer in found.layers])
    other = f"\nother: {found.other}" if found.other else ""
    parts[0, 0].suptitle(found.title + other, fontsize=11)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def _draw_sizes(axes, found: Report) -> None:
    rows = range(len(found.layers))
    axes.barh(
        rows, [la.size for la in found.layers], color=GREY, alpha=0.4, label="all"
    )
    axes.barh(rows, [la.kept for la in found.layers], color=BLUE, label="kept")
    axes.set_xscale("log")
    axes.set_xlabel("weights")
    _legend_above(axes)


def _draw_signs(axes, found: Report) -> None:
    _dots(axes, [100 * layer.positive for layer in found.layers], BLUE, None)
    axes.axvline(50, color=GREY, lw=1, ls="--")
    axes.set_xlabel("positive among kept (%)")


def _draw_magnitudes(axes, found: Report) -> None:
    _dots(axes, [layer.magnitude for layer in found.layers], BLUE, None)
    axes.axvline(1, color=GREY, lw=1, ls="--")
    axes.set_xlabel("mean size, kept / pruned")


def _draw_dead(axes, found: Report) -> None:
    layers = found.layers
    _dots(axes, [100 * la.dead_outputs / la.outputs for la in layers], RED, "outputs")
    _dots(axes, [100 * la.dead_inputs / la.inputs for la in layers], BLUE, "inputs")
    right = max(10, axes.get_xlim()[1])
    axes.set_xlim(-right / 20, right)
    axes.set_xlabel("dead channels (%)")
    _legend_above(axes)


def _draw_overlaps(axes, found: Report) -> None:
    shares, chances = zip(
        *(found.overlaps[layer.path] for layer in found.layers), strict=True
    )
    _dots(axes, [100 * share for share in shares], BLUE, "in common")
    axes.plot(
        [100 * chance for chance in chances],
        range(len(chances)),
        "|",
        color=GREY,
        markersize=10,
        label="by chance",
    )
    axes.set_xlabel("kept in both runs (%)")
    _legend_above(axes)


def _dots(axes, values: list[float], color: str, label: str | None) -> None:
    axes.plot(values, range(len(values)), "o", color=color, markersize=4, label=label)


def _legend_above(axes) -> None:
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=2,
        frameon=False,
        fontsize=8,
        columnspacing=1,
        handletextpad=0.3,
    )


def _draw_churn(axes, found: Report) -> None:
    steps, shares = list(found.churn), [100 * x for x in found.churn.values()]
    for layer in found.layers:
        label = "each layer" if layer is found.layers[0] else None
        each = [100 * share for share in layer.churn]
        axes.plot(steps, each, color=GREY, lw=0.6, alpha=0.6, label=label)
    marker = "o" if len(shares) <= 40 else None
    axes.plot(steps, shares, color=BLUE, marker=marker, markersize=3, label="all")
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel(f"mask churn per {steps[0]} steps (%)")


def _draw_ages(axes, found: Report) -> None:
    kept = found.ages.sum() + found.unknown
    shares = 100 * found.ages / kept
    edges = (np.arange(len(shares)) + 0.5) * found.k_per
    axes.stairs(shares[1:], edges, color=RED, fill=True, alpha=0.7)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"step of the last redraw (possible every {found.k_per})")
    axes.set_ylabel("kept weights (%)")
    title = f"{shares[0]:.1f} % of the kept weights have their first value"
    if found.unknown:
        title += f", {100 * found.unknown / kept:.1f} % are of unknown draws"
    axes.set_title(title, fontsize=9)
