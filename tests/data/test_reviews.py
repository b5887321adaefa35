"""The feed of reviews: which are trained on, in which batches and shapes."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from iterand_jax.data import feeds, reviews
from iterand_jax.data.sources import Source
from iterand_jax.data.text import PADDING, UNKNOWN

ROOT = jax.random.key(3)
BOUNDS = (2, 4, 9)
TRAIN, TEST = 103, 31


def texts_of(split, count):
    """Texts of 0 to 9 words that name themselves."""
    return [" ".join([f"{split}{i}"] * (i % 10)) for i in range(count)]


def read(split):
    texts = texts_of(split, {"train": TRAIN, "test": TEST}[split])
    return texts, np.arange(len(texts), dtype=np.int32) % 2


def make(source=None, **overrides):
    here = SingleDeviceSharding(jax.devices()[0])
    source = source or Source(
        "tiny", 2, {"train": TRAIN, "test": TEST}, "text", "0" * 16, read
    )
    options = {
        "batch_size": 8,
        "eval_batch_size": 5,
        "dtype": jnp.float32,
        "validation_fraction": 0.3,
        "split_seed": 0,
    }
    placement = feeds.Placement(here, here)
    return reviews.BucketedReviews(source, placement, **options | overrides)


@pytest.fixture(autouse=True)
def _short_bounds(monkeypatch):
    monkeypatch.setattr(reviews, "BOUNDS", BOUNDS)


@pytest.fixture
def feed():
    made = make()
    made.open(ROOT)
    return made


def rows(batch, weights=None):
    """(tokens without padding, label) of each review with a weight."""
    counted = np.ones(len(batch.lengths), bool) if weights is None else weights == 1
    result = []
    counted_rows = (np.asarray(x)[counted] for x in batch)
    for tokens, length, label in zip(*counted_rows, strict=True):
        assert not np.any(tokens[:length] == PADDING)
        assert np.all(tokens[length:] == PADDING)
        result.append((tuple(tokens[:length].tolist()), int(label)))
    return result


def split_rows(feed, split):
    return [row for batch, weights in feed.split(split) for row in rows(batch, weights)]


def test_sizes_are_known_before_anything_is_read():
    unread = Source("tiny", 2, {"train": TRAIN, "test": TEST}, "text", "", read=None)
    made = make(unread)
    assert made.sizes == {"train": 73, "validation": 30, "test": TEST}
    assert made.steps_per_epoch == 9
    with pytest.raises(ValueError, match=r"batch_size 74 is larger than .* of 73 exam"):
        make(unread, batch_size=74)


def test_the_words_are_those_of_the_part_that_trains(feed):
    """Held-out and test reviews, whose only words are their names, are unknown."""
    for split, size in (("validation", 30), ("test", TEST)):
        found = split_rows(feed, split)
        assert len(found) == size
        assert {token for tokens, _ in found for token in tokens} == {UNKNOWN}
    known = {tokens for step in range(9) for tokens, _ in rows(feed.batch(step))}
    unknown = [tokens for tokens in known if UNKNOWN in tokens]
    assert unknown == [(UNKNOWN,)]  # the reviews without words


def test_each_test_review_comes_once_with_its_label_and_length(feed):
    expected = [(max(i % 10, 1), i % 2) for i in range(TEST)]
    for size in (1, 5, 31, 100):
        made = make(eval_batch_size=size)  # not opened: the test split needs no root
        found = [(len(tokens), label) for tokens, label in split_rows(made, "test")]
        assert collections.Counter(found) == collections.Counter(expected)


def test_an_epoch_takes_each_review_at_most_once_in_batches_of_its_own(feed):
    epochs = []
    for epoch in range(3):
        batches = [rows(feed.batch(9 * epoch + place)) for place in range(9)]
        names = [row[0][0] for batch in batches for row in batch if len(row[0]) > 1]
        lengths = [len(row[0]) for batch in batches for row in batch]
        assert len(lengths) == 72
        counts = collections.Counter(names)
        assert max(counts.values()) == 1
        epochs.append([sorted(map(str, batch)) for batch in batches])
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_are_of_similar_length_and_padded_to_the_smallest_bound(feed):
    groups = np.searchsorted(BOUNDS, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    mixed = 0
    for step in range(18):
        batch = feed.batch(step)
        longest = int(batch.lengths.max())
        assert batch.tokens.shape == (8, BOUNDS[groups[longest]])
        mixed += len(set(groups[np.asarray(batch.lengths)])) > 1
    assert mixed <= 2 * (len(BOUNDS) - 1)


def test_the_batches_of_an_epoch_are_shuffled_within_and_among_groups():
    groups = np.repeat([0, 1, 2], 40)
    batches = reviews.epoch_batches(ROOT, 0, groups=groups, batch_size=10)
    assert np.array_equal(np.sort(batches, axis=None), np.arange(120))
    assert np.all(groups[batches] == groups[batches[:, :1]])
    assert np.any(np.diff(groups[batches[:, 0]]) < 0)
    other = reviews.epoch_batches(ROOT, 1, groups=groups, batch_size=10)
    assert set(map(frozenset, batches.tolist())).isdisjoint(
        map(frozenset, other.tolist())
    )


def test_what_does_not_fill_a_batch_is_left_out_another_time():
    groups = np.arange(23) // 8
    left_out = [
        set(range(23)).difference(
            *reviews.epoch_batches(ROOT, epoch, groups=groups, batch_size=10).tolist()
        )
        for epoch in range(20)
    ]
    assert {len(indices) for indices in left_out} == {3}
    assert len(set.union(*left_out)) > 15  # from every group


def test_a_feed_that_starts_in_the_middle_gives_the_same_batches(feed):
    for step in range(23):
        walked = feed.batch(step)
    other = make()
    other.open(ROOT, feed.position())
    jax.tree.map(np.testing.assert_array_equal, walked, other.batch(22))


def test_which_reviews_validate_follows_the_split_seed_alone():
    seen = []
    for root, seed in ((ROOT, 0), (jax.random.key(9), 0), (ROOT, 5)):
        made = make(split_seed=seed)
        made.open(root)
        seen.append([label for _, label in split_rows(made, "validation")])
    assert seen[0] == seen[1] != seen[2]


def test_what_comes_has_the_announced_shapes(feed):
    def form(arguments):
        return str(jax.tree.map(lambda a: (a.shape, a.dtype), arguments))

    train = {form(shapes) for shapes in feed.train_shapes()}
    evaluated = {form(shapes) for shapes in make().eval_shapes()}
    assert len(train) == len(evaluated) == len(BOUNDS)
    assert {form(feed.batch(step)) for step in range(9)} == train
    assert {form(batch) for batch in feed.split("test")} <= evaluated


def test_only_the_shapes_that_training_needs_are_announced(monkeypatch, feed):
    monkeypatch.setattr(reviews, "BOUNDS", (1, 12, 100))
    made = make()
    made.open(ROOT)
    assert {s.tokens.shape[1] for s in made.train_shapes()} == {1, 12}


def test_inputs_are_the_tokens_and_lengths_and_numbers_in_the_batch(feed):
    batch = feed.batch(0)
    (tokens, lengths, numbers), labels = feed.train_inputs(batch, 0, ROOT)
    assert tokens is batch.tokens
    assert lengths is batch.lengths
    assert numbers.tolist() == list(range(len(labels)))
    assert labels is batch.labels


def test_a_review_above_the_last_bound_is_named(monkeypatch):
    monkeypatch.setattr(reviews, "BOUNDS", (2, 8))
    with pytest.raises(ValueError, match="a review has 9 tokens; possible: at most 8"):
        make().open(ROOT)


def test_a_test_review_above_the_last_bound_is_named_when_the_split_is_read():
    def read_long(split):
        texts, labels = read(split)
        return ["word " * 10, *texts[1:]] if split == "test" else texts, labels

    sizes = {"train": TRAIN, "test": TEST}
    made = make(Source("tiny", 2, sizes, "text", "0" * 16, read_long))
    made.open(ROOT)
    with pytest.raises(ValueError, match="a review has 10 tokens; possible: at most 9"):
        next(made.split("test"))
