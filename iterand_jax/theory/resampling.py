"""One target layer approximated by two random ones: draw, resample, choose masks.

`hidden` (D x d0) keeps one entry per row, `output` is d2 x D. The neurons of column c
are split into a half with sign s = +1, active for x_c > 0, and one with s = -1.
Resampling steers u towards s and V towards s F; one neuron per (output, column, side)
is kept.

The resampling is an oracle's: it sees the target. IteRand resamples blindly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iterand_jax.theory.probabilities import window_half_width
from iterand_jax.theory.validation import (
    BoolArray,
    FloatArray,
    check_count,
    check_integer,
    check_option,
    check_weights,
)

MAX_DRAWS = 10**8
_BLOCK = 2**18


@dataclass(frozen=True, eq=False)
class ConstructedLayer:
    """Two random layers pruned to approximate one target layer F (d2 x d0).

    `ok` (d2, d0, sides) says which entries were approximated, `hidden_draws` and
    `output_draws` at which draw (1..R) each kept value appeared.
    """

    hidden: FloatArray
    hidden_mask: BoolArray
    output: FloatArray
    output_mask: BoolArray
    hidden_draws: NDArray[np.int64]
    output_draws: NDArray[np.int64]
    ok: BoolArray


def construct_layer(
    W: ArrayLike,
    tol: float,
    R: int,
    width: int,
    *,
    seed: int,
    choice: str = "window",
    max_draws: int = MAX_DRAWS,
) -> ConstructedLayer:
    """Returns two random layers pruned to approximate W (d2 x d0): Lemma A.6.

    All `ok` implies a 2-norm error of at most tol for ||x||_inf <= 1. Options and
    errors as `construct`, and ValueError for an entry of W outside [-1, 1].

    >>> layer = construct_layer([[0.6, -0.3]], tol=0.5, R=100, width=40, seed=0)
    >>> bool(layer.ok.all()), layer.hidden.shape, layer.output.shape
    (True, (40, 2), (1, 40))
    """
    W = check_weights(W)
    R, seed = check_integer("R", R), check_integer("seed", seed, 0)
    check_option("choice", choice, ("window", "greedy"))
    (width,) = check_widths([width], W.shape[::-1], [2])
    check_count("draws", count_draws(W.shape, width, R), max_draws)
    eta = window_half_width(W.shape, tol)
    return prune_layer(W, eta, R, width, (seed, 0), greedy=choice == "greedy")


def prune_layer(
    W: FloatArray,
    eta: float,
    R: int,
    width: int,
    key: tuple[int, int],
    *,
    greedy: bool,
    sides: int = 2,
) -> ConstructedLayer:
    """Returns the construction for one checked layer W with windows of half-width eta.

    `key` is (seed, layer); see `construct_layer` for the rest.
    """
    d2, d0 = W.shape
    d_prime = width // (sides * d0)
    used = sides * d0 * d_prime
    # Neurons are numbered by (column, side, copy).
    column = np.repeat(np.arange(d0), sides * d_prime)
    s = np.tile(np.repeat([1.0, -1.0][:sides], d_prime), d0)
    goals = W[:, column]

    hidden_rng, output_rng = (np.random.default_rng([*key, i]) for i in (0, 1))
    hidden = hidden_rng.uniform(-1.0, 1.0, (width, d0))
    output = output_rng.uniform(-1.0, 1.0, (d2, width))
    hidden_draws = np.ones(hidden.shape, np.int64)
    output_draws = np.ones(output.shape, np.int64)
    own = (np.arange(used), column)
    needed = (goals != 0.0).any(axis=0)
    unit = np.ones(used)
    u, hidden_draws[own] = _resample(
        hidden_rng, hidden[own], s, unit, needed, eta, R, greedy
    )
    # Greedy adapts V to the u at hand; windows are fixed beforehand.
    scale = u if greedy else s
    V, output_draws[:, :used] = _resample(
        output_rng, output[:, :used], goals, scale, goals != 0.0, eta, R, greedy
    )
    hidden[own], output[:, :used] = u, V
    hidden_mask = np.zeros(hidden.shape, np.bool_)
    hidden_mask[own] = True
    output_mask = np.zeros(output.shape, np.bool_)
    kept, ok = _choose(W, u, V, s, eta, greedy, (d2, d0, sides, d_prime))
    output_mask[:, :used] = kept.reshape(d2, used)
    return ConstructedLayer(
        hidden, hidden_mask, output, output_mask, hidden_draws, output_draws, ok
    )


def _choose(
    W: FloatArray,
    u: FloatArray,
    V: FloatArray,
    s: FloatArray,
    eta: float,
    greedy: bool,
    blocks: tuple[int, int, int, int],
) -> tuple[BoolArray, BoolArray]:
    """Returns the output mask, shaped `blocks`, and which entries it approximates."""
    goals = np.broadcast_to(W[:, :, None, None], blocks).reshape(V.shape)
    errors = np.abs(goals - u * V)
    if greedy:
        # A neuron with the wrong sign would be active on the wrong side.
        valid = (s * u > 0.0) & (errors <= 2.0 * eta)
    else:
        valid = (np.abs(u - s) <= eta) & (np.abs(V - s * goals) <= eta)
    # An error is at most 2, so an invalid neuron loses to every valid one.
    best = np.argmin((errors + 4.0 * ~valid).reshape(blocks), axis=-1)
    zero = (W == 0.0)[:, :, None]
    kept = (np.arange(blocks[-1]) == best[..., None]) & ~zero[..., None]
    return kept, valid.reshape(blocks).any(axis=-1) | zero


def _resample(
    rng: np.random.Generator,
    initial: FloatArray,
    goals: FloatArray,
    scale: FloatArray,
    needed: BoolArray,
    eta: float,
    R: int,
    greedy: bool,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Returns values x near scale x = goals, and the draw (1..R) of each.

    Greedy minimises |goals - scale x| over all R draws; otherwise the first value with
    |goals - scale x| <= eta is kept, else the last. The r-th draw depends neither on R
    nor on what was kept, since the stream is consumed in whole rounds.
    """
    values, draws = initial.copy(), np.ones(initial.shape, np.int64)
    scale = np.broadcast_to(scale, initial.shape)
    errors = np.abs(goals - scale * initial)
    wanted = needed & (greedy | (errors > eta))
    rounds = max(1, _BLOCK // initial.size)
    for start in range(1, R, rounds):
        if not wanted.any():
            break
        block = rng.uniform(-1.0, 1.0, (min(rounds, R - start), *initial.shape))
        block = block[:, wanted]
        distances = np.abs(goals[wanted] - scale[wanted] * block)
        if greedy:
            row = np.argmin(distances, axis=0)
            better = np.min(distances, axis=0) < errors[wanted]
        else:
            hits = distances <= eta
            row = np.where(hits.any(axis=0), np.argmax(hits, axis=0), len(block) - 1)
            better = np.ones(row.shape, np.bool_)
        picked = (row, np.arange(row.size))
        values[wanted] = np.where(better, block[picked], values[wanted])
        draws[wanted] = np.where(better, start + 1 + row, draws[wanted])
        errors[wanted] = np.where(better, distances[picked], errors[wanted])
        if not greedy:
            wanted = needed & (errors > eta)
    return values, draws


def check_widths(
    widths: Sequence[int], dims: Sequence[int], sides: Sequence[int]
) -> list[int]:
    """The widths, each an integer of at least one neuron per column and side."""
    if len(widths) != len(sides):
        raise ValueError(f"widths must have {len(sides)} entries, got {len(widths)}")
    return [
        check_integer(f"the width of layer {i}", width, side * d0)
        for i, (width, d0, side) in enumerate(zip(widths, dims, sides, strict=False), 1)
    ]


def count_draws(shape: tuple[int, ...], width: int, R: int, sides: int = 2) -> int:
    """The most values that a layer draws: its entries, then R - 1 resamplings."""
    d2, d0 = shape
    used = width // (sides * d0) * sides * d0
    return (d0 + d2) * width + (R - 1) * (1 + d2) * used
