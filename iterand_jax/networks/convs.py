"""Conv2, Conv4 and Conv6: the paper's small convolutional networks (Table 1).

Stages of two 3x3 convolutions and a 2x2 max-pool, then linear layers of 256, 256 and
num_classes outputs; ReLU after every layer but the last. The width factor scales every
layer but the last. Conv8, which later papers have, is the next of the row.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from iterand_jax.networks.cpu.convolution import Conv
from iterand_jax.networks.max_pool import max_pool


class ConvNet(nn.Module):
    """Stages of two 3x3 convolutions and a max-pool, then three linear layers.

    Attributes:
      stages: channels of each stage at width 1.
      num_classes: the number of logits.
      width: the width factor rho.
      affine: whether layers have biases, as networks trained by SGD do.
      dtype: of the activations; parameters and logits are float32.
      sizes: output channels of layers by path, "Conv_0", in place of the scaled ones;
        not of the last layer.
    """

    stages: Sequence[int]
    num_classes: int
    width: float = 1.0
    affine: bool = False
    dtype: Any = jnp.float32
    sizes: Mapping[str, int] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Images (N, H, W, C) to float32 logits (N, num_classes)."""
        del train
        options = {"use_bias": self.affine, "dtype": self.dtype}
        for stage, channels in enumerate(self.stages):
            for index in (2 * stage, 2 * stage + 1):
                features = sized(self.sizes, f"Conv_{index}", channels, self.width)
                x = nn.relu(Conv(features, (3, 3), **options)(x))
            x = max_pool(x)
        x = x.reshape(x.shape[0], -1)
        for index, units in enumerate((256, 256)):
            features = sized(self.sizes, f"Dense_{index}", units, self.width)
            x = nn.relu(nn.Dense(features, **options)(x))
        return as_logits(nn.Dense(self.num_classes, **options)(x))


def as_logits(x: Array) -> Array:
    """The last layer's outputs in float32 or higher precision, for the loss."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def scaled(channels: int, width: float) -> int:
    """Channels times the width factor, rounded down.

    Raises:
      ValueError: a width that leaves no channel.
    """
    if not 1 <= channels * width < math.inf:
        raise ValueError(
            f"width {width:g} leaves a layer of {channels} channels with none; "
            f"possible: {1 / channels:g} or more"
        )
    return int(channels * width)


def sized(
    sizes: Mapping[str, int] | None, path: str, channels: int, width: float = 1.0
) -> int:
    """The channels of a layer: what `sizes` has for its path, else the scaled ones.

    >>> sized({"Conv_0": 5}, "Conv_0", 64, 0.5), sized(None, "Conv_0", 64, 0.5)
    (5, 32)
    """
    return (sizes or {}).get(path, scaled(channels, width))
