"""Rules of an Equinox model, from the attributes of its layers.

A layer knows the shape of its weight; additional axes of the weight were stacked by
`equinox.filter_vmap`.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax

from iterand_jax.rules.defaults import OUTPUTS_FIRST_RULES
from iterand_jax.rules.layers import (
    NOT_PRUNED,
    Known,
    convolution,
    leaf_rule,
    stack_of,
)
from iterand_jax.rules.rule import Rule
from iterand_jax.trees import path_string, paths_of

__all__ = ["rules_of", "scales_of"]

NORMALIZATIONS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm)


def rules_of(model: eqx.Module) -> tuple[Rule, ...]:
    """`iterand_jax.rules.rules_of` of an Equinox model."""
    rules = []
    for path, module, name, leaf in _leaves(model):
        shape = tuple(leaf.shape)
        slice_shape, known = _known(module, name, shape)
        stack = () if known is NOT_PRUNED else stack_of(shape, slice_shape)
        rules.append(leaf_rule(path, slice_shape, stack, known, OUTPUTS_FIRST_RULES))
    return (*(rule for rule in rules if rule is not None), *OUTPUTS_FIRST_RULES)


def scales_of(tree: Any) -> set[str]:
    """The paths of the leaves of normalization layers in a tree of arrays."""
    return {
        path
        for path, module, _, _ in _leaves(tree)
        if isinstance(module, NORMALIZATIONS)
    }


def _leaves(model: Any) -> Iterator[tuple[str, Any, str, Any]]:
    """(path, innermost module, its name there, leaf) of each array."""
    owners: dict[tuple, Any] = {}

    def enter(path: tuple, node: Any) -> None:
        owners[path] = node
        inner, _ = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda x: isinstance(x, eqx.Module) and x is not node
        )
        for key, child in inner:
            if isinstance(child, eqx.Module):
                enter((*path, *key), child)

    enter((), model)
    names = paths_of(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        if not hasattr(leaf, "shape"):
            continue
        *_, owner = (path[:n] for n in range(len(path) + 1) if path[:n] in owners)
        name = path_string(path[len(owner) :])
        yield names[path], owners[owner], name, leaf


def _known(
    module: Any, name: str, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], Known | None]:
    """The shape of a leaf according to its layer, and what its axes are."""
    cells = (eqx.nn.LSTMCell, eqx.nn.GRUCell)
    first = {"in_axis": 1, "out_axis": 0}
    if isinstance(module, cells) and name in ("weight_ih", "weight_hh"):
        gates = 4 if isinstance(module, eqx.nn.LSTMCell) else 3
        hidden = module.hidden_size
        inputs = module.input_size if name == "weight_ih" else hidden
        return (gates * hidden, inputs), first
    if name != "weight":
        return shape, None
    match module:
        case eqx.nn.Linear():
            sizes = (module.out_features, module.in_features)
            return tuple(1 if size == "scalar" else size for size in sizes), first
        case eqx.nn.Conv() | eqx.nn.ConvTranspose():
            channels = module.out_channels, module.in_channels // module.groups
            kernel = (*channels, *module.kernel_size)
            strides = module.stride if isinstance(module, eqx.nn.ConvTranspose) else 1
            return kernel, convolution(kernel, 1, 0, strides)
        case eqx.nn.Embedding():
            return (module.num_embeddings, module.embedding_size), first
    return shape, NOT_PRUNED if isinstance(module, NORMALIZATIONS) else None
