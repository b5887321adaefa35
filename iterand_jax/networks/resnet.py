"""ResNets in the three forms of the paper's tables.

Each is a stem, stages of residual blocks, a global average pool and a linear layer;
batch normalization follows every convolution. The first block of every stage but the
first has stride 2, and if a block changes the shape, its shortcut is a 1x1 convolution.
The forms differ in the stem and in what the width factor scales:

- CIFAR (Table 1): a 3x3 stem of 64 channels, which the width does not scale.
- ImageNet (Table 2): a 7x7 stem of 64 channels with stride 2, not scaled either, then a
  3x3 max-pool with stride 2. Bottlenecks have their stride in the 3x3 convolution.
- OpenLTH's ResNet20 (Table 7): a 3x3 stem of 16 channels, scaled like the rest.
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

EXPANSION = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Attributes:
      channels: at width 1.
      width: the width factor rho.
      strides: of the first convolution.
      conv_norm: a `ConvNorm` but for its features, kernel size and strides.
    """

    channels: int
    width: float
    strides: int
    conv_norm: Callable[..., ConvNorm]

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """(N, H, W, C) to (N, H / strides, W / strides, channels * width)."""
        channels = scaled(self.channels, self.width)
        y = nn.relu(self.conv_norm(channels, 3, self.strides)(x, train=train))
        y = self.conv_norm(channels, 3)(y, train=train)
        if x.shape != y.shape:
            x = self.conv_norm(channels, 1, self.strides)(x, train=train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution with four times the channels, and a shortcut.

    Attributes:
      channels: of the first two convolutions at width 1.
      width: the width factor rho.
      strides: of the 3x3 convolution.
      conv_norm: a `ConvNorm` but for its features, kernel size and strides.
      inner: factor of the channels of the first two convolutions alone: 2 in a
        WideResNet-50-2.
    """

    channels: int
    width: float
    strides: int
    conv_norm: Callable[..., ConvNorm]
    inner: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """(N, H, W, C) to (N, H / strides, W / strides, 4 * channels * width)."""
        inner = scaled(self.channels * self.inner, self.width)
        outer = scaled(self.channels * EXPANSION, self.width)
        y = nn.relu(self.conv_norm(inner, 1)(x, train=train))
        y = nn.relu(self.conv_norm(inner, 3, self.strides)(y, train=train))
        y = self.conv_norm(outer, 1)(y, train=train)
        if x.shape != y.shape:
            x = self.conv_norm(outer, 1, self.strides)(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network.

    Attributes:
      stages: the number of blocks of each stage.
      num_classes: the number of logits.
      width: the width factor rho.
      affine: whether normalization has scales and biases and the linear layer a bias,
        as in networks trained by SGD.
      dtype: of the activations; parameters and statistics are float32, and logits.
      block: of a stage, called with channels, width, strides and conv_norm.
      conv: the convolution's class or constructor, called as `flax.linen.Conv`.
      unbiased: whether the running variances are averages of unbiased ones.
      channels: of the stem and the first stage at width 1; each later stage has twice
        those of the one before.
      imagenet_stem: whether the stem is 7x7, strides, and a max-pool follows.
      scaled_stem: whether the width scales the stem too.
      sizes: output channels of convolutions by path, "BasicBlock_0/ConvNorm_0", in
        place of the scaled ones. A shortcut is a convolution where the shape changes.
    """

    stages: Sequence[int]
    num_classes: int
    width: float = 1.0
    affine: bool = False
    dtype: Any = jnp.float32
    block: Callable[..., nn.Module] = BasicBlock
    conv: Callable[..., Any] = Conv
    unbiased: bool = False
    channels: int = 64
    imagenet_stem: bool = False
    scaled_stem: bool = False
    sizes: Mapping[str, int] | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Images (N, H, W, C) to float32 logits (N, num_classes)."""
        conv_norm = partial(
            ConvNorm,
            affine=self.affine,
            dtype=self.dtype,
            conv=self.conv,
            unbiased=self.unbiased,
            sizes=self.sizes,
        )
        stem = scaled(self.channels, self.width if self.scaled_stem else 1)
        kernel_size, strides = (7, 2) if self.imagenet_stem else (3, 1)
        x = nn.relu(conv_norm(stem, kernel_size, strides)(x, train=train))
        if self.imagenet_stem:
            x = max_pool(x, window=3, padding=1)
        for stage, blocks in enumerate(self.stages):
            for index in range(blocks):
                x = self.block(
                    channels=self.channels * 2**stage,
                    width=self.width,
                    strides=2 if stage > 0 and index == 0 else 1,
                    conv_norm=conv_norm,
                )(x, train=train)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(self.num_classes, use_bias=self.affine, dtype=self.dtype)(x)
        return as_logits(x)


ResNet18 = partial(ResNet, stages=(2, 2, 2, 2))
ResNet34 = partial(ResNet, stages=(3, 4, 6, 3))
ResNet20 = partial(ResNet, stages=(3, 3, 3), channels=16, scaled_stem=True)

ImageNetResNet18 = partial(ResNet18, imagenet_stem=True)
ImageNetResNet34 = partial(ResNet34, imagenet_stem=True)
ImageNetResNet50 = partial(ImageNetResNet34, block=Bottleneck)
ImageNetResNet101 = partial(ImageNetResNet50, stages=(3, 4, 23, 3))
ImageNetWideResNet50x2 = partial(ImageNetResNet50, block=partial(Bottleneck, inner=2))
