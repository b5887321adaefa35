"""Exact failure probabilities of the construction behind Theorem A.1, in float64.

Two events must be kept apart. The *window event* (W) is what the proof constructs: for
each column, side and output one hidden neuron whose values lie in windows fixed
beforehand. The *conclusion* (C) is the approximation itself, by any choice of the R
values and any mask. (W) implies (C), not conversely.

Failures are sums of positive terms or -expm1 of a sum of logarithms, so that tiny ones
keep their relative precision.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from iterand_jax.theory.bounds import layer_tolerances, log_miss, log_pair_fail
from iterand_jax.theory.validation import (
    FloatArray,
    check_dims,
    check_integer,
    check_open_unit,
    check_positive,
    check_target,
    check_weights,
    target_dims,
)


def hit(p: float, R: int) -> float:
    """The probability h = 1 - (1 - p)^R that R draws hit a window of measure p.

    Raises ValueError unless 0 <= p <= 1 and R >= 1.

    >>> hit(0.5, R=3)
    0.875
    """
    return -math.expm1(log_miss(_check_probability(p), check_integer("R", R)))


def window_prob(a: float, eta: float) -> float:
    """Returns P(|x - a| <= eta) for x ~ U[-1, 1] and |a| <= 1.

    (min(1, a + eta) - max(-1, a - eta)) / 2. Raises ValueError if |a| > 1 or eta <= 0.

    >>> window_prob(0.0, 0.5), window_prob(1.0, 0.5)
    (0.5, 0.25)
    """
    check_weights([[a]])
    eta = check_positive("eta", eta)
    return 0.5 * (min(1.0, a + eta) - max(-1.0, a - eta))


def paper_product(p_u: float, p_v: float, R: int) -> float:
    """Returns (1 - p_u p_v)^(R^2), the paper's failure of one neuron (Eq. 12).

    A lower bound of the truth 1 - hit(p_u, R) hit(p_v, R), equal to it only for R = 1
    or an empty or full window. Errors as `hit`.

    >>> round(paper_product(0.5, 0.5, R=2), 4), 1 - hit(0.5, R=2) ** 2
    (0.3164, 0.4375)
    """
    product = _check_probability(p_u) * _check_probability(p_v)
    return math.exp(log_miss(product, check_integer("R", R) ** 2))


def rho(x: float, *, interior: bool = False) -> float:
    """The exponent by which the published failure delta / 2 is wrong at x = p R.

    As p -> 0 the true half-block failure at Lemma A.4's width is (delta / 2)^rho(x),
    rho(x) = -log(1 - (1 - e^-x)^2) / x^2 for |w| = 1 and, with `interior`, for |w| <= 1
    - eps / 2, -log(1 - (1 - e^-x)(1 - e^-2x)) / x^2. The published claim fails iff
    rho < 1. Raises ValueError unless x > 0.

    >>> round(rho(0.01), 2), round(rho(1.0), 2)
    (0.99, 0.51)
    """
    x = check_positive("x", x)
    factor = 2.0 if interior else 1.0
    return -math.log1p(-math.expm1(-x) * math.expm1(-factor * x)) / x**2


def rho_star(delta: float) -> float:
    """Returns the rho below which Lemma A.4's "1 - delta" fails, not only its halves.

    log(1 - sqrt(1 - delta)) / log(delta / 2): what is left of the union bound's slack.

    >>> round(rho_star(0.5), 3)
    0.886
    """
    delta = check_open_unit("delta", delta)
    return math.log(-math.expm1(0.5 * math.log1p(-delta))) / math.log(delta / 2.0)


def column_fail(column: ArrayLike, eta: float, R: int, d_prime: int) -> float:
    """Returns the probability that one side of one column of W misses its windows.

    1 - S, S = sum_n Bin(n; d', hit(eta / 2, R)) prod_(k: w_k != 0) (1 - (1 - h_k)^n),
    h_k = hit(window_prob(w_k, eta), R), d' neurons on the side. The product bound (12)
    corrected, exactly. A zero column fails with probability 0.

    >>> round(column_fail([1.0, -0.5], eta=0.1, R=20, d_prime=10), 4)
    0.0052
    """
    weights = check_weights(np.atleast_2d(column)).ravel()
    R, d_prime = check_integer("R", R), check_integer("d_prime", d_prime)
    sizes, repeats = np.unique(np.abs(weights[weights != 0.0]), return_counts=True)
    if sizes.size == 0:
        return 0.0
    log_miss_u = log_miss(0.5 * check_positive("eta", eta), R)
    log_misses_v = [log_miss(window_prob(size, eta), R) for size in sizes]
    if repeats.sum() == 1:
        return math.exp(d_prime * log_pair_fail(log_miss_u, log_misses_v[0]))
    n = np.arange(1, d_prime + 1, dtype=np.float64)
    log_success = np.zeros(d_prime)
    for log_miss_v, repeat in zip(log_misses_v, repeats, strict=True):
        log_success += repeat * _log1mexp(n * log_miss_v)
    pmf = _binomial_pmf(d_prime, log_miss_u)
    return math.exp(d_prime * log_miss_u) - float(pmf @ np.expm1(log_success))


def layer_window_fail(
    W: ArrayLike, tol: float, R: int, d_prime: int, *, sides: int = 2
) -> float:
    """Returns the exact failure probability of (W) for one layer, width sides d0 d'.

    1 - prod_c (1 - column_fail_c)^sides with eta = tol / (2 d0 sqrt(d2)); tol is the
    eps of Lemma A.6 (of A.4, A.5 for d0 = 1). Raises ValueError for |W| > 1, R < 1,
    d' < 1 or tol outside (0, d0 sqrt(d2)]; TypeError for a non-integer.

    >>> round(layer_window_fail([[1.0, -0.5]], tol=0.4, R=20, d_prime=10), 4)
    0.0104
    """
    return -math.expm1(layer_log_success(check_weights(W), tol, R, d_prime, sides))


def layer_log_success(
    W: FloatArray, tol: float, R: int, d_prime: int, sides: int
) -> float:
    """Returns the log-probability of (W) for one layer; see `layer_window_fail`."""
    eta = window_half_width(W.shape, tol)
    fails = (column_fail(column, eta, R, d_prime) for column in W.T)
    return sides * sum(math.log1p(-f) if f < 1.0 else -math.inf for f in fails)


def window_half_width(shape: tuple[int, ...], tol: float) -> float:
    """Returns eta = tol / (2 d0 sqrt(d2)) for a layer of shape (d2, d0)."""
    d2, d0 = shape
    largest = d0 * math.sqrt(d2)
    if not 0.0 < tol <= largest:
        raise ValueError(f"tol must lie in (0, {largest:.6g}], got {tol!r}")
    return tol / (2.0 * largest)


def thm_window_fail(
    layers: Sequence[ArrayLike],
    eps: float,
    R: int,
    d_prime: Sequence[int],
    *,
    improved: bool = False,
    one_sided: bool = False,
    norm: str = "fro",
) -> float:
    """Returns the exact failure probability of (W) for a whole target network.

    1 - prod_i (1 - layer_window_fail_i), d' neurons per column and side in layer i.
    `improved` uses the windows of (B), `one_sided` only half I in layers i >= 2.
    Raises as `check_target` and `layer_window_fail`.

    >>> layers = [[[0.6, 0.0], [0.0, 0.6]], [[0.6, 0.8]]]
    >>> round(thm_window_fail(layers, 0.5, R=100, d_prime=[4, 4]), 4)
    0.1114
    """
    matrices = check_target(layers, norm)
    eps = check_open_unit("eps", eps)
    if len(d_prime) != len(matrices):
        raise ValueError(
            f"d_prime must have {len(matrices)} entries, got {len(d_prime)}"
        )
    analysis = "improved" if improved else "paper"
    tolerances = layer_tolerances(target_dims(matrices), eps, analysis)
    return -math.expm1(
        sum(
            layer_log_success(W, tol, R, n, 1 if one_sided and i else 2)
            for i, (W, tol, n) in enumerate(
                zip(matrices, tolerances, d_prime, strict=True)
            )
        )
    )


def min_dprime(W: ArrayLike, tol: float, R: int, delta: float) -> int:
    """Returns the least d' with `layer_window_fail` <= delta.

    At most the corrected ceil of (A). Errors as `layer_window_fail`.

    >>> min_dprime([[1.0, -0.5]], tol=0.4, R=20, delta=0.01)
    11
    """
    delta = check_open_unit("delta", delta)
    high = 1
    while layer_window_fail(W, tol, R, high) > delta:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if layer_window_fail(W, tol, R, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def sharp_R(p: float, m: int, delta: float) -> int:
    """The least R with hit(p, R)^m >= 1 - delta: m windows of measure p, d' = 1.

    m = 2 d0 (d2 + 1) is the worst case of Lemma A.6. A correction, tight for the window
    event. Raises ValueError unless 0 < p < 1, 0 < delta < 1 and m >= 1.

    >>> sharp_R(0.05, m=4, delta=0.01)
    117
    """
    p, delta = check_open_unit("p", p), check_open_unit("delta", delta)
    return _least_R([(p, check_integer("m", m))], delta)


def sharp_R_thm(
    dims: Sequence[int], eps: float, delta: float, *, improved: bool = False
) -> int:
    """Returns the least R with prod_i h_i^(2 d_(i-1) (d_i + 1)) >= 1 - delta.

    The width is 2 d_(i-1); p_i as in (A), or in (B) if `improved`. Errors as
    `corrected_R_thm`.

    >>> [sharp_R_thm([4, 3, 2], 0.1, 0.01, improved=b) for b in (False, True)]
    [8942, 2292]
    """
    eps, delta = check_open_unit("eps", eps), check_open_unit("delta", delta)
    dims = check_dims(dims)
    tolerances = layer_tolerances(dims, eps, "improved" if improved else "paper")
    pairs = zip(dims, dims[1:], tolerances, strict=False)
    return _least_R(
        [
            (0.5 * window_half_width((d2, d0), tol), 2 * d0 * (d2 + 1))
            for d0, d2, tol in pairs
        ],
        delta,
    )


def _check_probability(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must lie in [0, 1], got {p!r}")
    return float(p)


def _binomial_pmf(trials: int, log_miss_u: float) -> FloatArray:
    """Returns P(n successes), n = 1..trials, from the log-probability of a failure."""
    log_factorials = np.array([math.lgamma(n + 1.0) for n in range(trials + 1)])
    log_binomials = log_factorials[-1] - log_factorials - log_factorials[::-1]
    n = np.arange(trials + 1, dtype=np.float64)
    log_h = math.log(-math.expm1(log_miss_u))
    return np.exp(log_binomials + n * log_h + (trials - n) * log_miss_u)[1:]


def _log1mexp(x: FloatArray) -> FloatArray:
    """Returns log(1 - e^x) for x < 0 at full relative precision."""
    near_zero = x > -math.log(2.0)
    small = np.log(-np.expm1(np.where(near_zero, x, -1.0)))
    return np.where(near_zero, small, np.log1p(-np.exp(np.where(near_zero, -1.0, x))))


def _least_R(windows: Sequence[tuple[float, int]], delta: float) -> int:
    def success(R: int) -> bool:
        total = sum(m * math.log(hit(p, R)) for p, m in windows)
        return total >= math.log1p(-delta)

    high = 1
    while not success(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if success(middle) else (middle, high)
    return high
