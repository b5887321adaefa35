"""Sums of several neurons per weight: outside the theorem, measured only.

The proof keeps one neuron per weight and side. Without resampling, subset sums of a
few products are already dense; with it, two products of moderate size can add up to the
|w| = 1 that a single one reaches only in the corner. No bound is claimed here.
"""

import numpy as np

from iterand_jax.theory.simulation import Count, Progress, count_numpy
from iterand_jax.theory.validation import (
    FloatArray,
    check_count,
    check_integer,
    check_open_unit,
    check_weights,
)

MAX_SUMS = 2**22


def mc_subset_sum(
    n: int, eps: float, *, trials: int, seed: int, progress: Progress = iter
) -> Count:
    """Returns how often n products u v leave some z in [-1, 1] without a subset sum.

    u ~ U[0, 1], v ~ U[-1, 1], within eps: pruning without resampling, for all targets
    of one side at once. Raises ValueError unless 1 <= n <= 20 and eps is in (0, 1).

    >>> [mc_subset_sum(n, 0.1, trials=20, seed=0) for n in (3, 15)]
    [(20, 20), (3, 20)]
    """
    eps = check_open_unit("eps", eps)
    check_count("products", check_integer("n", n), 20)

    def covers(rng: np.random.Generator) -> bool:
        sums = np.zeros(1)
        for product in rng.uniform(0.0, 1.0, n) * rng.uniform(-1.0, 1.0, n):
            sums = np.concatenate([sums, sums + product])
        sums = np.sort(sums[np.abs(sums) <= 1.0 + eps])
        ends = sums[0] <= -1.0 + eps and sums[-1] >= 1.0 - eps
        return bool(ends and (np.diff(sums) <= 2.0 * eps).all())

    def count(rng: np.random.Generator, size: int) -> int:
        return sum(not covers(rng) for _ in range(size))

    return count_numpy(count, 32, trials, seed, progress)


def mc_resampled_subset_sum(
    w: float,
    eps: float,
    R: int,
    d_prime: int,
    *,
    trials: int,
    seed: int,
    progress: Progress = iter,
) -> Count:
    """Returns how often d' neurons with R values each cannot sum to w on one side.

    A neuron contributes u v for one of its R^2 pairs with u > 0, or nothing; the sum
    must be within eps of w. Best of R (recall). Raises ValueError for |w| > 1, counts
    below 1 or more than 2^22 sums.

    >>> [mc_resampled_subset_sum(1.0, 0.1, 5, d, trials=100, seed=0)[0] for d in (1, 3)]
    [94, 18]
    """
    check_weights([[w]])
    eps, R = check_open_unit("eps", eps), check_integer("R", R)
    d_prime = check_integer("d_prime", d_prime)
    check_count("sums", (R**2 + 1) ** max(1, d_prime - 1), MAX_SUMS)

    def reaches(rng: np.random.Generator) -> bool:
        sums = np.zeros(1)
        for _ in range(d_prime - 1):
            sums = np.add.outer(sums, _products(rng, R)).ravel()
        last = np.sort(_products(rng, R))
        first_above = np.searchsorted(last, w - eps - sums)
        nearest = last[np.minimum(first_above, last.size - 1)]
        return bool((np.abs(w - sums - nearest) <= eps).any())

    def count(rng: np.random.Generator, size: int) -> int:
        return sum(not reaches(rng) for _ in range(size))

    return count_numpy(count, 32, trials, seed, progress)


def _products(rng: np.random.Generator, R: int) -> FloatArray:
    """Returns what one neuron can contribute for x > 0: nothing or u v with u > 0."""
    u, v = rng.uniform(-1.0, 1.0, (2, R))
    return np.append(np.outer(u[u > 0.0], v).ravel(), 0.0)
