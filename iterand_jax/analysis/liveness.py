"""Which kept weights are on a path from the inputs of a network to its logits.

The network is called with its masks in place of weights, scaled so that each output is
the mean of its inputs, with zero biases and identity normalization, on positive inputs.
Then an activation is positive if a path from the inputs reaches it, and a weight has
a gradient if such a path continues from it to the logits. The graph
of the network need not be known: a chain, a ResNet and an LSTM are treated the same.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from iterand_jax.networks.lstm import is_table
from iterand_jax.networks.tracing import shapes
from iterand_jax.trees import leaves_of, path_string

PyTree = Any
IMAGES = 8  # of random pixels, so that max-pools choose many different ones
WORDS = 50  # of a text: enough steps for one unit of an LSTM to reach another


def live_weights(
    network: nn.Module, inputs: Sequence[jax.ShapeDtypeStruct], masks: PyTree
) -> dict[str, np.ndarray]:
    """By path, whether each kept weight is on a path from the inputs to the logits.

    Args:
      network: of images (N, H, W, C), or of token ids (N, T) and lengths (N,).
      inputs: what it is called with, as a batch of one.
      masks: nonzero where a weight is kept, None for leaves that are not pruned.

    Returns:
      Booleans in the shapes of the masks. A path through a max-pool is missed
      if no probe image takes it.
    """
    if hasattr(network, "dtype"):  # half precision would lose small means
        network = network.clone(dtype=jnp.float32)
    kept_of = {path: np.asarray(mask) != 0 for path, mask in leaves_of(masks).items()}
    variables = shapes(network, *inputs)

    def replaced(key_path, leaf):
        path = path_string(key_path).removeprefix("params/")
        return _replaced(path, leaf, kept_of.get(path))

    variables = jax.tree_util.tree_map_with_path(replaced, variables)
    grad = jax.jit(jax.grad(_total, argnums=1), static_argnums=0)
    gradients = leaves_of(grad(network, variables, _probe(inputs))["params"])

    def live(path, kept):
        reached = np.asarray(gradients[path]) != 0
        # A feature reaches the same units for every word.
        return kept & (reached.any(0) if is_table(path) else reached)

    return {path: live(path, kept) for path, kept in kept_of.items()}


def _total(network, variables, inputs):
    return jnp.sum(network.apply(variables, *inputs))


def _replaced(path: str, leaf: Any, kept: np.ndarray | None) -> np.ndarray:
    """The mask, scaled; for other leaves, the values of an identity."""
    name = path.rsplit("/", 1)[-1]
    if leaf.ndim < 2:
        return np.full(leaf.shape, name in ("scale", "var"), np.float32)
    kept = np.ones(leaf.shape, bool) if kept is None else kept
    if is_table(path):
        return np.broadcast_to(kept.any(0), kept.shape).astype(np.float32)
    of_output = kept.sum(tuple(range(kept.ndim - 1)))
    return (kept / np.maximum(of_output, 1)).astype(np.float32)


def _probe(inputs: Sequence[jax.ShapeDtypeStruct]) -> tuple[np.ndarray, ...]:
    """Positive arrays with entries of very different sizes, or a text."""
    shape = inputs[0].shape[1:]
    if not np.issubdtype(inputs[0].dtype, np.integer):
        normal = np.random.default_rng(0).standard_normal((IMAGES, *shape))
        return (np.exp(2 * normal).astype(np.float32),)
    return np.zeros((1, WORDS), np.int32), np.array([WORDS], np.int32)
