"""Pruned layers as functions of arrays: (x, scores, weights).

Each layer masks its own weights with the exact straight-through top-k mask and applies
them; gradients reach x and the scores. For networks written in plain JAX.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.masks import Scalar, pruned

__all__ = ["conv", "dense", "lstm_cell"]


def dense(x: Array, scores: Array, weights: Array, *, sparsity: Scalar) -> Array:
    """A linear layer: x (..., inputs), scores and weights (inputs, outputs).

    Args:
      x: (..., inputs).
      scores: (inputs, outputs), floating point.
      weights: (inputs, outputs), frozen: no gradient reaches them.
      sparsity: the fraction of the weights that is removed, in [0, 1).

    Raises:
      ValueError: scores and weights of different shapes, or a sparsity outside [0, 1).

    >>> scores, weights = jnp.array([[0.2], [0.1]]), jnp.array([[3.0], [5.0]])
    >>> dense(jnp.array([[1.0, 1.0]]), scores, weights, sparsity=0.5)
    Array([[3.]], dtype=float32)
    """
    return x @ pruned(scores, weights, sparsity)


def conv(
    x: Array,
    scores: Array,
    weights: Array,
    *,
    sparsity: Scalar,
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
) -> Array:
    """A convolution: x (N, H, W, inputs), scores and weights (h, w, inputs, outputs).

    Args:
      x: (N, H, W, inputs).
      scores: (h, w, inputs, outputs), floating point.
      weights: (h, w, inputs, outputs), frozen: no gradient reaches them.
      sparsity: the fraction of the weights that is removed, in [0, 1).
      strides: as of `jax.lax.conv_general_dilated`.
      padding: as of `jax.lax.conv_general_dilated`.

    Returns:
      (N, H', W', outputs).

    Raises:
      ValueError: scores and weights of different shapes, or a sparsity outside [0, 1).

    >>> image = jnp.ones((1, 4, 4, 1))
    >>> scores, weights = jnp.arange(9.0).reshape(3, 3, 1, 1), jnp.ones((3, 3, 1, 1))
    >>> conv(image, scores, weights, sparsity=1 / 3, padding="VALID")[0, :, :, 0]
    Array([[6., 6.],
           [6., 6.]], dtype=float32)
    """
    effective = pruned(scores, weights, sparsity)
    dtype = jnp.result_type(x, effective)
    return lax.conv_general_dilated(
        x.astype(dtype),
        effective.astype(dtype),
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def lstm_cell(
    carry: tuple[Array, Array],
    x: Array,
    input_scores: Array,
    input_weights: Array,
    recurrent_scores: Array,
    recurrent_weights: Array,
    *,
    sparsity: Scalar,
) -> tuple[tuple[Array, Array], Array]:
    """One step of an LSTM without biases.

    The four gates (input, forget, cell, output) are concatenated in one matrix, and the
    top-k choice is joint over the four, as in frameworks that fuse them: a gate that
    needs fewer weights leaves more to the others.

    Args:
      carry: (cell, hidden), each (..., hidden).
      x: (..., inputs).
      input_scores: (inputs, 4 * hidden).
      input_weights: (inputs, 4 * hidden).
      recurrent_scores: (hidden, 4 * hidden).
      recurrent_weights: (hidden, 4 * hidden).
      sparsity: the fraction removed from each of the two matrices.

    Returns:
      ((cell, hidden), hidden).

    >>> x, carry = jnp.ones((2, 3)), (jnp.zeros((2, 4)), jnp.zeros((2, 4)))
    >>> inputs, recurrent = jnp.ones((3, 16)), jnp.ones((4, 16))
    >>> both = inputs, inputs, recurrent, recurrent
    >>> (_, hidden), output = lstm_cell(carry, x, *both, sparsity=0)
    >>> output.shape, bool((output == hidden).all())
    ((2, 4), True)
    """
    cell, hidden = carry
    gates = dense(x, input_scores, input_weights, sparsity=sparsity) + dense(
        hidden, recurrent_scores, recurrent_weights, sparsity=sparsity
    )
    enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
    return (cell, hidden), hidden
