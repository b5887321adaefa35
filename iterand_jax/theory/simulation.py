"""Monte Carlo estimates of the failure probabilities, with Wilson intervals.

Each estimator returns (failures, trials); `wilson` turns them into an interval. Trials
run in chunks, so memory stays bounded; `progress` wraps the chunks (pass `tqdm.tqdm`).
The literal draws use JAX in float32, whose grid of about 2.4e-7 on [-1, 1] is too
coarse for windows of probability below 1e-4, which are rejected. The others
are float64 NumPy.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from iterand_jax.theory.bounds import layer_tolerances
from iterand_jax.theory.probabilities import window_half_width
from iterand_jax.theory.validation import (
    FloatArray,
    check_count,
    check_integer,
    check_open_unit,
    check_target,
    check_weights,
    target_dims,
)

Progress = Callable[[range], Iterable[int]]
Count = tuple[int, int]

LEAST_FLOAT32_P = 1e-4
MAX_DRAWS_PER_TRIAL = 2**27
_CHUNK = 2**20


def wilson(failures: int, trials: int, confidence: float = 0.99) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion.

    Raises ValueError unless 0 <= failures <= trials, trials >= 1 and confidence is in
    (0, 1).

    >>> [round(end, 3) for end in wilson(10, 1000)]
    [0.005, 0.022]
    """
    trials = check_integer("trials", trials)
    check_count("failures", check_integer("failures", failures, 0), trials)
    z = NormalDist().inv_cdf(0.5 + check_open_unit("confidence", confidence) / 2.0)
    share = failures / trials
    scale = 1.0 + z**2 / trials
    center = (share + z**2 / (2.0 * trials)) / scale
    spread = share * (1.0 - share) / trials + z**2 / (4.0 * trials**2)
    half = z / scale * math.sqrt(spread)
    return max(0.0, center - half), min(1.0, center + half)


def mc_window_layer(
    W: ArrayLike,
    tol: float,
    R: int,
    d_prime: int,
    *,
    trials: int,
    seed: int,
    progress: Progress = iter,
) -> Count:
    """Returns how often one layer misses its windows (Lemma A.6), from literal draws.

    Estimates `layer_window_fail`. Raises as it does, and ValueError for windows too
    small for float32 or a trial of more than 2^27 draws.

    >>> failures, trials = mc_window_layer([[1.0]], 0.5, 10, 5, trials=1000, seed=0)
    >>> low, high = wilson(failures, trials)
    >>> from iterand_jax.theory import layer_window_fail
    >>> low <= layer_window_fail([[1.0]], 0.5, 10, 5) <= high
    True
    """
    W = check_weights(W)
    eta = window_half_width(W.shape, tol)
    return _mc_windows([W], [eta], R, [d_prime], trials, seed, progress)


def mc_window_thm(
    layers: Sequence[ArrayLike],
    eps: float,
    R: int,
    d_prime: Sequence[int],
    *,
    trials: int,
    seed: int,
    improved: bool = False,
    progress: Progress = iter,
) -> Count:
    """Returns how often a network misses its windows, from literal draws.

    Estimates `thm_window_fail`; errors as there and as `mc_window_layer`.

    >>> layers, copies = [[[0.6]], [[0.8]]], [4, 4]
    >>> failures, trials = mc_window_thm(layers, 0.9, 20, copies, trials=1000, seed=0)
    >>> low, high = wilson(failures, trials)
    >>> from iterand_jax.theory import thm_window_fail
    >>> low <= thm_window_fail(layers, 0.9, 20, copies) <= high
    True
    """
    matrices = check_target(layers)
    dims = target_dims(matrices)
    eps = check_open_unit("eps", eps)
    tolerances = layer_tolerances(dims, eps, "improved" if improved else "paper")
    etas = [
        window_half_width(W.shape, tol)
        for W, tol in zip(matrices, tolerances, strict=True)
    ]
    return _mc_windows(matrices, etas, R, d_prime, trials, seed, progress)


