"""The loops of an LSTM over time, with a gradient that multiplies once for its kernel.

Automatic differentiation of a scan adds up the gradient of the recurrent kernel in the
loop, by a small product and a sum of whole kernels for each time step. Here the loop
backward computes only what depends on the step after it, the gradients of the gates,
and the kernel's gradient is one product of all of them with all hidden states. What the
loops save is in few arrays, each of which is a kernel for each time step on a GPU: 10
in all, for 26 of a Flax scan's (`experiments.measurements.kernels`).

There is no forward mode: `jax.jvp` of an LSTM ends in an error that says what to do, as
that of convolutions on CPUs.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.networks.reverse_mode import reverse_mode_only
from iterand_jax.networks.tracing import traces_as_xla

GATES = 4
"""Input, forget, cell and output, concatenated along the last axis in this order."""


def merges_axes() -> bool:
    """Whether (T, N, C) is multiplied as (T * N, C), the faster form on a CPU.

    The gradient of the input's kernel takes 0.3 times as long. With several devices the
    texts are sharded, and XLA would gather all of them on each to merge their axis with
    that of time.
    """
    return jax.device_count() == 1


def last_hidden(
    projected: Array, kernel: Array, lengths: Array, *, reverse: bool = False
) -> Array:
    """The hidden state of an LSTM after a text's last token, from a state of zeros.

    Args:
      projected: (T, N, 4 * features), the gates' sums over the inputs. Its dtype is
        that of the products and of the hidden state.
      kernel: (features, 4 * features), the recurrent one.
      lengths: (N,) integers. What follows the first `lengths` tokens changes nothing;
        0 for no token, whose state is zeros.
      reverse: whether to read from the last token to the first.

    Returns:
      (N, features), in float32 or better.

    Raises:
      TypeError: in forward mode.

    >>> projected = jnp.zeros((3, 1, 4)).at[..., 2].set(jnp.array([[1.0], [2], [9]]))
    >>> last_hidden(projected, jnp.ones((1, 4)), jnp.array([2]))
    Array([[0.34282...]], dtype=float32)
    """
    arrays = (reverse_mode_only(a, "OptimizedLSTMCell") for a in (projected, kernel))
    return _last_hidden(*arrays, lengths, reverse)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _last_hidden(projected, kernel, lengths, reverse):
    return _forward(projected, kernel, lengths, reverse, saving=False)[0]


def _forward(projected, kernel, lengths, reverse, saving=True):
    dtype, (time, texts, _) = projected.dtype, projected.shape
    wide = jnp.promote_types(dtype, jnp.float32)
    weights = kernel.astype(dtype)

    def step(state, inputs):
        cell, hidden = state
        token, sums = inputs
        gates = sums.astype(wide) + (hidden @ weights).astype(wide)
        new_cell, squashed, (_, _, _, leave) = _cell(gates, cell)
        new_hidden = (leave * squashed).astype(dtype)
        reads = token < lengths[:, None]
        new = jnp.where(reads, new_cell, cell), jnp.where(reads, new_hidden, hidden)
        saved = jnp.concatenate([gates, cell], axis=-1), hidden
        return new, saved if saving else ()

    nothing = jnp.zeros((texts, kernel.shape[0]), wide)
    start = nothing, nothing.astype(dtype)
    inputs = jnp.arange(time), projected
    if reverse and not saving and traces_as_xla():
        # A converter to ONNX has no scan that runs backwards.
        inputs, reverse = jax.tree.map(lambda x: jnp.flip(x, axis=0), inputs), False
    (_, hidden), saved = lax.scan(step, start, inputs, reverse=reverse)
    return hidden.astype(wide), (*saved, kernel, lengths)


def _cell(gates, cell):
    """(the new cell state, its hyperbolic tangent, the activated gates).

    The logistic function of x is (1 + tanh(x / 2)) / 2, so that all gates are one call
    of tanh: on CPUs the loop forward takes 0.7 times as long. Its absolute error is one
    of rounding, 6e-8 in float32, so a gate of less than that is closed.
    """
    kinds = jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5], gates.dtype), cell.shape[-1])
    gates = kinds * jnp.tanh(kinds * gates) + (1 - kinds)
    enter, forget, candidate, leave = jnp.split(gates, GATES, axis=-1)
    new_cell = forget * cell + enter * candidate
    return new_cell, jnp.tanh(new_cell), (enter, forget, candidate, leave)


def _backward(reverse, residuals, gradient):
    saved, hiddens, kernel, lengths = residuals
    width, dtype, wide = kernel.shape[1], hiddens.dtype, gradient.dtype
    weights = kernel.astype(dtype)
    last = 0 if reverse else jnp.minimum(lengths, len(saved))[:, None] - 1

    def step(gradients, inputs):
        of_cell, of_gates = gradients
        token, saved = inputs
        gates, cell = jnp.split(saved, [width], axis=-1)
        _, squashed, (enter, forget, candidate, leave) = _cell(gates, cell)
        of_hidden = (of_gates @ weights.T).astype(wide)
        of_hidden += jnp.where(token == last, gradient, 0)
        reads = token < lengths[:, None]
        of_output = jnp.where(reads, of_hidden, 0)
        of_new = jnp.where(reads, of_cell, 0)
        of_new += of_output * leave * (1 - squashed**2)
        of_gates = (
            of_new * candidate * enter * (1 - enter),
            of_new * cell * forget * (1 - forget),
            of_new * enter * (1 - candidate**2),
            of_output * squashed * leave * (1 - leave),
        )
        of_gates = jnp.concatenate(of_gates, axis=-1).astype(dtype)
        return (of_new * forget, of_gates), of_gates

    start = jnp.zeros_like(gradient), jnp.zeros((len(lengths), width), dtype)
    inputs = jnp.arange(len(saved)), saved
    _, of_gates = lax.scan(step, start, inputs, reverse=not reverse)
    of_kernel = _sum_of_products(hiddens, of_gates, wide)
    return of_gates, of_kernel.astype(kernel.dtype), None


def _sum_of_products(x: Array, y: Array, dtype: Any) -> Array:
    """The sum of x[t, n]^T y[t, n]: (T, N, A) and (T, N, B) to (A, B)."""
    if not merges_axes():
        return jnp.einsum("tna,tnb->ab", x, y, preferred_element_type=dtype)
    rows, columns = (array.reshape(-1, array.shape[-1]) for array in (x, y))
    rows = rows.T
    if jax.default_backend() == "cpu":
        rows = lax.optimization_barrier(rows)  # transposed first: 114 ms for 194
    return jnp.matmul(rows, columns, preferred_element_type=dtype)


_last_hidden.defvjp(_forward, _backward)
