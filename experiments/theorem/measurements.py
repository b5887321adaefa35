"""The measurements of the page on the theorem: plain data, a function per figure."""

import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from iterand_jax import theory

DELTA = 0.1
F222 = [np.array([[0.6, -0.3], [0.2, 0.5]]), np.array([[0.4, 0.7], [-0.3, 0.2]])]
WORST = [[1.0]]

Data = dict[str, Any]


class Scale(NamedTuple):
    """How much to measure: points on an axis, trials, networks, refreshes."""

    points: int
    trials: int
    networks: int
    refreshes: int


FULL = Scale(points=9, trials=20_000, networks=15, refreshes=1000)
QUICK = Scale(points=2, trials=200, networks=2, refreshes=5)


def bar(items: Iterable, text: str) -> Iterable:
    """Returns `items` under a progress bar."""
    return tqdm(list(items), desc=text)


def failure_against_width(scale: Scale, eps: float = 0.2) -> Data:
    """Returns exact, simulated and bounded failures of Lemma A.4 (w = 1) per R."""
    panels = {}
    for R in bar((1, 2, 4, 8), "1 failure against width"):
        stated = theory.paper_width_A4(eps, DELTA, R) // 2
        needed = theory.corrected_width_A6(eps, DELTA, R) // 2
        d_prime = np.unique(np.geomspace(1, 1.8 * needed, 80).astype(int))
        p, h = eps / 4, theory.hit(eps / 4, R)
        simulated_at = np.unique(
            np.linspace(0.1 * needed, 1.4 * needed, min(6, scale.points)).astype(int)
        )
        counts = [
            theory.mc_window_layer(WORST, eps, R, int(n), trials=trials, seed=R)
            for n in simulated_at
            if (trials := max(200, min(scale.trials, 10**7 // int(4 * n * R))))
        ]
        panels[R] = {
            "d": 2 * d_prime,
            "exact": [theory.layer_window_fail(WORST, eps, R, int(n)) for n in d_prime],
            "paper": np.minimum(1, 2 * (1 - p**2) ** (R**2 * d_prime)),
            "corrected": np.minimum(1, 2 * (1 - h**2) ** d_prime),
            "simulated_d": 2 * simulated_at,
            "simulated": [failures / trials for failures, trials in counts],
            "interval": [theory.wilson(*count) for count in counts],
            "paper_d": 2 * stated,
            "paper_fail": theory.layer_window_fail(WORST, eps, R, stated),
            "corrected_d": 2 * needed,
            "corrected_fail": theory.layer_window_fail(WORST, eps, R, needed),
        }
    return {"eps": eps, "panels": panels}


def needed_resamplings(scale: Scale) -> Data:
    """The R for width 2 d against eps and delta: bounds, exact and simulated."""
    eps = np.geomspace(0.01, 0.5, 2 * scale.points)
    simulated_eps = np.geomspace(0.01, 0.5, max(3, scale.points // 2))
    networks = min(40 * scale.networks, 400)
    one = {"eps": eps, **one_weight(eps, [DELTA] * len(eps))}
    one["window_samples"] = [
        quantile(partial(one_weight_hits, e), networks)
        for e in bar(simulated_eps, "2 one weight, (W)")
    ]
    one["conclusion_samples"] = [
        quantile(partial(one_weight_conclusion, e), networks)
        for e in bar(simulated_eps, "2 one weight, (C)")
    ]
    dims = (2, 2, 2)
    network = {
        "eps": eps,
        "paper": [theory.paper_R_thm(dims, e, DELTA) for e in eps],
        "A": [theory.corrected_R_thm(dims, e, DELTA) for e in eps],
        "B": [theory.improved_R_thm(dims, e, DELTA) for e in eps],
    }
    for name, analysis in (("A", "paper"), ("B", "improved")):
        network[f"{name}_samples"] = [
            quantile(partial(network_hits, e, analysis=analysis), networks)
            for e in bar(simulated_eps, f"2 network, ({name})")
        ]
    deltas = np.geomspace(1e-12, 0.5, 2 * scale.points)
    against_delta = {"delta": deltas, **one_weight([0.1] * len(deltas), deltas)}
    return {
        "trials": networks,
        "simulated_eps": simulated_eps,
        "one": one,
        "network": network,
        "delta": against_delta,
    }


def one_weight(eps: Iterable[float], delta: Iterable[float]) -> Data:
    """Returns every R of Lemma A.4 with w = 1, d = 2, at pairs of eps and delta."""
    pairs = list(zip(eps, delta, strict=True))
    return {
        "paper": [theory.paper_R_A4(e, d) for e, d in pairs],
        "corrected": [theory.corrected_R_A6(e, d) for e, d in pairs],
        "sharp": [theory.sharp_R(e / 4, 4, d) for e, d in pairs],
        "conclusion": [least_R_conclusion(e, d) for e, d in pairs],
        "necessary": [math.log(1 / d) / (-2 * math.log1p(-e / 2)) for e, d in pairs],
    }


def least_R_conclusion(eps: float, delta: float) -> int:
    """The least R at which the conclusion fails at most delta (w = 1, d = 2)."""
    high = 1
    while theory.conclusion_fail_d2(eps, high)[2] > delta:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if theory.conclusion_fail_d2(eps, middle)[2] > delta:
            low = middle
        else:
            high = middle
    return high


def one_weight_hits(eps: float, seed: int) -> float:
    """How many draws one random layer of width 2 took to hit all its windows."""
    R = 4 * math.ceil(theory.corrected_R_A6(eps, DELTA))
    layer = theory.construct_layer(WORST, eps, R, 2, seed=seed)
    used = max(layer.hidden_draws.max(), layer.output_draws.max())
    return float(used) if layer.ok.all() else math.inf


def network_hits(eps: float, seed: int, *, analysis: str) -> float:
    """Returns how many draws a random network of width 2 d took to hit all windows."""
    bound = theory.corrected_R_thm((2, 2, 2), eps, DELTA)
    result = theory.construct(
        F222,
        eps,
        DELTA,
        4 * math.ceil(bound),
        seed=seed,
        analysis=analysis,
        widths=[4, 4],
    )
    used = max(draws.max() for draws in result.n_used)
    return float(used) if result.success else math.inf


def one_weight_conclusion(eps: float, seed: int) -> float:
    """Returns after how many draws two neurons can first represent w = 1 within eps."""
    R = 4 * math.ceil(theory.corrected_R_A6(eps, DELTA))
    u, v = np.random.default_rng([seed, 1]).uniform(-1, 1, (2, 2, R))
    above, below = (
        np.maximum(np.maximum.accumulate(side * u, axis=1), 0)
        * np.maximum.accumulate(side * v, axis=1)
        >= 1 - eps
        for side in (1, -1)
    )
    success = (above[0] & below[1]) | (below[0] & above[1])
    return float(1 + np.argmax(success)) if success.any() else math.inf


def quantile(sample: Callable[[int], float], trials: int) -> tuple:
    """Returns the 1 - delta quantile of samples with its 99 % interval, by rank."""
    ordered = np.sort([sample(seed) for seed in range(trials)])
    spread = 2.576 * math.sqrt(DELTA * (1 - DELTA) / trials)
    shares = (1 - DELTA, 1 - DELTA - spread, 1 - DELTA + spread)
    ranks = [min(trials - 1, max(0, math.ceil(s * trials) - 1)) for s in shares]
    return tuple(float(ordered[rank]) for rank in ranks)


def regime_map(scale: Scale) -> Data:
    """Where Lemma A.4 at its published width fails, and the theorem's rescue."""
    eps = np.geomspace(0.01, 0.9, 6 * scale.points)
    ratios = np.geomspace(0.01, 6.0, 6 * scale.points)
    fails = {}
    for w in bar((1.0, 0.5), "3 regime map"):
        grid = np.zeros((len(ratios), len(eps)))
        for row, ratio in enumerate(ratios):
            for column, e in enumerate(eps):
                R = max(1, math.ceil(ratio * theory.paper_R_A4(e, DELTA)))
                n = theory.paper_width_A4(e, DELTA, R) // 2
                grid[row, column] = theory.layer_window_fail([[w]], e, R, n)
        fails[w] = grid
    widths = np.unique(np.geomspace(1, 32, 4 * scale.points).astype(int))
    shares = np.geomspace(1e-2, 1.0, 6 * scale.points)
    rescue_delta = 1e-6
    rescued = np.zeros((len(shares), len(widths)), bool)
    for row, share in enumerate(shares):
        for column, d in enumerate(widths):
            dims = [int(d)] * 3
            R = max(1, math.ceil(share * theory.paper_R_thm(dims, 0.1, rescue_delta)))
            rescued[row, column] = theory.theorem_rescued(dims, 0.1, rescue_delta, R)
    return {
        "eps": eps,
        "ratios": ratios,
        "fails": fails,
        "widths": widths,
        "shares": shares,
        "rescued": rescued,
        "rescue_delta": rescue_delta,
    }


def constructed_networks(scale: Scale, eps: float = 0.5) -> Data:
    """Returns the certified errors of constructed networks against R and width."""
    rng = np.random.default_rng(0)
    results = {}
    for dims in ((3, 4, 2), (3, 4, 4, 2)):
        F = [rng.standard_normal((b, a)) for a, b in itertools.pairwise(dims)]
        F = [matrix / np.linalg.norm(matrix) for matrix in F]
        R_values = np.unique(np.geomspace(1, 10_000, scale.points).astype(int))
        copies = np.unique(np.geomspace(1, 64, scale.points).astype(int))
        R_fixed = 100
        text = f"4 networks of {len(F)} layers"
        results[dims] = {
            "R": R_values,
            "copies": copies,
            "R_fixed": R_fixed,
            "paper": theory.paper_R_thm(dims, eps, DELTA),
            "A": theory.corrected_R_thm(dims, eps, DELTA),
            "B": theory.improved_R_thm(dims, eps, DELTA),
            "against_R": [
                errors(F, eps, int(R), 1, scale) for R in bar(R_values, text)
            ],
            "against_width": [
                errors(F, eps, R_fixed, int(n), scale) for n in bar(copies, text)
            ],
        }
    return {"eps": eps, "results": results}


def errors(F: list[np.ndarray], eps: float, R: int, copies: int, scale: Scale) -> Data:
    """Returns median certified bounds and the share of failures, per choice."""
    widths = [2 * copies * matrix.shape[1] for matrix in F]
    found = {}
    for choice in ("window", "greedy"):
        networks = [
            theory.construct(
                F,
                eps,
                DELTA,
                R,
                seed=seed,
                widths=widths,
                choice=choice,
                analysis="improved",
            )
            for seed in range(scale.networks)
        ]
        certificates = [network.certificate for network in networks]
        found[choice] = {
            "lower": float(np.median([c.lower for c in certificates])),
            "upper": float(np.median([c.upper for c in certificates])),
            "worst": max(c.upper for c in certificates),
            "failed": float(np.mean([not network.success for network in networks])),
            "broken": sum(
                network.success and c.upper > eps
                for network, c in zip(networks, certificates, strict=True)
            ),
        }
    return found


def blind_against_oracle(scale: Scale, eps: float = 0.1) -> Data:
    """How often blind resampling and the oracle miss eps, by the number of draws."""
    trials = max(20, scale.trials // 50)
    R_values = np.unique(np.geomspace(1, 200, 2 * scale.points).astype(int))
    panels: dict[tuple[float, int], Data] = {}
    cells = [(w, width) for w in (0.5, 1.0) for width in (4, 8, 16)]
    for w, width in bar(cells, "5 blind and oracle"):
        run = theory.blind_redraws(
            w,
            width,
            rate=0.1,
            k_per=50,
            refreshes=scale.refreshes,
            trials=trials,
            seed=0,
        )
        missed = run.errors > eps
        best = np.minimum.accumulate(run.errors, axis=1)
        panels[w, width] = {
            "draws": run.draws.mean(axis=0),
            "blind": missed.mean(axis=0),
            "count": (int(missed[:, -1].sum()), trials),
            "median": float(np.median(run.errors[:, -1])),
            "start": float(np.median(run.errors[:, 0])),
            "stopped": (best > eps).mean(axis=0),
            "R": R_values,
            "window": [
                theory.layer_window_fail([[w]], eps, int(R), width // 2)
                for R in R_values
            ],
            "greedy": [oracle_failure(w, eps, int(R), width, trials) for R in R_values],
        }
    return {"eps": eps, "panels": panels, "trials": trials}


def oracle_failure(w: float, eps: float, R: int, width: int, trials: int) -> float:
    """Returns how often the oracle's best of R values leaves an error above eps."""
    failures = 0
    for seed in range(trials):
        layer = theory.construct_layer([[w]], eps, R, width, seed=seed, choice="greedy")
        bounds = theory.layer_errors(
            np.array([[w]]),
            layer.hidden * layer.hidden_mask,
            layer.output * layer.output_mask,
        )
        failures += theory.layer_sup_box(*bounds) > eps
    return failures / trials


def sums_of_neurons(scale: Scale, eps: float = 0.05) -> Data:
    """Returns failures against R for d' = 1, 2, 3 neurons per side, and subset sums."""
    trials = max(50, scale.trials // 20)
    limits = {1: 400, 2: 40, 3: 8}
    curves = {}
    for n, limit in bar(limits.items(), "sums of neurons"):
        R = np.unique(np.geomspace(1, limit, 2 * scale.points).astype(int))
        counts = [
            theory.mc_resampled_subset_sum(1.0, eps, int(r), n, trials=trials, seed=0)
            for r in R
        ]
        least = next(
            (int(r) for r, c in zip(R, counts, strict=True) if c[0] <= c[1] * DELTA),
            None,
        )
        curves[n] = {"R": R, "counts": counts, "least": least}
    coverage = {
        (n, e): theory.mc_subset_sum(n, e, trials=min(200, trials), seed=0)
        for e in (0.1, 0.01)
        for n in (8, 12, 16)
    }
    return {"eps": eps, "curves": curves, "coverage": coverage}
