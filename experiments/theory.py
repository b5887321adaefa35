"""Theorem A.1, measured: `python -m experiments.theory [--out=DIR] [--quick]`.

Prints the page, or writes DIR/theory.md and DIR/figures/theory/*.png, in a few minutes
on two cores. The page's prose is `theorem/template.md`; every measured number in it
comes from this run.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template

import jax
import numpy as np
from absl import flags
from matplotlib import pyplot as plt
from tqdm import tqdm

from experiments.theorem import measurements
from experiments.theorem.figures import FIGURES
from experiments.theorem.measurements import (
    DELTA,
    F222,
    FULL,
    QUICK,
    WORST,
    Data,
    Scale,
)
from iterand_jax import theory
from iterand_jax.runtime import cli
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.pictures import save

TEMPLATE = Path(__file__).with_name("theorem") / "template.md"


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("out", None, "the folder to write to; default: only print")
    flags.DEFINE_boolean("quick", False, "tiny, to test the code")


def main() -> None:
    """Runs every measurement, draws the figures and writes the page."""
    scale = QUICK if flags.FLAGS.quick else FULL
    start = time.monotonic()
    data = {name: getattr(measurements, name)(scale) for name in FIGURES}
    page = Template(TEMPLATE.read_text()).substitute(
        **tables(data, scale), provenance=provenance(time.monotonic() - start)
    )
    if not flags.FLAGS.out:
        print(page)
        return
    out = Path(flags.FLAGS.out)
    folder = out / "figures" / "theory"
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw(data[name])
        save(figure, folder / f"{name}.png", dpi=110)
        plt.close(figure)
    write_atomically(out / "theory.md", page)
    print(f"wrote {out / 'theory.md'}")


def tables(data: Data, scale: Scale) -> dict[str, str]:
    """Returns the page's tables in Markdown, by their names in the template."""
    return {
        "delta": f"{DELTA:g}",
        "counterexamples": counterexamples(scale),
        "widths": widths(data["failure_against_width"]),
        "resamplings": resamplings(),
        "slopes": slopes(data["needed_resamplings"]),
        "networks": networks(data["constructed_networks"]),
        "networks_per_point": str(scale.networks),
        "quantile_trials": str(data["needed_resamplings"]["trials"]),
        "blind": blind(data["blind_against_oracle"]),
        "blind_trials": str(data["blind_against_oracle"]["trials"]),
        "sums": sums(data["sums_of_neurons"]),
        "coverage": coverage(data["sums_of_neurons"]),
        "comparison": comparison(),
    }


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def estimate(count: tuple[int, int]) -> str:
    """Returns a simulated proportion with its 99 % interval and number of trials."""
    low, high = theory.wilson(*count)
    return f"{count[0] / count[1]:.5g} [{low:.5g}, {high:.5g}] ({count[1]:,} trials)"


def counterexamples(scale: Scale) -> str:
    """Returns the published bounds that fail: exact, simulated and claimed."""
    few, many = 2 * scale.trials, 500 * scale.trials
    windows = [
        ("A.4", WORST, 0.1, 70, 2),
        ("A.4, mild", WORST, 0.2, 2, 600),
        ("A.5, w = (1, 1, 1, 1)", np.ones((4, 1)), 0.2, 40, 10),
        ("A.6, W = 1 (3 x 2)", np.ones((3, 2)), 0.5, 60, 8),
    ]
    rows: list[list[object]] = []
    for name, W, eps, R, d in tqdm(windows, desc="counterexamples"):
        n = d // (2 * np.shape(W)[1])
        exact = theory.layer_window_fail(W, eps, R, n)
        count = theory.mc_window_layer(W, eps, R, n, trials=few, seed=0)
        setting = f"eps = {eps:g}, R = {R}, width {d}"
        rows.append([name, setting, "(W)", f"{exact:.6f}", estimate(count), DELTA])
    exact = theory.thm_window_fail(F222, 0.5, 204, [1, 1])
    count = theory.mc_window_thm(F222, 0.5, 204, [1, 1], trials=few, seed=0)
    setting = "dims 2, 2, 2, eps = 0.5, R = 204, widths 4, 4"
    rows.append(["Theorem", setting, "(W)", f"{exact:.6f}", estimate(count), DELTA])
    exact = theory.conclusion_fail_d2(0.1, 111)[2]
    count = theory.mc_conclusion_ones_d2_fast(0.1, 111, trials=many, seed=0)
    setting = "w = 1, eps = 0.1, R = 111, width 2"
    rows.append(["A.4", setting, "**(C)**", f"{exact:.6f}", estimate(count), 0.001])
    count = theory.mc_conclusion_ones_d2_fast(0.02, 921, outputs=2, trials=many, seed=0)
    setting = "w = (1, 1), eps = 0.02, R = 921, width 2"
    rows.append(["A.5", setting, "**(C)**", "", estimate(count), 0.0001])
    exact = theory.conclusion_fail_d2(0.01, 5733)[2]
    setting = "l = 1, F = [[1]], eps = 0.01, R = 5733, width 2"
    rows.append(["Theorem", setting, "**(C)**", f"{exact:.4g}", "", "1e-22"])
    header = ["statement", "setting", "event", "exact failure", "simulated", "delta"]
    return markdown(header, rows)


