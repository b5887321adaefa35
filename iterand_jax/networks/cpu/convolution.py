"""A convolution that trains faster on CPUs: `flax.linen.Conv` with a custom gradient.

XLA computes the gradient of a kernel as a convolution with the output gradient as the
kernel and the batch as the channels. On CPUs that is up to four times slower when each
entry is a sum over many pixels, and for 1x1 kernels of any size. Here it is a loop over
parts of the batch or, for 1x1 kernels, one matrix product. Everything else is XLA's
own, and so is the gradient on other platforms and with several devices, where the loop
would run over the shards one after another.

Images that are smaller than the kernel are a special case: on CPUs XLA does not use
matrix products for them (VGG11's last layers, 3x3 kernels on 2x2 pixels with 512
channels, took 130 times as long as a matrix product of patches).

`jax.custom_vjp` does not support forward-mode differentiation, so on a CPU `jax.jvp` of
a network ends in an error that says what to do; `flax.linen.Conv` in place of `Conv` is
slower, without this limitation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from iterand_jax.networks.reverse_mode import reverse_mode_only
from iterand_jax.networks.tracing import traces_as_xla, traces_for_shapes

PART = 2**18  # entries of a part's images or outputs; 2**20 is three times slower


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated`, in the form in which `flax.linen.Conv` calls it.

    Args:
      lhs: images (N, H, W, C), or of any number of spatial axes.
      rhs: kernel (height, width, C / feature_group_count, features).
      window_strides: one for each spatial axis.
      padding: "SAME", "VALID" or (low, high) of each spatial axis.
      lhs_dilation: one for each spatial axis.
      feature_group_count: groups of channels.
      options: rhs_dilation, precision and the dimension_numbers of these axes.

    Returns:
      (N, H', W', features).
    """
    convolve: Callable[[Array, Array], Array] = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        feature_group_count=feature_group_count,
        **options,
    )
    # Which of three cases: patches, a custom gradient, or XLA's own convolution.
    sizes, kernel = lhs.shape[1:-1], rhs.shape[:-2]
    pads = (
        lax.padtype_to_pads(sizes, kernel, window_strides, padding)
        if isinstance(padding, str)
        else padding
    )
    padded = np.add(sizes, [sum(p) for p in pads])
    dilation = math.prod([*(lhs_dilation or ()), *(options.get("rhs_dilation") or ())])
    is_plain = dilation == feature_group_count == 1 and np.all(padded >= kernel)
    if traces_as_xla():
        return convolve(lhs, rhs)
    if is_plain and np.any(np.less(sizes, kernel)):
        product = partial(
            _product_of_patches,
            strides=window_strides,
            padding=pads,
            precision=options.get("precision"),
        )
        return lax.platform_dependent(lhs, rhs, cpu=product, default=convolve)
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or not is_plain:
        return convolve(lhs, rhs)
    convolution = _with_own_gradient(convolve, window_strides, pads, options)
    return convolution(reverse_mode_only(lhs, "Conv"), reverse_mode_only(rhs, "Conv"))


def kernel_init(key: Array, shape: Sequence[int], dtype: Any) -> Array:
    """`flax.linen.Conv`'s initial kernel; zeros where only its shape is asked for."""
    if traces_for_shapes():
        return jnp.zeros(shape, dtype)
    return nn.initializers.lecun_normal()(key, shape, dtype)


Conv = partial(
    nn.Conv, conv_general_dilated=conv_general_dilated, kernel_init=kernel_init
)
"""`flax.linen.Conv`, faster to train on CPUs."""


