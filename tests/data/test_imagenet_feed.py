"""The ImageNet feed gives each step the same images, also after interruptions."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iterand_jax.data import feeds
from iterand_jax.data.imagenet_feed import BadImageInDatasetError, StreamedImages
from iterand_jax.runtime import hosts
from tests import helpers
from tests.helpers import numbered_source

ROOT = jax.random.key(3)


@pytest.fixture
def make():
    """A function (source, overrides) -> a feed, closed at the end."""
    made = []

    def feed(source, **overrides):
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        whole, split = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",))
        )
        options = {
            "size": 8,
            "batch_size": 8,
            "eval_batch_size": 4,
            "dtype": jnp.float32,
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "workers": 0,
            "on_bad_image": "skip",
        }
        made.append(
            StreamedImages(source, feeds.Placement(whole, split), **options | overrides)
        )
        return made[-1]

    yield feed
    for each in made:
        each.close()


def walk(feed, steps):
    return [jax.tree.map(np.asarray, feed.batch(step)) for step in steps]


def test_sizes_are_known_before_anything_is_read(make):
    feed = make(dataclasses.replace(numbered_source(), read=None))
    assert feed.sizes == {"train": 30, "validation": 10, "test": 10}
    assert feed.steps_per_epoch == 3


def test_what_comes_has_the_announced_shapes_and_places(make):
    feed = make(numbered_source())
    feed.open(ROOT)
    for announced, given in (
        (feed.train_shapes(), [feed.batch(0)]),
        (feed.eval_shapes(), list(feed.split("test"))),
    ):
        (form,) = announced
        for arguments in given:
            expected = jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), form)
            actual = jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), arguments)
            assert actual == expected


def test_a_run_that_continues_sees_what_an_uninterrupted_one_sees(make):
    whole, killed = make(numbered_source()), make(numbered_source())
    whole.open(ROOT)
    killed.open(ROOT)
    batches = walk(whole, range(8))
    walk(killed, range(5))
    position = json.loads(json.dumps(killed.position()))
    assert position == {"next_step": 5, "bad_images": []}
    resumed = make(numbered_source())
    resumed.open(ROOT, position)
    for one, other in zip(batches[5:], walk(resumed, range(5, 8)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert resumed.position() == whole.position()


def test_the_order_follows_the_root_key(make):
    orders = []
    for seed in (0, 0, 1):
        feed = make(numbered_source())
        feed.open(jax.random.key(seed))
        orders.append(np.concatenate([b.labels for b in walk(feed, range(3))]))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_a_step_that_is_not_the_next_is_refused(make):
    feed = make(numbered_source())
    feed.open(ROOT)
    feed.batch(0)
    with pytest.raises(ValueError, match="is at step 1, not 2"):
        feed.batch(2)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_each_validation_image_counts_once(split, make):
    feed = make(
        numbered_source()
    )  # "test" may be requested at any time, also before open
    counted = []
    for arguments in feed.split(split):
        (images,), labels, weights = feed.eval_inputs(arguments)
        assert images.dtype == jnp.float32
        counted += labels[weights == 1].tolist()
        np.testing.assert_allclose(255 * images[:, 0, 0, 0], labels, atol=1e-4)
    assert counted == list(range(10))


def test_inputs_are_normalized(make):
    feed = make(numbered_source(), mean=(0.5, 0.25, 0.0), std=(2.0, 1.0, 0.5))
    feed.open(ROOT)
    arguments = feed.batch(0)
    (images,), labels = feed.train_inputs(arguments, jnp.int32(0), ROOT)
    red = (labels / 255 - 0.5) / 2
    np.testing.assert_allclose(images[:, 3, 3, 0], red, atol=1e-6)
    np.testing.assert_allclose(images[..., 1], -0.25, atol=1e-6)
    np.testing.assert_allclose(images[..., 2], 0, atol=1e-6)


def test_a_bad_image_is_reported_once_and_left_out(make, caplog):
    feed = make(numbered_source(bad={7}))
    feed.open(ROOT)
    with caplog.at_level(logging.WARNING):
        batches = walk(feed, range(9))
        counts = [arguments[1].sum() for arguments in feed.split("validation")]
    assert not any((batch.labels == 7).any() for batch in batches)
    assert sum(counts) == 9
    line = "7.JPEG: neither a JPEG nor a PNG image"
    assert [r.getMessage() for r in caplog.records] == [
        f"skipped an image that cannot be decoded: {line}"
    ]
    assert feed.position() == {"next_step": 9, "bad_images": [line]}
    caplog.clear()
    resumed = make(numbered_source(bad={7}))
    resumed.open(ROOT, feed.position())
    walk(resumed, range(9, 15))
    assert not caplog.records


def test_a_bad_image_is_refused_where_the_config_says_so(make):
    feed = make(numbered_source(bad=set(range(0, 30, 5))), on_bad_image="refuse")
    feed.open(ROOT)
    with pytest.raises(BadImageInDatasetError, match=r"\d+\.JPEG: neither") as error:
        walk(feed, range(3))
    assert "\n" not in str(error.value)
    with pytest.raises(BadImageInDatasetError, match=r" 0\.JPEG: neither"):
        list(feed.split("test"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 31, "batch_size 31 is larger than the .* 30 examples"),
        ("mean", (0.0,), r"need 3 numbers each .*; got \(0.0,\)"),
        ("workers", -2, "or -1 for one per core; got -2"),
        ("on_bad_image", "ignore", "'ignore'; possible: skip, refuse"),
    ],
)
def test_what_is_impossible_is_named_in_one_line(field, value, message, make):
    with pytest.raises(ValueError, match=message) as error:
        make(numbered_source(), **{field: value})
    assert "\n" not in str(error.value)


def test_there_is_a_core():
    assert hosts.cores() >= 1


@pytest.mark.slow
@pytest.mark.compiles
def test_a_bad_image_that_one_process_is_given_ends_all(imagenet_folder, tmp_path):
    fields = {
        "network.name": "conv2",
        "network.width": 0.0625,
        "batch_size": 2,
        "eval_batch_size": 4,
        "dataset.workers": 0,
        "dataset.on_bad_image": "refuse",
        "log_every_steps": 1,
    }
    flags = ["--config=configs/imagenet_resnet18.py", f"--workdir={tmp_path}"]
    flags += [f"--data_dir={imagenet_folder}"]
    flags += [f"--config.{name}={value}" for name, value in fields.items()]
    launch = helpers.command("launch", "--processes=2", "--", *flags)
    done = helpers.python(*launch)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if "error: " in line]
    assert len(errors) == 2
    assert all("truncated.JPEG: " in line for line in errors)
    assert sum("error: process " in line for line in errors) == 1
    assert "failed first: status 2" in done.stderr
    assert "killing what is still running" not in done.stderr
