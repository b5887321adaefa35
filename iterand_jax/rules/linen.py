"""Rules of a Flax Linen module, from its layers as they are called.

The module is initialized abstractly (shapes only), and the attributes of each layer are
read when it is called. Inside `nn.scan` and `nn.vmap` a layer sees a slice of its
parameters. Flax reports the removed axis to the metadata of a parameter only: if there
are slices, the module is applied again to parameters in boxes that record these axes.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.core import meta

from iterand_jax.rules.defaults import DEFAULT_RULES
from iterand_jax.rules.layers import Known, convolution, einsum, general, leaf_rule
from iterand_jax.rules.rule import Rule
from iterand_jax.trees import leaves_of

__all__ = ["rules_of"]


class _Seen(NamedTuple):
    """A parameter as the layer that owns it sees it."""

    shape: tuple[int, ...]
    taken: tuple[int, ...]  # axes in the order in which transformations removed them
    known: Known | None


def rules_of(module: nn.Module, *inputs: Any, **options: Any) -> tuple[Rule, ...]:
    """`iterand_jax.rules.rules_of` of a Linen module."""
    seen: dict[str, _Seen] = {}
    given, structure = jax.tree.flatten((inputs, options))
    traced = {n: x for n, x in enumerate(given) if hasattr(x, "shape")}

    def call(function, traced, *first, **more):
        """Calls with the traced arrays; others, such as a train flag, stay static."""
        leaves = [traced.get(n, x) for n, x in enumerate(given)]
        inputs, options = jax.tree.unflatten(structure, leaves)
        with nn.intercept_methods(_recorder(seen)):
            return function(*first, *inputs, **more, **options)

    def initialize(traced):
        return call(module.init, traced, jax.random.key(0))

    variables = meta.unbox(jax.eval_shape(initialize, traced))
    leaves = leaves_of(variables.get("params", {}))
    whole = {path: leaf.shape for path, leaf in leaves.items()}
    if any(path not in seen or seen[path].shape != whole[path] for path in whole):
        seen.clear()
        token = object()  # a new one each time, for which nn.jit has no cached trace

        def apply(variables, traced):
            params = jax.tree.map(lambda w: _Box(w, (), token), variables["params"])
            keys = {name: jax.random.key(0) for name in ("params", "dropout")}
            variables = {**variables, "params": params}
            call(module.apply, traced, variables, rngs=keys, mutable=True)

        jax.eval_shape(apply, variables, traced)
    called = [path for path in seen if path in whole]  # in the order of the calls
    paths = dict.fromkeys([*called, *whole])
    rules = [_rule(path, whole[path], seen.get(path)) for path in paths]
    return (*(rule for rule in rules if rule is not None), *DEFAULT_RULES)


def _rule(path: str, shape: tuple[int, ...], seen: _Seen | None) -> Rule | None:
    if seen is None:  # no called layer owns it
        return leaf_rule(path, shape, (), None, DEFAULT_RULES)
    left = list(range(len(shape)))
    stack = [left.pop(axis) for axis in seen.taken]
    # A layer within nn.map_variables may see what its parameter is turned into.
    certain = tuple(shape[axis] for axis in left) == seen.shape
    return leaf_rule(
        path, seen.shape, stack if certain else None, seen.known, DEFAULT_RULES
    )


def _recorder(seen: dict[str, _Seen]):
    def record(call, args, kwargs, context):
        result = call(*args, **kwargs)
        module = context.module
        if module.scope is not None:
            for name, leaf in module.variables.get("params", {}).items():
                taken = leaf.taken if isinstance(leaf, _Box) else ()
                leaf = meta.unbox(leaf)
                path = "/".join((*module.path, name))
                # The innermost call ends first, and sees the smallest slice.
                if hasattr(leaf, "shape") and path not in seen:
                    known = _known(module, name, leaf.shape, args, kwargs)
                    seen[path] = _Seen(leaf.shape, taken, known)
        return result

    return record


def _known(
    module: nn.Module, name: str, shape: tuple[int, ...], args, kwargs
) -> Known | None:
    """The axes of the kernel of a Flax layer; None for other modules."""
    if isinstance(module, nn.Embed) and name == "embedding":
        return {"in_axis": 1, "out_axis": 0}
    if name != "kernel":
        return None
    match module:
        case nn.Dense():
            return general(0, 1, 1)
        case nn.DenseGeneral():
            stack, outputs = _count(module.batch_dims), _count(module.features)
            return general(stack, len(shape) - stack - outputs, outputs)
        case nn.Einsum():
            given = (*args, *kwargs.values(), module.einsum_str)
            return einsum(next(x for x in given if isinstance(x, str)), len(shape))
        case nn.Conv():
            return convolution(shape, -2, -1, module.input_dilation)
        case nn.ConvLocal():
            known = convolution(shape, -2, -1)
            return known | {"out_axis": (*range(len(shape) - 2), -1)}
        case nn.ConvTranspose() if module.transpose_kernel:
            return convolution(shape, -1, -2, module.strides)
        case nn.ConvTranspose():
            return convolution(shape, -2, -1, module.strides)
    return None


def _count(value: Any) -> int:
    return 1 if isinstance(value, int) else len(value)


@dataclasses.dataclass(frozen=True)
class _Box(meta.AxisMetadata):
    """A parameter, and the axes that transformations have removed from it."""

    value: Any
    taken: tuple[int, ...]
    token: object

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, value: Any) -> "_Box":
        return dataclasses.replace(self, value=value)

    def remove_axis(self, index: int, params: Any) -> "_Box":
        return dataclasses.replace(self, taken=(*self.taken, index))

    def add_axis(self, index: int, params: Any) -> "_Box":
        return dataclasses.replace(self, taken=self.taken[:-1])


jax.tree_util.register_dataclass(
    _Box, data_fields=["value"], meta_fields=["taken", "token"]
)
