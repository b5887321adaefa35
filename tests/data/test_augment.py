"""Augmentation on the device equals Pillow's on the host, box by box."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from iterand_jax.data import augment
from iterand_jax.data.augment import AUGMENTATIONS, Boxes

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
SIZE = 32
PADDED = SIZE + 8


jit_random_boxes = jax.jit(augment._random_boxes, static_argnums=1)


def random_images(n, height=SIZE, width=SIZE, channels=3):
    return RNG.integers(0, 256, (n, height, width, channels), np.uint8)


def pillow(image, top, left, height, width, flip):
    """Pads by 4, crops, resizes to the image's size, mirrors."""
    image = Image.fromarray(image.squeeze())
    size = image.size
    padded = ImageOps.expand(image, 4, 0)
    crop = padded.crop((left, top, left + width, top + height))
    crop = crop.resize(size, Image.Resampling.BILINEAR)
    result = np.asarray(ImageOps.mirror(crop) if flip else crop, np.float64)
    return result.reshape(size[1], size[0], -1)


def compare(images, boxes, flips):
    boxes = np.asarray(boxes, np.int32)
    resize = jax.jit(augment.crop_and_resize)
    results = resize(images, Boxes(*map(jnp.asarray, boxes.T)), jnp.asarray(flips))
    assert results.dtype == jnp.float32
    arguments = zip(images, boxes, flips, strict=True)
    expected = np.stack([pillow(i, *map(int, b), f) for i, b, f in arguments])
    return np.abs(np.asarray(results, np.float64) - expected)


SPECIAL_BOXES = {
    "whole": (0, 0, 40, 40),
    "the image": (4, 4, 32, 32),
    "one pixel": (20, 20, 1, 1),
    "one column": (3, 17, 30, 1),
    "one row": (17, 3, 1, 30),
    "first corner": (0, 0, 5, 5),
    "last corner": (34, 33, 6, 7),
    "inside the padding": (0, 0, 4, 40),
    "last pixel of padding": (39, 39, 1, 1),
}


@pytest.mark.parametrize("flip", [False, True])
def test_special_boxes_equal_pillow(flip):
    images = random_images(len(SPECIAL_BOXES))
    difference = compare(
        images, list(SPECIAL_BOXES.values()), [flip] * len(SPECIAL_BOXES)
    )
    assert difference.max(axis=(1, 2, 3)).max() < 1.01
    exact = [list(SPECIAL_BOXES).index(k) for k in ("the image", "inside the padding")]
    assert difference[exact].max() < 1e-3


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (24, 40, 3)])
def test_random_boxes_equal_pillow(shape):
    n = 300
    height, width, _ = shape
    boxes = []
    for _ in range(n):
        h, w = RNG.integers(1, height + 9), RNG.integers(1, width + 9)
        boxes.append(
            (RNG.integers(0, height + 9 - h), RNG.integers(0, width + 9 - w), h, w)
        )
    difference = compare(random_images(n, *shape), boxes, RNG.random(n) < 0.5)
    assert difference.max() < 1.01
    assert difference.mean() < 0.35


def test_a_crop_and_flip_is_one_of_the_exact_windows():
    images = random_images(200)
    results = np.asarray(jax.jit(augment.crop_flip)(KEY, images))
    assert results.dtype == np.float32
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = []
    for image, result in zip(padded, results, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32), (0, 1))
        windows = windows.transpose(0, 1, 3, 4, 2)
        for flip in (0, 1):
            wanted = result[:, ::-1] if flip else result
            close = np.abs(windows[:, :, 7, 7] - wanted[7, 7]).max(-1) < 1e-3
            found += [
                (top, left, flip)
                for top, left in np.argwhere(close)
                if np.abs(windows[top, left] - wanted).max() < 1e-3
            ]
    tops, lefts, flips = np.array(found).T
    assert len(found) == 200
    assert set(tops) == set(lefts) == set(range(9))
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / math.sqrt(200)
    for offsets in (tops, lefts):
        chi2 = ((np.bincount(offsets, minlength=9) - 200 / 9) ** 2 / (200 / 9)).sum()
        assert chi2 < 31.8  # 8 degrees of freedom, 1e-4
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.28


