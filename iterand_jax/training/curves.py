"""curves.png: the training curves of a run, from its metrics.jsonl."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.runtime.pictures import new_figure, save, set_title
from iterand_jax.training import pruning
from iterand_jax.training.logs import read_lines

MOST = 2**63  # of an integer that is drawn
LARGEST = 1e39  # of a float, which no float32 is; scales of larger ones overflow
TRAIN, VALIDATION, TEST = "#4c78a8", "#e45756", "#333333"


def draw(workdir: Path, result: dict[str, Any], *, k_per: int | None) -> Path:
    """Plots loss, accuracy, mask churn, learning rate and re-randomization steps.

    A training mean (over the steps between two log records, or of an epoch) is plotted
    at the middle of its steps, and so is mask churn, the fraction of mask entries that
    changed between two log records. Validation results are plotted at the step at which
    they were computed, the end of an epoch. The learning rate changes only between
    epochs, so it is plotted as a step function.

    Args:
      workdir: holds metrics.jsonl; curves.png is written there.
      result: of the run, for the title and the test accuracy.
      k_per: the randomization period in steps, None for methods without one.
    """
    records = read_lines(workdir / "metrics.jsonl")
    steps, epochs = (_drawn(records, kind) for kind in ("step", "epoch"))
    churn = [100 * record["mask_churn"] for record in steps if "mask_churn" in record]
    heights = [3, 3, 1.4, 1.4] if churn else [3, 3, 1.4]
    figure = new_figure(8, 9.2 if churn else 8)
    panels = figure.subplots(
        len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}
    )
    loss, accuracy, rate = panels[0], panels[1], panels[-1]
    _draw_means(loss, "loss", steps, epochs)
    _draw_means(accuracy, "accuracy", steps, epochs)
    loss.set_ylabel("loss")
    accuracy.set_ylabel("accuracy (%)")
    accuracy.axhline(
        result["test_accuracy"],
        color=TEST,
        ls="--",
        lw=1,
        label=f"test: {result['test_accuracy']:.2f} %",
    )
    _legend_above(loss, *accuracy.get_legend_handles_labels())
    if churn:
        panels[2].plot(_middles(steps)[-len(churn) :], churn, color=TRAIN, lw=0.8)
        panels[2].set_ylabel(f"mask churn (%)\nper {steps[0]['step']} steps")
        panels[2].set_ylim(bottom=0)
    rates = [record["learning_rate"] for record in epochs]
    rate.stairs(rates, _edges(epochs), baseline=None, color=TRAIN, lw=1.5)
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate")
    rate.set_xlabel(f"step ({result['steps'] // result['epochs']} per epoch)")
    if k_per:
        _mark_refreshes(rate, np.arange(k_per, result["steps"] + 1, k_per))
    set_title(figure, _title(result))
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path = workdir / "curves.png"
    save(figure, path, dpi=120)
    return path


_MEANS = ("train_loss", "train_accuracy")
_FIELDS = {
    "step": _MEANS,
    "epoch": (*_MEANS, "validation_loss", "validation_accuracy", "learning_rate"),
}


def _drawn(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The records of a kind that have what is drawn of it, by ascending steps."""
    found: list[dict[str, Any]] = []
    for record in records:
        churn = [record["mask_churn"]] if "mask_churn" in record else []
        values = [*(record.get(field) for field in _FIELDS[kind]), *churn]
        numbers = all(isinstance(value, int | float) for value in values)
        # Larger integers are no floats.
        usual = numbers and all(
            abs(v) < MOST if isinstance(v, int) else not LARGEST < abs(v) < math.inf
            for v in values
        )
        last = found[-1]["step"] if found else 0
        if record.get("kind") == kind and usual and MOST > record["step"] > last:
            found.append(record)
    return found


def _draw_means(
    axes, name: str, steps: list[dict[str, Any]], epochs: list[dict[str, Any]]
) -> None:
    style = {"marker": "o" if len(epochs) <= 40 else None, "markersize": 3}
    if steps:
        axes.plot(
            _middles(steps),
            [record[f"train_{name}"] for record in steps],
            color=TRAIN,
            lw=0.8,
            alpha=0.45,
            label=f"train, mean over {steps[0]['step']} steps",
        )
    axes.plot(
        _middles(epochs),
        [record[f"train_{name}"] for record in epochs],
        color=TRAIN,
        label="train, mean over an epoch",
        **style,
    )
    axes.plot(
        _edges(epochs)[1:],
        [record[f"validation_{name}"] for record in epochs],
        color=VALIDATION,
        label="validation",
        **style,
    )


def _edges(records: list[dict[str, Any]]) -> list[int]:
    """The boundaries of the step ranges that the records of one kind cover, from 0."""
    return [0, *(record["step"] for record in records)]


def _middles(records: list[dict[str, Any]]) -> np.ndarray:
    """The middle of the step range that each record of one kind covers."""
    edges = np.array(_edges(records))
    return (edges[:-1] + edges[1:]) / 2


def _mark_refreshes(axes, moments: np.ndarray) -> None:
    axes.plot(
        moments,
        np.full(len(moments), 0.06),
        "|",
        color=VALIDATION,
        markersize=9,
        transform=axes.get_xaxis_transform(),
        label=f"re-randomization ({len(moments)})",
    )
    _legend_above(axes, *axes.get_legend_handles_labels())


def _legend_above(axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A one-row legend above the panel, where it does not cover the curves."""
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        borderpad=0,
        columnspacing=1.5,
        handletextpad=0.5,
    )


def _title(result: dict[str, Any]) -> str:
    dataset = result["dataset"]
    if not result["dataset_official"]:
        dataset += " (not the official data)"
    parts = [
        f"{result['network']} (width {result['width']:g}) on {dataset}",
        result["method"],
        result["distribution"],
        f"seed {result['seed']}",
    ]
    if result["sparsity"] is not None:
        sparsity = pruning.sparsity_text(result["sparsity"], result.get("pattern"))
        parts.insert(-1, sparsity)
    return ", ".join(parts)
