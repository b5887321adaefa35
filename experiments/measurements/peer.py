"""The paper's training in PyTorch, as a reference for the library.

The networks are written from the paper's tables with PyTorch's own convolutions, batch
normalization, order statistic, autograd and optimizer. Weights, scores and running
statistics are stored by their paths in the library; convolution kernels have PyTorch's
layout, outputs first. It needs the extra `peer`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

relu, pool = torch.nn.functional.relu, torch.nn.functional.max_pool2d

Arrays = Mapping[str, np.ndarray]
Network = Callable[..., Tensor]


def tensors(arrays: Arrays) -> dict[str, Tensor]:
    """The arrays of a Flax tree by path; convolution kernels are transposed."""
    return {path: torch.tensor(outputs_first(x)) for path, x in arrays.items()}


def outputs_first(array: np.ndarray) -> np.ndarray:
    """A kernel (H, W, in, out) as (out, in, H, W), contiguous; others unchanged."""
    return (
        np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array
    )


def channels_first(array: np.ndarray) -> Tensor:
    """Images (N, H, W, C) as (N, C, H, W); others unchanged."""
    tensor = torch.tensor(array)
    return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor


class TopK(torch.autograd.Function):
    """1 for the largest scores; the gradient passes as if the mask were the scores."""

    @staticmethod
    def forward(ctx, scores: Tensor, sparsity: float) -> Tensor:
        """The mask, of which the fraction `sparsity` is 0."""
        removed = round(sparsity * scores.numel())
        return (scores >= scores.flatten().kthvalue(removed + 1).values).to(scores)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The straight-through gradient."""
        return gradient, None


class Peer:
    """SGD, or edge-popup and IteRand, on a network of this module.

    `trained` is what the optimizer trains, by path: scores, or the weights for SGD.
    """

    def __init__(
        self,
        network: Network,
        weights: Arrays,
        scores: Arrays | None,
        statistics: Arrays,
        *,
        sparsity: float | None,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ):
        """Copies the arrays; without scores it trains by SGD."""
        self.network = network
        self.sparsity = sparsity
        self.weights = tensors(weights)
        self.trained = self.weights if scores is None else tensors(scores)
        for tensor in self.trained.values():
            tensor.requires_grad_()
        self.statistics = tensors(statistics)
        self.averaged: dict[str, int] = {}
        self.optimizer = torch.optim.SGD(
            list(self.trained.values()),
            learning_rate,
            momentum,
            weight_decay=weight_decay,
        )

    def masks(self) -> dict[str, Tensor]:
        """The masks of the scores, with their gradient."""
        return {path: TopK.apply(s, self.sparsity) for path, s in self.trained.items()}

    def logits(self, inputs: tuple[Tensor, ...], *, train: bool) -> Tensor:
        """The network's logits; in training its running statistics are updated."""
        params = self.weights
        if self.trained is not self.weights:
            params = params | {k: m * params[k] for k, m in self.masks().items()}
        layers = Layers(params, self.statistics, train=train)
        logits = self.network(layers, *inputs)
        self.averaged = layers.averaged
        return logits

    def train(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Takes a step on a batch; returns its logits. Gradients stay in `trained`."""
        logits = self.logits(inputs, train=True)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return logits

    @torch.no_grad()
    def rerandomize(self, sampling_rate: float) -> None:
        """Resamples each pruned weight as a signed constant with this probability."""
        for path, mask in self.masks().items():
            weights = self.weights[path]
            redrawn = (mask == 0) & (torch.rand_like(weights) < sampling_rate)
            size = weights.abs().max()
            fresh = torch.where(torch.rand_like(weights) < 0.5, -size, size)
            weights.copy_(torch.where(redrawn, fresh, weights))


class Layers:
    """PyTorch's layers on parameters by path, with any biases and scales."""

    def __init__(
        self, params: dict[str, Tensor], statistics: dict[str, Tensor], *, train: bool
    ):
        """Running statistics are updated in training."""
        self.params, self.statistics, self.train = params, statistics, train
        # By normalization: how many values each statistic is computed from.
        self.averaged: dict[str, int] = {}

    def conv(self, path: str, x: Tensor, stride: int = 1) -> Tensor:
        """A convolution, padded by half its kernel."""
        kernel, bias = self.params[f"{path}/kernel"], self.params.get(f"{path}/bias")
        padding = kernel.shape[-1] // 2
        return torch.nn.functional.conv2d(
            x, kernel, bias, stride=stride, padding=padding
        )

    def conv_norm(self, path: str, x: Tensor, stride: int = 1) -> Tensor:
        """A convolution and batch normalization."""
        x = self.conv(f"{path}/Conv_0", x, stride)
        norm = f"{path}/BatchNorm_0"
        self.averaged[norm] = x.numel() // x.shape[1]
        running = [self.statistics[f"{norm}/{name}"] for name in ("mean", "var")]
        affine = [self.params.get(f"{norm}/{name}") for name in ("scale", "bias")]
        return torch.nn.functional.batch_norm(x, *running, *affine, training=self.train)

    def linear(self, path: str, x: Tensor) -> Tensor:
        """A product with a kernel (in, out)."""
        bias: Any = self.params.get(f"{path}/bias", 0)
        return x @ self.params[f"{path}/kernel"] + bias


def conv6(layers: Layers, x: Tensor) -> Tensor:
    """Table 1's convolutional network."""
    for index in range(6):
        x = relu(layers.conv(f"Conv_{index}", x))
        if index % 2:
            x = pool(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)  # Flax has channels last
    x = relu(layers.linear("Dense_0", x))
    x = relu(layers.linear("Dense_1", x))
    return layers.linear("Dense_2", x)


def vgg11(layers: Layers, x: Tensor) -> Tensor:
    """OpenLTH's VGG11."""
    plan, index = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512), 0
    for entry in plan:
        if entry == "M":
            x = pool(x, 2)
        else:
            x = relu(layers.conv_norm(f"ConvNorm_{index}", x))
            index += 1
    x = torch.nn.functional.avg_pool2d(x, 2).flatten(1)
    return layers.linear("Dense_0", x)


