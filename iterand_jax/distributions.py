"""D_param, the distributions of frozen weights, as functions of uniform numbers.

Each distribution is given by its inverse cumulative distribution function, which maps
uniform numbers to weights, given the fan-in f. One random word per weight is then
enough for re-randomization: the weight is resampled if the word is below a bound, and
the word's position in [0, bound) gives the new value (`redraw`).

    signed_constant   +-sqrt(2 / f), either sign with probability 1/2
    kaiming_uniform   U[-sqrt(6 / f), sqrt(6 / f)]
    kaiming_normal    N(0, 2 / f), not truncated

All three have variance 2 / f. The first two are SC and KU in the paper.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike

from iterand_jax.keys import random_bits, random_bits_in_shards
from iterand_jax.selection import Scalar, sharded_axes

__all__ = ["DISTRIBUTIONS", "Distribution", "get_distribution", "placed_as"]

WORD_BITS = 31


class Distribution(NamedTuple):
    """A distribution of weights: a name, and (uniform numbers, fan-in) -> weights.

    The function maps each number by itself.
    """

    name: str
    from_uniform: Callable[[Array, float], Array]

    def sample(
        self,
        key: Array,
        shape: tuple[int, ...],
        fan_in: float,
        dtype: DTypeLike = jnp.float32,
        sharding: NamedSharding | None = None,
    ) -> Array:
        """Draws weights of the given shape, for the given fan-in; optionally sharded.

        >>> import jax
        >>> constant = DISTRIBUTIONS["signed_constant"]
        >>> abs(constant.sample(jax.random.key(0), (3,), fan_in=8))
        Array([0.5, 0.5, 0.5], dtype=float32)
        """
        words = _words(key, shape, sharding)
        return self.from_uniform(_uniform(words, 1.0), fan_in).astype(dtype)

    def redraw(
        self, key: Array, weights: Array, fan_in: float, sampling_rate: Scalar
    ) -> tuple[Array, Array]:
        """Fresh weights and the Bernoulli(r) choice of which to replace, from one draw.

        Returns (fresh, chosen), both of the shape of the weights, chosen as booleans.
        Where not chosen, fresh is meaningless. The probability of the choice is exact
        to 2**-31; where chosen, the fresh value has r * 2**31 levels.

        >>> import jax, jax.numpy as jnp
        >>> constant = DISTRIBUTIONS["signed_constant"]
        >>> weights = jnp.zeros(10_000)
        >>> fresh, chosen = constant.redraw(jax.random.key(0), weights, 8, 0.1)
        >>> bool(abs(chosen.mean() - 0.1) < 0.01), abs(fresh[:3])
        (True, Array([0.5, 0.5, 0.5], dtype=float32))
        """
        if not sharded_axes(weights):
            words = _words(key, weights.shape)
        elif isinstance(weights, jax.core.Tracer):
            words = _words(key, weights.shape, jax.typeof(weights).sharding)
        else:  # in a separate program, where the devices of an array are known
            traced = isinstance(sampling_rate, jax.core.Tracer)
            redraw = jax.jit(
                Distribution.redraw,
                static_argnums=(0, 3) if traced else (0, 3, 4),
                keep_unused=True,
            )
            rate = sampling_rate if traced else float(sampling_rate)
            return redraw(self, key, weights, fan_in, rate)
        uniform, chosen = _chosen(words, sampling_rate, word_bound(sampling_rate))
        return self.from_uniform(uniform, fan_in).astype(weights.dtype), chosen


def first_uniform(key: Array, size: int, start: ArrayLike = 0) -> Array:
    """The uniform numbers of `Distribution.sample`, flat, from the index `start` on.

    Of keys other than Threefry's only the whole leaf is drawn, from its start.

    >>> import jax
    >>> key, normal = jax.random.key(0), DISTRIBUTIONS["kaiming_normal"]
    >>> drawn = normal.sample(key, (2, 3), fan_in=8)
    >>> part = normal.from_uniform(first_uniform(key, 3, start=3), 8)
    >>> drawn[1].tolist() == part.tolist()
    True
    """
    return _uniform(_words(key, (size,), start=start), 1.0)


def redrawn_uniform(
    key: Array,
    size: int,
    sampling_rate: Scalar,
    bound: ArrayLike,
    start: ArrayLike = 0,
) -> tuple[Array, Array]:
    """The uniform numbers of `Distribution.redraw` and the choice, as `first_uniform`.

    The bound is `word_bound` of the rate, so that both can be traced.

    >>> import jax
    >>> key, constant = jax.random.key(0), DISTRIBUTIONS["signed_constant"]
    >>> _, chosen = constant.redraw(key, jax.numpy.zeros((2, 3)), 8, 0.5)
    >>> _, part = redrawn_uniform(key, 3, 0.5, word_bound(0.5), start=3)
    >>> chosen[1].tolist() == part.tolist()
    True
    """
    return _chosen(_words(key, (size,), start=start), sampling_rate, bound)


def _chosen(
    words: Array, sampling_rate: Scalar, bound: ArrayLike
) -> tuple[Array, Array]:
    chosen = words.astype(jnp.uint32) < bound
    return _uniform(words, jnp.asarray(sampling_rate, jnp.float32)), chosen


def _words(
    key: Array,
    shape: tuple[int, ...],
    sharding: NamedSharding | None = None,
    start: ArrayLike = 0,
) -> Array:
    """31 random bits each, as int32, whose conversion to float32 vectorizes."""
    if sharding is not None:
        bits = random_bits_in_shards(key, shape, sharding)
        return (bits >> (32 - WORD_BITS)).astype(jnp.int32)
    words = random_bits(key, math.prod(shape), start) >> (32 - WORD_BITS)
    return words.astype(jnp.int32).reshape(shape)


def word_bound(sampling_rate: Scalar) -> Array:
    """The number of words, of 2**31, that choose a weight: exact of a number of Python.

    >>> int(word_bound(0.1)), round(0.1 * 2**31)
    (214748365, 214748365)
    """
    if isinstance(sampling_rate, jax.core.Tracer):
        return jnp.round(sampling_rate * 2.0**WORD_BITS).astype(jnp.uint32)
    return jnp.uint32(round(float(sampling_rate) * 2**WORD_BITS))


def _uniform(words: Array, bound: Scalar) -> Array:
    """Words below bound * 2**31 to float32 in (0, 1), both ends excluded."""
    scale = jnp.float32(2.0**-WORD_BITS) / bound
    largest = jnp.float32(1 - 2**-24)
    return jnp.minimum((words.astype(jnp.float32) + 0.5) * scale, largest)


def _signed_constant(uniform: Array, fan_in: float) -> Array:
    size = jnp.float32(math.sqrt(2 / fan_in))
    return jnp.where(uniform < 0.5, -size, size)


def _kaiming_uniform(uniform: Array, fan_in: float) -> Array:
    return (2 * uniform - 1) * jnp.float32(math.sqrt(6 / fan_in))


def _kaiming_normal(uniform: Array, fan_in: float) -> Array:
    # At -1 and 1, which float32 rounds extreme words to, the inverse is infinite.
    largest = jnp.float32(1 - 2**-24)
    signed = jnp.clip(2 * uniform - 1, -largest, largest)
    return lax.erf_inv(signed) * jnp.float32(2 / math.sqrt(fan_in))


DISTRIBUTIONS = {
    d.name: d
    for d in (
        Distribution("signed_constant", _signed_constant),
        Distribution("kaiming_uniform", _kaiming_uniform),
        Distribution("kaiming_normal", _kaiming_normal),
    )
}


def get_distribution(name: str | Distribution) -> Distribution:
    """The distribution of a name; a Distribution is returned unchanged.

    Raises:
      ValueError: an unknown name.

    >>> get_distribution("kaiming_uniform").name
    'kaiming_uniform'
    """
    if isinstance(name, Distribution):
        return name
    if not isinstance(name, str) or name not in DISTRIBUTIONS:
        raise ValueError(
            f"unknown distribution {name!r}; possible: {', '.join(DISTRIBUTIONS)}"
        )
    return DISTRIBUTIONS[name]


def placed_as(leaf: Any, draw: Callable[..., Array], key: Array, *fixed: Any) -> Array:
    """draw(key, *fixed) in the sharding and on the devices of a leaf.

    Each device draws its own shard only. Under Explicit axes of a mesh the sharding is
    part of an array's type, and under `jit` the new array inherits it. Under Auto axes
    a traced array does not know its sharding, and the partitioner of the program
    decides unless `jax.jit` is given `out_shardings`; an array outside `jit` has its
    sharding under both.

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
