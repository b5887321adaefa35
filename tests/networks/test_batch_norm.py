"""Batch normalization in training equals Flax's but for the order of sums."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax.networks.batch_norm import BatchNorm
from iterand_jax.networks.conv_norm import ConvNorm

OPTIONS = {"momentum": 0.9, "epsilon": 1e-5}
SHAPES = [(6, 4, 4, 3), (3, 8, 7, 2), (2, 37, 5), (4, 64, 1, 2), (9, 1, 1, 3), (5, 2)]


@pytest.fixture(params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """Both implementations run here; a process's platform chooses one."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.array(rng.standard_normal(shape) * 3 + 1) for shape in shapes]


def trained(norm, variables, x, cotangent):
    """Outputs, statistics, and the gradients of parameters and inputs."""
    statistics = {"batch_stats": variables["batch_stats"]}

    def apply(params, x):
        variables = statistics | {"params": params}
        return norm.apply(variables, x, mutable=["batch_stats"])

    y, transposed, updated = jax.vjp(
        apply, variables.get("params", {}), x, has_aux=True
    )
    return y, updated, transposed(cotangent)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_statistics_and_gradients_are_flaxs(shape, affine, platform):
    options = OPTIONS | {"use_scale": affine, "use_bias": affine}
    flax_norm = nn.BatchNorm(use_running_average=False, **options)
    with jax.enable_x64(True):
        x, cotangent = arrays(shape, shape)
        variables = flax_norm.init(jax.random.key(0), x)
        own = BatchNorm(**options).init(jax.random.key(0), x)
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a, b, strict=True),
            *(jax.tree.map(np.asarray, tree) for tree in (own, variables)),
        )
        seeds = iter(range(9))
        variables = jax.tree.map(
            lambda v: jax.random.uniform(jax.random.key(next(seeds)), v.shape) + 1,
            variables,
        )
        results = [
            trained(norm, variables, x, cotangent)
            for norm in (BatchNorm(**options), flax_norm)
        ]
        ours, flaxs = (jax.tree.flatten(result) for result in results)
    assert ours[1] == flaxs[1]
    for a, b in zip(ours[0], flaxs[0], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_bfloat16_gets_flaxs_result(platform):
    x = arrays((8, 6, 6, 3))[0].astype(jnp.bfloat16)
    results = []
    for norm in (
        nn.BatchNorm(use_running_average=False, dtype=jnp.bfloat16),
        BatchNorm(dtype=jnp.bfloat16),
    ):
        variables = norm.init(jax.random.key(0), x)
        results.append(norm.apply(variables, x, mutable=["batch_stats"]))
    assert results[0][0].dtype == results[1][0].dtype == jnp.bfloat16
    flaxs, ours = jax.tree.map(lambda y: y.astype(jnp.float32), results)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), ours, flaxs)


def test_sums_are_of_rows_in_both_directions():
    """A sum over all axes at once takes 20 times as long."""
    x = jnp.zeros((4, 16, 8, 2))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x)

    def total(x):
        return jnp.sin(norm.apply(variables, x, mutable=["batch_stats"])[0]).sum(2)

    program = jax.jit(lambda x, g: jax.vjp(total, x)[1](g)).lower(x, total(x)).as_text()
    sums = re.findall(r"dimensions = \[([\d, ]+)\] : \(tensor<4x4x32x2xf32>", program)
    assert sums == ["2"] * 4


def test_one_module_trains_and_evaluates_with_the_same_variables():
    layer = ConvNorm(4, 3, affine=True)
    x = jnp.zeros((2, 8, 8, 3))
    trees = [layer.init(jax.random.key(0), x, train=train) for train in (False, True)]
    jax.tree.map(np.testing.assert_array_equal, *trees)


def test_on_accelerators_each_pass_is_one_reduction(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.ones((4, 6, 6, 3))
    norm = BatchNorm(use_scale=False, use_bias=False)
    variables = norm.init(jax.random.key(0), x)

    def total(x):
        return jnp.sin(norm.apply(variables, x, mutable=["batch_stats"])[0])

    program = jax.jit(lambda x, g: jax.vjp(total, x)[1](g)).lower(x, x).as_text()
    assert program.count("stablehlo.reduce(") == 2


@pytest.mark.slow
@pytest.mark.parametrize("affine", [False, True])
def test_second_derivatives_are_flaxs(affine, platform):
    """A Hessian times a vector, by `jvp` of `grad` and by `grad` of `grad`."""
    options = OPTIONS | {"use_scale": affine, "use_bias": affine}

    def products(norm):
        variables = norm.init(jax.random.key(0), x)

        def loss(x):
            y = norm.apply(variables, x, mutable=["batch_stats"])[0]
            return jnp.sum(jnp.sin(y))

        forward = jax.jvp(jax.grad(loss), (x,), (direction,))[1]
        reverse = jax.grad(lambda x: jnp.vdot(jax.grad(loss)(x), direction))(x)
        return forward, reverse

    with jax.enable_x64(True):
        x, direction = arrays((5, 3, 2), (5, 3, 2))
        expected = products(nn.BatchNorm(use_running_average=False, **options))
        for found in products(BatchNorm(**options)):
            for value in expected:
                np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-8)
