"""The axes of layers common to the libraries, as keyword arguments of a `Rule`."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax

from iterand_jax.rules.patterns import literal
from iterand_jax.rules.rule import ModelRule, Rule, UnnamedRule

__all__ = ["NOT_PRUNED", "convolution", "einsum", "general", "leaf_rule", "stack_of"]

Known = dict[str, Any]

NOT_PRUNED: Known = {}
"""For a leaf that is not a linear map, such as the scale of a normalization."""


def general(stack: int, inputs: int, outputs: int) -> Known:
    """The axes of DenseGeneral: the number of each kind, in this order.

    >>> general(1, 2, 1)
    {'stack_axis': (0,), 'in_axis': (1, 2), 'out_axis': (3,)}
    """
    return {
        "stack_axis": tuple(range(stack)),
        "in_axis": tuple(range(stack, stack + inputs)),
        "out_axis": tuple(range(stack + inputs, stack + inputs + outputs)),
    }


def einsum(equation: str, kernel_ndim: int) -> Known:
    """The axes of the kernel in an einsum of inputs and kernel.

    An axis of the kernel that is in the result is an output, or a stack if the inputs
    have it too, since each slice then has its own inputs. All others are summed.

    >>> einsum("bthi,hio->btho", 3)
    {'stack_axis': (0,), 'in_axis': (1,), 'out_axis': (2,)}
    """
    equation = equation.replace(" ", "")
    (inputs, kernel), result = (
        equation.split("->")[0].split(","),
        equation.split("->")[1],
    )
    names: list[str] = list(kernel)
    if "..." in kernel:
        start = kernel.index("...")
        hidden = kernel_ndim - len(kernel) + 3
        names = [*kernel[:start], *["."] * hidden, *kernel[start + 3 :]]
    kinds: Known = {"stack_axis": (), "in_axis": (), "out_axis": ()}
    for axis, name in enumerate(names):
        if name not in result:
            kind = "in_axis"
        else:
            kind = "stack_axis" if name in inputs else "out_axis"
        kinds[kind] = (*kinds[kind], axis)
    return kinds


def convolution(
    shape: Sequence[int], inputs: int, outputs: int, sparse: Any = 1
) -> Known:
    """The axes of inputs and outputs of a convolution's kernel.

    Args:
      shape: of the kernel.
      inputs: the axis.
      outputs: the axis.
      sparse: strides of a transposed convolution or dilation of the inputs, by
        dimension: they insert zeros between the inputs, so that an output sums only
        one in so many products (on average, where they do not divide the window).

    >>> convolution((3, 3, 8, 16), -2, -1, sparse=(2, 2))["fan_in"]
    18
    >>> convolution((3, 3, 8, 16), -2, -1)
    {'in_axis': -2, 'out_axis': -1}
    """
    ndim = len(shape)
    axes = {"in_axis": inputs, "out_axis": outputs}
    spatial = ndim - 2
    skipped = _product(1 if sparse is None else sparse, spatial)
    if skipped == 1:
        return axes
    total = math.prod(shape) // shape[outputs]
    return axes | {
        "fan_in": total // skipped if total % skipped == 0 else total / skipped
    }


def _product(value: Any, times: int) -> int:
    return value**times if isinstance(value, int) else math.prod(value)


def stack_of(shape: tuple[int, ...], slice_shape: tuple[int, ...]) -> Any:
    """The axes of a leaf that its slices lack; None if that is ambiguous.

    >>> stack_of((6, 64, 32), (64, 32)), stack_of((64, 6, 32), (64, 32))
    ((0,), (1,))
    >>> stack_of((64, 64, 64), (64, 64)), stack_of((64, 32), (64, 32))
    (None, ())
    """
    more = max(0, len(shape) - len(slice_shape))
    found = [
        axes
        for axes in itertools.combinations(range(len(shape)), more)
        if tuple(s for a, s in enumerate(shape) if a not in axes) == slice_shape
    ]
    return found[0] if len(found) == 1 else None


def stacked(rule: Rule, slice_ndim: int, stack: Sequence[int]) -> Rule:
    """The rule of a stacked leaf, from the rule of its slices.

    Args:
      rule: of a slice.
      slice_ndim: the number of axes of a slice.
      stack: the additional axes, as axes of the leaf.
    """
    if not stack:
        return rule
    left = [a for a in range(slice_ndim + len(stack)) if a not in stack]
    axes = rule.axes(slice_ndim)
    return ModelRule(
        rule.pattern,
        prune=rule.prune,
        in_axis=tuple(left[a] for a in axes.inputs),
        out_axis=tuple(left[a] for a in axes.outputs),
        stack_axis=(*sorted(stack), *(left[a] for a in axes.stack)),
        fan_in=rule.fan_in,
    )


def leaf_rule(
    path: str,
    slice_shape: tuple[int, ...],
    stack: Sequence[int] | None,
    known: Known | None,
    defaults: Sequence[Rule],
) -> Rule | None:
    """The rule of one leaf of a model; None if the default rules agree.

    Args:
      path: of the leaf.
      slice_shape: its shape without the stack axes around its layer.
      stack: these axes; None if they are ambiguous.
      known: the axes of the slice according to its layer, NOT_PRUNED, or None for an
        unknown layer, whose leaf the default rules claim by its name.
      defaults: the default rules of the library.
    """
    ndim = len(slice_shape)
    if known is None:
        slice_ = jax.ShapeDtypeStruct(slice_shape, "float32")
        rule = next(rule for rule in defaults if rule.claims(path, slice_))
        if rule.prune and ndim not in (rule.ndims or ()):
            return ModelRule(literal(path), prune=True, ndims=())
        rule = ModelRule(literal(path), rule.prune, out_axis=rule.out_axis)
    else:  # a leaf that sums over no axis is a scale
        prune = known.get("in_axis", ()) != ()
        rule = ModelRule(literal(path), prune=prune, **known)
    if not rule.prune:
        whole = ndim + len(stack or ())
        shape = jax.ShapeDtypeStruct((1,) * whole, "float32")
        claimed = next(rule for rule in defaults if rule.claims(path, shape))
        is_known = known is not None or ndim < 2  # a stack of scales, for example
        names = isinstance(claimed, UnnamedRule) and whole > 1 and is_known
        return rule if claimed.prune or names else None
    if stack is None:
        return ModelRule(literal(path), prune=True, ndims=())
    return stacked(rule, ndim, stack)
