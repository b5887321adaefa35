"""curves.png: what happened in a run, from its metrics.jsonl."""

from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.training.logs import read_lines

TRAIN, VALIDATION, TEST, QUIET = "#4c78a8", "#e45756", "#333333", "#999999"


def draw(workdir: Path, result: dict[str, Any], *, k_per: int | None) -> Path:
    """Draws loss, accuracy, mask churn, learning rate and moments of re-randomization.

    Mask churn, the share of the masks that changed since the log step before, is drawn
    for methods that prune.

    Args:
      workdir: holds metrics.jsonl; curves.png is written there.
      result: of the run, for the title and the test accuracy.
      k_per: the randomization period in steps, None for methods without one.
    """
    # Imported here and drawn without pyplot: no display and no global state is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_lines(workdir / "metrics.jsonl")
    changed = [line for line in lines if "mask_churn" in line]
    churn = [100 * line["mask_churn"] for line in changed]
    heights = [3, 3, 1.4, 1.4] if churn else [3, 3, 1.4]
    figure = Figure(figsize=(8, 9.2 if churn else 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}
    )
    loss, accuracy, rate = panels[0], panels[1], panels[-1]
    steps = _column(lines, "step", "step")
    for axes, name in ((loss, "train_loss"), (accuracy, "train_accuracy")):
        values = _column(lines, "step", name)
        label = "train, between log steps"
        axes.plot(steps, values, color=TRAIN, lw=0.8, alpha=0.45, label=label)
    ends = _column(lines, "epoch", "step")
    style = {"marker": "o" if len(ends) <= 40 else None, "markersize": 3}
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for part, color in (("train", TRAIN), ("validation", VALIDATION)):
            values = _column(lines, "epoch", f"{part}_{name}")
            axes.plot(ends, values, color=color, label=part, **style)
        axes.set_ylabel("accuracy (%)" if name == "accuracy" else "loss")
    accuracy.axhline(
        result["test_accuracy"],
        color=TEST,
        ls="--",
        lw=1,
        label=f"test {result['test_accuracy']:.2f} % (end)",
    )
    accuracy.legend(loc="lower right")
    loss.legend(loc="upper right")
    if churn:
        panels[2].plot([x["step"] for x in changed], churn, color=TRAIN, lw=0.8)
        panels[2].set_ylabel(f"mask churn (%)\nper {steps[0]} steps")
    rate.step(steps, _column(lines, "step", "learning_rate"), color=TRAIN)
    rate.set_ylabel("learning rate")
    rate.set_xlabel(f"step ({result['steps'] // result['epochs']} per epoch)")
    if k_per:
        _mark_refreshes(rate, np.arange(k_per, result["steps"] + 1, k_per))
    loss.set_title(_title(result))
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _column(lines: list[dict[str, Any]], kind: str, name: str) -> list[float]:
    return [line[name] for line in lines if line["kind"] == kind and name in line]


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
