"""A convolution and its batch normalization, the unit of the ResNets and VGGs.

Batch normalization has PyTorch's defaults, with which the paper's networks were
trained: epsilon 1e-5 and momentum 0.1, which Flax calls 0.9 (the share of the old
statistics that is kept). In training it uses the mean and the biased variance of the
batch: of the whole batch, also where that is spread over devices. On CPUs it trains
through `cpu.batch_norm`, which computes the same faster.

One thing differs from PyTorch: the *running* variance is Flax's, an average of the
biased variances, where PyTorch averages unbiased ones, larger by n / (n - 1) with n =
batch * height * width. Training never reads it. In evaluation a layer's outputs are
larger by 1 / 2n, at batch 128 one part in 1,024 where an image is smallest (the 2x2 of
VGG11) and one in 4,096 for ResNet18's 4x4: far below what a seed changes, and not worth
a normalization of our own. The biased variance is also the one that training divides
by.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from iterand_jax.networks.cpu.batch_norm import batch_norm
from iterand_jax.networks.cpu.convolution import Conv

EPSILON = 1e-5
MOMENTUM = 0.9  # 1 - PyTorch's


class ConvNorm(nn.Module):
    """A square convolution without bias, then batch normalization.

    Attributes:
      features: output channels.
      kernel_size: of both axes, odd; the zero padding is half of it on every side, as
        PyTorch's networks have it (Flax's SAME pads otherwise when it strides).
      strides: of both axes.
      affine: whether the normalization has a scale and a bias that train.
      dtype: of the result; statistics are computed in float32 or better.
      conv: the convolution's class or constructor, called as `flax.linen.Conv`.
    """

    features: int
    kernel_size: int
    strides: int = 1
    affine: bool = False
    dtype: Any = jnp.float32
    conv: Callable[..., Any] = Conv

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """(N, H, W, C) to (N, H / strides, W / strides, features), rounded up."""
        padding = self.kernel_size // 2
        x = self.conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=(self.strides, self.strides),
            padding=((padding, padding), (padding, padding)),
            use_bias=False,
            dtype=self.dtype,
        )(x)
        return batch_norm(
            use_running_average=not train,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            use_scale=self.affine,
            use_bias=self.affine,
            dtype=self.dtype,
        )(x)
