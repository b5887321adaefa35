"""The gradient of a batch's mean loss, optionally accumulated over microbatches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PyTree = Any

MOST_UNROLLED = 8
"""Parts that a CPU has in its program one after another, and not as a loop.

In a loop XLA computes the gradients of convolutions on a CPU by one thread and without
its library, 4 times slower for Conv6 of width 1/4; but the program of each part takes
seconds to compile, so that a loop of 64 is faster for hours.
"""

# (params, batch_stats, inputs, labels) -> (mean loss, (sums, new batch_stats))
Loss = Callable[..., tuple[Array, tuple[PyTree, PyTree]]]


def accumulated(
    loss_of: Loss,
    params: PyTree,
    batch_stats: PyTree,
    batch: tuple[tuple[Array, ...], Array],
    *,
    parts: int,
) -> tuple[Array, PyTree, PyTree, PyTree]:
    """Gradient accumulation: only one microbatch's activations are live at a time.

    Part j has the examples j, j + parts, ..., so each device's shard of the batch stays
    on it. Running statistics are updated by the parts in turn, each normalized by its
    own batch statistics; all else equals the undivided batch, up to rounding.

    The parts are a loop, so that a program of many compiles as one of two; on CPU up to
    `MOST_UNROLLED` are not. Both are the same sums in the same order.

    Args:
      loss_of: the loss of one part.
      params: the parameters to differentiate with respect to.
      batch_stats: running statistics.
      batch: (inputs, labels), each (N, ...), N a multiple of parts.
      parts: the number of microbatches.

    Returns:
      (mean loss, sums over the batch, batch_stats, gradients).
    """
    inputs, labels = batch

    def one_part(carry, part):
        gradients, sums, batch_stats = carry
        grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (part_sums, batch_stats)), part_gradients = grad(
            params, batch_stats, *part
        )
        gradients = jax.tree.map(lambda a, b: a + b / parts, gradients, part_gradients)
        return (gradients, jax.tree.map(jnp.add, sums, part_sums), batch_stats), loss

    def part_of(j):
        return jax.tree.map(lambda x: x[j::parts], (inputs, labels))

    def by_part(x):
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    abstract = jax.eval_shape(loss_of, params, batch_stats, *part_of(0))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (params, abstract[1][0])
    )
    carry = (*zeros, batch_stats)
    if parts == 1 or (parts <= MOST_UNROLLED and jax.default_backend() == "cpu"):
        each = []
        for j in range(parts):
            carry, loss = one_part(carry, part_of(j))
            each.append(loss)
        losses = jnp.stack(each)
    else:
        stacked = jax.tree.map(by_part, (inputs, labels))
        carry, losses = lax.scan(one_part, carry, stacked)
    gradients, sums, batch_stats = carry
    return jnp.mean(losses), sums, batch_stats, gradients