def _with_own_gradient(
    convolve: Callable[[Array, Array], Array],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    options: Mapping[str, Any],
) -> Callable[[Array, Array], Array]:
    """The convolution with the gradient of its kernel in parts, or as a product."""

    def forward(lhs, rhs):
        return convolve(lhs, rhs), (lhs, rhs)

    def backward(residuals, gradient):
        lhs, rhs = residuals
        (of_lhs,) = jax.linear_transpose(lambda x: convolve(x, rhs), lhs)(gradient)
        if math.prod(rhs.shape[:-2]) == 1 and not np.any(pads):
            pixels = lhs[:, *(slice(None, None, stride) for stride in strides)]
            return of_lhs, _product(pixels, gradient).reshape(rhs.shape)
        of_part = partial(_gradient_of_kernel, rhs.shape[:-2], strides, pads, options)
        return of_lhs, _sum_of_parts(of_part, lhs, rhs, gradient)

    convolution = jax.custom_vjp(convolve)
    convolution.defvjp(forward, backward)
    return convolution


def _product_of_patches(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    precision: lax.PrecisionLike,
) -> Array:
    """The convolution as one matrix product of patches (im2col)."""
    lhs = lax.pad(
        lhs,
        jnp.zeros((), lhs.dtype),
        [(0, 0, 0), *((*p, 0) for p in padding), (0,) * 3],
    )
    axes = list(zip(lhs.shape[1:-1], rhs.shape[:-2], strides, strict=True))
    last = [(size - kernel) // stride * stride for size, kernel, stride in axes]
    patches = [
        lhs[:, *map(slice, offsets, np.add(offsets, last) + 1, strides)]
        for offsets in np.ndindex(*rhs.shape[:-2])
    ]
    return lax.dot_general(
        jnp.concatenate(patches, axis=-1),
        rhs.reshape(-1, rhs.shape[-1]),
        (((lhs.ndim - 1,), (0,)), ((), ())),
        precision=precision,
    )


def _product(pixels: Array, gradient: Array) -> Array:
    """(N, H, W, C) and (N, H, W, features) to (C, features)."""
    axes = tuple(range(gradient.ndim - 1))
    return lax.dot_general(pixels, gradient, ((axes, axes), ((), ())))


def _sum_of_parts(
    of_part: Callable[[Array, Array], Array], lhs: Array, rhs: Array, gradient: Array
) -> Array:
    """The gradient of the kernel rhs, accumulated in float32 or better."""
    image = math.prod(lhs.shape[1:-1]) * max(lhs.shape[-1], rhs.shape[-1])
    size = max(1, min(len(lhs), PART // max(1, image)))
    count = len(lhs) // size
    whole = count * size

    def add(total, part):
        return total + of_part(*part), None

    shape = (lhs.shape[-1], *rhs.shape[:-2], rhs.shape[-1])
    total = jnp.zeros(shape, jnp.promote_types(rhs.dtype, jnp.float32))
    parts = [x[:whole].reshape(count, size, *x.shape[1:]) for x in (lhs, gradient)]
    # Two per iteration: XLA distributes a single one badly over the cores.
    total, _ = lax.scan(add, total, parts, unroll=2)
    if whole < len(lhs):
        total += of_part(lhs[whole:], gradient[whole:])
    return jnp.moveaxis(total, 0, -2).astype(rhs.dtype)


def _gradient_of_kernel(
    window: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    options: Mapping[str, Any],
    lhs: Array,
    gradient: Array,
) -> Array:
    """The gradient of a kernel, (C, height, width, features).

    A convolution of the images as (C, H, W, N) with the output gradient as its kernel,
    (H', W', N, features). XLA chooses these layouts by itself, except in loops, which
    are then 30 times slower; so they are made explicit here.
    """
    pads = [
        (low, length + (outputs - 1) * stride - pixels - low)
        for (low, _), length, outputs, stride, pixels in zip(
            padding, window, gradient.shape[1:-1], strides, lhs.shape[1:-1], strict=True
        )
    ]
    images, kernel = jnp.swapaxes(lhs, 0, -1), jnp.moveaxis(gradient, 0, -2)
    images, kernel = lax.optimization_barrier((images, kernel))
    no_strides = (1,) * len(strides)
    options = {**options, "rhs_dilation": strides}
    return lax.conv_general_dilated(images, kernel, no_strides, pads, **options)
