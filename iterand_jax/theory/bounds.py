"""Widths and numbers of resamplings for which Theorem A.1 holds.

A target weight is approximated by a product u v of two entries drawn from U[-1, 1],
each of which may be drawn R times. The proof wants both values inside fixed windows,
each of probability at least p. The paper counts R^2 independent pairs per hidden
neuron, but the pairs share coordinates: a good pair exists exactly if some u is good
*and* some v is good, which has probability h^2 with h = 1 - (1 - p)^R. Since

    1 - h^2  >=  (1 - p^2)^(R^2),

the published bound (`published`) has the wrong direction for every R >= 2. Two families
live here: `corrected_*` (A: the same windows, correctly counted) and `improved_*` (B:
the corrected count with wider windows per layer). R = 1 is the setting without
resampling; Lemmas A.4 and A.5 are A.6 with d0 = 1 (and d2 = 1). Everything is plain
float64 arithmetic.
"""

import itertools
import math
from collections.abc import Sequence

from iterand_jax.theory.published import paper_widths_thm
from iterand_jax.theory.validation import (
    check_counts,
    check_dims,
    check_integer,
    check_open_unit,
)


def log_miss(p: float, R: int) -> float:
    """Returns log((1 - p)^R), the log-probability that R draws all miss a window."""
    return R * math.log1p(-p) if p < 1.0 else -math.inf


def log_pair_fail(log_m_u: float, log_m_v: float) -> float:
    """Returns log(1 - h_u h_v) from the windows' log-misses log m = log(1 - h)."""
    h_u, h_v = -math.expm1(log_m_u), -math.expm1(log_m_v)
    # Each form loses its relative precision where the other one keeps it.
    if h_u * h_v < 0.5:
        return math.log1p(-h_u * h_v)
    return math.log(math.exp(log_m_u) + h_u * math.exp(log_m_v))


def window_p(eps: float, d0: int = 1, d2: int = 1) -> float:
    """Returns p = eps / (4 d0 sqrt(d2)), the least probability of Lemma A.6's windows.

    A window |x - a| <= 2 p with |a| <= 1 keeps at least half of its length in [-1, 1].
    """
    return eps / (4.0 * d0 * math.sqrt(d2))


def corrected_width_A6(
    eps: float, delta: float, R: int, d0: int = 1, d2: int = 1
) -> int:
    """Returns a hidden width for which Lemma A.6 holds: correction (A).

    2 d0 d' with d' = 1 if R >= `corrected_R_A6`, else d' = ceil(log(2 d0 d2 / delta) /
    -log(1 - h^2)), h = 1 - (1 - p)^R, p = eps / (4 d0 sqrt(d2)). Each of the 2 d0 d2
    (column, side, output) triples is missed by d' independent neurons with probability
    at most (1 - h^2)^d'. Lemmas A.4 and A.5: d0 = 1. Errors as `paper_width_A6`.

    >>> [corrected_width_A6(0.1, 0.01, R, d0=2, d2=3) for R in (1, 10, 10_000)]
    [544504, 5796, 4]
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    R, d0, d2 = check_counts(R, d0, d2)
    return 2 * d0 * d_prime_for(window_p(eps, d0, d2), delta, R, d0, d2)


def corrected_R_A6(
    eps: float, delta: float, d0: int = 1, d2: int = 1, d_prime: int = 1
) -> float:
    """Returns the real R from which `corrected_width_A6` asks at most 2 d0 d_prime.

    For d_prime = 1, R = (1 / p) log(2 d0 (d2 + 1) / delta): a union bound over the
    2 d0 (d2 + 1) windows. For more, the R with (1 - h^2)^d_prime = delta / (2 d0 d2),
    if that is smaller. Correction (A); errors as `paper_R_A6`.

    >>> round(corrected_R_A6(0.1, 0.01, d0=2, d2=3), 1)
    1022.3
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    d_prime, d0, d2 = check_counts(d_prime, d0, d2, "d_prime")
    return R_for(window_p(eps, d0, d2), delta, d0, d2, d_prime)


