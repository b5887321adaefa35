"""Theorem A.1 of IteRand, executable: bounds, construction and simulation.

Pruning a random ReLU network whose entries may be resampled R times approximates a
target network half as deep. `published` and `bounds` hold the widths and numbers of
resamplings asked for by the published, the corrected (A) and the improved (B) theorem,
`probabilities` and `conclusions` exact failure probabilities, `construction` the pruned
network with its `certificate`, `simulation` Monte Carlo estimates, `comparison` other
theorems, `blind` and `subset_sums` what lies outside the theorem.
"""

import importlib
from typing import Any

_EXPORTS = {
    "bounds": (
        "corrected_R_A6",
        "corrected_R_thm",
        "corrected_width_A6",
        "corrected_widths_thm",
        "improved_R_thm",
        "improved_tol",
        "improved_widths_thm",
        "theorem_rescued",
    ),
    "blind": ("BlindRun", "blind_redraws"),
    "certificate": (
        "Certificate",
        "adversarial",
        "certify",
        "layer_errors",
        "layer_sup_box",
    ),
    "comparison": ("Comparison", "compare_bounds", "packing_lower_bound"),
    "conclusions": ("conclusion_fail_d2", "seq_side_fail"),
    "construction": (
        "Construction",
        "ConstructionError",
        "construct",
        "pruned_network",
    ),
    "probabilities": (
        "column_fail",
        "hit",
        "layer_window_fail",
        "min_dprime",
        "paper_product",
        "rho",
        "rho_star",
        "sharp_R",
        "sharp_R_thm",
        "thm_window_fail",
        "window_prob",
    ),
    "published": (
        "paper_R_A4",
        "paper_R_A6",
        "paper_R_thm",
        "paper_n_A2",
        "paper_width_A4",
        "paper_width_A5",
        "paper_width_A6",
        "paper_widths_thm",
    ),
    "resampling": ("ConstructedLayer", "construct_layer"),
    "simulation": (
        "mc_conclusion_d2",
        "mc_conclusion_ones_d2",
        "mc_conclusion_ones_d2_fast",
        "mc_window_layer",
        "mc_window_thm",
        "wilson",
    ),
    "subset_sums": ("mc_resampled_subset_sum", "mc_subset_sum"),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
