"""Images for the tests of ImageNet: files of many kinds."""

import numpy as np
import pytest
from PIL import Image

from iterand_jax.data import prepare
from tests.helpers import encode

SYNSETS = ("n01440764", "n01443537", "n15075141")  # classes 0, 1 and 999


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """An empty cache of decoded images for each test; its folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "iterand_jax" / "decoded"


def smooth(seed, height, width):
    """Smooth random colours, on which resampling filters hardly differ."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def smooth_image():
    """A function (seed, height, width) -> a smooth Pillow image."""
    return smooth


@pytest.fixture(scope="session")
def kinds():
    """Files of all kinds that can be decoded, of 90 x 120 pixels unless rotated."""
    image = smooth(0, 90, 120)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # the orientation: rotated by 90 degrees
    cmyk = encode(image.convert("CMYK"))
    assert cmyk[6:12] == b"Adobe\0"
    ycck = bytearray(cmyk)
    ycck[17] = 2  # the transform of the Adobe marker: what was CMYK is read as YCCK
    return {
        "rgb": encode(image),
        "grey": encode(image.convert("L")),
        "cmyk": cmyk,
        "ycck": bytes(ycck),
        "progressive": encode(image, progressive=True),
        "rotated": encode(image, exif=rotated),
        "png": encode(image, "PNG"),
        "followed": encode(image) + b"\0" * 20,
    }


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory, kinds):
    """A folder of class folders: 11 training images, one truncated, and 5 others."""
    folder = tmp_path_factory.mktemp("class_folders")
    train = {
        f"{SYNSETS[i % 3]}/{name}.JPEG": kinds[name] for i, name in enumerate(kinds)
    }
    train[f"{SYNSETS[0]}/tall.JPEG"] = encode(smooth(1, 300, 40))
    train[f"{SYNSETS[1]}/large.jpg"] = encode(smooth(2, 260, 400))
    train[f"{SYNSETS[2]}/truncated.JPEG"] = kinds["rgb"][:-200]
    validation = {
        f"{SYNSETS[0]}/a.JPEG": encode(smooth(3, 80, 60)),
        f"{SYNSETS[0]}/b.JPEG": encode(smooth(4, 50, 170)),
        f"{SYNSETS[1]}/a.JPEG": encode(smooth(5, 64, 64)),
        f"{SYNSETS[2]}/c.JPEG": kinds["cmyk"],
        f"{SYNSETS[2]}/d.JPEG": kinds["rgb"][:-200],
    }
    for split, files in (("train", train), ("val", validation)):
        for name, content in files.items():
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def imagenet_folder(class_folders, tmp_path_factory):
    """A TFDS data directory with the ImageNet of `class_folders`."""
    folder = str(tmp_path_factory.mktemp("data"))
    prepare.prepare("imagenet2012", folder, str(class_folders))
    return folder
