"""curves.png: what happened in a run, from its metrics.jsonl."""

from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.training.logs import read_lines

TRAIN, VALIDATION, TEST, QUIET = "#4c78a8", "#e45756", "#333333", "#999999"


def draw(workdir: Path, result: dict[str, Any], *, k_per: int | None) -> Path:
    """Draws loss, accuracy, learning rate and the moments of re-randomization.

    Args:
      workdir: holds metrics.jsonl; curves.png is written there.
      result: of the run, for the title and the test accuracy.
      k_per: the randomization period in steps, None for methods without one.
    """
    # Imported here and drawn without pyplot: no display and no global state is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_lines(workdir / "metrics.jsonl")
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [3, 3, 1.4]}
    )
    steps = _column(lines, "step", "step")
    for axes, name in ((loss, "train_loss"), (accuracy, "train_accuracy")):
        values = _column(lines, "step", name)
        label = "train, between log steps"
        axes.plot(steps, values, color=TRAIN, lw=0.8, alpha=0.45, label=label)
    ends = _column(lines, "epoch", "step")
    for axes, name, label in (
        (loss, "loss", "loss"),
        (accuracy, "accuracy", "accuracy"),
    ):
        marker = "o" if len(ends) <= 40 else None
        for part, color in (("train", TRAIN), ("validation", VALIDATION)):
            axes.plot(
                ends,
                _column(lines, "epoch", f"{part}_{name}"),
                color=color,
                marker=marker,
                markersize=3,
                label=part,
            )
        axes.set_ylabel(f"{label} (%)" if name == "accuracy" else label)
    accuracy.axhline(
        result["test_accuracy"],
        color=TEST,
        ls="--",
        lw=1,
        label=f"test {result['test_accuracy']:.2f} % (end)",
    )
    accuracy.legend(loc="lower right")
    loss.legend(loc="upper right")
    rate.step(steps, _column(lines, "step", "learning_rate"), color=TRAIN)
    rate.set_ylabel("learning rate")
    rate.set_xlabel(f"step ({result['steps'] // result['epochs']} per epoch)")
    if k_per:
        _mark_refreshes(rate, np.arange(k_per, result["steps"] + 1, k_per))
    loss.set_title(_title(result))
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _column(lines: list[dict[str, Any]], kind: str, name: str) -> list[float]:
    return [line[name] for line in lines if line["kind"] == kind]


def _mark_refreshes(axes, moments: np.ndarray) -> None:
    axes.plot(
        moments,
        np.full(len(moments), 0.04),
        "|",
        color=VALIDATION,
        markersize=9,
        transform=axes.get_xaxis_transform(),
        label=f"re-randomization ({len(moments)})",
    )
    axes.legend(loc="upper right")


def _title(result: dict[str, Any]) -> str:
    kept = result["parameters_kept"] / result["parameters"]
    dataset = result["dataset"]
    if not result["dataset_official"]:
        dataset += " (not its official pixels)"
    return (
        f"{result['network']} (width {result['width']:g}) on {dataset}: "
        f"{result['method']}, {result['distribution']},\n"
        f"{result['parameters_kept']:,} of {result['parameters']:,} weights "
        f"({kept:.0%}), seed {result['seed']}"
    )
