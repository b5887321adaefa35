"""A max-pool whose gradient needs comparisons only, not a scatter."""

import functools

import jax.numpy as jnp
from jax import Array, lax


def max_pool(x: Array, *, window: int = 2, stride: int = 2, padding: int = 0) -> Array:
    """The maximum of each window, (N, H, W, C) to (N, H', W', C).

    The first of equal maxima gets the whole gradient, and NaN counts as the largest, as
    in `flax.linen.max_pool`, whose gradient is a scatter: slow on CPUs, and on GPUs
    without a form that gives the same bits every time. The padding, which never wins,
    is smaller than the window.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> max_pool(x)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    >>> max_pool(x, window=3, padding=1)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    for axis in (2, 1):  # the first in a window is that of the first row
        if padding:
            x = _with_edges(x, axis, padding)
        last = x.shape[axis] - window
        parts = (
            lax.slice_in_dim(x, i, i + last // stride * stride + 1, stride, axis)
            for i in range(window)
        )
        x = functools.reduce(_first_larger, parts)
    return x


def _with_edges(x: Array, axis: int, padding: int) -> Array:
    """An array whose edges are there again, this often.

    That changes no window's maximum, nor who gets its gradient. -inf would do as well,
    but converters to ONNX do not know how to write it around a free batch size.
    """
    size = x.shape[axis]
    before, after = (
        [lax.slice_in_dim(x, i, i + 1, axis=axis)] * padding for i in (0, size - 1)
    )
    return jnp.concatenate([*before, x, *after], axis)


def _first_larger(a: Array, b: Array) -> Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