def widths(data: Data) -> str:
    """Returns published and corrected widths with their exact failures."""
    rows = [
        [
            R,
            panel["paper_d"],
            f"{panel['paper_fail']:.4f}",
            panel["corrected_d"],
            f"{panel['corrected_fail']:.4f}",
        ]
        for R, panel in data["panels"].items()
    ]
    header = ["R", "published width", "fails", "corrected width", "fails"]
    return markdown(header, rows)


def resamplings() -> str:
    """Returns the R for width 2 d of the three theorems at eps = delta = 0.1."""
    rows = []
    for dims in ((2, 2, 2), (16, 16, 16, 16), (784, 300, 10)):
        values = [
            bound(dims, 0.1, 0.1)
            for bound in (
                theory.paper_R_thm,
                theory.corrected_R_thm,
                theory.improved_R_thm,
            )
        ]
        rows.append([", ".join(map(str, dims)), *(f"{value:,.0f}" for value in values)])
    return markdown(["dims", "published", "corrected (A)", "improved (B)"], rows)


def slopes(data: Data) -> str:
    """Returns eps R at both ends of the simulated range: constant if R ~ 1 / eps."""
    one, network, eps = data["one"], data["network"], data["simulated_eps"]
    rows = []
    for name, found in (
        ("one weight, (W), simulated", one["window_samples"]),
        ("one weight, (C), simulated", one["conclusion_samples"]),
        ("network, windows of (A), simulated", network["A_samples"]),
        ("network, windows of (B), simulated", network["B_samples"]),
    ):
        rows.append(
            [name, *(f"{e * q[0]:.1f}" for e, q in zip(eps, found, strict=True))]
        )
    return markdown(["eps R at eps =", *(f"{e:.3g}" for e in eps)], rows)


def networks(data: Data) -> str:
    """Returns networks' results at the first R, the first beyond (B)'s, the last."""
    rows = []
    for dims, result in data["results"].items():
        R = result["R"]
        beyond = int(np.argmax(result["B"] <= R))
        for index in (0, beyond, len(R) - 1):
            for choice, found in result["against_R"][index].items():
                missed, broken = f"{found['failed']:.2f}", found["broken"]
                bounds = f"{found['lower']:.3g}", f"{found['upper']:.3g}"
                name = ", ".join(map(str, dims))
                rows.append([name, R[index], choice, missed, *bounds, broken])
    header = ["dims", "R", "choice", "missed", "lower", "upper", "success but > eps"]
    return markdown(header, rows)


def blind(data: Data) -> str:
    """Returns blind resampling at the end of the run beside the oracle's R."""
    rows = []
    for (w, width), panel in data["panels"].items():
        enough = [
            R
            for R, failure in zip(panel["R"], panel["greedy"], strict=True)
            if failure <= panel["blind"][-1]
        ]
        rows.append(
            [
                w,
                width,
                f"{panel['blind'][0]:.2f}",
                f"{panel['draws'][-1]:.1f}",
                estimate(panel["count"]),
                f"{panel['stopped'][-1]:.2f}",
                f"{panel['start']:.3f} to {panel['median']:.3f}",
                enough[0] if enough else "more",
            ]
        )
    header = [
        "w",
        "width",
        "missed, no re-draw",
        "draws per value",
        "missed, blind",
        "best mask so far",
        "median error",
        "oracle R that misses no more",
    ]
    return markdown(header, rows)


def sums(data: Data) -> str:
    """Returns the least simulated R per number of neurons on a side."""
    rows = [[n, curve["least"] or "more"] for n, curve in data["curves"].items()]
    return markdown(["d'", f"least simulated R with failure <= {DELTA:g}"], rows)


def coverage(data: Data) -> str:
    """Returns how often subset sums without re-sampling cover [-1, 1]."""
    rows = [
        [n, eps, estimate((trials - failures, trials))]
        for (n, eps), (failures, trials) in data["coverage"].items()
    ]
    return markdown(["products n", "eps", "all of [-1, 1] covered"], rows)


def comparison() -> str:
    """Returns the hidden widths of the compared theorems for a small setting."""
    rows = theory.compare_bounds((16, 16, 16), 0.1, 0.1, 5000, C=1.0)
    return markdown(
        ["theorem", "hidden widths", "remark"],
        [[row.name, row.widths or "-", row.note] for row in rows],
    )


def provenance(seconds: float) -> str:
    """Returns the duration of the run, the platform and the versions."""
    device = jax.devices()[0].platform
    return (
        f"{seconds:.0f} s on {os.cpu_count()} cores, "
        f"JAX {jax.__version__} on {device}, "
        f"NumPy {np.__version__}; all seeds are fixed in the code"
    )


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again")


if __name__ == "__main__":
    run()
