"""Decoding, cropping and resizing agree with an independent computation by Pillow."""

import io
import math
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from iterand_jax.data import image_headers, jpeg
from tests.helpers import encode
from tests.peers import torchvision

KINDS = ["rgb", "grey", "cmyk", "ycck", "progressive", "rotated", "png", "followed"]


def by_pillow(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB")


def assert_close(pixels, image, mean=1.0, most=8):
    difference = np.abs(pixels.astype(int) - np.asarray(image).astype(int))
    assert difference.mean() <= mean
    assert difference.max() <= most


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_decoded_to_rgb(kind, kinds):
    assert set(KINDS) == set(kinds)
    pixels = jpeg.decode(kinds[kind])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (90, 120, 3)
    assert_close(pixels, by_pillow(kinds[kind]), most=2)


GRAY = np.array([[0, 100, 255, 256, 1000, 32768, 65535]], np.uint16)
COLORS = np.array(
    [[[255, 0, 0, 255], [255, 0, 0, 128], [0, 255, 0, 0], [10, 200, 30, 77]]], np.uint8
)


def png_of(kind):
    """The bytes of a PNG that decoders may differ on, and its pixels."""
    high = (GRAY >> 8).astype(np.uint8)
    if kind in ("16-bit gray", "16-bit color"):
        gray = kind == "16-bit gray"
        pixels = GRAY if gray else np.stack([GRAY, GRAY[:, ::-1], 2 * (GRAY // 4)], 2)
        kept = np.repeat(high[:, :, None], 3, 2) if gray else pixels[..., ::-1] >> 8
        return cv2.imencode(".png", pixels)[1].tobytes(), kept
    if kind == "gray and transparent":
        image = Image.fromarray(np.dstack([high, high[:, ::-1]]), "LA")
        return encode(image, "PNG"), np.repeat(high[:, :, None], 3, 2)
    if kind == "palette and transparent":
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        buffer = io.BytesIO()
        image.save(buffer, "PNG", transparency=bytes([0, 128, 255]))
        return buffer.getvalue(), 255 * np.eye(3, dtype=np.uint8)[None]
    return encode(Image.fromarray(COLORS, "RGBA"), "PNG"), COLORS[..., :3]


@pytest.mark.parametrize(
    "kind",
    [
        "16-bit gray",
        "16-bit color",
        "gray and transparent",
        "palette and transparent",
        "color and transparent",
    ],
)
def test_a_png_has_the_same_pixels_by_opencv_and_here(kind, monkeypatch):
    encoded, expected = png_of(kind)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    by_opencv = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    monkeypatch.setattr(jpeg, "_opencv", lambda: pytest.fail("two decoders of PNG"))
    pixels = jpeg.decode(encoded)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(pixels, by_opencv)


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
    height, width = (int(73 * n / min(size)) for n in size)  # 73 = 64 * 256 / 224
    resized = by_pillow(data).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - 64) / 2), round((width - 64) / 2)
    expected = resized.crop((left, top, left + 64, top + 64))
    assert_close(jpeg.centre_crop(data, 64), expected)


def test_the_shorter_side_of_224_is_resized_to_256():
    """A frame of 16 of the 256 pixels is cut off: 1/16 of the image on each side."""
    image = Image.new("RGB", (256, 512), (255, 255, 255))
    image.paste((0, 0, 0), (16, 144, 240, 368))
    assert jpeg.centre_crop(encode(image), 224).max() < 64


CROPS = {
    "decode": jpeg.decode,
    "random": lambda encoded: jpeg.random_crop(encoded, np.random.default_rng(0), 224),
    "centre": lambda encoded: jpeg.centre_crop(encoded, 224),
}


def declaring(encoded, width, height):
    """A PNG or JPEG whose header declares another size than it holds."""
    changed = bytearray(encoded)
    if encoded.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(bytes(changed[12:29])))
    else:
        marker = next(m for m in (b"\xff\xc0", b"\xff\xc2") if m in encoded)
        start = encoded.index(marker) + 5
        changed[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["rgb", "grey", "cmyk", "progressive", "png"])
@pytest.mark.parametrize("size", [(4000, 4000), (60_000, 60_000), (0, 9)])
@pytest.mark.parametrize("crop", CROPS)
def test_a_size_that_the_file_cannot_hold_is_refused_before_decoding(
    crop, size, kind, kinds, monkeypatch
):
    monkeypatch.setattr(jpeg._opencv(), "imdecode", None)  # is not called
    encoded = declaring(kinds[kind], *size)
    with pytest.raises(jpeg.BadImageError, match=f"{size[0]}x{size[1]} pixels") as no:
        CROPS[crop](encoded)
    assert "\n" not in str(no.value)


def test_the_limits_hold_before_and_after_resizing(kinds, monkeypatch):
    monkeypatch.setattr(image_headers, "MOST_PIXELS", 90 * 120)
    for encoded in kinds.values():
        assert image_headers.check(encoded) == (90, 120)
        assert jpeg.centre_crop(encoded, 64).shape == (64, 64, 3)
        with pytest.raises(jpeg.BadImageError, match=r"of 120x90 when resized; possib"):
            jpeg.centre_crop(encoded, 100)
    monkeypatch.setattr(image_headers, "MOST_PIXELS", 90 * 120 - 1)
    for encoded in kinds.values():
        with pytest.raises(jpeg.BadImageError, match="120x90 pixels; possible: 1 to"):
            jpeg.decode(encoded)
    monkeypatch.setattr(image_headers, "MOST_BYTES", 100)
    with pytest.raises(jpeg.BadImageError, match="bytes; possible: at most 100"):
        jpeg.decode(kinds["rgb"])


def test_an_image_of_many_scans_is_refused(kinds):
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    with pytest.raises(jpeg.BadImageError, match="scans; possible: at most 100"):
        jpeg.decode(kinds["rgb"][:-2] + 200 * scan)
    hidden = b"\xff\xfe\x00\x04\xff\xd9"  # an end in a comment, which is none
    with pytest.raises(jpeg.BadImageError, match="scans; possible: at most 100"):
        jpeg.decode(kinds["rgb"][:-2] + hidden + 200 * scan)


@pytest.mark.parametrize("kind", ["rgb", "progressive"])
def test_scans_of_a_preview_and_of_what_follows_the_image_do_not_count(kind, kinds):
    whole, others = kinds[kind], 200 * b"\xff\xda"  # such as of a video
    preview = b"\xff\xe1" + struct.pack(">H", 2 + len(others)) + others
    encoded = whole[:2] + preview + whole[2:] + others
    np.testing.assert_array_equal(jpeg.decode(encoded), jpeg.decode(whole))


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(image_format):
    encoded = encode(Image.new("RGB", (16, 16)), image_format)
    with pytest.raises(jpeg.BadImageError, match="neither a JPEG nor a PNG image"):
        jpeg.decode(encoded)


def test_an_error_that_is_not_of_the_image_is_not_hidden(kinds, monkeypatch):
    """It would leave out every image."""
    monkeypatch.delattr(jpeg._opencv(), "resize")
    with pytest.raises(AttributeError, match="resize"):
        jpeg.centre_crop(kinds["rgb"], 64)


@pytest.mark.parametrize(
    ("size", "cropped"),
    [  # the size after Resize(256), as torchvision gives it
        ((375, 500), (256, 341)),
        ((500, 375), (341, 256)),
        ((333, 499), (256, 383)),  # 383.6 is rounded down
        ((256, 259), (256, 259)),  # cropped at 17.5, which becomes 18
        ((261, 256), (261, 256)),  # at 18.5: also 18
    ],
)
def test_centre_crops_are_those_of_torchvision(size, cropped, smooth_image):
    """A crop at another pixel, or of another size, would differ by far more."""
    transforms = torchvision().transforms
    image = by_pillow(encode(smooth_image(9, *size)))
    resized = transforms.Resize(256)(image)
    assert resized.size == cropped[::-1]
    expected = transforms.CenterCrop(224)(resized)
    crop = jpeg.centre_crop(encode(smooth_image(9, *size)), 224)
    assert crop.shape == (224, 224, 3)
    assert_close(crop, expected)
    # One pixel beside it is another image: the comparison sees it.
    for axis in (0, 1):
        moved = np.abs(np.roll(crop, 1, axis).astype(int) - np.asarray(expected))
        assert moved.mean() > np.abs(crop.astype(int) - np.asarray(expected)).mean()
