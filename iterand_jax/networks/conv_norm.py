"""A convolution and its batch normalization, the unit of the ResNets and VGGs.

Batch normalization has PyTorch's defaults, which the paper's networks use: epsilon 1e-5
and momentum 0.1, which is 0.9 in Flax (the weight of the old statistics). In training
it uses the mean and the biased variance of the global batch, also when the batch is
sharded over devices. Training uses `networks.batch_norm`, an equivalent that is
faster.

By default there is one difference to PyTorch: the *running* variance is Flax's, an
average of the biased variances, which are also those used in training, while PyTorch
averages the unbiased ones (here with `unbiased`), which are larger by n / (n - 1) with
n = batch * height * width. It does not affect training. In evaluation a layer's outputs
are larger by 1 / 2n: at batch size 128 by 1 / 1,024 for the smallest images (VGG11's
2x2) and by 1 / 4,096 for ResNet18's 4x4. That is far below the differences between
seeds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from iterand_jax.networks.batch_norm import batch_norm
from iterand_jax.networks.convs import sized
from iterand_jax.networks.cpu.convolution import Conv

EPSILON = 1e-5
MOMENTUM = 0.9  # 1 - PyTorch's


class ConvNorm(nn.Module):
    """A square convolution without bias, then batch normalization.

    Attributes:
      features: output channels.
      kernel_size: of both axes, odd; the zero padding is half of it on every side, as
        in PyTorch's networks (with strides, Flax's SAME pads asymmetrically).
      strides: of both axes.
      affine: whether the normalization has a trainable scale and bias.
      dtype: of the result; statistics are computed in float32 or better.
      conv: the convolution's class or constructor, called as `flax.linen.Conv`.
      unbiased: whether the running variance is an average of unbiased ones.
      sizes: output channels by the path of a `ConvNorm`, in place of its features.
    """

    features: int
    kernel_size: int
    strides: int = 1
    affine: bool = False
    dtype: Any = jnp.float32
    conv: Callable[..., Any] = Conv
    unbiased: bool = False
    sizes: Mapping[str, int] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """(N, H, W, C) to (N, H / strides, W / strides, features), rounded up."""
        padding = self.kernel_size // 2
        x = self.conv(
            sized(self.sizes, "/".join(self.path), self.features),
            (self.kernel_size, self.kernel_size),
            strides=(self.strides, self.strides),
            padding=((padding, padding), (padding, padding)),
            use_bias=False,
            dtype=self.dtype,
        )(x)
        return batch_norm(
            use_running_average=not train,
            unbiased=self.unbiased,
            momentum=MOMENTUM,
            epsilon=EPSILON,
            use_scale=self.affine,
            use_bias=self.affine,
            dtype=self.dtype,
        )(x)
