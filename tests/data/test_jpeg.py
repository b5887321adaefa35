"""Decoding, cropping and resizing agree with an independent computation by Pillow."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from iterand_jax.data import jpeg
from tests.helpers import encode

KINDS = ["rgb", "grey", "cmyk", "ycck", "progressive", "rotated", "png", "followed"]


def by_pillow(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")


def assert_close(pixels, image, mean=1.0, most=8):
    difference = np.abs(pixels.astype(int) - np.asarray(image).astype(int))
    assert difference.mean() <= mean
    assert difference.max() <= most


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded_to_rgb(kind, kinds):
    assert set(KINDS) == set(kinds)
    pixels = jpeg.decode(kinds[kind])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (90, 120, 3)
    assert_close(pixels, by_pillow(kinds[kind]), most=2)


def test_colours_keep_their_order():
    pixels = jpeg.decode(encode(Image.new("RGB", (16, 16), (250, 10, 120))))
    np.testing.assert_allclose(pixels.mean((0, 1)), [250, 10, 120], atol=2)


@pytest.mark.parametrize("lost", [2, 10, 500])
def test_a_truncated_file_is_refused(lost, kinds):
    with pytest.raises(jpeg.BadImageError, match="truncated"):
        jpeg.decode(kinds["rgb"][:-lost])


@pytest.mark.parametrize("encoded", [b"", b"text", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_refused_in_one_line(encoded):
    with pytest.raises(jpeg.BadImageError) as error:
        jpeg.decode(encoded)
    assert str(error.value)
    assert "\n" not in str(error.value)
    assert " at 0x" not in str(error.value)


def test_what_opencv_cannot_decode_pillow_may(kinds, monkeypatch):
    opencv = jpeg._opencv()
    monkeypatch.setattr(opencv, "imdecode", lambda encoded, flags: None)
    pixels = jpeg.decode(kinds["cmyk"])
    np.testing.assert_array_equal(pixels, np.asarray(by_pillow(kinds["cmyk"])))


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 1000, (0, 493, 10, 13)),
        (1000, 9, (494, 0, 12, 9)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_where_no_box_fits_it_is_the_centre(height, width, box):
    assert jpeg.random_box(np.random.default_rng(0), height, width) == box


def test_boxes_lie_inside_and_have_the_areas_and_aspects_asked_for():
    generator = np.random.default_rng(0)
    areas, aspects, centres = [], [], []
    for _ in range(2000):
        top, left, height, width = jpeg.random_box(generator, 500, 500)
        assert 0 <= top <= top + height <= 500
        assert 0 <= left <= left + width <= 500
        areas.append(height * width / 500**2)
        aspects.append(width / height)
        centres.append((top + height / 2, left + width / 2))
    assert 0.079 < min(areas) < 0.09
    assert 0.95 < max(areas) <= 1
    assert 0.745 < min(aspects) < 0.76
    assert 1.31 < max(aspects) < 1.34
    np.testing.assert_allclose(np.mean(centres, 0), [250, 250], atol=6)
    assert abs(np.mean(np.log(aspects))) < math.log(4 / 3) / 2


def test_a_shrinking_axis_is_averaged_and_a_growing_one_interpolated():
    pixels = np.repeat(np.arange(0, 160, 10, np.uint8).reshape(4, 4, 1), 3, axis=2)
    halved = [[25, 45], [105, 125]]
    assert jpeg.resize(pixels, 2, 2)[..., 0].tolist() == halved
    rows = jpeg.resize(pixels, 2, 8)[..., 1]
    expected = [20, 22.5, 27.5, 32.5, 37.5, 42.5, 47.5, 50]
    np.testing.assert_allclose(rows, [expected, np.add(expected, 80)], atol=0.6)
    np.testing.assert_array_equal(jpeg.resize(pixels, 4, 4), pixels)


@pytest.mark.parametrize("size", [(90, 120), (300, 40), (50, 50), (260, 400)])
def test_random_crops_are_those_of_pillow(size, smooth_image):
    data = encode(smooth_image(7, *size))
    original, flips = by_pillow(data), set()
    for seed in range(12):
        crop = jpeg.random_crop(data, np.random.default_rng(seed), 64)
        assert crop.shape == (64, 64, 3)
        generator = np.random.default_rng(seed)
        top, left, height, width = jpeg.random_box(generator, *size)
        flip = generator.random() < 0.5
        flips.add(flip)
        box = (left, top, left + width, top + height)
        expected = original.crop(box).resize((64, 64), Image.Resampling.BILINEAR)
        if flip:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert_close(crop, expected)
    assert flips == {True, False}


@pytest.mark.parametrize("size", [(90, 120), (120, 90), (30, 40), (64, 64), (50, 170)])
def test_centre_crops_are_those_of_pillow(size, smooth_image):
    data = encode(smooth_image(8, *size))
    height, width = (round(73 * n / min(size)) for n in size)  # 73 = 64 * 256 / 224
    resized = by_pillow(data).resize((width, height), Image.Resampling.BILINEAR)
    top, left = (height - 64) // 2, (width - 64) // 2
    expected = resized.crop((left, top, left + 64, top + 64))
    assert_close(jpeg.centre_crop(data, 64), expected)


def test_the_shorter_side_of_224_is_resized_to_256():
    """A frame of 16 of the 256 pixels is cut off: 1/16 of the image on each side."""
    image = Image.new("RGB", (256, 512), (255, 255, 255))
    image.paste((0, 0, 0), (16, 144, 240, 368))
    assert jpeg.centre_crop(encode(image), 224).max() < 64
