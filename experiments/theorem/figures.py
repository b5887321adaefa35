"""The figures of the page on the theorem, drawn from `theory_measurements`' data."""

from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from experiments.theorem.measurements import DELTA, Data

PAPER: dict[str, Any] = {"color": "tab:red", "ls": "--", "label": "published"}
CORRECTED: dict[str, Any] = {"color": "tab:blue", "ls": "-.", "label": "corrected (A)"}
IMPROVED: dict[str, Any] = {"color": "tab:green", "ls": "-.", "label": "improved (B)"}
EXACT: dict[str, Any] = {"color": "black", "label": "exact, window event (W)"}
SIMULATED: dict[str, Any] = {
    "color": "tab:orange",
    "marker": "o",
    "ms": 5,
    "ls": "none",
    "capsize": 3,
    "label": "simulated, 99 % interval",
}


def failure_against_width(data: Data) -> Figure:
    """Draws the failure of Lemma A.4 against width, one panel per R."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for ax, (R, panel) in zip(axes.flat, data["panels"].items(), strict=True):
        ax.plot(panel["d"], panel["exact"], **EXACT)
        paper = {**PAPER, "label": "published bound", "lw": 2}
        ax.plot(panel["d"], panel["paper"], **paper)
        corrected = {**CORRECTED, "label": "corrected bound (A)", "lw": 2}
        ax.plot(panel["d"], panel["corrected"], **corrected)
        error_bars(ax, panel["simulated_d"], panel["simulated"], panel["interval"])
        ax.axhline(DELTA, color="gray", lw=0.8)
        ax.annotate(
            rf"$\delta$ = {DELTA:g}",
            (0.02, DELTA),
            xycoords=("axes fraction", "data"),
            xytext=(0, -11),
            textcoords="offset points",
            color="gray",
        )
        ax.axvline(panel["paper_d"], color=PAPER["color"], lw=0.8, alpha=0.6)
        ax.axvline(panel["corrected_d"], color=CORRECTED["color"], lw=0.8, alpha=0.6)
        ax.set(
            title=f"R = {R}: width {panel['paper_d']} published, "
            f"{panel['corrected_d']} corrected",
            xlabel="hidden width d",
            ylabel="probability of failure",
            yscale="log",
            ylim=(5e-3, 1.5),
            xlim=(0, 1.6 * panel["corrected_d"]),
        )
    axes[0, 0].legend(loc="lower left", fontsize=9)
    figure.suptitle(f"Lemma A.4, w = 1, $\\varepsilon$ = {data['eps']:g}")
    return figure


def needed_resamplings(data: Data) -> Figure:
    """Draws the R needed for width 2 d against eps (twice) and against delta."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 5.2), layout="constrained")
    one, network, delta = data["one"], data["network"], data["delta"]
    draw_one_weight(axes[0], one["eps"], one)
    samples(axes[0], data["simulated_eps"], one["window_samples"], "(W)", "o")
    samples(axes[0], data["simulated_eps"], one["conclusion_samples"], "(C)", "s")
    axes[0].set(title=f"one weight w = 1, width 2, $\\delta$ = {DELTA:g}")
    for key, style in (("paper", PAPER), ("A", CORRECTED), ("B", IMPROVED)):
        axes[1].plot(network["eps"], network[key], **style)
    samples(axes[1], data["simulated_eps"], network["A_samples"], "(A)", "o")
    samples(axes[1], data["simulated_eps"], network["B_samples"], "(B)", "s")
    axes[1].set(title=f"network 2, 2, 2, widths 4, 4, $\\delta$ = {DELTA:g}")
    for ax in axes[:2]:
        ax.set(xlabel=r"$\varepsilon$", ylabel="R", xscale="log", yscale="log")
    log_inverse = np.log10(1 / delta["delta"])
    draw_one_weight(axes[2], log_inverse, delta)
    axes[2].set(
        title=r"one weight w = 1, width 2, $\varepsilon$ = 0.1",
        xlabel=r"$\log_{10}(1/\delta)$",
        ylabel="R",
        ylim=(0, None),
    )
    for ax in axes:
        ax.legend(fontsize=8)
    return figure


