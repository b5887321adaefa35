"""Every registered network has the paper's size and the same properties."""

import functools
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
from tests import helpers

KEY = jax.random.key(0)
CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
TEXTS = (
    jax.ShapeDtypeStruct((2, 9), jnp.int32),  # tokens
    jax.ShapeDtypeStruct((2,), jnp.int32),  # lengths
)
CONVS = {  # channels in and out of each 3x3 convolution, and the inputs of the linear
    "conv2": ([(3, 64), (64, 64)], 16 * 16 * 64),
    "conv4": ([(3, 64), (64, 64), (64, 128), (128, 128)], 8 * 8 * 128),
    "conv6": (
        [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)],
        4 * 4 * 256,
    ),
}
CONVS["conv8"] = [*CONVS["conv6"][0], (256, 512), (512, 512)], 2 * 2 * 512


def residual(stages, stem, kernel, block, width=1, scaled_stem=False):
    """(kernel, in, out) of the convolutions; block(before, channels, width) lists those
    of one block."""
    before = int(stem * width) if scaled_stem else stem
    convs = [(kernel, 3, before)]
    for stage, blocks in enumerate(stages):
        for _ in range(blocks):
            convs += block(convs[-1][2], stem * 2**stage, width)
    return convs


def basic(before, channels, width):
    after = int(channels * width)
    shortcut = [] if before == after else [(1, before, after)]
    return [*shortcut, (3, before, after), (3, after, after)]


def bottleneck(before, channels, width, inner=1):
    middle, after = int(inner * channels * width), int(4 * channels * width)
    shortcut = [] if before == after else [(1, before, after)]
    return [*shortcut, (1, before, middle), (3, middle, middle), (1, middle, after)]


def plain(channels, width=1):
    outputs = [int(c * width) for c in channels]
    return [(3, i, o) for i, o in itertools.pairwise([3, *outputs])]


WIDE = functools.partial(bottleneck, inner=2)
NORMALIZED = {  # width -> the convolutions of the networks with batch normalization
    name: functools.partial(*form)
    for name, form in {
        "resnet18": (residual, (2, 2, 2, 2), 64, 3, basic),
        "resnet34": (residual, (3, 4, 6, 3), 64, 3, basic),
        "resnet20": (residual, (3, 3, 3), 16, 3, basic),
        "vgg11": (plain, (64, 128, 256, 256, 512, 512, 512, 512)),
        "imagenet_resnet18": (residual, (2, 2, 2, 2), 64, 7, basic),
        "imagenet_resnet34": (residual, (3, 4, 6, 3), 64, 7, basic),
        "imagenet_resnet50": (residual, (3, 4, 6, 3), 64, 7, bottleneck),
        "imagenet_resnet101": (residual, (3, 4, 23, 3), 64, 7, bottleneck),
        "imagenet_wide_resnet50_2": (residual, (3, 4, 6, 3), 64, 7, WIDE),
    }.items()
}
NORMALIZED["resnet20"] = functools.partial(NORMALIZED["resnet20"], scaled_stem=True)


def weights_of(convs):
    return sum(k * k * i * o for k, i, o in convs)


def normalized_counts(convs):
    outputs = convs[-1][2]
    without = weights_of(convs) + outputs * 10
    return without, without + sum(2 * o for _, _, o in convs) + 10


COUNTS = {  # (without, with affine parameters), 10 classes, width 1
    name: (
        sum(9 * i * o for i, o in convs) + flat * 256 + 256 * 256 + 256 * 10,
        sum(9 * i * o + o for i, o in convs) + (flat + 1) * 256 + 257 * 256 + 2570,
    )
    for name, (convs, flat) in CONVS.items()
} | {name: normalized_counts(convs()) for name, convs in NORMALIZED.items()}
for name, directions in (("lstm", 1), ("bilstm", 2)):
    kernels = 25_002 * 100 + directions * ((100 + 256) * 4 * 256 + 256 * 10)
    COUNTS[name] = kernels, kernels + directions * 4 * 256 + 10
