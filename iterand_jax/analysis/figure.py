"""analysis.png: a report as a picture, a row per layer, and what changed over time."""

from pathlib import Path

import numpy as np

from iterand_jax.analysis.report import Report
from iterand_jax.runtime.pictures import new_figure, save, set_title

BLUE, RED, GREY = "#4c78a8", "#e45756", "#999999"
COLUMNS = 100  # of steps in the colours of churn, at most


def draw(found: Report, path: Path) -> None:
    """Draws sizes, signs, magnitudes, dead channels, churn, overlaps and ages.

    What is known of each layer is in a row of the upper panels, mask churn by layer in
    colours; below is what is known of all layers together over the training.

    Args:
      found: what to draw; of overlaps, ages and churn, what it has.
      path: of the PNG that is written.

    Raises:
      ValueError: the file cannot be written.
    """
    over_layers = [_draw_sizes, _draw_signs]
    over_layers += [] if found.constant else [_draw_magnitudes]
    over_layers += [_draw_dead]
    over_layers += [_draw_overlaps] if found.overlaps else []
    over_layers += [_draw_layer_churn] if found.churn else []
    over_time = [_draw_churn] if found.churn else []
    over_time += [] if found.no_ages else [_draw_ages]
    heights = [1.8 + 0.22 * len(found.layers)] + [2.8] * bool(over_time)
    figure = new_figure(max(11, 2.3 * len(over_layers)), sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    for part, drawings in zip(parts[:, 0], (over_layers, over_time), strict=False):
        panels = part.subplots(1, len(drawings), squeeze=False)[0]
        for axes, drawing in zip(panels, drawings, strict=True):
            axes.grid(alpha=0.25)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            drawing(axes, found)
            if drawings is over_layers:
                axes.set_ylim(len(found.layers) - 0.5, -0.5)
                axes.set_yticks(range(len(found.layers)), labels=[])
        if drawings is over_layers:
            panels[0].set_yticklabels([layer.path for layer in found.layers])
    set_title(figure, found.title)
    if found.other:
        figure.supxlabel(f"other: {found.other}", fontsize=9)
    try:
        save(figure, path, dpi=120)
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
    axes.set_xlabel("positive\namong kept (%)")


def _draw_magnitudes(axes, found: Report) -> None:
    _dots(axes, [layer.magnitude for layer in found.layers], BLUE, None)
    axes.axvline(1, color=GREY, lw=1, ls="--")
    axes.set_xlabel("mean magnitude,\nkept / pruned")


def _draw_dead(axes, found: Report) -> None:
    layers = found.layers
    outputs = [100 * layer.dead_outputs / layer.outputs for layer in layers]
    inputs = [100 * layer.dead_inputs / layer.inputs for layer in layers]
    # Most shares are zero: beside each other, neither hides the other.
    _dots(axes, outputs, RED, "outputs", offset=-0.18)
    _dots(axes, inputs, BLUE, "inputs", offset=0.18)
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


def _dots(
    axes, values: list[float], color: str, label: str | None, *, offset: float = 0
) -> None:
    rows = np.arange(len(values)) + offset
    axes.plot(values, rows, "o", color=color, markersize=4, label=label)


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


def _draw_layer_churn(axes, found: Report) -> None:
    """Colours over layers and steps: a line per layer would be lost among many."""
    from matplotlib.colors import LogNorm

    shares = 100 * np.array([layer.churn for layer in found.layers])
    steps = [0, *found.churn]
    count = min(COLUMNS, len(found.churn))
    starts = len(found.churn) * np.arange(count) // count
    widths = np.diff([*starts, len(found.churn)])
    shares = np.add.reduceat(shares, starts, axis=1) / widths
    highest = shares.max() if shares.max() > 1e-9 else 1  # one weight has more
    lowest = max(shares[shares > 0].min(initial=highest), highest / 1000)
    image = axes.pcolormesh(
        [*(steps[start] for start in starts), steps[-1]],
        np.arange(len(shares) + 1) - 0.5,
        np.maximum(shares, lowest),
        cmap="viridis",
        norm=LogNorm(lowest, max(highest, 1.01 * lowest)),
        rasterized=True,
    )
    axes.grid(False)
    axes.set_xlabel("step")
    bar = axes.figure.colorbar(image, ax=axes, location="top", aspect=30, pad=0.01)
    bar.set_label(f"mask churn per {steps[1]} steps (%)", fontsize=8)
    ticks = np.geomspace(image.norm.vmin, image.norm.vmax, 3)
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8)


def _draw_churn(axes, found: Report) -> None:
    """Of all layers together, at the middle of the steps in which they changed."""
    steps, shares = list(found.churn), [100 * x for x in found.churn.values()]
    middles = (np.array([0, *steps[:-1]]) + steps) / 2
    marker = "o" if len(shares) <= 40 else None
    axes.plot(middles, shares, color=BLUE, marker=marker, markersize=3)
    axes.set_xlim(0, steps[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel(f"mask churn per {steps[0]} steps (%)")
    axes.set_title("all layers", fontsize=9)


def _draw_ages(axes, found: Report) -> None:
    kept = found.ages.sum() + found.unknown
    shares = 100 * found.ages / kept
    edges = (np.arange(len(shares)) + 0.5) * found.k_per
    axes.stairs(shares[1:], edges, color=RED, fill=True, alpha=0.7)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"step of the last resampling (possible every {found.k_per})")
    axes.set_ylabel("kept weights (%)")
    title = f"{shares[0]:.1f} % of the kept weights have their initial value"
    if found.unknown:
        title += f", {100 * found.unknown / kept:.1f} % have unknown values"
    axes.set_title(title, fontsize=9)
