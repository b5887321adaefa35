"""The networks of the paper, as plain Flax Linen modules in one table by name.

The modules know nothing of pruning. Each takes `num_classes`, `width`, `affine` and
`dtype`, and is applied to images (N, H, W, C) or, the LSTMs, to token ids (N, T) and
lengths (N,), with `train=True` in training. Those with batch normalization keep running
statistics in the collection "batch_stats"; those with dropout need the key "dropout" in
training.

ResNet18 and ResNet34 have two forms: "resnet18" is the CIFAR form of Table 1, and
"imagenet_resnet18" the ImageNet form of Table 2. "resnet20" and "vgg11" are OpenLTH's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from iterand_jax.networks import resnet, vgg
from iterand_jax.networks.convs import ConvNet
from iterand_jax.networks.lstm import LSTMClassifier

__all__ = ["NETWORKS", "build_network"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "conv2": partial(ConvNet, stages=(64,)),
    "conv4": partial(ConvNet, stages=(64, 128)),
    "conv6": partial(ConvNet, stages=(64, 128, 256)),
    "resnet18": resnet.ResNet18,
    "resnet34": resnet.ResNet34,
    "resnet20": resnet.ResNet20,
    "vgg11": vgg.VGG11,
    "imagenet_resnet18": resnet.ImageNetResNet18,
    "imagenet_resnet34": resnet.ImageNetResNet34,
    "imagenet_resnet50": resnet.ImageNetResNet50,
    "imagenet_resnet101": resnet.ImageNetResNet101,
    "imagenet_wide_resnet50_2": resnet.ImageNetWideResNet50x2,
    "lstm": LSTMClassifier,
    "bilstm": partial(LSTMClassifier, bidirectional=True),
}

TEXT_NETWORKS = frozenset({"lstm", "bilstm"})
"""The names of the networks that take token ids and lengths; the others take images."""


def build_network(
    name: str,
    *,
    num_classes: int,
    width: float = 1.0,
    affine: bool = False,
    dtype: Any = jnp.float32,
) -> nn.Module:
    """The network of a name in `NETWORKS`.

    Args:
      name: a name in `NETWORKS`.
      num_classes: the number of logits.
      width: the width factor rho.
      affine: whether layers have biases and normalization its scales and biases, as in
        networks trained by SGD; the networks that are pruned at random initialization
        have none.
      dtype: of the activations.

    Raises:
      ValueError: an unknown name.

    >>> import jax
    >>> network = build_network("resnet18", num_classes=10, width=0.5)
    >>> images = jnp.zeros((1, 32, 32, 3))
    >>> shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    2804928
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; possible: {', '.join(NETWORKS)}")
    return NETWORKS[name](
        num_classes=num_classes, width=width, affine=affine, dtype=dtype
    )
