"""Augmentation on the device: crops and flips as products with small weight matrices.

Cropping a box out of an image and resizing it is separable: out = Wy @ image @ Wx.T,
where row i of W holds the weights of the input pixels in output pixel i. Pillow's
antialiased bilinear filter is a triangle of half-width max(1, box / size) inside the
box, so these products equal Pillow's result up to its rounding to integers. Zero
padding is never materialized: columns that belong to it are left out of W. A flip
reverses the rows of Wx, and a plain crop is a box that is not resized.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

__all__ = [
    "AUGMENTATIONS",
    "Boxes",
    "crop_and_resize",
    "crop_flip",
    "get_augmentation",
    "none",
    "normalize",
    "resized_crop_flip",
]

PADDING = 4
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10

Augmentation = Callable[[Array, Array], Array]


class Boxes(NamedTuple):
    """Boxes in pixels of the padded image: integers, each field of shape (N,)."""

    top: Array
    left: Array
    height: Array
    width: Array


def resized_crop_flip(key: Array, images: Array) -> Array:
    """Pads by 4, crops a random box, resizes it to the image's size, flips at random.

    The box has 0.08 to 1 of the padded area and an aspect ratio from 3/4 to 4/3
    (log-uniform); of ten sampled boxes the first that fits is used, else the whole
    image.

    Args:
      key: a PRNG key.
      images: uint8 (N, H, W, C).

    Returns:
      float32 (N, H, W, C), 0 to 255.

    >>> images = jnp.full((2, 32, 32, 3), 100, jnp.uint8)
    >>> out = resized_crop_flip(jax.random.key(0), images)
    >>> out.shape, out.dtype, bool(out.max() <= 100.001)
    ((2, 32, 32, 3), dtype('float32'), True)
    """
    key, flip_key = jax.random.split(key)
    n, height, width, _ = images.shape
    boxes = _random_boxes(key, n, height + 2 * PADDING, width + 2 * PADDING)
    return crop_and_resize(images, boxes, jax.random.bernoulli(flip_key, shape=(n,)))


def crop_flip(key: Array, images: Array) -> Array:
    """Pads by 4, crops at random to the image's size, flips at random.

    Shapes and dtypes are those of `resized_crop_flip`.

    >>> images = jnp.arange(64, dtype=jnp.uint8).reshape(1, 8, 8, 1)
    >>> out = crop_flip(jax.random.key(0), images)
    >>> set(out.ravel().tolist()) <= {0, *range(64)}
    True
    """
    top_key, left_key, flip_key = jax.random.split(key, 3)
    n, height, width, _ = images.shape
    boxes = Boxes(
        jax.random.randint(top_key, (n,), 0, 2 * PADDING + 1),
        jax.random.randint(left_key, (n,), 0, 2 * PADDING + 1),
        jnp.full((n,), height),
        jnp.full((n,), width),
    )
    return crop_and_resize(images, boxes, jax.random.bernoulli(flip_key, shape=(n,)))


def none(key: Array, images: Array) -> Array:
    """The unchanged images, in float32.

    >>> none(jax.random.key(0), jnp.array([[[[7]]]], jnp.uint8)).ravel()
    Array([7.], dtype=float32)
    """
    del key
    return images.astype(jnp.float32)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": none,
    "crop_flip": crop_flip,
    "resized_crop_flip": resized_crop_flip,
}


def get_augmentation(name: str) -> Augmentation:
    """The augmentation of a name in `AUGMENTATIONS`, (key, images) -> images.

    Raises:
      ValueError: an unknown name.

    >>> get_augmentation("crop_flip").__name__
    'crop_flip'
    """
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"unknown augmentation {name!r}; possible: {', '.join(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]


def normalize(
    images: Array, mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32
) -> Array:
    """(images / 255 - mean) / std per channel; images are 0 to 255, (N, H, W, C).

    >>> normalize(jnp.full((1, 1, 1, 1), 255), mean=[0.5], std=[0.25]).ravel()
    Array([2.], dtype=float32)
    """
    scale = jnp.asarray(std, jnp.float32) * 255
    return ((images - jnp.asarray(mean, jnp.float32) * 255) / scale).astype(dtype)


def crop_and_resize(images: Array, boxes: Boxes, flip: Array) -> Array:
    """Crops boxes out of the zero-padded images and resizes them to the images' size.

    Args:
      images: (N, H, W, C), 0 to 255.
      boxes: in the coordinates of images padded by `PADDING` on each side.
      flip: booleans (N,), which results to flip left to right.

    Returns:
      float32 (N, H, W, C), antialiased bilinear: Pillow's result up to rounding.

    >>> image = jnp.array([[10.0, 20.0], [30.0, 40.0]]).reshape(1, 2, 2, 1)
    >>> whole = Boxes(*(jnp.array([n]) for n in (PADDING, PADDING, 2, 2)))
    >>> crop_and_resize(image, whole, flip=jnp.array([True]))[0, :, :, 0]
    Array([[20., 10.],
           [40., 30.]], dtype=float32)
    """
    _, height, width, _ = images.shape
    rows = jax.vmap(_resize_weights, (0, 0, None))(boxes.top, boxes.height, height)
    columns = jax.vmap(_resize_weights, (0, 0, None))(boxes.left, boxes.width, width)
    columns = jnp.where(flip[:, None, None], columns[:, ::-1], columns)
    precision = jax.lax.Precision.HIGHEST
    images = images.astype(jnp.float32)
    wide = jnp.einsum("nxw,nhwc->nhxc", columns, images, precision=precision)
    return jnp.einsum("nyh,nhxc->nyxc", rows, wide, precision=precision)


def _resize_weights(start: Array, length: Array, size: int) -> Array:
    """Weights (outputs, inputs) along one axis for the box [start, start + length)."""
    scale = length / size
    half_width = jnp.maximum(scale, 1.0)
    centre = start + (jnp.arange(size) + 0.5) * scale
    pixel = jnp.arange(size + 2 * PADDING)
    distance = jnp.abs(pixel[None, :] + 0.5 - centre[:, None])
    weights = jnp.maximum(1 - distance / half_width, 0)
    weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0)
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    return weights[:, PADDING : PADDING + size]


def _random_boxes(key: Array, n: int, height: int, width: int) -> Boxes:
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    shape = (n, ATTEMPTS)
    area = jax.random.uniform(area_key, shape, minval=AREA[0], maxval=AREA[1])
    log_aspect = jax.random.uniform(
        aspect_key, shape, minval=math.log(ASPECT[0]), maxval=math.log(ASPECT[1])
    )
    aspect = jnp.exp(log_aspect)
    widths = jnp.round(jnp.sqrt(area * height * width * aspect))
    heights = jnp.round(jnp.sqrt(area * height * width / aspect))
    fits = (widths <= width) & (heights <= height) & (widths > 0) & (heights > 0)
    first = jnp.argmax(fits, axis=1)[:, None]
    any_fits = jnp.any(fits, axis=1)

    def of_first(values, whole):
        chosen = jnp.take_along_axis(values, first, axis=1)[:, 0].astype(jnp.int32)
        return jnp.where(any_fits, chosen, whole)

    heights, widths = of_first(heights, height), of_first(widths, width)
    return Boxes(
        jax.random.randint(top_key, (n,), 0, height - heights + 1),
        jax.random.randint(left_key, (n,), 0, width - widths + 1),
        heights,
        widths,
    )