def draw_one_weight(ax: Axes, x: np.ndarray, one: Data) -> None:
    """Draws the published, corrected, exact and necessary R of Lemma A.4."""
    ax.plot(x, one["corrected"], **{**CORRECTED, "label": "corrected (A), simple"})
    ax.plot(x, one["sharp"], **EXACT)
    ax.plot(x, one["paper"], **PAPER)
    ax.plot(x, one["conclusion"], color="purple", label="exact, conclusion (C)")
    ax.plot(x, one["necessary"], color="gray", ls=":", label="necessary for any method")


def regime_map(data: Data) -> Figure:
    """Draws where the published width fails too often, and where (B) rescues it."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 5), layout="constrained")
    norm = Normalize(-1.0, 1.0)
    for ax, (w, fails) in zip(axes[:2], data["fails"].items(), strict=True):
        ratio = np.log10(np.maximum(fails, 1e-12) / DELTA)
        mesh = ax.pcolormesh(
            data["eps"], data["ratios"], ratio, cmap="RdBu_r", norm=norm
        )
        # R_published = (4 / eps) sqrt(log(2 / delta)), so these are where R is 1, p R
        # is 0.664 (rho = 1 for an interior weight), and the published width reaches 2.
        root = np.sqrt(np.log(2 / DELTA))
        lines = {"R = 1": (data["eps"] / 4 / root, ":")}
        lines["width 2 above"] = (np.ones_like(data["eps"]), "--")
        if w < 1:
            level = np.full_like(data["eps"], 0.664 / root)
            lines["p R = 0.664"] = (level, "-")
        for label, (R, ls) in lines.items():
            ax.plot(data["eps"], R, color="white", lw=3)  # visible on any colour
            ax.plot(data["eps"], R, color="black", ls=ls, lw=1.2, label=label)
        _legend_above(ax)
        ax.set_title(f"Lemma A.4, published width, w = {w:g}", pad=28)
        ax.set(
            xlabel=r"$\varepsilon$",
            ylabel=r"$R\,/\,R_{\mathrm{published}}$",
            xscale="log",
            yscale="log",
            ylim=(data["ratios"][0], data["ratios"][-1]),
        )
    figure.colorbar(
        mesh,
        ax=axes[:2],
        extend="both",
        label=rf"$\log_{{10}}$ (exact failure / $\delta$),  $\delta$ = {DELTA:g}",
    )
    ax = axes[2]
    ax.pcolormesh(
        data["widths"],
        data["shares"],
        data["rescued"],
        cmap=ListedColormap(["lightgray", "tab:green"]),
        vmin=0,
        vmax=1,
    )
    for color, label in (("tab:green", "proved by (B)"), ("lightgray", "open")):
        ax.plot([], [], "s", ms=10, color=color, label=label)
    _legend_above(ax)
    ax.set_title(f"Theorem A.1, $\\delta$ = {data['rescue_delta']:g}", pad=28)
    ax.set(
        xlabel="d, for a target with dims d, d, d",
        ylabel=r"$R\,/\,R_{\mathrm{published}}$",
        xscale="log",
        yscale="log",
    )
    return figure


def _legend_above(ax: Axes) -> None:
    """A legend between title and panel, where it covers no data."""
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.6,
        handletextpad=0.4,
        columnspacing=0.9,
    )


def constructed_networks(data: Data) -> Figure:
    """Draws certified errors of constructed networks against R and against width."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    for row, (dims, result) in zip(axes, data["results"].items(), strict=True):
        name = f"dims {', '.join(map(str, dims))}"
        certified(row[0], result["R"], result["against_R"], data["eps"])
        for key, style in (("paper", PAPER), ("A", CORRECTED), ("B", IMPROVED)):
            row[0].axvline(
                result[key],
                color=style["color"],
                ls=style["ls"],
                lw=1,
                label=f"R {style['label']}",
            )
        row[0].set(title=f"{name}, width 2 d", xlabel="R")
        certified(row[1], result["copies"], result["against_width"], data["eps"])
        row[1].set(title=f"{name}, R = {result['R_fixed']}", xlabel="hidden width / d")
        row[1].set_xticks([1, 4, 16, 64], ["2", "8", "32", "128"], minor=False)
        row[1].set_xticks([], minor=True)
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return figure


