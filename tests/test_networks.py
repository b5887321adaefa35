"""Every network of the table has the size of the paper's and obeys the same laws."""

import importlib
import inspect
import itertools
import math
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax import networks
from iterand_jax.networks import NETWORKS, build_network

KEY = jax.random.key(0)
CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
CONVS = {  # channels in and out of each 3x3 convolution, and the inputs of the linear
    "conv2": ([(3, 64), (64, 64)], 16 * 16 * 64),
    "conv4": ([(3, 64), (64, 64), (64, 128), (128, 128)], 8 * 8 * 128),
    "conv6": (
        [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)],
        4 * 4 * 256,
    ),
}
COUNTS = {  # (without, with affine parameters), 10 classes, width 1
    name: (
        sum(9 * i * o for i, o in convs) + flat * 256 + 256 * 256 + 256 * 10,
        sum(9 * i * o + o for i, o in convs) + (flat + 1) * 256 + 257 * 256 + 2570,
    )
    for name, (convs, flat) in CONVS.items()
}
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def shapes(model, images=CIFAR):
    return jax.eval_shape(model.init, KEY, images)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_laws_below_cover_every_network():
    assert COUNTS.keys() == NETWORKS.keys()
    classes = set()
    for module in pkgutil.iter_modules(networks.__path__, networks.__name__ + "."):
        for _, member in inspect.getmembers(importlib.import_module(module.name)):
            if inspect.isclass(member) and issubclass(member, nn.Module):
                fields = member.__dataclass_fields__
                classes |= {member} if "num_classes" in fields else set()
    assert classes == {entry.func for entry in NETWORKS.values()}


@every_network
@pytest.mark.parametrize("affine", [False, True])
def test_the_parameters_are_as_many_as_by_hand(name, affine):
    model = build_network(name, num_classes=10, affine=affine)
    assert size(shapes(model)["params"]) == COUNTS[name][affine]


def test_conv6_has_the_size_of_the_paper():
    assert COUNTS["conv6"] == (2_261_184, 2_261_184 + 2 * 448 + 512 + 10)


@pytest.mark.parametrize(("width", "count"), [(0.25, 142_128), (0.5, 566_368)])
def test_the_width_scales_every_layer_but_the_last(width, count):
    model = build_network("conv6", num_classes=10, width=width)
    c, w = [int(k * width) for k in (64, 128, 256)], int(256 * width)
    channels = [3, c[0], c[0], c[1], c[1], c[2], c[2]]
    convs = sum(9 * i * o for i, o in itertools.pairwise(channels))
    assert size(shapes(model)) == convs + 16 * c[2] * w + w * w + w * 10 == count


@every_network
@pytest.mark.parametrize("affine", [False, True])
def test_without_affine_there_are_kernels_alone(name, affine):
    model = build_network(name, num_classes=7, width=0.1, affine=affine)
    leaves = jax.tree_util.tree_leaves_with_path(shapes(model)["params"])
    names = {path[-1].key for path, _ in leaves}
    assert (names == {"kernel"}) == (not affine)


@every_network
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", [False, True])
def test_parameters_and_logits_are_float32(name, dtype, train):
    model = build_network(name, num_classes=7, width=0.1, dtype=jnp.dtype(dtype))
    variables = shapes(model)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}

    def apply(variables, images):
        mutable = [c for c in variables if c != "params"] if train else False
        result = model.apply(variables, images, train=train, mutable=mutable)
        return result if mutable is False else result[0]

    logits = jax.eval_shape(apply, variables, CIFAR)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    program = str(jax.make_jaxpr(apply)(variables, CIFAR))
    assert ("bf16" in program) == (dtype == "bfloat16")


def random_params(model, images):
    """Values for the parameters, drawn without compiling the network's own."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32),
        shapes(model, images),
    )


@every_network
def test_images_do_not_see_each_other(name):
    model = build_network(name, num_classes=5, width=1 / 32)
    images = np.random.default_rng(1).standard_normal((3, 32, 32, 3), np.float32)
    variables, apply = random_params(model, images), jax.jit(model.apply)
    logits = apply(variables, images)
    assert logits.shape == (3, 5)
    assert jnp.std(logits, axis=0).min() > 0
    reversed_logits = apply(variables, images[::-1])
    np.testing.assert_allclose(reversed_logits, logits[::-1], rtol=1e-4, atol=1e-6)


def relu(x):
    return np.maximum(x, 0)


def numpy_conv(x, kernel, bias):
    """3x3, zero padding: the sum over the nine shifts."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    _, h, w, _ = x.shape
    shifted = (
        padded[:, i : i + h, j : j + w] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    return sum(shifted) + bias


@pytest.mark.parametrize(("name", "affine"), [("conv2", True), ("conv6", False)])
def test_the_convolutional_networks_agree_with_numpy(name, affine):
    model = build_network(name, num_classes=5, width=1 / 32, affine=affine)
    images = np.random.default_rng(1).standard_normal((2, 16, 16, 3), np.float32)
    params = random_params(model, images)["params"]
    logits = jax.jit(model.apply)({"params": params}, images)

    def arrays(layer):
        leaves = {k: np.asarray(v, np.float64) for k, v in params[layer].items()}
        return leaves["kernel"], leaves.get("bias", 0)

    x = np.asarray(images, np.float64)
    count = len(CONVS[name][0])
    for i in range(count):
        x = relu(numpy_conv(x, *arrays(f"Conv_{i}")))
        if i % 2:
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    x = x.reshape(len(x), -1)
    for i in range(3):
        kernel, bias = arrays(f"Dense_{i}")
        x = x @ kernel + bias
        x = relu(x) if i < 2 else x
    np.testing.assert_allclose(logits, x, rtol=1e-4, atol=1e-5 * np.abs(x).max())


@every_network
@pytest.mark.parametrize("width", [0, -1, 0.001, math.nan, math.inf])
def test_a_width_without_channels_is_named(name, width):
    model = build_network(name, num_classes=10, width=width)
    with pytest.raises(
        ValueError, match=f"width {width:g} leaves a layer of .* or more"
    ):
        shapes(model)


def test_an_unknown_network_is_named():
    with pytest.raises(ValueError, match="unknown network 'conv3'; possible: conv2, "):
        build_network("conv3", num_classes=10)
