"""The convolution for CPUs has the gradients of JAX's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from iterand_jax.networks import build_network
from iterand_jax.networks.conv_norm import ConvNorm
from iterand_jax.networks.cpu import convolution
from iterand_jax.networks.cpu.convolution import Conv, conv_general_dilated
from tests import helpers

CHANNELS_LAST = {
    3: ("NWC", "WIO", "NWC"),
    4: ("NHWC", "HWIO", "NHWC"),
    5: ("NDHWC", "DHWIO", "NDHWC"),
}
CASES = {  # images, kernel, strides, padding, other options
    "3x3": ((32, 9, 7, 3), (3, 3, 3, 5), 1, "SAME", {}),
    "parts of 2 and a rest": ((33, 6, 7, 2), (3, 3, 2, 3), 1, "SAME", {}),
    "few pixels": ((64, 4, 4, 3), (3, 3, 3, 2), 1, "SAME", {}),
    "one axis": ((70, 64, 2), (3, 2, 3), 1, "SAME", {}),
    "three axes": ((3, 17, 16, 15, 2), (3, 2, 3, 2, 3), 2, "SAME", {}),
    "no images": ((0, 5, 5, 2), (3, 3, 2, 3), 1, "SAME", {}),
    "pixels fewer than the kernel's": ((7, 2, 2, 3), (3, 3, 3, 4), 1, "SAME", {}),
    "one pixel": ((5, 1, 1, 3), (3, 3, 3, 4), 1, "SAME", {}),
    "one axis is shorter": ((5, 6, 2, 3), (3, 4, 3, 2), 2, ((2, 1), (1, 2)), {}),
    "no output": ((5, 2, 4, 3), (3, 3, 3, 2), 1, "VALID", {}),
    "shorter, groups": (
        (5, 2, 2, 4),
        (3, 3, 2, 6),
        1,
        "SAME",
        {"feature_group_count": 2},
    ),
    "shorter, dilated": (
        (5, 2, 2, 2),
        (3, 3, 2, 2),
        1,
        "SAME",
        {"rhs_dilation": (2, 2)},
    ),
    "strided": ((32, 11, 10, 4), (3, 3, 4, 2), 2, ((1, 1), (1, 1)), {}),
    "7x7": ((48, 15, 15, 3), (7, 7, 3, 4), 2, ((3, 3), (3, 3)), {}),
    "no padding": ((32, 8, 9, 2), (2, 4, 2, 3), 1, "VALID", {}),
    "1x1": ((6, 5, 4, 3), (1, 1, 3, 2), 1, ((0, 0), (0, 0)), {}),
    "1x1, strided": ((6, 9, 8, 3), (1, 1, 3, 2), 2, ((0, 0), (0, 0)), {}),
    "1x1, padded": ((32, 9, 9, 3), (1, 1, 3, 2), 3, ((1, 0), (0, 2)), {}),
    "1x1, groups": (
        (32, 5, 5, 4),
        (1, 1, 2, 6),
        1,
        "SAME",
        {"feature_group_count": 2},
    ),
    "1x1, holes": (
        (32, 5, 5, 4),
        (1, 1, 4, 2),
        1,
        ((0, 0), (0, 0)),
        {"lhs_dilation": (2, 2)},
    ),
    "groups": ((32, 6, 6, 4), (3, 3, 2, 6), 1, "SAME", {"feature_group_count": 2}),
    "dilated": ((32, 9, 9, 2), (3, 3, 2, 2), 1, "SAME", {"rhs_dilation": (2, 2)}),
}


def with_gradients(convolve, case, dtype=np.float64):
    """(outputs, gradients of images and kernel) for one cotangent."""
    shape, kernel, stride, padding, options = case

    def apply(x, w):
        numbers = {"dimension_numbers": CHANNELS_LAST[x.ndim]}
        strides = (stride,) * (x.ndim - 2)
        return convolve(x, w, strides, padding, **numbers, **options)

    @jax.jit
    def both(x, w):
        outputs, transposed = jax.vjp(apply, x, w)
        cotangent = jnp.sin(jnp.arange(outputs.size, dtype=dtype))
        return outputs, *transposed(cotangent.reshape(outputs.shape))

    return both(*(x.astype(dtype) for x in arrays(shape, kernel)))


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.array(rng.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize("part", [convolution.PART, 2**8], ids=["large", "small"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_jaxs_own(case, part, monkeypatch):
    monkeypatch.setattr(convolution, "PART", part)
    with jax.enable_x64(True):
        ours = with_gradients(conv_general_dilated, case)
        own = with_gradients(lax.conv_general_dilated, case)
    for a, b in zip(ours, own, strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_the_parts_of_bfloat16_images_are_summed_in_float32(monkeypatch):
    """Ten parts give the kernel's gradient the error of one rounding, not of ten."""
    monkeypatch.setattr(convolution, "PART", 16 * 6 * 6 * 2)
    case = ((160, 6, 6, 2), (3, 3, 2, 2), 1, "SAME", {})
    *_, ours = with_gradients(conv_general_dilated, case, jnp.bfloat16)
    *_, own = with_gradients(lax.conv_general_dilated, case, jnp.bfloat16)
    assert ours.dtype == jnp.bfloat16
    scale = jnp.abs(own).max().astype(jnp.float32)
    difference = jnp.abs(ours.astype(jnp.float32) - own.astype(jnp.float32)).max()
    assert difference <= scale * 2**-7


