"""Examples that are in a dataset more than once are logged, each split once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from iterand_jax.data import feeds, own, reviews
from iterand_jax.data.repeats import Repeats
from iterand_jax.data.sources import Source

ROOT = jax.random.key(0)
OPTIONS = {
    "batch_size": 2,
    "eval_batch_size": 4,
    "dtype": jnp.float32,
    "validation_fraction": 0.5,
    "split_seed": 0,
}


def placement():
    here = SingleDeviceSharding(jax.devices()[0])
    return feeds.Placement(here, here)


@pytest.mark.parametrize("kind", ["texts", "images", "floats"])
def test_repeats_are_counted_within_and_across_splits(kind, caplog):
    def examples(*numbers):
        if kind == "texts":
            return [f"review {number}" for number in numbers]
        pixels = np.zeros((len(numbers), 2, 2, 1), np.uint8)
        pixels[:, 1, 0, 0] = numbers
        return pixels if kind == "images" else pixels.astype(np.float32) / 7

    repeats = Repeats("mine")
    repeats.log("train", examples(1, 2, 1, 3, 1), np.array([0, 1, 0, 1, 1]))
    repeats.log("validation", examples(4, 2, 2, 5), np.array([0, 1, 0, 1]))
    repeats.log("test", examples(6, 7), np.array([0, 1]))
    repeats.log("train", examples(1, 2, 1, 3, 1), np.array([0, 1, 0, 1, 1]))
    assert caplog.messages == [
        "mine: 2 of 5 examples of train are repeats of one in train, too, 1 of them "
        "with another label",
        "mine: 1 of 4 examples of validation are repeats of one in validation, too, 1 "
        "of them with another label",
        "mine: 2 of 4 examples of validation are repeats of one in train, 1 of them "
        "with another label",
    ]


def test_a_feed_of_images_logs_them_when_it_opens_and_the_test_split_at_the_end(caplog):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (8, 2, 2, 1), np.uint8), np.arange(8) % 2
    x[:4] = x[4:]
    dataset = own.from_arrays(x, y, test=(x[:3], y[:3]))
    options = OPTIONS | {"mean": (0.0,), "std": (1.0,), "augmentation": "none"}
    feed = dataset.feed(dataset.open(""), placement(), **options)
    feed.open(ROOT)
    opened = len(caplog.messages)
    assert any("examples of validation are repeats" in line for line in caplog.messages)
    beside = dataset.feed(dataset.open(""), placement(), **options)
    beside.open_beside(feed, ROOT)
    for one in (feed, beside):
        list(one.split("test"))
        list(one.stacks("test"))
    later = caplog.messages[opened:]
    assert all("of 3 examples of test are repeats" in line for line in later)
    assert 1 <= len(later) <= 2  # of train, of validation


def test_a_feed_of_reviews_logs_them(caplog, monkeypatch):
    monkeypatch.setattr(reviews, "BOUNDS", (4,))
    texts = ["a good one", "a bad one", "a good one", "a bad one"]

    def read(split):
        return texts[: 4 if split == "train" else 2], np.array([1, 0, 1, 0][:4])[
            : 4 if split == "train" else 2
        ]

    source = Source("tiny", 2, {"train": 4, "test": 2}, "text", "0" * 16, read)
    feed = reviews.BucketedReviews(source, placement(), **OPTIONS)
    feed.open(ROOT)
    list(feed.split("test"))
    assert all("tiny: " in line and "0 of them" in line for line in caplog.messages)
    assert sum("examples of test" in line for line in caplog.messages) >= 1
    assert sum("of validation" in line for line in caplog.messages) >= 1


def test_no_repeats_no_lines(caplog):
    repeats = Repeats("mine")
    repeats.log("train", ["a", "b"], np.array([0, 1]))
    repeats.log("test", ["c"], np.array([0]))
    assert not caplog.messages
