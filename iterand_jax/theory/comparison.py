"""Theorem A.1 beside the other proofs that pruning random networks is enough.

All prune a ReLU network twice as deep as the target; hidden width per target layer.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from iterand_jax.theory.bounds import corrected_widths_thm, improved_widths_thm
from iterand_jax.theory.published import paper_widths_thm
from iterand_jax.theory.validation import check_dims, check_positive


class Comparison(NamedTuple):
    """One result: its name, hidden widths (None if it has no sure formula), a note."""

    name: str
    widths: list[int] | None
    note: str


def compare_bounds(
    dims: Sequence[int], eps: float, delta: float, R: int, C: float
) -> list[Comparison]:
    """Returns the hidden widths that different theorems ask for, one row per theorem.

    IteRand at R = 1 and at R: published, corrected (A) and improved (B). Pensia et al.
    2020, Theorem 1: D_i = C d_(i-1) log(d_(i-1) d_i l / min(eps, delta)), where C is a
    constant that their paper does not specify, hence required here. Malach et al. 2020
    and Orseau et al. 2020 are named without numbers. Raises ValueError unless C is
    positive, and as `paper_widths_thm`.

    >>> for row in compare_bounds([4, 3], 0.1, 0.01, R=100, C=1)[:4]:
    ...     print(row.name, row.widths)
    edge-popup (R = 1) [19128056]
    IteRand (R = 100), published [1920]
    IteRand (R = 100), corrected (A) [2256]
    IteRand (R = 100), improved (B) [208]
    """
    C = check_positive("C", C)
    dims = check_dims(dims)
    pairs = list(itertools.pairwise(dims))
    without = paper_widths_thm(dims, eps, delta, 1)
    small = len(pairs) / min(eps, delta)
    pensia = [math.ceil(C * d0 * math.log(d0 * d2 * small)) for d0, d2 in pairs]
    return [
        Comparison("edge-popup (R = 1)", without, "this paper, per target; proved"),
        Comparison(
            f"IteRand (R = {R}), published",
            paper_widths_thm(dims, eps, delta, R),
            "proof fails for R >= 2",
        ),
        Comparison(
            f"IteRand (R = {R}), corrected (A)",
            corrected_widths_thm(dims, eps, delta, R),
            "per target; proved",
        ),
        Comparison(
            f"IteRand (R = {R}), improved (B)",
            improved_widths_thm(dims, eps, delta, R),
            "per target; proved",
        ),
        Comparison(
            "Malach et al. 2020",
            None,
            "poly, O(d^4 l^2) factor as quoted by Pensia et al.",
        ),
        Comparison(
            "Pensia et al. 2020",
            pensia,
            f"all targets at once; the constant C = {C:g} is yours, not theirs",
        ),
        Comparison(
            "Orseau et al. 2020",
            None,
            "O(log) neurons per target weight in all variables but depth, "
            "hyperbolic weight distribution",
        ),
    ]


def packing_lower_bound(d: int, eps: float) -> float:
    """Returns roughly the prunable parameters of a d x d layer without resampling.

    d^2 log2(1 / (2 eps)): the packing bound of Pensia et al. 2020. Raises ValueError
    unless d >= 1 and eps > 0.

    >>> round(packing_lower_bound(10, 0.01), 1)
    564.4
    """
    (d,) = check_dims([d, 1])[:1]
    return d**2 * math.log2(1.0 / (2.0 * check_positive("eps", eps)))