def mc_conclusion_ones_d2(
    eps: float, R: int, *, trials: int, seed: int, progress: Progress = iter
) -> Count:
    """Returns how often Lemma A.4's conclusion fails for w = 1, d = 2, literal draws.

    Best of R values, any mask: the two neurons must serve different sides, each with
    u v >= 1 - eps. Estimates `conclusion_fail_d2`; errors as `mc_window_layer`.

    >>> failures, trials = mc_conclusion_ones_d2(0.2, 10, trials=1000, seed=0)
    >>> low, high = wilson(failures, trials)
    >>> from iterand_jax.theory import conclusion_fail_d2
    >>> low <= conclusion_fail_d2(0.2, 10)[2] <= high
    True
    """
    eps, R = check_open_unit("eps", eps), check_integer("R", R)
    _check_float32(eps / 4.0)
    batch = _chunk_size(4 * R)
    fails = partial(_conclusion_ones_fails, eps=eps, R=R, batch=batch)
    return _count_jax(fails, batch, trials, seed, progress)


def mc_conclusion_d2(
    w: float, eps: float, R: int, *, trials: int, seed: int, progress: Progress = iter
) -> Count:
    """Returns how often Lemma A.4's conclusion fails for any w at d = 2, literal draws.

    As `mc_conclusion_ones_d2`, over all R^2 products of a neuron. |w| <= eps needs no
    neuron and never fails. Errors as `mc_window_layer`.

    >>> [mc_conclusion_d2(w, 0.2, 10, trials=1000, seed=0)[0] for w in (0.5, 1.0)]
    [6, 844]
    """
    check_weights([[w]])
    eps, R = check_open_unit("eps", eps), check_integer("R", R)
    _check_float32(eps / 4.0)
    batch = _chunk_size(2 * R**2)
    fails = partial(_conclusion_fails, w=w, eps=eps, R=R, batch=batch)
    failures, trials = _count_jax(fails, batch, trials, seed, progress)
    return (failures if abs(w) > eps else 0), trials


def mc_conclusion_ones_d2_fast(
    eps: float,
    R: int,
    *,
    trials: int,
    seed: int,
    outputs: int = 1,
    progress: Progress = iter,
) -> Count:
    """Returns how often the conclusion fails for w = (1, ..., 1), two neurons.

    Lemma A.5 with `outputs` outputs (A.4 for one), error in 2-norm. Samples each
    element's largest and smallest of R draws by their exact joint distribution, so that
    a trial costs the same for every R; float64. Errors: eps in (0, 1), counts >= 1.

    >>> failures, trials = mc_conclusion_ones_d2_fast(0.2, 10, trials=1000, seed=0)
    >>> low, high = wilson(failures, trials)
    >>> from iterand_jax.theory import conclusion_fail_d2
    >>> low <= conclusion_fail_d2(0.2, 10)[2] <= high
    True
    """
    eps, R = check_open_unit("eps", eps), check_integer("R", R)
    outputs = check_integer("outputs", outputs)

    def count(rng: np.random.Generator, size: int) -> int:
        top, bottom = _extremes(rng, (1 + outputs, 2, size), R)
        sides = []
        for extreme in (top, -bottom):
            u, V = np.maximum(extreme[0], 0.0), extreme[1:]
            sides.append(((1.0 - u * V) ** 2).sum(axis=0) <= eps**2)
        above, below = sides
        success = (above[0] & below[1]) | (below[0] & above[1])
        return int((~success).sum())

    return count_numpy(count, _chunk_size(4 * (1 + outputs)), trials, seed, progress)


def _mc_windows(
    matrices: Sequence[FloatArray],
    etas: Sequence[float],
    R: int,
    d_prime: Sequence[int],
    trials: int,
    seed: int,
    progress: Progress,
) -> Count:
    R = check_integer("R", R)
    if len(d_prime) != len(matrices):
        raise ValueError(
            f"d_prime must have {len(matrices)} entries, got {len(d_prime)}"
        )
    copies = tuple(check_integer("d_prime", n) for n in d_prime)
    _check_float32(min(etas) / 2.0)
    draws = sum(
        2 * n * R * (W.size + W.shape[1]) for W, n in zip(matrices, copies, strict=True)
    )
    batch = _chunk_size(draws)
    weights = tuple(jnp.asarray(W, jnp.float32) for W in matrices)
    fails = partial(
        _window_fails, weights, jnp.asarray(etas), R=R, d_prime=copies, batch=batch
    )
    return _count_jax(fails, batch, trials, seed, progress)


