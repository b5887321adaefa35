"""Networks that are traced for their shapes, or for a converter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax.networks import NETWORKS, build_network, tracing
from iterand_jax.networks.batch_norm import batch_norm
from iterand_jax.networks.conv_norm import ConvNorm
from iterand_jax.networks.cpu.convolution import Conv
from iterand_jax.networks.tracing import as_xla, shapes, traces_as_xla


def inputs_of(name):
    if NETWORKS.get(name).takes_texts:
        return np.zeros((2, 3), np.int32), np.ones(2, np.int32)
    return (np.zeros((2, 32, 32, 3), np.float32),)


@pytest.mark.parametrize(
    ("name", "affine"),
    [
        ("conv6", True),
        ("resnet18", False),
        ("resnet20", True),
        ("vgg11", True),
        ("imagenet_resnet50", True),
        ("lstm", False),
        ("bilstm", True),
    ],
)
def test_shapes_are_those_of_init(name, affine):
    network = build_network(
        name, num_classes=3, width=1 / 16, affine=affine, dtype=jnp.bfloat16
    )
    inputs = inputs_of(name)
    assert shapes(network, *inputs) == jax.eval_shape(
        network.init, jax.random.key(0), *inputs
    )


INNER = ConvNorm(4, 3)
STATISTICS = {"BatchNorm_0": {"mean": jnp.full(4, 5.0), "var": jnp.full(4, 9.0)}}
INIT = jax.jit(functools.partial(INNER.init, train=False))
APPLY = jax.jit(functools.partial(INNER.apply, train=False))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return batch_norm(use_running_average=True)(Conv(2, (3, 3))(x))


Jitted = nn.jit(Block)


class Traced(nn.Module):
    """What a user may have: a block whose trace JAX keeps."""

    @nn.compact
    def __call__(self, x):
        return Jitted()(x)


class Frozen(nn.Module):
    """And features that are initialized and applied by functions of its own."""

    @nn.compact
    def __call__(self, x):
        params = INIT(jax.random.key(7), x)["params"]
        y = APPLY({"params": params, "batch_stats": STATISTICS}, x)
        return nn.Dense(2)(y.mean((1, 2)))


def test_shapes_take_abstract_inputs():
    found = shapes(Block(), jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32))
    assert jax.tree.map(lambda leaf: leaf.shape, found) == {
        "params": {
            "Conv_0": {"kernel": (3, 3, 3, 2), "bias": (2,)},
            "BatchNorm_0": {"scale": (2,), "bias": (2,)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": (2,), "var": (2,)}},
    }


@pytest.mark.parametrize(
    "network",
    [Traced(), Frozen(), build_network("resnet18", num_classes=3, width=1 / 16)],
    ids=["nn.jit", "jax.jit", "resnet18"],
)
def test_shapes_do_not_change_what_is_traced_afterwards(network):
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))

    def values():
        variables = jax.jit(network.init)(jax.random.key(0), x)
        return variables, jax.jit(network.apply)(variables, x)

    jax.clear_caches()
    expected = values()
    jax.clear_caches()
    shapes(network, x)
    jax.tree.map(np.testing.assert_array_equal, values(), expected)


@pytest.mark.parametrize("context", [tracing._FOR_SHAPES, tracing._AS_XLA])
def test_a_trace_of_a_context_is_not_that_of_values(context):
    """Of a function that JAX has cached, with the same arguments."""
    x, key = jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jax.random.key(2)
    params = INNER.init(key, x, train=False)["params"]
    variables = {"params": params, "batch_stats": STATISTICS}

    def body(carry, _):
        y = INNER.apply(variables, carry, train=False)
        return y[..., :3], None

    def values():
        scanned, _ = jax.lax.scan(body, x, length=2)
        return INIT(key, x), APPLY(variables, x), scanned

    jax.clear_caches()
    expected = values()
    jax.clear_caches()
    with context(True):
        jax.eval_shape(values)
    jax.tree.map(np.testing.assert_array_equal, values(), expected)
    assert np.abs(values()[1]).max() > 0


def test_any_initializer_of_a_users_network_is_traced():
    """Also those that take a key apart, or are of one generator."""

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("counts", lambda key: jax.random.poisson(key, 3.0, (3,)))
            self.param("words", jax.random.key_data)
            self.param("old", lambda key: jax.random.normal(jax.random.key_data(key)))
            self.variable("keys", "own", lambda: self.make_rng("params"))
            return nn.Dense(2, param_dtype=x.dtype)(x)

    x = jnp.ones((1, 2), jnp.bfloat16)
    init = jax.eval_shape(Own().init, jax.random.key(0), x)
    assert shapes(Own(), x) == init


@pytest.mark.parametrize("dtype", [None, jnp.float16, jnp.float32])
@pytest.mark.parametrize("of", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.int32])
@pytest.mark.parametrize("affine", [False, True])
def test_a_normalization_for_shapes_has_the_dtypes_of_flax(dtype, of, affine):
    options = {"dtype": dtype, "use_scale": affine, "use_bias": affine}
    x = jnp.ones((2, 3), of)

    def traced(module):
        return jax.eval_shape(
            lambda x: module.init_with_output(jax.random.key(0), x), x
        )

    flax = nn.BatchNorm(use_running_average=True, **options)
    ours = tracing.BatchNorm(use_running_average=True, **options)
    assert traced(ours) == traced(flax)


def test_a_convolution_is_initialized_as_flax_does():
    x, key = jnp.ones((1, 5, 5, 2)), jax.random.key(3)
    ours, flax = Conv(4, (3, 3)).init(key, x), nn.Conv(4, (3, 3)).init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours, flax)
    half = Conv(4, (3, 3), param_dtype=jnp.bfloat16)
    of_flax = nn.Conv(4, (3, 3), param_dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, half.init(key, x), of_flax.init(key, x))


def test_the_contexts_end():
    assert not traces_as_xla()
    with as_xla():
        assert traces_as_xla()
    with pytest.raises(TypeError):
        shapes(nn.Dense(2))
    assert not traces_as_xla()


def test_few_operations_are_traced_for_shapes(monkeypatch):
    """Each takes memory: a ticket is read in ten times its network at most."""
    network = build_network("resnet18", num_classes=3, width=1 / 16)
    traced = []
    eval_shape = jax.eval_shape

    def counted(function, *arguments):
        if arguments:
            jaxpr = jax.make_jaxpr(lambda *x: function(*x))(*arguments)
            traced.append(len(jaxpr.eqns))
        return eval_shape(function, *arguments)

    monkeypatch.setattr(jax, "eval_shape", counted)
    shapes(network, np.zeros((1, 32, 32, 3), np.float32))
    layers = 21
    assert 5 * layers < traced[0] < 8 * layers
