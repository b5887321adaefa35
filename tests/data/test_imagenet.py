"""Batches of ImageNet are pure functions of the seed and their number."""

import contextlib
import io
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from iterand_jax.data import imagenet, prepare, sources
from iterand_jax.runtime.signals import SIGNALS
from tests import helpers
from tests.helpers import Records

# Prints "ready" once processes make batches, and then waits.
WAITING_PROGRAM = """
import contextlib, signal, sys, time
from iterand_jax.data import imagenet

def main():
    # A job in the background, as of a test run, ignores Ctrl-C by default.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    records = imagenet.open_imagenet(sys.argv[1]).read("train")
    batches = imagenet.train_batches(records, seed=0, size=8, batch_size=4)
    with contextlib.closing(imagenet.iterate(batches, workers=2)) as iterator:
        for _ in range(8):
            next(iterator)
        print("ready", flush=True)
        time.sleep(600)

if __name__ == "__main__":
    main()
"""


def train(records, seed=0, batch_size=8, **options):
    return imagenet.train_batches(
        records, seed=seed, size=8, batch_size=batch_size, **options
    )


def evaluation(records, batch_size=8, **options):
    return imagenet.eval_batches(records, size=8, batch_size=batch_size, **options)


def take(batches, number, **options):
    with contextlib.closing(imagenet.iterate(batches, **options)) as iterator:
        return [next(iterator) for _ in range(number)]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        for part, other_part in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, other_part)


def labels(batches):
    return np.concatenate([batch.labels for batch in batches]).tolist()


def test_what_is_known_before_an_image_is_read(imagenet_folder):
    source = imagenet.open_imagenet(imagenet_folder)
    assert source.name == "imagenet2012"
    assert source.num_classes == 1000
    assert source.sizes == {"train": 11, "validation": 5}
    assert source.encoding == "jpeg"
    assert source.deviation == "not the numbers of images that ImageNet has"
    with pytest.raises(
        ValueError, match="split 'test'; possible: train, validation"
    ) as error:
        source.read("test")
    assert "\n" not in str(error.value)


def test_absent_data_names_the_command(tmp_path):
    with pytest.raises(sources.DataNotFoundError, match="prepare imagenet2012 --data"):
        imagenet.open_imagenet(str(tmp_path))


def test_a_missing_file_is_an_error(imagenet_folder, tmp_path):
    shutil.copytree(imagenet_folder, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("*validation.array_record*")
    file.unlink()
    with pytest.raises(ValueError, match=f"cannot be read: .*{file.name}"):
        imagenet.open_imagenet(str(tmp_path))


def test_the_fingerprint_is_of_the_records_and_not_of_the_place(
    imagenet_folder, tmp_path
):
    shutil.copytree(imagenet_folder, tmp_path, dirs_exist_ok=True)
    first, second = (
        imagenet.open_imagenet(str(f)).fingerprint for f in (imagenet_folder, tmp_path)
    )
    assert first == second
    assert len(first) == 16


def test_the_fingerprint_sees_one_byte_more_in_one_image(tmp_path, class_folders):
    shutil.copytree(class_folders, tmp_path / "files")
    fingerprints = []
    for data in ("one", "two"):
        folder = str(tmp_path / data)
        prepare.prepare("imagenet2012", folder, str(tmp_path / "files"))
        fingerprints.append(imagenet.open_imagenet(folder).fingerprint)
        image = tmp_path / "files" / "train" / "n01440764" / "rgb.JPEG"
        image.write_bytes(image.read_bytes() + b"\0")
    assert fingerprints[0] != fingerprints[1]


def test_a_batch_is_a_function_of_its_number():
    batches = train(Records(30))
    walked = take(batches, 9)
    assert_same(walked, [batches[number] for number in range(9)])
    assert_same(walked[5:], take(batches, 4, start=5))
    assert [batch.images.shape for batch in walked] == [(8, 8, 8, 3)] * 9
    dtypes = [part.dtype for part in walked[0][:3]]
    assert dtypes == [np.uint8, np.int32, np.float32]
    for batch in walked:
        assert (batch.images[:, 0, 0, 0] == batch.labels).all()
        assert (batch.weights == 1).all()
        assert (batch.bad == "").all()


def test_an_epoch_has_each_record_at_most_once_in_an_order_of_its_own():
    epochs = [labels(take(train(Records(30)), 3, start=3 * e)) for e in (0, 1)]
    for epoch in epochs:
        assert len(set(epoch)) == 24
        assert set(epoch) < set(range(30))
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])  # each epoch leaves out other examples
    whole = labels(take(train(Records(30), batch_size=10), 3))
    assert sorted(whole) == list(range(30))


