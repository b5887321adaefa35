"""Keys by purpose: every draw of a run comes from its root key, without state."""

import zlib

import jax
from jax import Array
from jax.typing import ArrayLike

__all__ = ["keyed"]


def keyed(root: Array, purpose: str, number: ArrayLike = 0) -> Array:
    """The key of a purpose and a step or epoch, folded from the root key.

    >>> root = jax.random.key(0)
    >>> bool(keyed(root, "order", 1) == keyed(root, "order", 2))
    False
    """
    key = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, number)
