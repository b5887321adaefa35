"""The JAX settings that determine the bits of a run, fixed while it runs.

JAX reads them from the environment: JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL and so on. A
run has the same bits in every environment, so a command or `train` overrides these
settings in its thread while it runs, and restores them afterwards. The functions of the
library work under all of them.

`root_key` is the root key of a run in every environment: JAX_RANDOM_SEED_OFFSET, which
JAX adds to seeds and which no thread can override for itself, does not change it.
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["GENERATOR", "fixed", "root_key"]

GENERATOR = "threefry2x32"
RECORDED = f"{GENERATOR}, partitionable"  # the name of the generator in result.json


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """A context manager, also a decorator, that sets the JAX settings of a run.

    >>> with jax.enable_x64(True), fixed():
    ...     print(jax.numpy.arange(2).dtype, jax.random.key_impl(jax.random.key(0)))
    int32 threefry2x32
    """
    with (
        jax.enable_x64(False),
        jax.default_prng_impl(GENERATOR),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def root_key(seed: int) -> Array:
    """The root key of a seed below 2**32, in every environment.

    >>> bool(root_key(3) == jax.random.key(3, impl="threefry2x32"))
    True
    """
    words = jnp.asarray(np.array([0, seed], np.uint32))
    return jax.random.wrap_key_data(words, impl=GENERATOR)
