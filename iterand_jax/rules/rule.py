"""A rule: which leaves it claims, and what their axes are."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from iterand_jax.rules.patterns import matches

__all__ = ["Axes", "ModelRule", "Rule", "UnnamedRule"]

Axis = int | Sequence[int]


class Axes(NamedTuple):
    """The axes of a leaf, each counted from 0 and of one of four kinds.

    Attributes:
      inputs: the inputs of the linear map.
      outputs: its outputs.
      stack: layers, experts or heads, each with its own slice.
      window: of a convolution; outputs sum over it as over the inputs.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stack: tuple[int, ...]
    window: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Claims leaves whose path matches a pattern, and states whether to prune them.

    A pruned leaf is a linear map, or a stack of linear maps of one shape. Its axes are
    named as in `jax.nn.initializers.variance_scaling`, whose batch_axis is the stack:

    - The fan-in is the product of all axes that are neither outputs nor stack: the
      number of products that one output sums. Weights have the variance 2 / fan-in.
    - Each slice along the stack has its own threshold, so that all keep the same
      fraction. A single map, such as the heads of a projection, has one threshold.

        layer                                 shape        rule
        Dense                                 (i, o)       out_axis=-1
        Conv of Flax, of 1 to 3 dimensions    (..., i, o)  out_axis=-1
        Conv, Linear of Equinox and PyTorch   (o, i, ...)  out_axis=0
        query, key, value of Flax attention   (i, h, d)    in_axis=0, out_axis=(1, 2)
        out of Flax attention                 (h, d, o)    in_axis=(0, 1), out_axis=2
        Dense by nn.scan or vmap, experts     (n, i, o)    stack_axis=0
        ConvTranspose(transpose_kernel=True)  (..., o, i)  out_axis=-2
        ConvLocal of one dimension            (x, i, o)    in_axis=1, out_axis=(0, 2)
        Embed                                 (words, f)   out_axis=0

    `rules_of` reads these from a model. The default rules know leaves by their names
    and numbers of axes alone (see `DEFAULT_RULES`): of a kernel of four axes without a
    bias they cannot distinguish a convolution from matrices that are stacked twice.

    Attributes:
      pattern: shell-style, matched against the path joined by slashes: "*/kernel"
        claims "Conv_0/kernel", and "kernel" at the root.
      prune: whether the leaf has scores.
      out_axis: the axis or axes of the outputs of a pruned leaf: -1 for the (...,
        inputs, outputs) of Flax, 0 for the (outputs, inputs, ...) of Equinox and
        PyTorch, and for the (words, features) of an embedding.
      min_ndim: leaves of fewer dimensions fall through to the next rules.
      in_axis: the axis or axes of the inputs. Axes that are neither inputs, outputs nor
        stack are the window of a convolution. By default the inputs are the axis next
        to the outputs: before them if they are last, after them if first. Which axes
        are inputs and which window does not change the fan-in.
      stack_axis: the axis or axes of the stack; none by default.
      ndims: for a rule by name alone, the numbers of axes whose meaning it knows; a
        pruned leaf with another number is refused. None for a rule that states its
        axes.
      fan_in: the fan-in if it does not follow from the axes: with strides, a
        transposed convolution sums only part of its window for each output.

    >>> Rule("query/kernel", True, in_axis=0, out_axis=(1, 2)).fan_in_of((256, 8, 32))
    256
    >>> Rule("layers/kernel", True, stack_axis=0).fan_in_of((6, 64, 32))
    64
    """

    pattern: str
    prune: bool
    out_axis: Axis = -1
    min_ndim: int = 0
    in_axis: Axis | None = None
    stack_axis: Axis = ()
    ndims: Sequence[int] | None = None
    fan_in: float | None = None

    def __post_init__(self):
        """Converts lists to tuples, so that a rule is hashable."""
        if not isinstance(self.pattern, str):
            raise ValueError(
                f"a rule's pattern, before prune, is the text of a path; got "
                f"{self.pattern!r}"
            )
        if not isinstance(self.prune, bool | np.bool_):
            raise ValueError(
                f"the rule {self.pattern!r}: prune is True or False; got {self.prune!r}"
            )
        for name in ("out_axis", "in_axis", "stack_axis", "ndims"):
            value = getattr(self, name)
            if isinstance(value, numbers.Integral):
                object.__setattr__(self, name, int(value))
            elif isinstance(value, Sequence) and all(
                isinstance(one, numbers.Integral) for one in value
            ):
                object.__setattr__(self, name, tuple(map(int, value)))
            elif value is not None:
                raise ValueError(
                    f"the rule {self.pattern!r}: {name} must be an integer or several; "
                    f"got {value!r}"
                )
        is_number = isinstance(self.fan_in, numbers.Real)
        if self.fan_in is not None and not (is_number and 0 < self.fan_in < math.inf):
            raise ValueError(
                f"the rule {self.pattern!r}: fan_in is a finite number above 0; got "
                f"{self.fan_in!r}"
            )

    def claims(self, path: str, leaf: Array | jax.ShapeDtypeStruct) -> bool:
        """Whether this rule matches a leaf of this path and shape.

        >>> import numpy as np
        >>> rule = Rule("*/kernel", prune=True, min_ndim=2)
        >>> rule.claims("Conv_0/kernel", np.zeros((3, 3, 1, 8)))
        True
        >>> rule.claims("Conv_0/bias", np.zeros(8))
        False
        """
        return leaf.ndim >= self.min_ndim and matches(self.pattern, path)

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises ValueError, in one line, for a leaf whose axes are not known.

        >>> rule = Rule("*/kernel", prune=True, ndims=(2, 4))
        >>> rule.check("query/kernel", (256, 8, 32))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: the leaf 'query/kernel' of shape (256, 8, 32): ...
        """
        if not self.prune:
            return
        if self.ndims is not None and len(shape) not in self.ndims:
            known = " or ".join(map(str, self.ndims))
            raise ValueError(
                f"the leaf {path!r} of shape {shape}: which axes are inputs, outputs "
                f"and stack is not known; "
                + (
                    f"the rule {self.pattern!r} assumes leaves of {known} axes (a "
                    f"matrix or a convolution); "
                    if known
                    else ""
                )
                + f"put Rule({path!r}, True, in_axis=..., out_axis=..., "
                f"stack_axis=...) before it, or take rules from the model by "
                f"iterand_jax.rules_of"
            )
        try:
            self.axes(len(shape))
        except ValueError as error:
            raise ValueError(f"the leaf {path!r} of shape {shape}: {error}") from None

    def axes(self, ndim: int) -> Axes:
        """The kinds of the axes of a leaf with this number of axes.

        Raises:
          ValueError: an axis that the leaf does not have, or one of two kinds.

        >>> Rule("*", True).axes(4)
        Axes(inputs=(2,), outputs=(3,), stack=(), window=(0, 1))
        >>> Rule("*", True, out_axis=0, stack_axis=0).axes(3)
        Traceback (most recent call last):
        ...
        ValueError: out_axis=0 and stack_axis=0 are both axis 0
        """
        claimed: dict[int, str] = {}
        outputs, stack = (
            self._axes_of(name, ndim, claimed) for name in ("out_axis", "stack_axis")
        )
        if self.in_axis is not None:
            inputs = self._axes_of("in_axis", ndim, claimed)
        else:
            free = [a for a in range(ndim) if a not in claimed]
            before = [a for a in free if not outputs or a < max(outputs)]
            inputs = tuple(before[-1:] or free[:1])
        window = tuple(a for a in range(ndim) if a not in {*inputs, *outputs, *stack})
        return Axes(inputs, outputs, stack, window)

    def _axes_of(
        self, name: str, ndim: int, claimed: dict[int, str]
    ) -> tuple[int, ...]:
        value = getattr(self, name)
        found = []
        for axis in (value,) if isinstance(value, int) else value:
            if not -ndim <= axis < ndim:
                raise ValueError(f"{name}={value} is not possible with {ndim} axes")
            axis %= ndim
            if axis in claimed:
                raise ValueError(
                    f"{claimed[axis]} and {name}={value} are both axis {axis}"
                )
            claimed[axis] = f"{name}={value}"
            found.append(axis)
        return tuple(found)

    def fan_in_of(self, shape: tuple[int, ...]) -> float:
        """The fan-in of a leaf of this shape.

        >>> Rule("*", prune=True, out_axis=0).fan_in_of((20, 4, 3, 3))
        36
        """
        if self.fan_in is not None:
            return self.fan_in
        axes = self.axes(len(shape))
        return math.prod(shape[axis] for axis in (*axes.inputs, *axes.window))


class ModelRule(Rule):
    """A `Rule` read from a model; any other rule before it overrides it."""


class UnnamedRule(Rule):
    """The last default rule: leaves alone what no rule before it names.

    It cannot know whether that is right for a leaf of two or more axes, so
    `Subnetwork.init` warns of those. A `Rule` for the same leaves does not: it states
    that they stay unpruned.
    """
