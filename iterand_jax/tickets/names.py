"""PyTorch's names and layouts of the leaves of our networks, in both directions.

    ResNets              torchvision's names: "layer2.0.conv1.weight"
    Conv2 to 8 and VGG   no names that all agree on; read in the order of their numbers:
                         "features.0.weight" is of the first convolution

A convolution's kernel is (outputs, inputs, height, width) in PyTorch, a linear weight
(outputs, inputs). The first linear layer of a network without a global pool reads what
PyTorch flattens as (channels, height, width), and Flax as (height, width, channels).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from iterand_jax.networks.convs import ConvNet
from iterand_jax.networks.resnet import ResNet
from iterand_jax.networks.vgg import VGG

_CONV_NORM = re.compile(
    r"((?:BasicBlock|Bottleneck)_(\d+)/)?ConvNorm_(\d+)/(Conv|BatchNorm)_0/(\w+)"
)
_NUMBERED = re.compile(r"(?:ConvNorm_(\d+)/)?(Conv|BatchNorm|Dense)_(\d+)/(\w+)")
OF_NORMALIZATION = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
OF_KERNELS = {"kernel": "weight", "bias": "bias"}


def torchvision_name(path: str, stages: Sequence[int]) -> str:
    """The name of a leaf of a ResNet, whose stages have so many blocks.

    >>> torchvision_name("BasicBlock_2/ConvNorm_0/Conv_0/kernel", (2, 2, 2, 2))
    'layer2.0.conv1.weight'
    """
    match = _CONV_NORM.fullmatch(path)
    if match is None:
        return {"Dense_0/kernel": "fc.weight", "Dense_0/bias": "fc.bias"}[path]
    block, index, number, layer, leaf = match.groups()
    leaf = "weight" if layer == "Conv" else OF_NORMALIZATION[leaf]
    kind = "conv" if layer == "Conv" else "bn"
    if block is None:
        return f"{kind}1.{leaf}"
    # Flax numbers the blocks through all stages, torchvision within each stage.
    stage, first = 0, int(index)
    while first >= stages[stage]:
        first -= stages[stage]
        stage += 1
    prefix = f"layer{stage + 1}.{first}"
    shortcut = 3 if block.startswith("Bottleneck") else 2
    if int(number) == shortcut:
        return f"{prefix}.downsample.{0 if layer == 'Conv' else 1}.{leaf}"
    return f"{prefix}.{kind}{int(number) + 1}.{leaf}"


def outputs_first(leaf: np.ndarray) -> np.ndarray:
    """A leaf of Flax, (height, width, inputs, outputs) or (inputs, outputs), for
    PyTorch."""
    return leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T


def outputs_last(array: np.ndarray, like: Any, pixels: tuple[int, int]) -> np.ndarray:
    """The inverse of `outputs_first`, in the shape of a leaf of Flax.

    Args:
      array: of PyTorch. A linear weight may be a convolution of 1x1.
      like: the leaf, for its shape.
      pixels: (height, width) of what is flattened into the inputs of a linear layer;
        (1, 1) where nothing is.

    Raises:
      ValueError: it is of another shape than the leaf.

    >>> outputs_last(np.arange(8).reshape(1, 8), np.zeros((8, 1)), (2, 2)).ravel()
    array([0, 4, 1, 5, 2, 6, 3, 7])
    """
    shape = tuple(like.shape)
    wanted = shape
    if len(shape) == 4:
        wanted = (shape[3], shape[2], *shape[:2])
    elif len(shape) == 2:
        wanted = shape[::-1]
    is_linear = len(shape) == 2 and array.shape == (*wanted, 1, 1)
    if array.shape != wanted and not is_linear:
        raise ValueError(f"{array.shape} and not {wanted}")
    if len(shape) == 4:
        return array.transpose(2, 3, 1, 0)
    if len(shape) != 2:
        return array
    images = array.reshape(wanted[0], -1, *pixels)
    return images.transpose(2, 3, 1, 0).reshape(shape)


def names_in_state(
    network: nn.Module, paths: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """{path: name} of the leaves of a network in a state dict, by PyTorch's names.

    Args:
      network: one of ours.
      paths: of its parameters and running statistics.
      shapes: of the tensors of the state dict by name.

    Raises:
      ValueError: another network, or a state dict whose layers are of another number or
        have no order.
    """
    if isinstance(network, ResNet):
        return {path: torchvision_name(path, network.stages) for path in paths}
    found = layers(network, shapes)
    names = {}
    for path in paths:
        block, kind, index, leaf = _matched(path)
        module = found[kind][int(block or index)]
        leaf = (OF_NORMALIZATION if kind == "BatchNorm" else OF_KERNELS)[leaf]
        names[path] = f"{module}{leaf}"
    return names


def layers(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    """What names of a state dict start with, by kind of layer, in the order of layers.

    A weight of four axes is that of a convolution, or of a linear layer where it is
    1x1; a layer with running statistics is a normalization.

    Args:
      network: a ConvNet or VGG.
      shapes: of the tensors of the state dict by name.

    Raises:
      ValueError: as `names_in_state`.

    >>> shapes = {f"convs.{n}.weight": (64, 64, 3, 3) for n in (10, 0, 2)}
    >>> shapes["convs.0.weight"] = (64, 3, 3, 3)
    >>> shapes |= {f"fc{n}.weight": (9, 9) for n in (3, 1, 2)}
    >>> layers(ConvNet((64,), 9), {**shapes})
    Traceback (most recent call last):
    ...
    ValueError: the network has 2 convolutions and the state dict 3: convs.0, convs.2, \
