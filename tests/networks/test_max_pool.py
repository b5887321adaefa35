"""The max-pool is Flax's own, gradient included, with ties and NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax.networks.max_pool import max_pool


def pooled(pool, x):
    @jax.jit
    def both(x):
        y, transposed = jax.vjp(pool, x)
        cotangent = 1 + jnp.arange(y.size, dtype=y.dtype)
        return y, *transposed(cotangent.reshape(y.shape))

    return both(x)


@pytest.mark.parametrize("shape", [(3, 8, 6, 2), (2, 7, 5, 3)])
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_the_pool_is_flaxs_own_with_ties_and_nan(shape, window, stride, padding):
    """Of four values, most windows hold the largest twice."""
    ours_pool = functools.partial(
        max_pool, window=window, stride=stride, padding=padding
    )
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([0, 1, 2, 3], np.float32), shape)
    ours = pooled(ours_pool, x)
    sizes = {"strides": (stride,) * 2, "padding": ((padding,) * 2,) * 2}
    own = pooled(lambda x: nn.max_pool(x, (window,) * 2, **sizes), x)
    for a, b in zip(ours, own, strict=True):
        np.testing.assert_array_equal(a, b)
    for pixel in np.ndindex(2, 2):
        x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
        x[0, *pixel] = np.nan
        assert np.isnan(ours_pool(x)).all()
