"""VGG11 in the form of OpenLTH, for CIFAR-10 (Table 7 of the paper).

Stages of 3x3 convolutions, each with batch normalization and ReLU, and a 2x2 max-pool
between the stages; then a 2x2 average pool and a linear layer. Five stages have four
max-pools between them, which reduce a 32x32 image to 2x2, and the average pool to one
pixel. The width factor scales every layer but the last.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from iterand_jax.networks.conv_norm import ConvNorm
from iterand_jax.networks.convs import as_logits, scaled
from iterand_jax.networks.cpu.convolution import Conv
from iterand_jax.networks.max_pool import max_pool


class VGG(nn.Module):
    """Stages of 3x3 convolutions with pools between them, then a linear layer.

    Attributes:
      stages: the channels of each convolution at width 1, by stage.
      num_classes: the number of logits.
      width: the width factor rho.
      affine: whether normalization has scales and biases and the linear layer a bias,
        as in networks trained by SGD.
      dtype: of the activations; parameters and statistics are float32, and logits.
      conv: the convolution's class or constructor, called as `flax.linen.Conv`.
      unbiased: whether the running variances are averages of unbiased ones.
      sizes: output channels of convolutions by path, "ConvNorm_0", in place of the
        scaled ones.
    """

    stages: Sequence[Sequence[int]]
    num_classes: int
    width: float = 1.0
    affine: bool = False
    dtype: Any = jnp.float32
    conv: Callable[..., Any] = Conv
    unbiased: bool = False
    sizes: Mapping[str, int] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Images (N, H, W, C) to float32 logits (N, num_classes).

        Raises:
          ValueError: images that are too small for the pools.
        """
        smallest = 2 ** len(self.stages)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"{len(self.stages)} pools halve the image, which needs {smallest}x"
                f"{smallest} pixels or more; got {x.shape[1]}x{x.shape[2]}"
            )
        for index, stage in enumerate(self.stages):
            if index > 0:
                x = max_pool(x)
            for channels in stage:
                x = ConvNorm(
                    scaled(channels, self.width),
                    3,
                    affine=self.affine,
                    dtype=self.dtype,
                    conv=self.conv,
                    unbiased=self.unbiased,
                    sizes=self.sizes,
                )(x, train=train)
                x = nn.relu(x)
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(self.num_classes, use_bias=self.affine, dtype=self.dtype)(x)
        return as_logits(x)


VGG11 = partial(VGG, stages=((64,), (128,), (256, 256), (512, 512), (512, 512)))