def union_R(p: float, delta: float, d0: int, d2: int, sides: int = 2) -> float:
    """Returns (1 / p) log(sides d0 (d2 + 1) / delta): every window hit when d' = 1."""
    return math.log(sides * d0 * (d2 + 1) / delta) / p


def R_for(p: float, delta: float, d0: int, d2: int, d_prime: int) -> float:
    """Returns the real R from which `d_prime_for` is at most d_prime."""
    union = union_R(p, delta, d0, d2)
    if d_prime == 1:
        return union
    h = math.sqrt(-math.expm1(math.log(delta / (2.0 * d0 * d2)) / d_prime))
    return min(union, math.log1p(-h) / math.log1p(-p))


def d_prime_for(
    p: float, delta: float, R: int, d0: int, d2: int, sides: int = 2
) -> int:
    """The corrected number d' of neurons per column and side (1 or the ceil)."""
    if union_R(p, delta, d0, d2, sides) <= R:
        return 1
    log_m = log_miss(p, R)
    return math.ceil(math.log(sides * d0 * d2 / delta) / -log_pair_fail(log_m, log_m))


def improved_tol(eps: float, depth: int) -> float:
    """Returns tau = (1 + eps)^(1/l) - 1, each layer's relative error in theorem (B).

    Errors e_i <= e_(i-1) + tau (1 + tau)^(i-1) add up to (1 + tau)^l - 1 = eps.
    An improvement of the paper's eps / (2 l). Errors: eps in (0, 1), depth >= 1.

    >>> round(improved_tol(0.21, depth=2), 6)
    0.1
    """
    eps, depth = check_open_unit("eps", eps), check_integer("depth", depth)
    return math.expm1(math.log1p(eps) / depth)


def layer_tolerances(
    dims: Sequence[int], eps: float, analysis: str = "paper"
) -> list[float]:
    """Returns the tolerance each layer passes to Lemma A.6.

    analysis "paper": eps / (2 l); "improved": `improved_tol` times sqrt(d_(i-1)).
    """
    depth = len(dims) - 1
    if analysis == "paper":
        return [eps / (2.0 * depth)] * depth
    return [improved_tol(eps, depth) * math.sqrt(d0) for d0 in dims[:-1]]


def theorem_widths(
    dims: Sequence[int],
    eps: float,
    delta: float,
    R: int,
    *,
    analysis: str,
    one_sided: bool = False,
) -> list[int]:
    """Valid widths D_1, ..., D_l for the analysis "paper" (A) or "improved" (B).

    Layer i is Lemma A.6 with its tolerance and delta / l. `one_sided` uses that layers
    i >= 2 receive x >= 0: half J is never active, so D_i = d_(i-1) d' is enough.
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    dims, R = check_dims(dims), check_integer("R", R)
    tolerances = layer_tolerances(dims, eps, analysis)
    widths = []
    for i, (d0, d2) in enumerate(itertools.pairwise(dims)):
        sides = 1 if one_sided and i > 0 else 2
        p = window_p(tolerances[i], d0, d2)
        share = delta / len(tolerances)
        widths.append(sides * d0 * d_prime_for(p, share, R, d0, d2, sides))
    return widths


def corrected_widths_thm(
    dims: Sequence[int], eps: float, delta: float, R: int, *, one_sided: bool = False
) -> list[int]:
    """Returns widths for which Theorem A.1 holds: correction (A).

    D_i = 2 d_(i-1) ceil(log(2 l d_(i-1) d_i / delta) / -log(1 - h_i^2)) with
    p_i = eps / (8 l d_(i-1) sqrt(d_i)), or 2 d_(i-1) once R >= (1 / p_i) log(2 l
    d_(i-1) (d_i + 1) / delta). For ||x||_2 <= 1. Errors as `paper_widths_thm`.

    >>> corrected_widths_thm([4, 3, 2], 0.1, 0.01, R=100)
    [9072, 2466]
    """
    return theorem_widths(dims, eps, delta, R, analysis="paper", one_sided=one_sided)


def corrected_R_thm(
    dims: Sequence[int], eps: float, delta: float, d_prime: int = 1
) -> float:
    """Returns the real R from which D_i = 2 d_(i-1) d_prime suffices: correction (A).

    At d_prime = 1, R = max_i (1 / p_i) log(2 l d_(i-1) (d_i + 1) / delta), p_i as in
    `corrected_widths_thm`; else as `corrected_R_A6`. Errors as `paper_widths_thm`.

    >>> round(corrected_R_thm([4, 3, 2], 0.1, 0.01), 1)
    9715.1
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    dims = check_dims(dims)
    depth = len(dims) - 1
    return max(
        corrected_R_A6(eps / (2 * depth), delta / depth, d0, d2, d_prime)
        for d0, d2 in itertools.pairwise(dims)
    )


