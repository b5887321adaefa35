"""The modes of JAX that decide the bits of a run, fixed for all of it.

JAX reads them from the environment: JAX_ENABLE_X64, JAX_DEFAULT_PRNG_IMPL and so on. A
run has the same bits in every environment, so a command or `train` sets its own modes
while it works, in its thread, and puts back what there was. The functions of the
library work in all of them.
"""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["GENERATOR", "fixed"]

GENERATOR = "threefry2x32"
RECORDED = f"{GENERATOR}, partitionable"  # as a result names the generator


@contextlib.contextmanager
def fixed() -> Iterator[None]:
    """Within, JAX has the modes of a run; also as a decorator.

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
