"""Batch normalization with PyTorch's defaults, but for the running variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.networks.conv_norm import ConvNorm


def identity(dtype=jnp.float32, **options):
    """A ConvNorm of one channel whose 1x1 convolution is the identity."""
    layer = ConvNorm(1, 1, dtype=dtype, **options)
    variables = {
        "params": {"Conv_0": {"kernel": jnp.ones((1, 1, 1, 1))}},
        "batch_stats": {"BatchNorm_0": {"mean": jnp.zeros(1), "var": jnp.ones(1)}},
    }
    return layer, variables


def column(*values, dtype=jnp.float32):
    return jnp.array(values, dtype).reshape(-1, 1, 1, 1)


def train(layer, variables, x):
    y, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, {"params": variables["params"], **updated}


def test_training_uses_the_batch_and_evaluation_the_running_statistics():
    layer, variables = identity()
    x = column(1, 2, 3, 6)  # mean 3, biased variance 3.5
    y, after = train(layer, variables, x)
    np.testing.assert_allclose(y, (x - 3) / np.sqrt(3.5 + 1e-5), rtol=1e-6)
    running = after["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(running["mean"], [0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(running["var"], [0.9 + 0.1 * 3.5], rtol=1e-6)
    y = layer.apply(after, x, train=False)
    np.testing.assert_allclose(y, (x - 0.3) / np.sqrt(1.25 + 1e-5), rtol=1e-6)


def test_the_running_variance_averages_biased_variances():
    """PyTorch's would tend to the unbiased 14 / 3 here."""
    layer, variables = identity()
    for _ in range(200):
        _, variables = train(layer, variables, column(1, 2, 3, 6))
    running = variables["batch_stats"]["BatchNorm_0"]["var"]
    np.testing.assert_allclose(running, [14 / 4], rtol=1e-5)


def test_statistics_are_float32_under_bfloat16_activations():
    """At 256 bfloat16 counts by twos: a variance of 1 would be lost in it."""
    layer, variables = identity(jnp.bfloat16)
    x = column(254, 256, dtype=jnp.bfloat16)
    y, after = train(layer, variables, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), column(-1, 1))
    running = after["batch_stats"]["BatchNorm_0"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after)} == {"float32"}
    np.testing.assert_allclose(running["mean"], [25.5], rtol=1e-6)
    np.testing.assert_allclose(running["var"], [0.9 + 0.1], rtol=1e-6)


def test_a_filter_that_is_pruned_whole_stays_zero_and_has_finite_gradients():
    layer, variables = identity()
    x = column(1, 2, 3, 6)

    def total(kernel):
        params = {"Conv_0": {"kernel": kernel}}
        y, _ = train(layer, {**variables, "params": params}, x)
        return jnp.sum(y**2), y

    gradient, y = jax.grad(total, has_aux=True)(jnp.zeros((1, 1, 1, 1)))
    assert not y.any()
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("affine", [False, True])
def test_affine_is_a_scale_and_a_bias(affine):
    layer, _ = identity(affine=affine)
    params = layer.init(jax.random.key(0), column(1), train=False)["params"]
    names = {name for group in params.values() for name in group}
    assert names == ({"kernel", "scale", "bias"} if affine else {"kernel"})


def test_the_padding_is_the_same_on_every_side_also_when_striding():
    """3x3 sums at rows and columns 0 and 2 of a 4x4 image; SAME has 1 and 3."""
    layer = ConvNorm(1, 3, strides=2)
    _, variables = identity()
    variables["params"]["Conv_0"]["kernel"] = jnp.ones((3, 3, 1, 1))
    y = layer.apply(variables, jnp.ones((1, 4, 4, 1)), train=False)
    np.testing.assert_allclose(y[0, :, :, 0], [[4, 6], [6, 9]], rtol=1e-4)