every_network = pytest.mark.parametrize("name", list(NETWORKS))


def inputs_of(name):
    return TEXTS if "lstm" in name else (CIFAR,)


def shapes(model, *inputs):
    return jax.eval_shape(model.init, KEY, *inputs)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_laws_below_cover_every_network():
    assert COUNTS.keys() == set(NETWORKS)
    found = []
    for module in pkgutil.iter_modules(networks.__path__, networks.__name__ + "."):
        for _, member in inspect.getmembers(importlib.import_module(module.name)):
            made = member.func if isinstance(member, functools.partial) else member
            is_module = inspect.isclass(made) and issubclass(made, nn.Module)
            if is_module and "num_classes" in made.__dataclass_fields__:
                found.append(member)
    assert found
    entries = [network.factory for network in NETWORKS.table.values()]
    bases = [entry.func for entry in entries if isinstance(entry, functools.partial)]
    for member in found:  # by identity: each partial application is one of its own
        assert any(member is known for known in entries + bases), member


@pytest.mark.smoke
@every_network
@pytest.mark.parametrize("affine", [False, True])
def test_the_parameters_are_as_many_as_by_hand(name, affine):
    model = build_network(name, num_classes=10, affine=affine)
    assert size(shapes(model, *inputs_of(name))["params"]) == COUNTS[name][affine]


@pytest.mark.smoke
def test_conv6_has_the_size_of_the_paper():
    assert COUNTS["conv6"] == (2_261_184, 2_261_184 + 2 * 448 + 512 + 10)


@pytest.mark.parametrize(("width", "count"), [(0.25, 142_128), (0.5, 566_368)])
def test_the_width_scales_every_layer_but_the_last(width, count):
    model = build_network("conv6", num_classes=10, width=width)
    c, w = [int(k * width) for k in (64, 128, 256)], int(256 * width)
    channels = [3, c[0], c[0], c[1], c[1], c[2], c[2]]
    convs = sum(9 * i * o for i, o in itertools.pairwise(channels))
    assert size(shapes(model, CIFAR)) == convs + 16 * c[2] * w + w * w + w * 10 == count


def test_the_paper_counts_convolutions_alone():
    """Table 4; its counts of ResNet18 and 34 are those of the CIFAR stem."""
    printed = {
        ("resnet18", 1): "11.16",
        ("resnet34", 1): "21.26",
        ("imagenet_resnet34", 0.3): "6.38",
        ("imagenet_resnet50", 0.3): "7.04",
        ("imagenet_resnet101", 0.3): "12.72",
    }
    for (name, kept), millions in printed.items():
        assert f"{kept * weights_of(NORMALIZED[name]()) / 1e6:.2f}" == millions


@pytest.mark.parametrize("name", NORMALIZED)
@pytest.mark.parametrize("width", [0.25, 0.3, 2])
def test_the_width_scales_all_but_the_stem(name, width):
    """In OpenLTH's forms, resnet20 and vgg11, it scales the stem too."""
    model = build_network(name, num_classes=10, width=width)
    params = shapes(model, CIFAR)["params"]
    convs = NORMALIZED[name](width=width)
    assert size(params) == normalized_counts(convs)[0]
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert sorted(kernels) == sorted((k, k, i, o) for k, i, o in convs)


@pytest.mark.parametrize(
    ("name", "width", "affine", "count"),
    [  # affine, they are what torchvision publishes; the last two are of Table 9
        ("imagenet_resnet18", 1, True, 11_689_512),
        ("imagenet_resnet34", 1, True, 21_797_672),
        ("imagenet_resnet50", 1, True, 25_557_032),
        ("imagenet_resnet101", 1, True, 44_549_160),
        ("imagenet_wide_resnet50_2", 1, True, 68_883_240),
        ("imagenet_wide_resnet50_2", 1, False, 68_814_016),  # printed as 68.8 M
        ("imagenet_resnet50", 2, False, 97_846_464),  # printed as 97.8 M
    ],
)
def test_the_imagenet_forms_have_their_published_sizes(name, width, affine, count):
    model = build_network(name, num_classes=1000, width=width, affine=affine)
    assert size(shapes(model, CIFAR)["params"]) == count


