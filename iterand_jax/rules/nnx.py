"""Rules of a Flax NNX model, from the attributes of its layers.

A layer knows the shape of its kernel; additional axes of the kernel were stacked by
`nnx.vmap` or `nnx.scan`.
"""

from typing import Any

from flax import nnx

from iterand_jax.rules.defaults import DEFAULT_RULES
from iterand_jax.rules.layers import (
    Known,
    convolution,
    einsum,
    general,
    leaf_rule,
    stack_of,
)
from iterand_jax.rules.rule import Rule

__all__ = ["rules_of"]


def rules_of(model: nnx.Module) -> tuple[Rule, ...]:
    """`iterand_jax.rules.rules_of` of an NNX model."""
    found = []
    of_layers: dict[int, tuple[tuple[int, ...], Known]] = {}
    for parts, module in nnx.iter_modules(model):
        for name, variable in vars(module).items():
            if not isinstance(variable, nnx.Param):
                continue
            shape = tuple(variable.shape)
            slice_shape, known = _known(module, name, shape)
            if known is not None:
                of_layers.setdefault(id(variable), (slice_shape, known))
            path = "/".join(map(str, (*parts, name)))
            found.append((path, id(variable), shape, slice_shape))
    rules = []
    for path, tied, shape, own_shape in found:
        # The path of a tied variable may be one by which no layer knows it.
        slice_shape, known = of_layers.get(tied, (own_shape, None))
        stack = stack_of(shape, slice_shape)
        rules.append(leaf_rule(path, slice_shape, stack, known, DEFAULT_RULES))
    return (*(rule for rule in rules if rule is not None), *DEFAULT_RULES)


def _known(
    module: nnx.Module, name: str, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], Known | None]:
    """The shape of a leaf according to its layer, and what its axes are."""
    if name == "embedding" and isinstance(module, nnx.Embed):
        embedding = module.num_embeddings, module.features
        return embedding, {"in_axis": 1, "out_axis": 0}
    if isinstance(module, nnx.LoRA) and name in ("lora_a", "lora_b"):
        return shape[-2:], general(0, 1, 1)
    if name != "kernel":
        return shape, None
    match module:
        case nnx.Linear():
            return (module.in_features, module.out_features), general(0, 1, 1)
        case nnx.LinearGeneral():
            stack = tuple(module.batch_axis.values())
            inputs, outputs = module.in_features, module.out_features
            axes = general(len(stack), len(inputs), len(outputs))
            return (*stack, *inputs, *outputs), axes
        case nnx.Einsum():
            kernel = tuple(module.kernel_shape)
            return kernel, _einsum(module.einsum_str, kernel)
        case nnx.Conv():
            kernel = tuple(module.kernel_shape)
            return kernel, convolution(kernel, -2, -1, module.input_dilation)
        case nnx.ConvTranspose():
            kernel = tuple(module.kernel_shape)
            axes_ = (-1, -2) if module.transpose_kernel else (-2, -1)
            return kernel, convolution(kernel, *axes_, module.strides)
    return shape, None


def _einsum(equation: Any, kernel: tuple[int, ...]) -> Known | None:
    """The axes, if the layer has a fixed equation and not one per call."""
    return None if equation is None else einsum(equation, len(kernel))