def certified(ax: Axes, x: np.ndarray, points: list[Data], eps: float) -> None:
    """Draws the band between lower and upper certificate of both choices."""
    for choice, color in (("window", "tab:purple"), ("greedy", "tab:cyan")):
        lower, upper = (
            np.array([point[choice][bound] for point in points])
            for bound in ("lower", "upper")
        )
        ax.fill_between(x, lower, upper, color=color, alpha=0.3, lw=0)
        ax.plot(x, upper, color=color, label=f"{choice}: upper certificate")
        label = f"{choice}: adversarial lower bound"
        ax.plot(x, lower, color=color, ls=":", label=label)
    ax.axhline(eps, color="gray", lw=0.8)
    ax.text(x[-1], eps * 1.06, rf"$\varepsilon$ = {eps:g}", ha="right", color="gray")
    ax.set(xscale="log", yscale="log", ylabel="sup error, median network")


def blind_against_oracle(data: Data) -> Figure:
    """Draws how often blind resampling and the oracle miss eps, against draws."""
    figure, axes = plt.subplots(1, 2, figsize=(14, 6), layout="constrained")
    for ax, w in zip(axes, (0.5, 1.0), strict=True):
        for color, width in (("tab:red", 4), ("tab:orange", 8), ("tab:blue", 16)):
            panel = data["panels"][w, width]
            ax.plot(panel["draws"], panel["blind"], color=color, lw=1)
            ax.plot(panel["draws"], panel["stopped"], color=color, ls="--")
            ax.plot(panel["R"], panel["greedy"], color=color, marker="o", ms=4, lw=0.8)
            ax.plot(panel["R"], panel["window"], color=color, ls=":")
            ax.plot([], [], "s", color=color, label=f"width {width}")
        for label, style in (
            ("blind (IteRand), last mask", {"lw": 1}),
            ("blind, best mask so far", {"ls": "--"}),
            ("oracle R, best value, simulated", {"marker": "o", "ms": 4, "lw": 0.8}),
            ("oracle R, windows (W), exact", {"ls": ":"}),
        ):
            ax.plot([], [], color="black", label=label, **style)
        ax.set(
            title=f"w = {w:g}",
            xlabel="draws per value (blind: mean, oracle: R)",
            ylabel=rf"probability of an error > {data['eps']:g}",
            xscale="log",
            ylim=(-0.02, 1.05),
        )
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=9, loc="outside lower center", ncols=4)
    return figure


def sums_of_neurons(data: Data) -> Figure:
    """Draws failures of one side against R for one, two and three neurons."""
    figure, ax = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    for n, curve in data["curves"].items():
        shares = [failures / trials for failures, trials in curve["counts"]]
        ax.plot(curve["R"], shares, marker="o", ms=4, label=f"d' = {n}")
    ax.axhline(DELTA, color="gray", lw=0.8, label=rf"$\delta$ = {DELTA:g}")
    ax.set(
        title=f"one side, w = 1, $\\varepsilon$ = {data['eps']:g}: sums of d' neurons",
        xlabel="R",
        ylabel="probability of failure",
        xscale="log",
    )
    ax.legend()
    return figure


def error_bars(ax: Axes, x: np.ndarray, y: list, intervals: list) -> None:
    """Draws proportions with their intervals, all of them above the axis."""
    values, bounds = np.array(y), np.array(intervals)
    spread = np.abs(bounds.T - values)
    ax.errorbar(x, values, yerr=spread, **SIMULATED)


def samples(ax: Axes, x: np.ndarray, quantiles: list, event: str, marker: str) -> None:
    """Draws simulated quantiles of the least R with their intervals."""
    middle, low, high = np.array(quantiles).T
    color = {"o": "tab:orange", "s": "tab:brown"}[marker]
    label = f"simulated, {event}"
    style = {**SIMULATED, "marker": marker, "color": color, "label": label}
    ax.errorbar(x, middle, yerr=[middle - low, high - middle], **style)


FIGURES = {
    function.__name__: function
    for function in (
        failure_against_width,
        needed_resamplings,
        regime_map,
        constructed_networks,
        blind_against_oracle,
        sums_of_neurons,
    )
}
