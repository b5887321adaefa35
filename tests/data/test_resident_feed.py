"""The resident feed: which examples train, in which order, each once in a split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from iterand_jax.data import datasets, feeds
from iterand_jax.data.resident_feed import ResidentImages

ROOT = jax.random.key(3)


@pytest.fixture
def source():
    return datasets.open_source("digits")


def make(source, **overrides):
    here = SingleDeviceSharding(jax.devices()[0])
    options = {
        "batch_size": 64,
        "eval_batch_size": 100,
        "dtype": jnp.float32,
        "augmentation": "none",
        "mean": (0.0,),
        "std": (1.0,),
        "validation_fraction": 0.1,
        "split_seed": 0,
    }
    options |= overrides
    return ResidentImages(source, feeds.Placement(here, here), **options)


def images_of(feed, split):
    """A split's images as rows of whole grey levels, without padding."""
    rows = []
    for arguments in feed.split(split):
        (images,), labels, weights = feed.eval_inputs(arguments)
        assert len(labels) == len(images) == len(weights)
        rows.append(np.rint(255 * images[weights == 1]).reshape(-1, 64))
    return np.concatenate(rows)


def test_sizes_are_known_before_anything_is_read(source):
    unread = dataclasses.replace(source, read=None)
    feed = make(unread)
    assert feed.sizes == {"train": 1294, "validation": 143, "test": 360}
    assert feed.steps_per_epoch == 20


def test_training_and_validation_are_the_training_split(source):
    feed = make(source)
    feed.open(ROOT)
    train = np.asarray(feed.batch(0)[0].images).reshape(-1, 64)
    held_out = images_of(feed, "validation")
    assert (len(train), len(held_out)) == (1294, 143)
    everything = source.read("train")[0].reshape(-1, 64)
    together = np.concatenate([train, held_out])
    assert np.array_equal(np.unique(together, axis=0), np.unique(everything, axis=0))


def test_which_examples_validate_follows_the_split_seed_alone(source):
    held_out = []
    for root, seed in ((ROOT, 0), (jax.random.key(9), 0), (ROOT, 5)):
        feed = make(source, split_seed=seed)
        feed.open(root)
        held_out.append(images_of(feed, "validation"))
    assert np.array_equal(held_out[0], held_out[1])
    assert not np.array_equal(held_out[0], held_out[2])


@pytest.mark.smoke
@pytest.mark.parametrize("batch", [7, 359, 360, 1000])
def test_each_test_image_comes_once_whatever_the_batch(source, batch):
    images = images_of(make(source, eval_batch_size=batch), "test")
    assert np.array_equal(images, source.read("test")[0].reshape(-1, 64))


def test_an_epoch_takes_each_image_at_most_once_in_an_order_of_its_own(source):
    feed = make(source, batch_size=400)
    feed.open(ROOT)
    epochs = []
    for epoch in range(2):
        seen = []
        for step in range(3 * epoch, 3 * epoch + 3):
            arguments = feed.batch(step)
            (images,), labels = feed.train_inputs(arguments, step, ROOT)
            place = arguments[1][400 * (step % 3) : 400 * (step % 3 + 1)]
            assert np.array_equal(labels, arguments[0].labels[place])
            np.testing.assert_allclose(
                255 * images, arguments[0].images[place], atol=1e-3
            )
            seen.extend(map(int, place))
        assert len(set(seen)) == 1200
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_a_feed_that_starts_in_the_middle_gives_the_same_batches(source):
    one, other = make(source), make(source)
    one.open(ROOT)
    for step in range(45):
        walked = one.batch(step)
    other.open(ROOT, one.position())
    jax.tree.map(np.testing.assert_array_equal, walked, other.batch(44))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_stacks_are_the_batches_of_a_split_and_batches_of_weight_0(source, split):
    feed = make(source)
    feed.open(ROOT)
    batches = list(feed.split(split))
    stacks = list(feed.stacks(split))
    announced = jax.tree.map(lambda a: (a.shape, a.dtype), feed.stack_shapes())
    for stack in stacks:
        assert jax.tree.map(lambda a: (a.shape, a.dtype), stack) == announced
    rows = [jax.tree.map(lambda a, i=i: a[i], s) for s in stacks for i in range(2)]
    for stacked, batch in zip(rows, batches, strict=False):
        jax.tree.map(np.testing.assert_array_equal, stacked, batch)
    assert all(not weights.any() for _, weights in rows[len(batches) :])
    again = list(feed.stacks(split))
    shared = [one is other for one, other in zip(stacks, again, strict=True)]
    assert shared == [split == "validation"] * len(stacks)


def test_what_comes_has_the_announced_shapes(source):
    feed = make(source)
    feed.open(ROOT)
    pairs = [
        (feed.train_shapes(), [feed.batch(0)]),
        (feed.eval_shapes(), list(feed.split("test"))),
    ]
    for announced, given in pairs:
        forms = {str(jax.tree.map(lambda a: (a.shape, a.dtype), s)) for s in announced}
        for arguments in given:
            assert str(jax.tree.map(lambda a: (a.shape, a.dtype), arguments)) in forms


def test_epoch_orders_are_permutations_that_differ_by_epoch_and_seed():
    orders = [
        feeds.epoch_order(jax.random.key(seed), epoch, size=50)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(map(int, order)) for order in orders}) == 4