@partial(jax.jit, static_argnames=("R", "d_prime", "batch"))
def _window_fails(
    weights: tuple[jax.Array, ...],
    etas: jax.Array,
    key: jax.Array,
    *,
    R: int,
    d_prime: tuple[int, ...],
    batch: int,
) -> jax.Array:
    success = jnp.ones(batch, bool)
    for i, (W, n) in enumerate(zip(weights, d_prime, strict=True)):
        d2, d0 = W.shape
        # One draw for all trials: a draw inside vmap compiles twice as long.
        draws = _draw(jax.random.fold_in(key, i), (batch, 1 + d2, d0, 2, n, R))
        success &= jax.vmap(_windows_hit, (0, None, None))(draws, W, etas[i])
    return ~success


def _windows_hit(draws: jax.Array, W: jax.Array, eta: jax.Array) -> jax.Array:
    u, V = draws[0], draws[1:]
    sign = jnp.array([1.0, -1.0])[:, None, None]
    goals = sign * W[:, :, None, None, None]
    u_hit = (jnp.abs(u - sign) <= eta).any(axis=-1)
    v_hit = (jnp.abs(V - goals) <= eta).any(axis=-1)
    found = (u_hit & v_hit).any(axis=-1)
    return (found | (W == 0.0)[:, :, None]).all()


@partial(jax.jit, static_argnames=("R", "batch"))
def _conclusion_ones_fails(
    key: jax.Array, *, eps: float, R: int, batch: int
) -> jax.Array:
    u, v = _draw(key, (2, batch, 2, R))
    above = jnp.maximum(u.max(axis=-1), 0.0) * v.max(axis=-1) >= 1.0 - eps
    below = jnp.minimum(u.min(axis=-1), 0.0) * v.min(axis=-1) >= 1.0 - eps
    return ~((above[:, 0] & below[:, 1]) | (below[:, 0] & above[:, 1]))


@partial(jax.jit, static_argnames=("R", "batch"))
def _conclusion_fails(
    key: jax.Array, *, w: float, eps: float, R: int, batch: int
) -> jax.Array:
    u, v = _draw(key, (2, batch, 2, R))
    close = (jnp.abs(w - u[..., None] * v[..., None, :]) <= eps).any(axis=-1)
    above = (close & (u > 0.0)).any(axis=-1)
    below = (close & (u < 0.0)).any(axis=-1)
    return ~((above[:, 0] & below[:, 1]) | (below[:, 0] & above[:, 1]))


def _draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


def _extremes(
    rng: np.random.Generator, shape: tuple[int, ...], R: int
) -> tuple[FloatArray, FloatArray]:
    """Returns the largest and the smallest of R draws of U[-1, 1]."""
    top = 2.0 * np.exp(-rng.standard_exponential(shape) / R) - 1.0
    if R == 1:
        return top, top
    # The other R - 1 draws are uniform on [-1, top].
    share = -np.expm1(-rng.standard_exponential(shape) / (R - 1))
    return top, -1.0 + (top + 1.0) * share


def _count_jax(
    fails: Callable[[jax.Array], jax.Array],
    batch: int,
    trials: int,
    seed: int,
    progress: Progress,
) -> Count:
    key = jax.random.key(check_integer("seed", seed, 0))
    failures = 0
    for chunk, size in _chunks(batch, trials, progress):
        failures += int(fails(jax.random.fold_in(key, chunk))[:size].sum())
    return failures, trials


def count_numpy(
    count: Callable[[np.random.Generator, int], int],
    batch: int,
    trials: int,
    seed: int,
    progress: Progress,
) -> Count:
    """Returns the sum of `count` over chunks of at most `batch` trials."""
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    sizes = (size for _, size in _chunks(batch, trials, progress))
    return sum(count(rng, size) for size in sizes), trials


def _chunks(batch: int, trials: int, progress: Progress) -> Iterator[tuple[int, int]]:
    trials = check_integer("trials", trials)
    for chunk in progress(range(math.ceil(trials / batch))):
        yield chunk, min(batch, trials - chunk * batch)


def _chunk_size(draws: int) -> int:
    check_count("draws per trial", draws, MAX_DRAWS_PER_TRIAL)
    return max(1, _CHUNK // draws)


def _check_float32(p: float) -> None:
    if p < LEAST_FLOAT32_P:
        raise ValueError(
            f"float32 draws need windows of probability at least {LEAST_FLOAT32_P}, "
            f"got {p!r}"
        )