convs.10
    >>> del shapes["convs.10.weight"]
    >>> layers(ConvNet((64,), 9), shapes)["Dense"]
    ['fc1.', 'fc2.', 'fc3.']
    """
    if isinstance(network, ConvNet):
        counts = {"Conv": 2 * len(network.stages), "Dense": 3, "BatchNorm": 0}
    elif isinstance(network, VGG):
        convs = sum(map(len, network.stages))
        counts = {"Conv": convs, "Dense": 1, "BatchNorm": convs}
    else:
        raise ValueError(
            f"state dicts are read for Conv2 to Conv8, VGG and ResNets; the network is "
            f"of {type(network).__name__}"
        )
    found: dict[str, list[str]] = {kind: [] for kind in counts}
    for name, shape in shapes.items():
        if name.endswith("running_mean"):
            found["BatchNorm"].append(name.removesuffix("running_mean"))
        elif name.endswith("weight") and len(shape) in (2, 4):
            kind = "Conv" if shape[2:] not in ((), (1, 1)) else "Dense"
            found[kind].append(name.removesuffix("weight"))
    return {kind: _in_order(kind, found[kind], counts[kind]) for kind in counts}


_CALLED = {
    "Conv": "convolutions",
    "Dense": "linear layers",
    "BatchNorm": "normalizations",
}


def _in_order(kind: str, modules: Sequence[str], count: int) -> list[str]:
    """Names that differ in numbers alone, in the order of these."""
    numbers = {name: [int(n) for n in re.findall(r"\d+", name)] for name in modules}
    ordered = sorted(modules, key=lambda name: numbers[name])
    shown = ", ".join(name.rstrip(".") for name in ordered)
    if len(modules) != count:
        raise ValueError(
            f"the network has {count} {_CALLED[kind]} and the state dict "
            f"{len(modules)}{': ' if shown else ''}{shown}"
        )
    if len({re.sub(r"\d+", "#", name) for name in modules}) > 1:
        raise ValueError(
            f"the {_CALLED[kind]} {shown} have no order; possible: names that differ "
            f"in their numbers alone, as by --rename=OLD=NEW"
        )
    return ordered


def _matched(path: str) -> tuple[str | None, str, str, str]:
    match = _NUMBERED.fullmatch(path)
    if match is None:
        raise ValueError(f"PyTorch has no name for the leaf {path!r}")
    block, kind, index, leaf = match.groups()
    return block, kind, index, leaf
