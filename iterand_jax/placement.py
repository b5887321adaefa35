"""Arrays created like another one: on its devices, with its sharding.

Under Explicit axes of a mesh the sharding is part of an array's type, and under `jit`
the new array inherits it. Under Auto axes a traced array does not know its sharding,
and the partitioner of the program decides unless `jax.jit` is given `out_shardings`;
an array outside `jit` has its sharding under both.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from iterand_jax.selection import sharded_axes

__all__ = ["placed_as"]


def placed_as(leaf: Any, draw: Callable[..., Array], key: Array, *fixed: Any) -> Array:
    """draw(key, *fixed) in the sharding and on the devices of a leaf.

    Each device draws its own shard only.

    Args:
      leaf: an array of the shape that is drawn, or any other object with a shape, as
        `jax.ShapeDtypeStruct` is, which has no place.
      draw: (key, *fixed, sharding) -> an array; a function that compares equal to
        itself, so that it is compiled once.
      key: a PRNG key.
      *fixed: hashable arguments.

    >>> import jax.numpy as jnp
    >>> def draw(key, shape, sharding):
    ...     return jax.random.normal(key, shape)
    >>> placed_as(jnp.zeros(2), draw, jax.random.key(0), (2,)).shape
    (2,)
    """
    if isinstance(leaf, jax.core.Tracer):
        typed = jax.typeof(leaf).sharding
        return draw(key, *fixed, typed if sharded_axes(leaf) else None)
    sharding = getattr(leaf, "sharding", None)
    movable = sharding is not None and not isinstance(key, jax.core.Tracer)
    if not movable or not getattr(leaf, "committed", True):
        return draw(key, *fixed, None)
    if not isinstance(sharding, NamedSharding):
        return jax.device_put(draw(key, *fixed, None), sharding)
    placed = jax.jit(
        draw,
        static_argnums=tuple(range(1, len(fixed) + 2)),
        out_shardings=sharding,
    )
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    return placed(jax.device_put(key, whole), *fixed, sharding)