def improved_widths_thm(
    dims: Sequence[int], eps: float, delta: float, R: int, *, one_sided: bool = False
) -> list[int]:
    """Returns widths for which Theorem A.1 holds: improvement (B), often much smaller.

    As `corrected_widths_thm` with p_i = tau / (4 sqrt(d_(i-1) d_i)), tau =
    `improved_tol`; only ||F_i||_op <= 1 and ||x||_2 <= 1 are used. D_i = 2 d_(i-1) for
    all i once R >= `improved_R_thm`. Errors as `paper_widths_thm`.

    >>> improved_widths_thm([4, 3, 2], 0.1, 0.01, R=100)
    [736, 282]
    """
    dims = check_dims(dims)
    if check_integer("R", R) >= improved_R_thm(dims, eps, delta):
        sides = [1 if one_sided and i else 2 for i in range(len(dims) - 1)]
        return [side * d0 for side, d0 in zip(sides, dims, strict=False)]
    return theorem_widths(dims, eps, delta, R, analysis="improved", one_sided=one_sided)


def improved_R_thm(
    dims: Sequence[int], eps: float, delta: float, d_prime: int = 1
) -> float:
    """Returns the real R from which D_i = 2 d_(i-1) d_prime suffices: improvement (B).

    At d_prime = 1, R = max_i (1 / p_i) log(sum_j 2 d_(j-1) (d_j + 1) / delta), p_i as
    in `improved_widths_thm`; else Lemma A.6's R per layer with p_i and delta / l, if
    that is smaller. Errors as `paper_widths_thm`.

    >>> round(improved_R_thm([4, 3, 2], 0.1, 0.01), 1)
    2418.0
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    dims, d_prime = check_dims(dims), check_integer("d_prime", d_prime)
    pairs = list(itertools.pairwise(dims))
    depth, tau = len(pairs), improved_tol(eps, len(pairs))
    ps = [tau / (4.0 * math.sqrt(d0 * d2)) for d0, d2 in pairs]
    windows = sum(2 * d0 * (d2 + 1) for d0, d2 in pairs)
    union = math.log(windows / delta) / min(ps)
    if d_prime == 1:
        return union
    per_layer = (
        R_for(p, delta / depth, d0, d2, d_prime)
        for p, (d0, d2) in zip(ps, pairs, strict=True)
    )
    return min(union, max(per_layer))


def theorem_rescued(dims: Sequence[int], eps: float, delta: float, R: int) -> bool:
    """Returns whether the published widths are at least those of (B), so suffice.

    True means that Theorem A.1's *statement* holds there for ||x||_2 <= 1 although its
    proof does not. False means open, not refuted. Errors as `paper_widths_thm`.

    >>> [theorem_rescued([1, 1], 0.5, 1e-6, R) for R in (10, 100, 1000)]
    [True, False, True]
    """
    paper = paper_widths_thm(dims, eps, delta, R)
    improved = improved_widths_thm(dims, eps, delta, R)
    return all(a >= b for a, b in zip(paper, improved, strict=True))
