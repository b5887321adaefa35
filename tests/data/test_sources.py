"""Sources give exactly the stored pixels, lazily, and report damaged folders."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from iterand_jax.data import datasets, decoded, sources
from iterand_jax.runtime import compilation, parts
from tests import helpers

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
RECORDS = "cifar10-{}.array_record-00000-of-00001"
REVIEWS = [("Good.", "pos"), ("été <br />", "neg"), ("", "pos"), ("bad", "neg")]
needs_real_cifar10 = pytest.mark.skipif(
    not Path(sources.resolve_data_dir(), "cifar10", "3.0.2").is_dir(),
    reason="no CIFAR-10 in TFDS_DATA_DIR",
)


def encode(pixels, image_format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def write_cifar10(folder, train, test):
    """Write encoded images, labelled by their position, as TFDS would."""
    import tensorflow_datasets as tfds

    def examples(encoded):
        for i, image in enumerate(encoded):
            yield i, {"id": str(i), "image": image, "label": i % 10}

    builder = tfds.builder("cifar10", data_dir=folder)
    splits = {"train": examples(train), "test": examples(test)}
    builder._split_generators = lambda dl_manager: splits
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


def write_reviews(folder, train, test):
    """Write (text, label) pairs as TFDS would."""
    import tensorflow_datasets as tfds

    def examples(pairs):
        for i, (text, label) in enumerate(pairs):
            yield str(i), {"text": text, "label": label}

    builder = tfds.builder("imdb_reviews", data_dir=folder)
    splits = {"train": examples(train), "test": examples(test)}
    builder._split_generators = lambda dl_manager: splits
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    encoded = [encode(pixels) for pixels in IMAGES]
    write_cifar10(folder, encoded[:7], encoded[7:])
    return folder


@pytest.fixture
def damageable(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path / "cifar10" / "3.0.2"


def test_unknown_dataset_lists_the_known():
    with pytest.raises(
        ValueError, match="unknown dataset 'mnist'; possible: digits, cifar10"
    ):
        datasets.open_source("mnist")


def test_data_dir_is_the_argument_then_the_environment_then_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TFDS_DATA_DIR", "/environment")
    assert sources.resolve_data_dir("/argument") == "/argument"
    assert sources.resolve_data_dir("~/data") == "/home/someone/data"
    assert sources.resolve_data_dir() == "/environment"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert sources.resolve_data_dir() == "/home/someone/tensorflow_datasets"


def test_digits_are_all_of_scikit_learns_in_a_fixed_split():
    source = datasets.open_source("digits")
    splits = {split: source.read(split) for split in source.sizes}
    assert source.image_shape == (8, 8, 1)
    assert source.num_classes == 10
    assert source.sizes == {"train": 1437, "test": 360}
    for split, (images, labels) in splits.items():
        assert images.shape == (source.sizes[split], 8, 8, 1)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32
        assert np.bincount(labels).min() >= 30
    everything = np.concatenate([splits[s][0] for s in ("train", "test")])
    levels = np.rint(everything / (255 / 16)).astype(int).reshape(-1, 64)
    official = load_digits().data.astype(int)
    assert sorted(map(tuple, levels)) == sorted(map(tuple, official))
    assert everything.max() == 255
    # The split and the scaling affect every reported result.
    assert source.fingerprint == "62102530b8fc40c8"


def test_digits_read_twice_are_independent():
    source = datasets.open_source("digits")
    source.read("train")[0][:] = 0
    assert source.read("train")[0].max() == 255


def test_absent_data_names_the_folder_and_the_command(tmp_path):
    with pytest.raises(sources.DataNotFoundError) as error:
        datasets.open_source("cifar10", str(tmp_path))
    command = f"python -m iterand_jax.data.prepare cifar10 --data_dir={tmp_path}"
    assert str(error.value) == f"cifar10 is not in {tmp_path}: run: {command}"


def test_pixels_equal_tfds_own_decoding(prepared, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(sources, "_CHUNK", 3)
    source = datasets.open_source("cifar10", str(prepared))
    assert source.image_shape == (32, 32, 3)
    assert source.num_classes == 10
    assert source.sizes == {"train": 7, "test": 3}
    assert source.encoding == "png"
    assert source.deviation is None
    for split, originals in (("train", IMAGES[:7]), ("test", IMAGES[7:])):
        images, labels = source.read(split)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images, originals[labels])
        official = tfds.builder("cifar10", data_dir=prepared).as_data_source(split)
        np.testing.assert_array_equal(images, [e["image"] for e in official])
        np.testing.assert_array_equal(labels, [e["label"] for e in official])


def decoded_images(monkeypatch):
    """A list that grows with each image that is decoded."""
    images, decode = [], sources._decode
    monkeypatch.setattr(
        sources, "_decode", lambda image: images.append(image) or decode(image)
    )
    return images


def test_images_are_decoded_once(prepared, own_cache, monkeypatch):
    images, named = decoded_images(monkeypatch), []
    with parts.heard(lambda name, begun: named.append(name)):
        first = datasets.open_source("cifar10", str(prepared)).read("train")
    assert len(images) == 7
    assert named == ["data decode", "data keep"]
    with parts.heard(lambda name, begun: named.append(name)):
        again = datasets.open_source("cifar10", str(prepared)).read("train")
    assert len(images) == 7
    assert named[2:] == ["data read"]
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
        assert after.dtype == before.dtype
        assert after.flags.writeable
    datasets.open_source("cifar10", str(prepared)).read("test")
    assert len(images) == 10
    assert len(list(own_cache.iterdir())) == 2  # and nothing temporary


def test_other_data_and_other_decoders_have_files_of_their_own(
    prepared, tmp_path, own_cache, monkeypatch
):
    datasets.open_source("cifar10", str(prepared)).read("test")
    other = encode(255 - IMAGES[0])
    write_cifar10(tmp_path, [other] * 7, [other] * 3)
    images, _ = datasets.open_source("cifar10", str(tmp_path)).read("test")
    np.testing.assert_array_equal(images, [255 - IMAGES[0]] * 3)
    for changed in (
        lambda: monkeypatch.setattr(PIL, "__version__", "0.0"),
        lambda: monkeypatch.setattr(PIL.features, "version", {}.get),
        lambda: monkeypatch.setattr(
            PIL.features, "version", {"jpg": "6.2", "libjpeg_turbo": "1.2.3"}.get
        ),
    ):
        before = len(list(own_cache.iterdir()))
        changed()
        datasets.open_source("cifar10", str(prepared)).read("test")
        assert len(list(own_cache.iterdir())) == before + 1


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "shape", "dtype", "fields"])
def test_a_damaged_cache_is_decoded_again_and_mended(damage, prepared, own_cache):
    def read():
        return datasets.open_source("cifar10", str(prepared)).read("train")

    images, labels = read()
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    content = bytearray(whole)
    if damage == "bit":
        content[len(content) // 3] ^= 1
        file.write_bytes(content)
    elif damage in ("cut", "empty"):
        file.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    elif damage == "shape":
        np.savez(file, images=images[:6], labels=labels[:6])
    elif damage == "dtype":
        np.savez(file, images=images.astype(np.float32), labels=labels)
    else:
        np.savez(file, pictures=images)
    for before, after in zip((images, labels), read(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_no_damaged_byte_of_a_cache_is_an_error_or_another_array(own_cache):
    labels = np.arange(10, dtype=np.int32)

    def kept():
        return decoded.kept("all", IMAGES.shape, lambda: (IMAGES, labels))

    kept()
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    headers, directory = range(300), range(len(whole) - 700, len(whole))
    for position in (*headers, *directory):
        content = bytearray(whole)
        content[position] ^= 0xFF
        file.write_bytes(content)
        for expected, found in zip((IMAGES, labels), kept(), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_without_a_folder_to_write_to_images_are_decoded(
    prepared, tmp_path, monkeypatch
):
    images = decoded_images(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    datasets.open_source("cifar10", str(prepared)).read("test")
    datasets.open_source("cifar10", str(prepared)).read("test")

    def no_home():
        raise RuntimeError("none")

    monkeypatch.setattr(compilation.Path, "home", no_home)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    datasets.open_source("cifar10", str(prepared)).read("test")
    assert len(images) == 9


def test_fingerprint_is_of_the_bytes_and_not_of_the_place(prepared, damageable):
    first, second = (
        datasets.open_source("cifar10", str(folder)).fingerprint
        for folder in (prepared, damageable.parents[1])
    )
    assert first == second
    assert len(first) == 16
    file = damageable / RECORDS.format("test")
    file.write_bytes(file.read_bytes() + b"\0")
    changed = datasets.open_source("cifar10", str(damageable.parents[1])).fingerprint
    assert changed != first


def test_jpeg_is_called_jpeg(tmp_path):
    jpeg = encode(IMAGES[0], "JPEG")
    write_cifar10(tmp_path, [jpeg], [jpeg])
    source = datasets.open_source("cifar10", str(tmp_path))
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert source.encoding == "jpeg"
    assert source.deviation == "stored as JPEG: not the official pixels"
    np.testing.assert_array_equal(source.read("train")[0], pixels[None])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    good = encode(IMAGES[0])
    write_cifar10(tmp_path / "good", [good], [good] * 3)
    labels = datasets.open_source("cifar10", str(tmp_path / "good")).read("test")[1]
    folder = write_cifar10(tmp_path / "bad", [good], [good, b"not an image", good])
    index = labels.tolist().index(1)  # in the order that TFDS shuffled them to
    with pytest.raises(ValueError, match="cannot be read") as error:
        datasets.open_source("cifar10", str(tmp_path / "bad")).read("test")
    place = f"({folder / RECORDS.format('test')}, record {index})"
    assert f"cifar10 test example {index} {place}" in str(error.value)


def test_a_wrong_size_is_an_error_and_not_a_crop(tmp_path):
    small = encode(IMAGES[0, :16])
    write_cifar10(tmp_path, [small], [small])
    with pytest.raises(
        ValueError, match=r"train example 0 .*record 0\) cannot be read"
    ):
        datasets.open_source("cifar10", str(tmp_path)).read("train")


def test_a_damaged_record_names_its_file(damageable):
    file = damageable / RECORDS.format("test")
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    source = datasets.open_source("cifar10", str(damageable.parents[1]))
    assert len(source.read("train")[0]) == 7
    with pytest.raises(ValueError, match=rf"{file.name}, record \d+\) cannot be read"):
        source.read("test")


def test_a_record_is_located_in_its_shard():
    split = SimpleNamespace(filepaths=["a", "b", "c"], shard_lengths=[3, 2, 4])
    places = [sources._locate(split, index) for index in (0, 2, 3, 4, 5, 8)]
    assert places == [
        "a, record 0",
        "a, record 2",
        "b, record 0",
        "b, record 1",
        "c, record 0",
        "c, record 3",
    ]


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_unknown_split_lists_the_known(name, prepared):
    source = datasets.open_source(name, str(prepared))
    with pytest.raises(
        ValueError, match=f"unknown {name} split 'validation'; possible: train, test"
    ):
        source.read("validation")


def test_opening_decodes_nothing_and_reading_train_leaves_test_alone(
    prepared, monkeypatch
):
    images = decoded_images(monkeypatch)
    source = datasets.open_source("cifar10", str(prepared))
    assert not images
    source.read("train")
    assert len(images) == 7


def test_tfrecord_directory_is_refused_in_one_line(damageable):
    info = damageable / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"tfrecord.*data\.prepare cifar10") as error:
        datasets.open_source("cifar10", str(damageable.parents[1]))
    assert "\n" not in str(error.value)


def test_damaged_directories_are_reported(damageable):
    folder = str(damageable.parents[1])
    (damageable / RECORDS.format("test")).unlink()
    with pytest.raises(ValueError, match=RECORDS.format("test")):
        datasets.open_source("cifar10", folder)
    (damageable / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=f"cifar10 in {folder} cannot be opened"):
        datasets.open_source("cifar10", folder)


def test_reading_is_silent_and_free_of_tensorflow(prepared):
    program = (
        "import sys\n"
        "from iterand_jax.data import datasets, sources\n"
        "assert not {'sklearn', 'tensorflow_datasets'} & set(sys.modules)\n"
        "for name in ('digits', 'cifar10'):\n"
        "    assert len(datasets.open_source(name, sys.argv[1]).read('train')[0])\n"
        "try: datasets.open_source('cifar10', sys.argv[1] + '/absent')\n"
        "except sources.DataNotFoundError: pass\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = helpers.python("-W", "error", "-c", program, prepared)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_reviews_are_read_as_they_were_written(tmp_path):
    write_reviews(tmp_path, REVIEWS, REVIEWS[:1])
    source = datasets.open_source("imdb_reviews", str(tmp_path))
    assert (source.name, source.num_classes) == ("imdb_reviews", 2)
    assert source.sizes == {"train": 4, "test": 1}
    assert source.encoding == "text"
    texts, labels = source.read("train")
    assert labels.dtype == np.int32
    named = {"neg": 0, "pos": 1}
    pairs = sorted((text, named[label]) for text, label in REVIEWS)
    assert sorted(zip(texts, labels.tolist(), strict=True)) == pairs
    with pytest.raises(ValueError, match="unknown imdb_reviews split 'unsupervised'"):
        source.read("unsupervised")


def test_reviews_that_are_absent_or_damaged_are_named(tmp_path):
    with pytest.raises(sources.DataNotFoundError, match=r"data\.prepare imdb_reviews"):
        datasets.open_source("imdb_reviews", str(tmp_path))
    folder = write_reviews(tmp_path, [("good", "pos"), (b"\xff", "neg")], REVIEWS[:1])
    source = datasets.open_source("imdb_reviews", str(tmp_path))
    with pytest.raises(ValueError, match=r"train example [01] .*record [01]\) cannot"):
        source.read("train")
    (folder / "imdb_reviews-test.array_record-00000-of-00001").unlink()
    with pytest.raises(ValueError, match=r"imdb_reviews in .* cannot be read"):
        datasets.open_source("imdb_reviews", str(tmp_path))


@needs_real_cifar10
def test_real_cifar10_test_split():
    import tensorflow_datasets as tfds

    source = datasets.open_source("cifar10")
    images, labels = source.read("test")
    assert source.sizes == {"train": 50000, "test": 10000}
    assert np.bincount(labels).tolist() == [1000] * 10
    folder = sources.resolve_data_dir()
    official = tfds.builder("cifar10", data_dir=folder).as_data_source("test")
    for index in (0, 1, 999, 1000, 4321, 9999):
        np.testing.assert_array_equal(images[index], official[index]["image"])
        assert labels[index] == official[index]["label"]


@pytest.mark.slow
@needs_real_cifar10
def test_real_cifar10_train_split():
    images, labels = datasets.open_source("cifar10").read("train")
    assert images.shape == (50000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [5000] * 10
