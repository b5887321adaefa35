"""PRNG keys by purpose, and the random bits of a key.

Every draw of a run comes from its root key by `fold_in`, without state: `keyed` by
purpose and step, `leaf_key` by the path of a leaf. So a draw is the same on one device
or many, before or after a restart, and whatever else the tree holds.

`random_bits` gives the bits of `jax.random.bits` for one leaf, as arithmetic that XLA
can fuse. They are those of JAX's Threefry (Salmon et al. 2011, 2 x 32 bits, 20 rounds),
bit for bit. JAX computes them in a loop over whole arrays on CPU and in a separate
kernel on GPU; both write every intermediate word to memory. Unrolled, the rounds fuse
into the loop that uses the bits: five times faster on two cores, and one kernel launch
less per leaf on a GPU.

Each word depends on its index alone, so of an array in shards each device makes its own
words (`random_bits_in_shards`), the same as one device would.
"""

import math
import zlib

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

__all__ = ["is_threefry", "keyed", "leaf_key", "random_bits", "random_bits_in_shards"]

PARITY = 0x1BD11BDA
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def keyed(root: Array, purpose: str, number: ArrayLike = 0) -> Array:
    """The key of a purpose and a step or epoch, folded from the root key.

    >>> root = jax.random.key(0)
    >>> bool(keyed(root, "order", 1) == keyed(root, "order", 2))
    False
    """
    key = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
    return jax.random.fold_in(key, number)


def leaf_key(key: Array, path: str, purpose: str) -> Array:
    """The key of a leaf for a purpose: "weights", "scores" or "redraw".

    >>> keys = [leaf_key(jax.random.key(0), path, "redraw") for path in ("a", "b")]
    >>> bool(keys[0] == keys[1])
    False
    """
    return jax.random.fold_in(key, leaf_number(path, purpose))


def leaf_number(path: str, purpose: str) -> int:
    """What `leaf_key` folds into a key.

    >>> leaf_number("conv/kernel", "weights")
    2027390985
    """
    return zlib.crc32(f"{purpose}:{path}".encode())


def random_bits(key: Array, size: int, start: ArrayLike = 0) -> Array:
    """`jax.random.bits(key, (start + size,), jnp.uint32)[start:]`, below 2**32.

    Keys of other PRNG implementations than Threefry are passed to `jax.random.bits`,
    and have no start but 0: their words depend on the size (`is_threefry`).

    Raises:
      ValueError: another start of such a key, where it is known.

    >>> import jax, jax.numpy as jnp
    >>> key = jax.random.key(0)
    >>> bool(jnp.all(random_bits(key, 9) == jax.random.bits(key, (9,), jnp.uint32)))
    True
    """
    key = _typed(key)
    if not is_threefry(key):
        if not isinstance(start, jax.core.Tracer) and start != 0:
            raise ValueError(f"start={start} of a key that is not Threefry's")
        return jax.random.bits(key, (size,), jnp.uint32)
    return _bits_at(key, lax.iota(jnp.uint32, size) + jnp.asarray(start, jnp.uint32))


def random_bits_in_shards(
    key: Array, shape: tuple[int, ...], sharding: NamedSharding
) -> Array:
    """`random_bits` of an array in shards, of which each device makes its own.

    Under Auto axes the sharding is for the compiler to find, from what is done with the
    words. Keys of other generators than Threefry are given to `jax.random.bits`.

    >>> key, mesh = jax.random.key(0), jax.make_mesh((1,), ("x",))
    >>> sharding = jax.NamedSharding(mesh, jax.P(None, "x"))
    >>> bits = random_bits_in_shards(key, (3, 4), sharding)
    >>> bits.tolist() == random_bits(key, 12).reshape(3, 4).tolist()
    True
    """
    key, size = _typed(key), math.prod(shape)
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    sharding = _explicit_part(sharding)
    if not is_threefry(key):
        bits = jax.random.bits(key, (size,), jnp.uint32).reshape(shape)
        return jax.sharding.reshard(bits, sharding) if explicit else bits
    indices = jnp.uint32(0)
    for axis in range(len(shape)):
        of_axis = lax.broadcasted_iota(
            jnp.uint32, shape, axis, out_sharding=sharding if explicit else None
        )
        indices = indices + of_axis * jnp.uint32(math.prod(shape[axis + 1 :]))
    return _bits_at(key, indices)


def _explicit_part(sharding: NamedSharding) -> NamedSharding:
    """A sharding without the axes that a type cannot have: those not Explicit."""
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))

    def part(axes):
        names = (axes,) if isinstance(axes, str) else axes or ()
        return tuple(n for n in names if kinds[n] == AxisType.Explicit) or None

    return NamedSharding(sharding.mesh, PartitionSpec(*map(part, sharding.spec)))


def _typed(key: Array) -> Array:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def is_threefry(key: Array) -> bool:
    """Whether each word of a key depends on its index alone.

    >>> is_threefry(jax.random.key(0)), is_threefry(jax.random.key(0, impl="rbg"))
    (True, False)
    """
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _bits_at(key: Array, indices: Array) -> Array:
    """The words of these indices: the counter of a word is its index.

    It has 64 bits, of which the upper are zero.
    """
    first, second = jax.random.key_data(key)
    keys = (first, second, first ^ second ^ jnp.uint32(PARITY))
    x, y = keys[0], indices + keys[1]
    for block in range(5):
        for rotation in ROTATIONS[block % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + keys[(block + 1) % 3]
        y = y + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return x ^ y
