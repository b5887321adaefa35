"""Multiply-adds of a program: of its convolutions and matrix products."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def count_multiply_adds(program: Any) -> float:
    """Counts the multiply-adds of the convolutions and matrix products in a jaxpr.

    Of the branches of a condition, such as an implementation for each platform, the one
    with the most counts; zeros that pad an image count as pixels.

    Args:
      program: as `jax.make_jaxpr(f)(*inputs).jaxpr`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> product = jax.make_jaxpr(jnp.dot)(jnp.zeros((2, 3)), jnp.zeros((3, 5)))
    >>> count_multiply_adds(product.jaxpr)
    30.0
    """
    total = 0.0
    for equation in program.eqns:
        sizes = [np.prod(v.aval.shape) for v in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":
            shape = equation.params["dimension_numbers"].rhs_spec
            outputs = equation.invars[1].aval.shape[shape[0]]
            total += sizes[-1] * sizes[1] / outputs
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += sizes[-1] * np.prod(inner)
        elif "branches" in equation.params:
            branches = _inner({"branches": equation.params["branches"]})
            total += max(map(count_multiply_adds, branches), default=0.0)
        else:
            times = equation.params.get("length", 1)
            total += times * sum(map(count_multiply_adds, _inner(equation.params)))
    return float(total)


def _inner(params: dict[str, Any]) -> Iterable[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            program = getattr(one, "jaxpr", one)
            if hasattr(program, "eqns"):
                yield program