def test_boxes_have_the_area_and_aspect_of_the_recipe():
    n = 40_000
    boxes = jit_random_boxes(KEY, n, PADDED, PADDED)
    top, left, height, width = (np.asarray(field, np.float64) for field in boxes)
    for start, length in ((top, height), (left, width)):
        assert (start >= 0).all()
        assert (start + length <= PADDED).all()
        assert (length >= 1).all()
        room = length < PADDED - 4
        position = (start / (PADDED - length + (length == PADDED)))[room]
        assert abs(position.mean() - 0.5) < 4 * 0.36 / math.sqrt(room.sum())
        assert (start[room] == 0).any()
        assert (start + length == PADDED)[room].any()
    for field in (top, left, height, width):
        assert (field == np.round(field)).all()
    # An independent draw by rejection, as torchvision documents it.
    area = RNG.uniform(0.08, 1, (n, 10)) * PADDED**2
    aspect = np.exp(RNG.uniform(math.log(3 / 4), math.log(4 / 3), (n, 10)))
    w, h = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    fits = (w <= PADDED) & (h <= PADDED)
    first = np.argmax(fits, axis=1)[:, None]
    w = np.where(fits.any(1), np.take_along_axis(w, first, 1)[:, 0], PADDED)
    h = np.where(fits.any(1), np.take_along_axis(h, first, 1)[:, 0], PADDED)
    for ours, theirs in ((height, h), (width, w), (height * width, h * w)):
        grid = np.unique(theirs)
        cdfs = [np.searchsorted(np.sort(v), grid, "right") / n for v in (ours, theirs)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 2.3 * math.sqrt(2 / n)
    aspects = width / height
    assert aspects.min() > 3 / 4 * 0.9
    assert aspects.max() < 4 / 3 * 1.1
    assert abs(np.mean(np.log(aspects))) < 4 * 0.2 / math.sqrt(n)
    assert (height * width).min() >= 0.08 * PADDED**2 * 0.9


def test_boxes_that_never_fit_fall_back_to_the_whole_image():
    boxes = jit_random_boxes(KEY, 40_000, 1, 1000)  # no aspect near one fits
    for field, value in zip(boxes, (0, 0, 1, 1000), strict=True):
        assert (np.asarray(field) == value).all()


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_augmentation_is_a_function_of_its_key(name):
    images = random_images(16, 12, 20)
    f = jax.jit(augment.get_augmentation(name))
    keys = (KEY, KEY, jax.random.key(1))
    first, again, other = (np.asarray(f(key, images)) for key in keys)
    assert first.dtype == jnp.float32
    assert first.shape == images.shape
    np.testing.assert_array_equal(first, again)
    if name == "none":
        np.testing.assert_array_equal(first, images)
    else:
        assert ((first != other).mean(axis=(1, 2, 3)) > 0.3).mean() > 0.8
        same = f(KEY, np.repeat(images[:1], 16, axis=0))  # each image its own box
        assert len(np.unique(np.round(same), axis=0)) > 8
    assert first.min() >= 0
    assert first.max() <= 255 + 1e-3


def test_half_of_the_resized_crops_are_flipped():
    ramp = np.broadcast_to(
        np.arange(32, dtype=np.uint8)[None, None, :, None] * 8, (2000, 32, 32, 1)
    )
    results = jax.jit(augment.resized_crop_flip)(KEY, ramp)
    middle = np.asarray(results)[:, 10:22, 10:22].sum(axis=(1, 3))
    flipped = middle[:, 0] > middle[:, -1]
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / math.sqrt(2000)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_normalize_is_pixels_over_255_less_the_mean_over_the_deviation(dtype):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = random_images(4)
    expected = (images / 255 - mean) / std
    for given in (images, images.astype(np.float32)):
        result = augment.normalize(given, mean, std, jnp.dtype(dtype))
        assert result.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(result.astype(jnp.float32), expected, 0, tolerance)


def test_an_unknown_augmentation_is_named():
    message = "unknown augmentation 'cutout'; possible: none, crop_flip, resized_crop"
    with pytest.raises(ValueError, match=message):
        augment.get_augmentation("cutout")
