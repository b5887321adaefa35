"""Mask churn and resampling over the epochs of finished runs.

    python -m experiments.measurements.long_runs                 the page's tables
    python -m experiments.measurements.long_runs --workdirs=DIR  reads the runs again

The logs of such runs are large and stay where they were trained; the record has what
the table and the figure of docs/measured/numbers.md need. Rows are means over seeds.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.measurements import records
from iterand_jax.runtime import cli
from iterand_jax.runtime.pictures import new_figure, save
from iterand_jax.training.logs import read_lines

RECORD = Path("results/long_runs.json")

FIELDS = (
    *("network", "width", "method", "distribution", "sparsity", "seed", "epochs"),
    *("steps", "parameters", "redrawn", "dtype", "device", "state_sha256", "commit"),
)
"""The fields of a run's result that are recorded."""

EPOCHS = (1, 5, 10, 20, 30, 50, 70, 90, 100)
"""The epochs whose churn is a column of the table."""

SHORT = {"signed_constant": "SC", "kaiming_uniform": "KU"}

Runs = Sequence[Mapping[str, Any]]


def extract(workdir: Path) -> dict[str, Any] | None:
    """What is recorded of a finished run, None of a method without masks.

    Churn is the share of the mask, in %, that differs between two log steps: `churn`
    has its mean in each epoch, `changes` its sum over the run, so changes per weight
    (a weight that changes and returns in between is not seen), `layers` the same for
    each layer.
    """
    result = json.loads((workdir / "result.json").read_text())
    config = json.loads((workdir / "config.json").read_text())
    lines = read_lines(workdir / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "step" and "mask_churn" in line]
    if not steps:
        return None
    by_epoch: list[list[float]] = [[] for _ in range(result["epochs"])]
    per_epoch = result["steps"] // result["epochs"]
    for line in steps:
        by_epoch[(line["step"] - 1) // per_epoch].append(100 * line["mask_churn"])
    layers = zip(*(line["layer_churn"] for line in steps), strict=True)
    return {
        **{name: result[name] for name in FIELDS},
        "k_per": config["k_per"],
        "sampling_rate": config["sampling_rate"],
        "log_every_steps": config["log_every_steps"],
        "jax": result["versions"]["jax"],
        "changes": round(sum(line["mask_churn"] for line in steps), 3),
        "layers": [round(sum(of_layer), 2) for of_layer in layers],
        "churn": [round(statistics.mean(values), 4) for values in by_epoch],
    }


def expected_redraws(run: Mapping[str, Any]) -> float:
    """Resamplings per weight if every refresh takes its share of the pruned weights.

    >>> run = {"steps": 35_100, "k_per": 300, "sampling_rate": 0.1, "sparsity": 0.5}
    >>> round(expected_redraws(run), 4)
    5.85
    """
    if not run["k_per"]:
        return 0.0
    refreshes = run["steps"] // run["k_per"]
    return refreshes * run["sampling_rate"] * run["sparsity"]


def grouped(runs: Runs) -> dict[str, Runs]:
    """Runs that differ in the seed alone, by a label such as "conv6 iterand SC"."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        short = SHORT.get(run["distribution"], run["distribution"])
        label = f"{run['network']} {run['method']} {short}"
        groups.setdefault(label, []).append(run)
    return {label: groups[label] for label in sorted(groups)}


def rows(runs: Runs) -> list[str]:
    """The rows of the page's table: churn by epoch, changes and resamplings."""
    lines = []
    for label, of_label in grouped(runs).items():
        at = [statistics.mean(r["churn"][e - 1] for r in of_label) for e in EPOCHS]
        changes = statistics.mean(run["changes"] for run in of_label)
        drawn = [run["redrawn"] / run["parameters"] for run in of_label]
        expected = expected_redraws(of_label[0])
        redrawn = f"{statistics.mean(drawn):.3f}, {expected:.3f}" if expected else ""
        cells = [label, str(len(of_label)), *(f"{churn:.2f}" for churn in at)]
        lines.append(f"| {' | '.join([*cells, f'{changes:.1f}', redrawn])} |")
    return lines


def draw(runs: Runs, path: Path) -> None:
    """Draws the churn of each group against the epochs."""
    figure = new_figure(7, 3.2)
    axes = figure.subplots()
    for label, of_label in grouped(runs).items():
        means = [
            statistics.mean(v)
            for v in zip(*(r["churn"] for r in of_label), strict=True)
        ]
        dashed = "--" if "edge_popup" in label else "-"
        axes.plot(range(1, len(means) + 1), means, ls=dashed, lw=1.2, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"mask churn (%)\nper {runs[0]['log_every_steps']} steps")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path, dpi=110)


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("workdirs", None, "a folder with finished runs, at any depth")
    cli.define_path(
        *("record", str(RECORD)),
        "the extract of their logs: written with --workdirs, else read",
    )
    cli.define_path("figure", None, "draw the churn against the epochs")


def main() -> None:
    """Reads or writes the record, and prints the table."""
    values = flags.FLAGS
    if values.workdirs:
        found = sorted(Path(values.workdirs).glob("**/metrics.jsonl"))
        extracts = [extract(path.parent) for path in found]
        runs = [run for run in extracts if run]
        runs.sort(key=lambda run: [str(run[name]) for name in FIELDS[:6]])
        records.write(values.record, {"runs": runs})
    runs = json.loads(Path(values.record).read_text())["runs"]
    if values.figure:
        draw(runs, Path(values.figure))
    print("\n".join(rows(runs)))


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again")


if __name__ == "__main__":
    run()