def test_another_seed_has_another_order():
    orders = [labels(take(train(Records(30), seed), 3)) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_crops_differ_between_places_and_seeds(imagenet_folder):
    """The images of one class, or one image twice, are cropped in different ways."""
    records = imagenet.open_imagenet(imagenet_folder).read("train")
    batches = [*take(train(records, 0, 11), 2), *take(train(records, 2**64 - 1, 11), 2)]
    images = np.concatenate([batch.images for batch in batches]).reshape(44, -1)
    assert len(np.unique(images, axis=0)) > 40


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_out_each_batch(hosts, imagenet_folder):
    source = imagenet.open_imagenet(imagenet_folder)
    for make, split, number in (
        (train, "train", 5),
        (evaluation, "validation", 2),
    ):
        records = source.read(split)
        batches = make(records, batch_size=4)
        for host in range(hosts):
            part = take(make(records, batch_size=4, host=(host, hosts)), number)
            for own, whole in zip(part, take(batches, number), strict=True):
                assert len(own.labels) == 4 // hosts
                own_of_whole = [np.split(field, hosts)[host] for field in whole]
                assert_same([own], [own_of_whole])


@pytest.mark.parametrize("batch_size", [1, 5, 8, 16])
def test_evaluation_takes_each_example_once_and_pads(batch_size):
    batches = list(imagenet.iterate(evaluation(Records(16), batch_size)))
    assert len(batches) == -(-16 // batch_size)
    counted = np.concatenate([batch.labels[batch.weights == 1] for batch in batches])
    assert counted.tolist() == list(range(16))
    assert all(len(batch.labels) == batch_size for batch in batches)


def test_a_bad_image_is_replaced_and_nothing_else_changes():
    good = take(train(Records(30)), 6)
    with_bad = [take(train(Records(30, bad={7, 8})), 6) for _ in range(2)]
    assert_same(*with_bad)
    hit = 0
    for one, other in zip(good, with_bad[0], strict=True):
        bad = np.isin(one.labels, [7, 8])
        hit += bad.sum()
        assert_same([one.images[~bad]], [other.images[~bad]])
        assert not np.isin(other.labels, [7, 8]).any()
        assert (other.weights == 1).all()
        for label, said in zip(one.labels, other.bad, strict=True):
            reason = f"{label}.JPEG: neither a JPEG nor a PNG image"
            assert said.splitlines()[:1] == ([reason] if label in (7, 8) else [])
    assert hit > 1


def test_a_bad_image_is_not_counted_in_evaluation():
    (batch,) = list(imagenet.iterate(evaluation(Records(8, bad={3}))))
    assert batch.weights.tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert batch.images[3].max() == 0
    reports = list(imagenet.reports(batch))
    assert reports == ["3.JPEG: neither a JPEG nor a PNG image"]


def test_where_all_images_are_bad_it_ends():
    batches = train(Records(8, bad=range(8)))
    with pytest.raises(ValueError, match=r"100 images in a row .*JPEG: neither"):
        take(batches, 1)


def test_prepared_images_are_those_that_pillow_reads(imagenet_folder, class_folders):
    source = imagenet.open_imagenet(imagenet_folder)
    names = source.read("validation")
    (batch,) = list(imagenet.iterate(evaluation(names, batch_size=5)))
    files = {
        "n01440764/a.JPEG": 0,
        "b.JPEG": 0,
        "n01443537/a.JPEG": 1,
        "c.JPEG": 999,
        "d.JPEG": 999,
    }
    assert {record["file_name"].decode() for record in names} == set(files)
    for record, image, label, weight in zip(
        names, batch.images, batch.labels, batch.weights, strict=True
    ):
        name = record["file_name"].decode()
        assert record["label"] == files[name]
        if name == "d.JPEG":
            assert weight == 0
            continue
        (path,) = (class_folders / "val").rglob(name)
        with Image.open(io.BytesIO(path.read_bytes())) as original:
            rgb = original.convert("RGB")
        height, width = (int(9 * n / min(rgb.size)) for n in rgb.size[::-1])
        small = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR), int)
        top, left = round((height - 8) / 2), round((width - 8) / 2)
        difference = np.abs(small[top : top + 8, left : left + 8] - image)
        assert difference.mean() < 3
        assert (weight, label) == (1, files[name])
    assert batch.weights.sum() == 4


def test_damaged_records_are_an_error_in_one_line(imagenet_folder, tmp_path):
    shutil.copytree(imagenet_folder, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("*train.array_record*")
    content = file.read_bytes()
    file.write_bytes(b"\0" * 4096 + content[4096:])
    records = imagenet.open_imagenet(str(tmp_path)).read("train")
    with pytest.raises(ValueError, match=r"records of .* cannot be read") as error:
        take(train(records), 1)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_images_do_not_depend_on_the_number_of_processes(imagenet_folder):
    records = imagenet.open_imagenet(imagenet_folder).read("train")
    for make, number, start in ((train, 7, 2), (evaluation, 3, 0)):
        batches = make(records, batch_size=4)
        alone = take(batches, number)
        assert any(batch.bad.any() for batch in alone)
        with_two = take(batches, number - start, workers=2, start=start)
        assert_same(alone[start:], with_two)


STARTING_PROGRAM = """
import contextlib, os, signal, sys, threading
from iterand_jax.data import imagenet

def main():
    number, heard = int(sys.argv[2]), []
    signal.signal(number, lambda number, _: heard.append(number))
    records = imagenet.open_imagenet(sys.argv[1]).read("train")
    batches = imagenet.train_batches(records, seed=0, size=8, batch_size=4)
    for after in (0.05, 0.2, 0.5, 1.0):
        threading.Timer(after, os.killpg, (0, number)).start()
    with contextlib.closing(imagenet.iterate(batches, workers=2)) as iterator:
        for _ in range(8):
            next(iterator)
    assert set(heard) == {number}

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_processes_that_start_are_left_alone_by_a_signal_to_all(
    number, imagenet_folder
):
    """Their imports take seconds, before which they cannot ignore a signal."""
    arguments = ["-c", STARTING_PROGRAM, imagenet_folder, +number]
    helpers.printed(*arguments, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(number, imagenet_folder):
    """The pipe ends when the last process that could write to it has ended."""
    arguments = ["-c", WAITING_PROGRAM, imagenet_folder]
    process = helpers.started(*arguments, start_new_session=True)
    try:
        assert process.stdout.readline() == "ready\n"
        if number == signal.SIGINT:  # as a terminal does it
            os.killpg(process.pid, number)
        else:
            process.kill()
        _, err = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert err.count("Traceback") == (number == signal.SIGINT), err
