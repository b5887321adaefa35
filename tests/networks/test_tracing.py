"""Networks that are traced for their shapes, or for a converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax.networks import NETWORKS, build_network
from iterand_jax.networks.batch_norm import batch_norm
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
    "network", [Traced(), build_network("resnet18", num_classes=3, width=1 / 16)]
)
def test_shapes_do_not_change_what_is_traced_afterwards(network):
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    shapes(network, x)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert kernels
    assert all(np.count_nonzero(kernel) == kernel.size for kernel in kernels)
    out = jax.jit(network.apply)(variables, x)
    assert np.all(np.isfinite(out))
    shapes(network, x)
    np.testing.assert_array_equal(jax.jit(network.apply)(variables, x), out)


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
    """Each takes memory: a ticket is read of no more than ten times its network."""
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
