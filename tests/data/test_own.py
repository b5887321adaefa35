"""Custom datasets: arrays, .npz files and folders of images."""

import dataclasses
import os
import zipfile

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_iris

from iterand_jax.data import datasets, own
from iterand_jax.networks import register_network
from iterand_jax.training.config import resolve
from iterand_jax.training.train import train_config

GREY = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), np.uint8)
LABELS = np.arange(24) % 3
TEST = GREY[:6] // 2, LABELS[:6]
FLOATS = GREY.reshape(24, 64)[:, :5].astype(np.float64)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_images(folder, images, labels, names=("b", "a", "c"), **options):
    """Files of class folders; the label i is the class names[i]."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / names[label] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path, **options)


@pytest.fixture
def image_folder(tmp_path):
    """24 grey images of 8x8 pixels in classes a, b and c, and 6 to test on."""
    folder = tmp_path / "images"
    write_images(folder / "train", GREY, LABELS)
    write_images(folder / "test", *TEST)
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "train" / ".hidden").write_bytes(b"")
    return folder


def npz(tmp_path):
    arrays = {"x_train": GREY, "y_train": LABELS}
    arrays |= {"x_test": TEST[0], "y_test": TEST[1]}
    return save(tmp_path / "data.npz", **arrays)


def assert_one_line(error):
    assert "\n" not in str(error.value)


def test_arrays_are_read_as_they_are():
    dataset = own.from_arrays(GREY, LABELS, test=TEST)
    assert [x.shape for x in dataset.inputs] == [(1, 8, 8, 1)]
    assert dataset.outputs == 3
    assert dataset.resident
    assert not dataset.is_text
    source = dataset.open("")
    assert source.sizes == {"train": 24, "test": 6}
    assert (source.dtype, source.deviation) == ("uint8", None)
    for split, (x, y) in (("train", (GREY, LABELS)), ("test", TEST)):
        images, labels = source.read(split)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images, x)
        np.testing.assert_array_equal(labels, y)
    with pytest.raises(ValueError, match="split 'dev'; possible: train, test"):
        source.read("dev")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(24, 5), (24, 2, 3, 4, 1)])
def test_floats_of_any_shape_become_float32(dtype, shape):
    x = jnp.arange(np.prod(shape), dtype="float32").reshape(shape)
    x = np.asarray(x).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    dataset = own.from_arrays(x, LABELS, test=(x, LABELS))
    assert dataset.inputs[0].shape == (1, *shape[1:])
    assert dataset.augmentations == ("none",)
    assert not {"mean", "std"} & set(dataset.options)
    images, _ = dataset.open("").read("train")
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, x.astype(np.float32))


def test_an_npz_file_holds_what_arrays_hold(tmp_path):
    in_memory = own.from_arrays(GREY, LABELS, test=TEST).open("")
    dataset = own.from_npz(npz(tmp_path))
    source = dataset.open("")
    assert dataset.inputs[0].shape == (1, 8, 8, 1)
    assert dataset.outputs == 3
    assert source.fingerprint == in_memory.fingerprint
    for split in ("train", "test"):
        for one, other in zip(source.read(split), in_memory.read(split), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_npz_file_of_floats_to_be_divided(tmp_path):
    path = save(tmp_path / "data.npz", x=FLOATS, y=LABELS)
    source = own.from_npz(path, test_fraction=0.25).open("")
    assert source.sizes == {"train": 18, "test": 6}
    in_memory = own.from_arrays(FLOATS, LABELS, test_fraction=0.25).open("")
    assert source.fingerprint == in_memory.fingerprint


def test_the_same_file_is_the_same_dataset(tmp_path):
    path = npz(tmp_path)
    for _ in range(2):
        datasets.register_dataset("mine", own.from_npz(path))
    with pytest.raises(ValueError, match="another dataset 'mine' already"):
        datasets.register_dataset("mine", own.from_npz(path, num_classes=4))


def test_a_part_set_apart_follows_from_its_seed_alone():
    def parts(**options):
        source = own.from_arrays(FLOATS, LABELS, test_fraction=0.3, **options).open("")
        return [source.read(split)[0] for split in ("train", "test")]

    train, test = parts()
    assert (len(train), len(test)) == (17, 7)
    together = np.concatenate([train, test])
    np.testing.assert_array_equal(np.sort(together, 0), np.sort(FLOATS, 0))
    np.testing.assert_array_equal(test, parts(test_seed=0)[1])
    assert not np.array_equal(test, parts(test_seed=1)[1])


def test_fingerprints_distinguish_other_bytes():
    other = GREY.copy()
    other[3, 2, 1, 0] ^= 1
    found = {
        own.from_arrays(x, y, test=test).open("").fingerprint
        for x, y, test in (
            (GREY, LABELS, TEST),
            (other, LABELS, TEST),
            (GREY, LABELS[::-1], TEST),
            (GREY, LABELS, (other[:6], TEST[1])),
        )
    }
    assert len(found) == 4


def test_a_folder_of_images_has_its_classes_sorted(image_folder):
    dataset = own.from_image_folder(image_folder)
    assert dataset.inputs[0].shape == (1, 8, 8, 1)
    source = dataset.open("")
    assert source.classes == ("a", "b", "c")
    assert source.sizes == {"train": 24, "test": 6}
    assert source.encoding == "png"
    images, labels = source.read("train")
    # Label 0 was written as the class b, and label 1 as a.
    order = [np.flatnonzero(label == LABELS) for label in (1, 0, 2)]
    np.testing.assert_array_equal(images, GREY[np.concatenate(order)])
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 8))
    fingerprint = source.fingerprint
    first = image_folder / "train" / "a" / "01.png"
    first.rename(first.with_name("z.png"))
    assert own.from_image_folder(image_folder).open("").fingerprint != fingerprint


def test_a_folder_of_images_to_be_divided_and_converted(tmp_path):
    write_images(tmp_path / "train", GREY.repeat(3, -1), LABELS)
    (tmp_path / "train" / "a" / "01.png").unlink()
    Image.fromarray(GREY[1].squeeze()).save(tmp_path / "train" / "a" / "01.png")
    dataset = own.from_image_folder(tmp_path, mode="RGB", test_fraction=0.5)
    source = dataset.open("")
    assert source.image_shape == (8, 8, 3)
    assert source.sizes == {"train": 12, "test": 12}
    parts = np.concatenate([source.read(split)[0] for split in ("train", "test")])
    everything = sorted(image.tobytes() for image in GREY.repeat(3, -1))
    assert sorted(image.tobytes() for image in parts) == everything


NAN = np.where(np.arange(120).reshape(24, 5) == 37, np.nan, FLOATS)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (GREY, LABELS, {}, "no test split; possible: test=.* or a test_fraction"),
        (GREY, LABELS, {"test": TEST, "test_fraction": 0.5}, "has a test split"),
        (GREY, LABELS, {"test": TEST, "test_seed": 1}, "test_seed=1 cannot be used"),
        (GREY, LABELS, {"test_fraction": 1.5}, r"must be in \(0, 1\); got 1.5"),
        (GREY[:0], LABELS, {"test": TEST}, "x of shape .* is empty"),
        (GREY[..., 0], LABELS, {"test": TEST}, "x is uint8 of shape .* with C = 1"),
        (
            GREY.astype(int),
            LABELS,
            {"test": TEST},
            "x has the dtype int64; possible: u",
        ),
        (FLOATS[:, 0], LABELS, {"test": TEST}, r"x has the shape \(24,\); possible"),
        (NAN, LABELS, {"test_fraction": 0.5}, r"x\[7\] has a NaN"),
        (FLOATS * 1e40, LABELS, {"test_fraction": 0.5}, r"x\[\d\] has .* overflows"),
        (GREY, LABELS[1:], {"test": TEST}, r"y has the shape \(23,\); possible: \(24,"),
        (GREY, LABELS * 1.0, {"test": TEST}, "y has the dtype float64; possible: int"),
        (GREY, LABELS - 1, {"test": TEST}, "y has labels from -1 to 1; possible: int"),
        (
            GREY,
            LABELS + 1,
            {"test": TEST},
            "y has labels up to 3, but no 0; .*num_classes=4",
        ),
        (GREY, LABELS * 0, {"test": TEST}, "y has one class; possible: two or more"),
        (
            GREY,
            LABELS,
            {"test": (GREY[:6], LABELS[:6] + 1)},
            "has the label 3; possible",
        ),
        (GREY, LABELS, {"test": TEST, "num_classes": 2}, "label 2; possible: 0 to 1"),
        (GREY, LABELS, {"test": (GREY[:, 1:], LABELS)}, r"uint8 of shape \(7, 8, 1\)"),
        (GREY, LABELS, {"test": (FLOATS, LABELS)}, r"test\[0\] holds float32 of shape"),
    ],
)
def test_arrays_that_are_not_possible_are_refused(x, y, options, message):
    with pytest.raises(ValueError, match=message) as error:
        own.from_arrays(x, y, **options)
    assert_one_line(error)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY}, "has no array y, but x; possible: x_train, y_train"),
        ({"images": GREY}, "has no array x_train, but images"),
        ({"x": GREY, "y": LABELS}, "data.npz has no test split; possible: x_test and"),
        ({"x": GREY, "y": LABELS, "x_test": GREY}, "has no array y_test"),
        (
            {"x": FLOATS.astype(int), "y": LABELS, "x_test": FLOATS, "y_test": LABELS},
            "x of .*data.npz has the dtype int64",
        ),
        (
            {"x": GREY, "y": LABELS - 1, "x_test": GREY, "y_test": LABELS},
            "y of .*data.npz has labels from -1",
        ),
    ],
)
def test_npz_files_that_are_not_possible_are_refused(tmp_path, arrays, message):
    path = save(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        own.from_npz(path)
    assert_one_line(error)


def test_an_npz_file_with_a_nan_is_refused_when_it_is_read(tmp_path):
    path = save(tmp_path / "data.npz", x=NAN, y=LABELS)
    dataset = own.from_npz(path, test_fraction=0.5)  # the header has nothing of it
    with pytest.raises(ValueError, match=r"x of .*data.npz\[7\] has a NaN"):
        dataset.open("")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"pipe.npz cannot be read .* no regular file"):
        own.from_npz(tmp_path / "pipe.npz")


def test_files_that_are_no_npz_files_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(ValueError, match=r"data\.npz cannot be read .*: No such file"):
        own.from_npz(path)
    for content in (b"", b"text", npz(tmp_path).read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.npz cannot be read as") as error:
            own.from_npz(path)
        assert_one_line(error)
    objects = np.array([{}, None])
    save(path, x=objects, y=LABELS, x_test=GREY, y_test=LABELS)
    with pytest.raises(ValueError, match=r"x of .*data\.npz has the dtype object"):
        own.from_npz(path)


def damaged_lzma(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x_train.npy", bytes(1000))
    content = path.read_bytes()
    start = content.index(b"x_train.npy") + 20
    path.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])


def encrypted(path):
    save(path, x_train=GREY)
    content = bytearray(path.read_bytes())
    for head, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(head) + place] |= 1
    path.write_bytes(content)


def endless_header(path):
    text = b"{" + b" " * 53
    head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", head)


def labels_of_a_petabyte(path):
    text = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1%s,), }" % (b"0" * 14)
    head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", head)


@pytest.mark.parametrize(
    "write", [damaged_lzma, encrypted, endless_header, labels_of_a_petabyte]
)
def test_what_zipfile_or_numpy_say_of_a_file_is_one_line(write, tmp_path):
    path = tmp_path / "data.npz"
    write(path)
    with pytest.raises(ValueError, match=r"data\.npz cannot be read as") as error:
        own.from_npz(path)
    assert_one_line(error)


def no_folder(folder):
    folder.rename(folder.with_name("other"))


def no_test(folder):
    (folder / "test").rename(folder / "val")


def one_class(folder):
    for name in "bc":
        (folder / "train" / name).rename(folder / name)


def empty_class(folder):
    (folder / "train" / "d").mkdir()


def unknown_class(folder):
    (folder / "test" / "a").rename(folder / "test" / "e")


def other_file(folder):
    (folder / "train" / "a" / "notes.txt").write_text("")


def file_beside_classes(folder):
    (folder / "train" / "x.png").write_text("")


def class_of_two_lines(folder):
    (folder / "train" / "a").rename(folder / "train" / "a\nb")


def class_of_no_text(folder):
    (folder / "train" / "a").rename(folder / "train" / os.fsdecode(b"\xff"))


def alpha(folder):
    path = folder / "train" / "a" / "01.png"
    Image.open(path).convert("LA").save(path)


def damaged(folder):
    path = folder / "train" / "a" / "01.png"
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_folder, "there is no folder .*images/train; possible: train/CLASS/"),
        (no_test, "images has no test split; possible: test/CLASS/"),
        (one_class, "images/train has 1 class folders; possible: two or more"),
        (empty_class, "the class .*train/d has no images"),
        (unknown_class, "test/e is not a class of the training split; .*: a, b, c"),
        (other_file, "notes.txt is not an image; possible: .png, "),
        (class_of_two_lines, r"class folder 'a\\nb' in .*train has a name that is not"),
        (class_of_no_text, r"the name '\\udcff' in .*images/train is not UTF-8"),
        (file_beside_classes, "train/x.png is not in a class folder"),
        (alpha, "a/01.png has the mode LA; possible: L, RGB"),
        (damaged, "a/01.png cannot be read as an image: "),
    ],
)
def test_folders_that_are_not_possible_are_refused(image_folder, change, message):
    change(image_folder)
    with pytest.raises(ValueError, match=message) as error:
        own.from_image_folder(image_folder)
    assert_one_line(error)


@pytest.mark.parametrize("image", [GREY[0][1:], GREY[0].repeat(3, -1)])
def test_images_of_several_sizes_or_modes_are_refused(image_folder, image):
    path = image_folder / "train" / "c" / "02.png"
    Image.fromarray(image.squeeze()).save(path)
    source = own.from_image_folder(image_folder).open("")
    with pytest.raises(ValueError, match=r"c/02\.png is .* first image is 8x8 pixels"):
        source.read("train")


def test_an_unknown_mode_is_refused(image_folder):
    with pytest.raises(ValueError, match="mode='CMYK'; possible: 'L', 'RGB'"):
        own.from_image_folder(image_folder, mode="CMYK")


class Perceptron(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, use_bias=False)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes, use_bias=False)(x)


@pytest.mark.parametrize("kind", ["arrays", "npz", "folder", "floats"])
def test_a_tiny_network_trains_on_each(kind, tmp_path, tiny_config):
    """The digits as a custom dataset: the run equals that of the shipped ones."""
    digits = datasets.open_source("digits")
    (x, y), test = digits.read("train"), digits.read("test")
    fields = {"network.name": "perceptron", "epochs": 1, "network.width": 1.0}
    if kind == "arrays":
        dataset = own.from_arrays(x, y, test=test)
    elif kind == "npz":
        arrays = {"x_train": x, "y_train": y, "x_test": test[0], "y_test": test[1]}
        dataset = own.from_npz(save(tmp_path / "data.npz", **arrays))
    elif kind == "folder":
        for part, (images, labels) in (("train", (x, y)), ("test", test)):
            names = [f"digit {i}" for i in range(10)]
            write_images(tmp_path / "images" / part, images, labels, names)
        dataset = own.from_image_folder(tmp_path / "images")
    else:
        dataset = own.from_arrays(
            ((x.astype(np.float32) - 0.3 * 255) / (0.38 * 255)).reshape(-1, 64),
            y,
            test=(((test[0] - 0.3 * 255) / (0.38 * 255)).reshape(-1, 64), test[1]),
        )
        fields |= {"dataset.mean": None, "dataset.std": None}
    register_network("perceptron", Perceptron)
    datasets.register_dataset("mine", dataset)
    config = tiny_config(**fields, **{"dataset.name": "mine"})
    result = train_config(config, str(tmp_path / "run"))
    assert result["dataset"] == "mine"
    assert result["dataset_fingerprint"] == dataset.open("").fingerprint
    assert result["dataset_official"]
    assert result["test_examples"] == 360
    assert result["test_accuracy"] > 30  # of ten classes, after 20 steps
    shipped = tiny_config(**(fields | {"dataset.mean": (0.3,), "dataset.std": (0.38,)}))
    if kind in ("arrays", "npz"):
        same = train_config(shipped, str(tmp_path / "shipped"))
        assert result["state_sha256"] == same["state_sha256"]
    classes = tmp_path / "run" / "classes.txt"
    assert classes.exists() == (kind == "folder")
    if kind == "folder":
        assert classes.read_text().splitlines() == [f"digit {i}" for i in range(10)]


def test_a_table_trains(tmp_path, tiny_config):
    iris = load_iris()
    dataset = own.from_arrays(iris.data, iris.target, test_fraction=0.2)
    register_network("perceptron", Perceptron)
    datasets.register_dataset("iris", dataset)
    fields = {"network.name": "perceptron", "network.width": 1.0, "batch_size": 27}
    fields |= {"dataset.name": "iris", "dataset.mean": None, "dataset.std": None}
    config = tiny_config(**fields, epochs=10, method="sgd")
    result = train_config(config, str(tmp_path / "run"))
    assert result["steps"] == 40
    assert result["test_examples"] == 30
    assert result["test_accuracy"] > 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"dataset.mean": (0.5,)},
            "dataset.mean=.*: the fields of the dataset flat are",
        ),
        ({"augmentation": "crop_flip"}, "unknown augmentation 'crop_flip'; .*: none$"),
        ({"augmentation": None}, "unknown augmentation None"),
    ],
)
def test_configs_of_floats_have_no_pixels(tiny_config, fields, message):
    flat = own.from_arrays(FLOATS, LABELS, test_fraction=0.5)
    datasets.register_dataset("flat", flat)
    base = {"dataset.name": "flat", "dataset.mean": None, "dataset.std": None}
    resolve(tiny_config(**base))
    with pytest.raises(ValueError, match=message):
        resolve(tiny_config(**(base | fields)))


def test_sources_are_called_as_configs_call_them():
    datasets.register_dataset("mine", own.from_arrays(GREY, LABELS, test=TEST))
    source = datasets.open_source("mine")
    assert source.name == "mine"
    assert dataclasses.replace(source, name="arrays").fingerprint == source.fingerprint