def loss(convolve, x, w):
    y = convolve(x, w, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST[4])
    return jnp.sum(jnp.sin(y))


@pytest.mark.parametrize("transform", ["vmap", "hessian_vector"])
def test_gradients_can_be_transformed(transform):
    with jax.enable_x64(True):
        images, kernels, tangents = arrays(
            (2, 32, 6, 6, 2), (2, 3, 3, 2, 3), (3, 3, 2, 3)
        )
        results = []
        for convolve in (conv_general_dilated, lax.conv_general_dilated):
            grad = jax.grad(functools.partial(loss, convolve), argnums=1)
            if transform == "vmap":
                results.append(jax.vmap(grad)(images, kernels))
            else:
                of_kernel = functools.partial(grad, images[0])
                results.append(jax.jvp(of_kernel, [kernels[0]], [tangents])[1])
    np.testing.assert_allclose(*results, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("window", [3, 1])
def test_the_kernels_gradient_is_a_loop_over_parts_or_one_product(window, monkeypatch):
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        pytest.skip("only on one CPU device")
    monkeypatch.setattr(convolution, "PART", 2 * 64 * 32 * 3)
    images, kernel = arrays((8, 64, 32, 2), (window, window, 2, 3))
    grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
    program = grad.lower(conv_general_dilated, images, kernel).as_text()
    is_loop = window > 1
    assert ("stablehlo.while" in program) == is_loop
    assert ("tensor<2x64x32x2xf32>" in program) == is_loop  # channels, ..., images
    if not is_loop:  # the outputs and the images' gradient
        assert program.count("stablehlo.convolution") == 2


def test_images_smaller_than_the_kernel_are_convolved_by_products():
    if jax.default_backend() != "cpu":
        pytest.skip("only on CPUs")
    images, kernel = arrays((8, 2, 2, 3), (3, 3, 3, 4))
    grad = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
    program = grad.lower(conv_general_dilated, images, kernel).as_text()
    assert "stablehlo.convolution" not in program
    assert program.count("stablehlo.dot_general") == 3


def test_programs_for_other_devices_are_those_of_flaxs_convolution():
    def program(conv):
        layer = ConvNorm(4, 3, 2, conv=conv)
        images = jnp.zeros((32, 8, 8, 3))
        variables = layer.init(jax.random.key(0), images, train=False)
        apply = jax.jit(lambda v, x: layer.apply(v, x, train=False))
        platforms = ("cpu", "cuda", "tpu")
        traced = apply.trace(variables, images)
        return traced.lower(lowering_platforms=platforms).as_text()

    assert program(Conv) == program(nn.Conv)


@pytest.mark.parametrize("name", ["vgg11", "resnet20", "conv2"])
def test_what_evaluates_is_one_program_wherever_it_is_traced(name, monkeypatch):
    model = build_network(name, num_classes=3, width=1 / 16)
    images = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def program():
        traced = jax.jit(lambda v, x: model.apply(v, x)).trace(variables, images)
        return traced.lower(lowering_platforms=("cpu", "cuda", "tpu")).as_text()

    programs = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        programs.append(program())
    assert programs[0] == programs[1]
    # Products of patches on CPUs, convolutions elsewhere, where images are small.
    if name == "vgg11":
        assert "stablehlo.case" in programs[0]


TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from iterand_jax.networks.cpu.convolution import conv_general_dilated

mesh = Mesh(np.array(jax.devices()), ("batch",))
assert mesh.size == 2
rng = np.random.default_rng(0)
x = rng.standard_normal((64, 6, 6, 3), np.float32)
w = rng.standard_normal((3, 3, 3, 4), np.float32)

def loss(w, x, convolve):
    y = convolve(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.sum(jnp.sin(y))

split = NamedSharding(mesh, PartitionSpec("batch"))
whole = NamedSharding(mesh, PartitionSpec())
grad = jax.jit(
    jax.grad(loss), static_argnums=2, in_shardings=(whole, split), out_shardings=whole
)
program = grad.lower(w, x, conv_general_dilated).compile().as_text()
assert "all-reduce" in program
assert "all-gather" not in program and "all-to-all" not in program
expected = jax.jit(jax.grad(loss), static_argnums=2)(w, x, lax.conv_general_dilated)
actual = grad(w, x, conv_general_dilated)
np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
"""


def test_a_batch_on_two_devices_stays_there():
    helpers.printed("-c", TWO_DEVICES, devices=2)
