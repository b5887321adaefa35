"""The gradient of the mean loss of a batch, computed in one piece or in parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

PyTree = Any

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
    """The mean over a batch, part after part, so that activations of one part live.

    Part j holds the examples j, j + parts, ...: what a device holds of the batch stays
    on it. Running statistics go through the parts in turn, each part normalized by its
    own; everything else is that of the undivided batch, up to rounding.

    Args:
      loss_of: of one part.
      params: what to differentiate by.
      batch_stats: running statistics.
      batch: (inputs, labels), each (N, ...), N a multiple of parts.
      parts: how many.

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

    abstract = jax.eval_shape(loss_of, params, batch_stats, *part_of(0))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (params, abstract[1][0])
    )
    carry = (*zeros, batch_stats)
    if parts == 1 or jax.default_backend() == "cpu":
        # Convolution gradients inside a scan are 30 times slower on CPU.
        each = []
        for j in range(parts):
            carry, loss = one_part(carry, part_of(j))
            each.append(loss)
        losses = jnp.stack(each)
    else:
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(part_of, range(parts)))
        carry, losses = lax.scan(one_part, carry, stacked)
    gradients, sums, batch_stats = carry
    return jnp.mean(losses), sums, batch_stats, gradients
