"""LSTM and BiLSTM: the paper's text classifiers (Table 11).

An embedding of 100 features, one (Bi)LSTM layer of 256 hidden units per direction, and
a linear layer on the last hidden state (of both directions). The width factor, which
the paper does not vary here, scales the embedding and the hidden units.

What Table 11 leaves open:

- Dropout 0.2 is applied to the embedded words and to the last hidden state, the two
  places where the tutorial that the paper builds on applies its dropout layer. Each
  example of a batch has its own dropout key, so that gradient accumulation drops the
  same features.
- The four gates (input, forget, cell, output) are concatenated in fused matrices,
  (inputs, 4 * hidden) and (hidden, 4 * hidden), so the top-k choice of a matrix is one
  joint choice over the gates, as for PyTorch's LSTM: a gate that needs fewer weights
  leaves more to the others. Flax's own LSTM cells have a leaf for each gate, so every
  gate would have the same sparsity.
- With biases (SGD) an LSTM has one bias per gate and unit, where PyTorch adds two, of
  which one is redundant. All are initialized to zero, including those of the forget
  gates, to match the pruned networks, which have no biases.
- The embedding is a leaf that is pruned, of fan-in 100: see `DEFAULT_RULES`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from iterand_jax.networks.convs import as_logits, sized
from iterand_jax.networks.recurrence import GATES, last_hidden, merges_axes

EMBEDDING = 100
HIDDEN = 256


def gates_of(path: str) -> int:
    """How many gates are concatenated along the outputs of a kernel, 1 for no gates.

    >>> gates_of("Forward/recurrent/kernel"), gates_of("Dense_0/kernel")
    (4, 1)
    """
    return GATES if path.endswith(("/input/kernel", "/recurrent/kernel")) else 1


def is_table(path: str) -> bool:
    """Whether a leaf is an embedding: (words, features), looked up and not summed.

    >>> is_table("Embed_0/embedding"), is_table("Dense_0/kernel")
    (True, False)
    """
    return path.rsplit("/", 1)[-1] == "embedding"


class LSTMClassifier(nn.Module):
    """An embedding, one LSTM layer in one or both directions, and a linear layer.

    Attributes:
      num_classes: the number of logits.
      width: the width factor rho.
      affine: whether the LSTM and the linear layer have biases, as in networks trained
        by SGD.
      dtype: of the activations; parameters, the cell state of the LSTM and logits are
        float32.
      bidirectional: whether a second LSTM reads from the last token to the first.
      vocabulary_size: rows of the embedding: the words, the unknown word and padding.
      dropout: the dropout rate in both places.
      sizes: features of the embedding and units of a direction by path, "Embed_0" and
        "Forward", in place of the scaled ones.
    """

    num_classes: int
    width: float = 1.0
    affine: bool = False
    dtype: Any = jnp.float32
    bidirectional: bool = False
    vocabulary_size: int = 25_002
    dropout: float = 0.2
    sizes: Mapping[str, int] | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        lengths: Array,
        numbers: Array | None = None,
        *,
        train: bool = False,
    ) -> Array:
        """Token ids (N, T) and lengths (N,), int32, to float32 logits (N, num_classes).

        The dropout keys follow from `numbers` (N,), the indices of the examples in
        their batch, by default 0 to N - 1. The padding after a text's first `lengths`
        tokens does not change the state: each direction ends with the state after its
        last real token.
        """
        features = sized(self.sizes, "Embed_0", EMBEDDING, self.width)
        embedding = nn.Embed(self.vocabulary_size, features)
        # Time first: a step of the scan reads one block. Rounded after the lookup, so
        # that the gradients of a frequent token's rows add up in float32.
        x = embedding(tokens.T).astype(self.dtype)
        if train:
            x = Dropout(self.dropout)(x, numbers)

        def lstm(name: str, **options: Any) -> nn.Module:
            units = sized(self.sizes, name, HIDDEN, self.width)
            options |= {"affine": self.affine, "dtype": self.dtype}
            return LSTM(units, name=name, **options)

        hidden = lstm("Forward")(x, lengths)
        if self.bidirectional:
            last = lstm("Backward", reverse=True)(x, lengths)
            hidden = jnp.concatenate([hidden, last], axis=-1)
        if train:
            hidden = Dropout(self.dropout)(hidden, numbers)
        dense = nn.Dense(self.num_classes, use_bias=self.affine, dtype=self.dtype)
        return as_logits(dense(hidden))


class Dropout(nn.Module):
    """Dropout with a key per example, independent of the other examples of the batch.

    Attributes:
      rate: the fraction of features that is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, numbers: Array | None = None) -> Array:
        """Features (..., N, F) of the examples with indices `numbers` (N,)."""
        if self.rate == 0:
            return x
        if numbers is None:
            numbers = jnp.arange(x.shape[-2])
        key, keep = self.make_rng("dropout"), 1 - self.rate
        shape = (*x.shape[:-2], x.shape[-1])

        def kept(number):
            return jax.random.bernoulli(jax.random.fold_in(key, number), keep, shape)

        return jnp.where(jax.vmap(kept, out_axes=-2)(numbers), x / keep, 0)


class LSTM(nn.Module):
    """One direction of an LSTM layer, returning the last hidden state.

    The inputs of all time steps are projected in one product before the scan over time;
    only the recurrent product, which depends on the state, is inside the scan.

    Attributes:
      features: hidden units.
      affine: whether the gates have biases.
      dtype: of the products.
      reverse: whether to read from the last token to the first.
    """

    features: int
    affine: bool = False
    dtype: Any = jnp.float32
    reverse: bool = False

    @nn.compact
    def __call__(self, x: Array, lengths: Array) -> Array:
        """Inputs (T, N, inputs) and lengths (N,) to the last hidden state.

        Returns (N, features), in float32 or better. At padding positions the state is
        not changed.
        """
        width = GATES * self.features
        inputs = nn.Dense(width, self.affine, dtype=self.dtype, name="input")
        recurrent = Recurrent(width, False, reverse=self.reverse, name="recurrent")
        words = x.reshape(-1, x.shape[-1]) if merges_axes() else x
        return recurrent(inputs(words).reshape(*x.shape[:2], width), lengths)


class Recurrent(nn.Dense):
    """The layer whose kernel is multiplied by the hidden state at each time step.

    A Dense by its kernel, initialization and rules; its inputs are its own outputs.

    Attributes:
      features: gates, four times the hidden units.
      reverse: whether to read from the last token to the first.
    """

    reverse: bool = False

    @nn.compact
    def __call__(self, projected: Array, lengths: Array) -> Array:  # type: ignore
        """The gates' sums over inputs (T, N, 4 * features) and lengths to a state."""
        shape = (self.features // GATES, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        return last_hidden(projected, kernel, lengths, reverse=self.reverse)