def residual(layers: Layers, path: str, x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A block of convolutions with these strides, the last without ReLU."""
    y = x
    for index, stride in enumerate(strides):
        y = layers.conv_norm(f"{path}/ConvNorm_{index}", y, stride)
        y = relu(y) if index < len(strides) - 1 else y
    if max(strides) > 1 or x.shape[1] != y.shape[1]:
        x = layers.conv_norm(f"{path}/ConvNorm_{len(strides)}", x, max(strides))
    return relu(x + y)


def blocks(
    layers: Layers,
    x: Tensor,
    name: str,
    stages: tuple[int, ...],
    strides_of: Callable[[int], tuple[int, ...]],
) -> Tensor:
    """The stages of a residual network, the average pool and the linear layer."""
    starts = [sum(stages[:i]) for i in range(1, len(stages))]
    for index in range(sum(stages)):
        stride = 2 if index in starts else 1
        x = residual(layers, f"{name}_{index}", x, strides_of(stride))
    return layers.linear("Dense_0", x.mean((2, 3)))


def resnet18(layers: Layers, x: Tensor) -> Tensor:
    """Table 1's ResNet18."""
    x = relu(layers.conv_norm("ConvNorm_0", x))
    return blocks(layers, x, "BasicBlock", (2, 2, 2, 2), lambda stride: (stride, 1))


def imagenet_resnet50(layers: Layers, x: Tensor) -> Tensor:
    """Table 2's ResNet50."""
    x = relu(layers.conv_norm("ConvNorm_0", x, 2))
    x = pool(x, 3, stride=2, padding=1)
    return blocks(layers, x, "Bottleneck", (3, 4, 6, 3), lambda stride: (1, stride, 1))


def lstm(layers: Layers, tokens: Tensor, lengths: Tensor) -> Tensor:
    """An LSTM on packed sequences; bidirectional if there are weights for that."""
    x = layers.params["Embed_0/embedding"][tokens]
    x = torch.nn.utils.rnn.pack_padded_sequence(
        x, lengths, batch_first=True, enforce_sorted=False
    )
    directions = [
        d for d in ("Forward", "Backward") if f"{d}/input/kernel" in layers.params
    ]
    kernels = {
        f"weight_{name}_l0{suffix}": layers.params[f"{direction}/{part}/kernel"].T
        for direction, suffix in zip(directions, ("", "_reverse"), strict=False)
        for name, part in (("ih", "input"), ("hh", "recurrent"))
    }
    inputs, hidden = kernels["weight_ih_l0"].shape[1], kernels["weight_hh_l0"].shape[1]
    layer = torch.nn.LSTM(
        inputs, hidden, bias=False, bidirectional=len(directions) == 2
    )
    _, (last, _) = torch.func.functional_call(layer, kernels, (x,))
    return layers.linear("Dense_0", torch.cat(list(last), 1))
