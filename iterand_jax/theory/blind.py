"""Blind resampling, as IteRand does it, on the network of Lemma A.4.

The theorem's R is an oracle's: it sees the target and stops at the right value. IteRand
sees scores only: it trains them by edge-popup and, every `k_per` steps, resamples a
random fraction of what they prune. Here both meet the same task, w x on |x| <= 1 by
sum_j m_j v_j s(u_j x), so that what blind resampling is worth can be measured.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iterand_jax.theory.validation import (
    FloatArray,
    check_integer,
    check_open_unit,
    check_weights,
)

MOMENTUM = 0.9


class BlindRun(NamedTuple):
    """Sup errors (trials, refreshes + 1) before each refresh, and draws per value."""

    errors: FloatArray
    draws: FloatArray


class _State(NamedTuple):
    u: jax.Array
    v: jax.Array
    scores: jax.Array
    velocity: jax.Array
    draws: jax.Array


def blind_redraws(
    w: float,
    width: int,
    *,
    sparsity: float = 0.5,
    rate: float = 0.1,
    k_per: int = 100,
    refreshes: int = 100,
    learning_rate: float = 0.1,
    trials: int,
    seed: int,
) -> BlindRun:
    """Returns the error of edge-popup with blind resampling after 0, 1, ... refreshes.

    One score per hidden neuron (the mask m of Lemma A.4), the top 1 - `sparsity` kept;
    SGD with momentum 0.9 on the exact mean squared error over x ~ U[-1, 1], straight
    through the mask. Every `k_per` steps u_j and v_j of each pruned neuron are
    resampled from U[-1, 1], each with probability `rate`. The error is the exact
    supremum over |x| <= 1; draws are the mean number of values that an entry has had.
    Raises ValueError for |w| > 1, sparsity or rate outside (0, 1), counts below 1.

    >>> run = blind_redraws(0.5, width=8, k_per=5, refreshes=2, trials=3, seed=0)
    >>> run.errors.shape, run.draws.shape
    ((3, 3), (3, 3))
    """
    check_weights([[w]])
    width = check_integer("width", width, 2)
    kept = max(1, round(width * (1.0 - check_open_unit("sparsity", sparsity))))
    keys = jax.random.split(
        jax.random.key(check_integer("seed", seed, 0)), check_integer("trials", trials)
    )
    errors, draws = _run(
        keys,
        jnp.float32(w),
        jnp.float32(check_open_unit("rate", rate)),
        jnp.float32(learning_rate),
        width=width,
        kept=kept,
        k_per=check_integer("k_per", k_per),
        refreshes=check_integer("refreshes", refreshes, 0),
    )
    return BlindRun(np.asarray(errors, np.float64), np.asarray(draws, np.float64))


@partial(jax.jit, static_argnames=("width", "kept", "k_per", "refreshes"))
def _run(
    keys: jax.Array,
    w: jax.Array,
    rate: jax.Array,
    learning_rate: jax.Array,
    *,
    width: int,
    kept: int,
    k_per: int,
    refreshes: int,
) -> tuple[jax.Array, jax.Array]:
    def period(state: _State, key: jax.Array) -> tuple[_State, tuple]:
        def step(state: _State, _: None) -> tuple[_State, None]:
            gradient = jax.grad(_loss)(state.scores, state.u, state.v, w, kept)
            velocity = MOMENTUM * state.velocity + gradient
            scores = state.scores - learning_rate * velocity
            return state._replace(scores=scores, velocity=velocity), None

        state, _ = jax.lax.scan(step, state, None, length=k_per)
        mask = _mask(state.scores, kept)
        error = jnp.abs(_errors(mask, state.u, state.v, w)).max()
        record = error, state.draws.mean()
        u_key, v_key = jax.random.split(key)
        u, u_drawn = _redraw(u_key, state.u, mask, rate)
        v, v_drawn = _redraw(v_key, state.v, mask, rate)
        draws = state.draws + jnp.stack([u_drawn, v_drawn])
        return state._replace(u=u, v=v, draws=draws), record

    def trial(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, refresh_key = jax.random.split(key)
        u, v, scores = jax.random.uniform(start_key, (3, width), minval=-1.0)
        state = _State(u, v, scores, jnp.zeros(width), jnp.ones((2, width)))
        _, records = jax.lax.scan(
            period, state, jax.random.split(refresh_key, refreshes + 1)
        )
        return records

    return jax.vmap(trial)(keys)


def _mask(scores: jax.Array, kept: int) -> jax.Array:
    return (scores >= jax.lax.top_k(scores, kept)[0][-1]).astype(scores.dtype)


def _errors(mask: jax.Array, u: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
    """Returns the errors at x = 1 and x = -1; in between they are linear."""
    output = jnp.stack([(mask * v * jax.nn.relu(x * u)).sum() for x in (1.0, -1.0)])
    return jnp.stack([w, -w]) - output


def _loss(
    scores: jax.Array, u: jax.Array, v: jax.Array, w: jax.Array, kept: int
) -> jax.Array:
    straight_through = scores + jax.lax.stop_gradient(_mask(scores, kept) - scores)
    return (_errors(straight_through, u, v, w) ** 2).sum() / 6.0


def _redraw(
    key: jax.Array, values: jax.Array, mask: jax.Array, rate: jax.Array
) -> tuple[jax.Array, jax.Array]:
    chosen_key, value_key = jax.random.split(key)
    drawn = jax.random.bernoulli(chosen_key, rate, values.shape) & (mask == 0.0)
    fresh = jax.random.uniform(value_key, values.shape, minval=-1.0)
    return jnp.where(drawn, fresh, values), drawn
