"""Batch normalization that trains faster on CPUs.

On CPUs XLA reduces over the pixels of a batch in windows of 32 along each axis, one
window at a time. That is accurate, but 20 times slower than necessary if the summands
are fused into the reduction, such as the squares of the variance and everything in the
gradient. Here the pixels are reshaped to rows of at most 32, which XLA does not split:
it reduces each row with the summands fused, and then reduces over the rows. The
gradient has the same two-stage form, because the transpose of a broadcast over rows and
then pixels is a sum over pixels and then rows.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

ROW = 32  # pixels; XLA splits longer rows into windows


def normalize(
    x: Array, scale: Array | None, bias: Array | None, epsilon: float, dtype: Any
) -> tuple[Array, Array, Array]:
    """`iterand_jax.networks.batch_norm.fused_normalize` for CPUs.

    >>> x = jnp.array([[1.0], [3.0]])
    >>> normalize(x, None, None, 0.0, jnp.float32)[0].ravel()
    Array([-1.,  1.], dtype=float32)
    """
    channels = x.shape[-1:]
    # Rows of the largest length up to ROW that divides the pixels.
    pixels = math.prod(x.shape[1:-1])
    row = max(d for d in range(1, ROW + 1) if pixels % d == 0)
    rows = x.reshape(len(x), pixels // row, row, *channels)
    rows = rows.astype(jnp.promote_types(dtype, jnp.float32))

    def spread(values: Array) -> Array:
        # Broadcasts over rows; the barrier keeps the broadcast over pixels apart.
        spread = jnp.broadcast_to(values, (*rows.shape[:2], 1, *channels))
        return jax.lax.optimization_barrier(spread)

    mean = _mean(rows)
    var = jnp.maximum(0, _mean(jnp.square(rows)) - jnp.square(mean))
    factor = jax.lax.rsqrt(var + epsilon)
    if scale is not None:
        factor *= scale
    rows = (rows - spread(mean)) * spread(factor)
    if bias is not None:
        rows += spread(bias)
    return rows.reshape(x.shape).astype(dtype), mean, var


def _mean(rows: Array) -> Array:
    return jnp.mean(jnp.mean(rows, axis=2), axis=(0, 1))
