"""A 2x2 max-pool whose gradient needs comparisons only, not a scatter."""

import jax.numpy as jnp
from jax import Array


def max_pool(x: Array) -> Array:
    """The maximum of each 2x2 window, (N, H, W, C) to (N, H // 2, W // 2, C).

    The first of equal maxima gets the whole gradient, and NaN counts as the largest, as
    in `flax.linen.max_pool`, whose gradient is a scatter, which is slow on CPUs.
    """
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    rows = _first_larger(x[:, :, :, :, 0], x[:, :, :, :, 1])
    return _first_larger(rows[:, :, 0], rows[:, :, 1])


def _first_larger(a: Array, b: Array) -> Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