@every_network
@pytest.mark.parametrize("affine", [False, True])
def test_without_affine_there_are_kernels_alone(name, affine):
    model = build_network(name, num_classes=7, width=0.1, affine=affine)
    params = shapes(model, *inputs_of(name))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = {path[-1].key for path, _ in leaves}
    assert (names <= {"kernel", "embedding"}) == (not affine)


@every_network
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", [False, True])
def test_parameters_and_logits_are_float32(name, dtype, train):
    model = build_network(name, num_classes=7, width=0.1, dtype=jnp.dtype(dtype))
    inputs = inputs_of(name)
    variables = shapes(model, *inputs)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}

    def apply(variables, *inputs):
        mutable = [c for c in variables if c != "params"] if train else False
        result = model.apply(
            variables, *inputs, train=train, mutable=mutable, rngs={"dropout": KEY}
        )
        return result if mutable is False else result[0]

    logits = jax.eval_shape(apply, variables, *inputs)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    program = str(jax.make_jaxpr(apply)(variables, *inputs))
    assert ("bf16" in program) == (dtype == "bfloat16")


def random_variables(model, *inputs):
    """Values for the variables, drawn without compiling the network's own.

    Running means and variances stay 0 and 1.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[0].key == "batch_stats":
            return np.full(leaf.shape, float(path[-1].key == "var"), np.float32)
        return 0.3 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map_with_path(draw, shapes(model, *inputs))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n == "imagenet_resnet50"))
        for n in helpers.ONE_OF_A_KIND
    ],
)
def test_examples_do_not_see_each_other(name):
    model = build_network(name, num_classes=5, width=1 / 16)
    rng = np.random.default_rng(1)
    inputs = (rng.standard_normal((3, 32, 32, 3), np.float32),)
    if inputs_of(name) is TEXTS:
        inputs = rng.integers(0, 25_002, (3, 9)), np.array([9, 1, 4])
    variables, apply = random_variables(model, *inputs), jax.jit(model.apply)
    logits = apply(variables, *inputs)
    assert logits.shape == (3, 5)
    assert jnp.std(logits, axis=0).min() > 0
    reversed_logits = apply(variables, *(x[::-1] for x in inputs))
    scale = np.abs(logits).max()
    np.testing.assert_allclose(reversed_logits, logits[::-1], atol=1e-5 * scale)


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
    params = random_variables(model, images)["params"]
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
        shapes(model, *inputs_of(name))


def test_an_unknown_network_is_named():
    with pytest.raises(ValueError, match="unknown network 'conv3'; possible: conv2, "):
        build_network("conv3", num_classes=10)


def test_images_too_small_for_the_pools_of_vgg11_are_named():
    model = build_network("vgg11", num_classes=10)
    with pytest.raises(ValueError, match="32x32 pixels or more; got 8x8"):
        shapes(model, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))


@pytest.mark.parametrize(
    ("name", "halvings"), [("resnet18", 3), ("resnet20", 2), ("imagenet_resnet50", 5)]
)
def test_odd_images_shrink_as_pytorchs_do(name, halvings):
    """A padding of (1, 1) and stride 2 leave ceil(n / 2) pixels, also of odd n."""
    model = build_network(name, num_classes=10)
    images = jax.ShapeDtypeStruct((1, 45, 71, 3), jnp.float32)
    filtered = functools.partial(
        model.apply, capture_intermediates=True, mutable=["intermediates"]
    )
    _, state = jax.eval_shape(filtered, shapes(model, images), images)
    blocks = [
        values["__call__"][0].shape
        for layer, values in state["intermediates"].items()
        if "Block" in layer or "Bottleneck" in layer
    ]
    smallest = (math.ceil(45 / 2**halvings), math.ceil(71 / 2**halvings))
    assert min(shape[1:3] for shape in blocks) == smallest
