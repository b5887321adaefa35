"""The JAX settings that determine the bits of a run, fixed while it runs.

JAX reads them from the environment: JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL and so on. A
run has the same bits in every environment, so a command or `train` overrides these
settings in its thread while it runs, and restores them afterwards. The functions of the
library work under all of them.
"""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["GENERATOR", "fixed"]

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
