"""An error that says what to do where only reverse-mode differentiation is possible.

`jax.custom_vjp` supports no forward mode, and the error that it raises names neither
the layer nor a way out. Under `jax.jit` it is raised while the program is lowered,
where nothing of ours runs. So the inputs of such a function pass through an identity
whose tangent is an operation of its own: linear, with the identity as its transpose,
and refused wherever it would be computed. Reverse mode only ever transposes it.
"""

from functools import partial
from typing import Any, NoReturn

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def reverse_mode_only(x: Array, layer: str) -> Array:
    """`x`, in programs that are not differentiated in forward mode.

    Args:
      x: of any shape.
      layer: what cannot be differentiated, as the error names it.

    Raises:
      TypeError: from `jax.jvp`, `jax.jacfwd` or the function that `jax.linearize`
        returns, at once or, under `jax.jit`, before the program is compiled.

    >>> jax.grad(lambda x: reverse_mode_only(x, "Conv") ** 2)(3.0)
    Array(6., dtype=float32, weak_type=True)
    """
    del layer
    return x


@reverse_mode_only.defjvp
def _tangent(layer, primals, tangents):
    return primals[0], _tangent_p.bind(tangents[0], layer=layer)


def _refuse(*_: Any, layer: str, **__: Any) -> NoReturn:
    raise TypeError(
        f"{layer} has no forward-mode derivative (jax.jvp, jax.jacfwd, jax.linearize): "
        "take jax.grad, jax.vjp, a jax.jvp of jax.grad or a jax.vjp of jax.vjp, or "
        f"replace it by flax.linen.{layer}"
    )


_tangent_p = Primitive("reverse_mode_only")
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda x, layer: x)
ad.deflinear2(_tangent_p, lambda cotangent, x, layer: [cotangent])
batching.defvectorized(_tangent_p)
mlir.register_lowering(_tangent_p, lambda _, *__, layer: _refuse(layer=layer))
