"""Official archives, in miniature, become directories that TFDS reads."""

import hashlib
import io
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iterand_jax.data import archives, datasets, imagenet_files, prepare, sources
from tests import helpers

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
CLASSES = [f"class{i}" for i in range(10)]
REVIEWS = {
    "aclImdb/README": b"about",
    "aclImdb/train/neg/0_3.txt": b" dull\n",
    "aclImdb/train/pos/0_9.txt": "d\u00e9licieux".encode(),
    "aclImdb/train/unsup/0_0.txt": b"who knows",
    "aclImdb/train/labeledBow.feat": b"0:1",
    "aclImdb/test/neg/0_2.txt": b"awful",
    "aclImdb/test/pos/0_10.txt": b"<br />great",
}
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
# Runs the command on a miniature archive; between the splits it waits for a line.
PAUSING_PROGRAM = f"""
import signal, sys
from iterand_jax.data import archives, prepare

def pausing(split, batches):
    if split == "test":
        print("writing", file=sys.__stdout__, flush=True)
        sys.stdin.readline()
    yield from made(split, batches)

signal.signal(signal.SIGINT, signal.default_int_handler)
made, prepare._cifar_examples = prepare._cifar_examples, pausing
archive = archives.Archive("", int(sys.argv[1]), sys.argv[2], False)
archives.registered_archives = lambda builder: {{{CIFAR10_ARCHIVE!r}: archive}}
sys.argv[1:] = ["cifar10", *sys.argv[3:]]
prepare.run()
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tar(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def jpeg(colour, mode="RGB", image_format="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).convert(mode).save(buffer, image_format)
    return buffer.getvalue()


def cifar10_archive():
    """Two images in each of the six files, in an order unlike that of their numbers."""
    folder = "cifar-10-batches-bin"
    files = {f"{folder}/batches.meta.txt": "\n".join([*CLASSES, "", ""]).encode()}
    for batch in (4, 0, 5, 2, 1, 3):
        rows = [
            bytes([i % 10]) + PIXELS[i].tobytes() for i in (2 * batch, 2 * batch + 1)
        ]
        name = "test_batch" if batch == 5 else f"data_batch_{batch + 1}"
        files[f"{folder}/{name}.bin"] = b"".join(rows)
    return tar(files, "w:gz")


def register(monkeypatch, contents, url="http://127.0.0.1:9", by_hand=False):
    """Makes these contents count as the official archives."""
    registered = {
        name: archives.Archive(
            f"{url}/{name}", len(data), hashlib.sha256(data).hexdigest(), by_hand
        )
        for name, data in contents.items()
    }
    monkeypatch.setattr(archives, "registered_archives", lambda builder: registered)


def examples(name, folder, split):
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=folder)
    return builder, list(builder.as_data_source(split))


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """The path of a miniature CIFAR-10 archive, and the data directory to make."""
    content = cifar10_archive()
    register(monkeypatch, {CIFAR10_ARCHIVE: content})
    (tmp_path / CIFAR10_ARCHIVE).write_bytes(content)
    return str(tmp_path / CIFAR10_ARCHIVE), str(tmp_path / "data")


def assert_fails(command, capfd, arguments, code, *parts):
    assert command(prepare, *arguments) == code
    out, err = capfd.readouterr()
    last = err.rstrip().splitlines()[-1]
    assert out == ""
    assert last.startswith("error: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in last
    return err


def test_cifar10_keeps_pixels_labels_and_official_numbers(cifar10, command, capfd):
    archive, data_dir = cifar10
    flags = [f"--data_dir={data_dir}", f"--archive={archive}"]
    assert command(prepare, "cifar10", *flags) == 0
    made = Path(data_dir, "cifar10", "3.0.2")
    assert capfd.readouterr().out == f"cifar10 is prepared in {made}\n"
    source = datasets.open_source("cifar10", data_dir)
    assert source.encoding == "png"
    assert source.sizes == {"train": 10, "test": 2}
    for split, offset in (("train", 0), ("test", 10)):
        builder, official = examples("cifar10", data_dir, split)
        assert builder.info.features["label"].names == CLASSES
        images, labels = source.read(split)
        numbers = [int(e["id"].decode().removeprefix(f"{split}_")) for e in official]
        assert sorted(numbers) == list(range(source.sizes[split]))
        for image, label, number, example in zip(
            images, labels, numbers, official, strict=True
        ):
            original = PIXELS[offset + number].transpose(1, 2, 0)
            np.testing.assert_array_equal(image, original)
            np.testing.assert_array_equal(example["image"], original)
            assert label == example["label"] == (offset + number) % 10


def test_imdb_reviews_has_texts_labels_and_unsupervised(tmp_path, monkeypatch):
    content = tar(REVIEWS, "w:gz")
    register(monkeypatch, {"aclImdb_v1.tar.gz": content})
    (tmp_path / "aclImdb_v1.tar.gz").write_bytes(content)
    data_dir = str(tmp_path / "data")
    path = prepare.prepare("imdb_reviews", data_dir, str(tmp_path))  # a folder
    assert path == Path(data_dir, "imdb_reviews", "plain_text", "1.0.0")
    read = {
        split: {
            (e["text"], int(e["label"]))
            for e in examples("imdb_reviews", data_dir, split)[1]
        }
        for split in ("train", "test", "unsupervised")
    }
    assert read == {
        "train": {(b"dull", 0), ("d\u00e9licieux".encode(), 1)},
        "test": {(b"awful", 0), (b"<br />great", 1)},
        "unsupervised": {(b"who knows", -1)},
    }


def imagenet_archives():
    """Two classes, with one image that TFDS lists as CMYK and one as PNG."""
    train = {
        "n01739381": {
            "n01739381_1.JPEG": jpeg("red"),
            "n01739381_1309.JPEG": jpeg((200, 40, 90), "CMYK"),
        },
        "n02105855": {
            "n02105855_2.JPEG": jpeg("blue"),
            "n02105855_2933.JPEG": jpeg((10, 120, 60), image_format="PNG"),
        },
    }
    validation = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg((i, i, i)) for i in (3, 1, 2)}
    classes = {f"{name}.tar": tar(images) for name, images in train.items()}
    contents = {
        imagenet_files.TRAIN_ARCHIVE: tar(classes),
        imagenet_files.VALIDATION_ARCHIVE: tar(validation),
    }
    return contents, {**train["n01739381"], **train["n02105855"], **validation}


@pytest.fixture
def imagenet2012(tmp_path, monkeypatch):
    contents, images = imagenet_archives()
    register(monkeypatch, contents, by_hand=True)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path, images


def test_imagenet2012_passes_bytes_through_and_mends_what_tfds_mends(imagenet2012):
    import tensorflow_datasets as tfds

    folder, images = imagenet2012
    prepare.prepare("imagenet2012", str(folder), str(folder))
    builder = tfds.builder("imagenet2012", data_dir=folder)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    names = builder.info.features["label"].names
    mended = {
        "n01739381_1309.JPEG": (200, 40, 90),
        "n02105855_2933.JPEG": (10, 120, 60),
    }
    train = list(builder.as_data_source("train", decoders=undecoded))
    assert len(train) == 4
    for example in train:
        name = example["file_name"].decode()
        assert names[example["label"]] == name.split("_")[0]
        if name in mended:
            with Image.open(io.BytesIO(example["image"])) as image:
                assert (image.format, image.mode) == ("JPEG", "RGB")
                error = np.asarray(image, int) - mended[name]
            assert np.abs(error).max() <= 3
        else:
            assert example["image"] == images[name]
    validation = list(builder.as_data_source("validation", decoders=undecoded))
    labels = {e["file_name"].decode(): names[e["label"]] for e in validation}
    # The first three of the official validation labels.
    assert labels == {
        "ILSVRC2012_val_00000001.JPEG": "n01751748",
        "ILSVRC2012_val_00000002.JPEG": "n09193705",
        "ILSVRC2012_val_00000003.JPEG": "n02105855",
    }
    assert all(e["image"] == images[e["file_name"].decode()] for e in validation)


def test_a_shuffle_too_large_for_memory_gives_the_same_files(cifar10, monkeypatch):
    from tensorflow_datasets.core import shuffle

    archive, data_dir = cifar10
    prepare.prepare("cifar10", data_dir + "1", archive)
    tensorflow = shuffle.tf
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 5000)
    prepare.prepare("cifar10", data_dir + "2", archive)
    assert shuffle.tf is tensorflow
    first, second = (datasets.open_source("cifar10", data_dir + n) for n in "12")
    assert first.fingerprint == second.fingerprint
    assert not list(Path(data_dir + "2").rglob("*.tmp"))


def test_prepared_once_is_prepared(cifar10, command, capfd):
    archive, data_dir = cifar10
    prepare.prepare("cifar10", data_dir, archive)
    Path(archive).unlink()
    capfd.readouterr()
    assert command(prepare, "cifar10", f"--data_dir={data_dir}") == 0
    assert prepare.prepare_if_possible("cifar10", data_dir) is None
    out, err = capfd.readouterr()
    assert out == f"cifar10 is already prepared in {data_dir}/cifar10/3.0.2\n"
    assert err == ""


def test_a_wrong_archive_is_refused_before_a_dataset_is_written(
    cifar10, command, capfd
):
    archive, data_dir = cifar10
    content = Path(archive).read_bytes()
    Path(archive).write_bytes(content[:-1])
    flags = [f"--data_dir={data_dir}", f"--archive={archive}"]
    expected = hashlib.sha256(content).hexdigest()
    assert_fails(command, capfd, ["cifar10", *flags], 2, archive, expected, "again")
    assert not Path(data_dir, "cifar10").exists()


def test_bad_arguments_end_in_one_line(cifar10, command, capfd, tmp_path):
    archive, data_dir = cifar10
    flag = f"--data_dir={data_dir}"
    known = "cifar10, imdb_reviews, imagenet2012"
    unknown = f"unknown dataset 'mnist'; possible: {known}"
    assert_fails(command, capfd, ["mnist", flag], 2, unknown)
    assert_fails(command, capfd, [flag], 2, f"give the dataset; possible: {known}")
    absent = f"--archive={archive}.zip"
    assert_fails(
        command, capfd, ["cifar10", flag, absent], 2, f"no archive at {archive}.zip"
    )
    # A folder without the archive, and a file where the data directory should be.
    (tmp_path / "empty").mkdir()
    empty = f"--archive={tmp_path / 'empty'}"
    assert_fails(command, capfd, ["cifar10", flag, empty], 2, CIFAR10_ARCHIVE)
    assert not Path(data_dir).exists()
    inside = [f"--data_dir={archive}", f"--archive={archive}"]
    assert_fails(command, capfd, ["cifar10", *inside], 2, archive)
    Path(data_dir, "cifar10", "3.0.2").mkdir(parents=True)
    given = f"--archive={archive}"
    assert_fails(
        command, capfd, ["cifar10", flag, given], 2, "3.0.2 exists but holds no cifar10"
    )


def test_imagenet2012_says_that_it_must_be_downloaded_by_hand(
    imagenet2012, tmp_path, command, capfd
):
    arguments = ["imagenet2012", f"--data_dir={tmp_path / 'data'}"]
    assert_fails(
        command, capfd, arguments, 2, imagenet_files.TRAIN_ARCHIVE, "--archive=FOLDER"
    )
    with pytest.raises(sources.DataNotFoundError, match="manually") as error:
        prepare.prepare_if_possible("imagenet2012", str(tmp_path / "data"))
    by_hand = f"prepare imagenet2012 --data_dir={tmp_path / 'data'}"
    assert str(error.value).endswith(
        f" --archive=FOLDER: python -m iterand_jax.data.{by_hand}"
    )


def test_downloads_and_keeps_the_archive(cifar10, monkeypatch):
    archive, data_dir = cifar10
    content = Path(archive).read_bytes()
    url = Path(archive).parent.as_uri()
    register(monkeypatch, {CIFAR10_ARCHIVE: content}, url)
    prepare.prepare_if_possible("cifar10", data_dir)
    assert datasets.open_source("cifar10", data_dir).sizes["train"] == 10
    assert Path(data_dir, "downloads", CIFAR10_ARCHIVE).read_bytes() == content


def test_an_archive_already_downloaded_is_used(cifar10):
    archive, data_dir = cifar10
    downloads = Path(data_dir, "downloads")
    downloads.mkdir(parents=True)
    Path(archive).rename(downloads / CIFAR10_ARCHIVE)
    assert prepare.prepare("cifar10", data_dir).is_dir()


def test_without_network_one_line_and_exit_status_75(
    cifar10, command, capfd, monkeypatch
):
    _, data_dir = cifar10
    url = "file:///absent"
    register(monkeypatch, {CIFAR10_ARCHIVE: b"content"}, url)
    arguments = ["cifar10", f"--data_dir={data_dir}"]
    err = assert_fails(
        command, capfd, arguments, 75, f"{url}/{CIFAR10_ARCHIVE}", "No such file"
    )
    assert err.count("\n") == 1
    with pytest.raises(sources.DataNotFoundError, match="No such file") as error:
        prepare.prepare_if_possible("cifar10", data_dir)
    retry = f"python -m iterand_jax.data.prepare cifar10 --data_dir={data_dir}"
    message = str(error.value)
    assert message.startswith(f"cifar10 is not in {data_dir} ")
    assert message.endswith(retry)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["digits", "unknown"])
def test_what_needs_no_preparing_is_left_to_open_source(name, tmp_path):
    prepare.prepare_if_possible(name, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_tfds_shows_its_bars_on_a_terminal_only(cifar10, monkeypatch, capfd):
    import tensorflow_datasets as tfds

    archive, data_dir = cifar10
    tfds.enable_progress_bar()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Terminal())
        prepare.prepare("cifar10", data_dir + "1", archive)
        assert "Generating train examples" in sys.stderr.getvalue()
    prepare.prepare("cifar10", data_dir + "2", archive)
    assert capfd.readouterr().err == ""


@pytest.fixture
def start(cifar10):
    """A function that starts PAUSING_PROGRAM in a separate process."""
    archive, data_dir = cifar10
    content = Path(archive).read_bytes()
    arguments = [str(len(content)), hashlib.sha256(content).hexdigest()]
    flags = [f"--data_dir={data_dir}", f"--archive={archive}"]
    arguments = ["-c", PAUSING_PROGRAM, *arguments, *flags]
    started = []

    def start():
        started.append(helpers.started(*arguments, stdin=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def start_two(start, data_dir):
    """A process that prepares, and another that waits for it."""
    first = start()
    assert first.stdout.readline() == "writing\n"
    second = start()
    lock = Path(data_dir, "downloads", "cifar10.lock")
    waiting = f"waiting for the process that prepares cifar10: {lock}\n"
    assert second.stderr.readline() == waiting
    return first, second


@pytest.mark.slow
def test_a_second_process_waits_and_finds_the_dataset_made(cifar10, start):
    _, data_dir = cifar10
    first, second = start_two(start, data_dir)
    said = f"cifar10 is prepared in {data_dir}/cifar10/3.0.2\n"
    assert (*first.communicate("\n"), first.returncode) == (said, "", 0)
    assert (*second.communicate(), second.returncode) == (said, "", 0)
    assert datasets.open_source("cifar10", data_dir).sizes == {"train": 10, "test": 2}


@pytest.mark.slow
def test_killed_and_interrupted_preparations_leave_nothing(cifar10, start):
    archive, data_dir = cifar10
    partial = Path(data_dir, "downloads", f"{CIFAR10_ARCHIVE}.partial")
    other_version = Path(data_dir, "cifar10", "incomplete.ABCDEF_9.9.9")
    first, second = start_two(start, data_dir)
    first.kill()
    assert second.stdout.readline() == "writing\n"
    second.kill()
    second.communicate()
    (killed,) = Path(data_dir, "cifar10").iterdir()
    assert any("train" in path.name for path in killed.iterdir())
    with pytest.raises(sources.DataNotFoundError):
        datasets.open_source("cifar10", data_dir)
    partial.touch()
    other_version.mkdir()
    third = start()
    assert third.stdout.readline() == "writing\n"
    third.send_signal(signal.SIGINT)
    message = "interrupted; the same command starts again\n"
    assert (*third.communicate(), third.returncode) == ("", message, 130)
    assert list(Path(data_dir, "cifar10").iterdir()) == [other_version]
    assert not partial.exists()
    prepare.prepare("cifar10", data_dir, archive)
    assert datasets.open_source("cifar10", data_dir).sizes == {"train": 10, "test": 2}


def test_command_runs_as_a_module():
    done = helpers.python(*helpers.command("data.prepare", "mnist"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "unknown dataset 'mnist'" in done.stderr
