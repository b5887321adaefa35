"""The feed of IMDB: reviews bucketed by length.

Reviews are not truncated, and their lengths differ by a factor of two hundred. To
compile few programs with little padding, each review goes to the bucket of the smallest
of seven bounds that holds it, and a batch is padded to the bound of its longest review.
With the bounds below an epoch computes 1.28 times the tokens of the reviews; padding
all to the longest would compute ten times.

Each epoch is shuffled with its own key: it permutes the training split, drops the last
partial batch (28 of 17,500, different ones each epoch), sorts the rest by bucket (a
stable sort, so that batches are random within a bucket), and then permutes the batches.
It has 273 steps, which the paper rounds to 270.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from iterand_jax.data.feeds import (
    Feed,
    Placement,
    epoch_order,
    plan_sizes,
    split_indices,
    with_sharding,
)
from iterand_jax.data.repeats import Repeats
from iterand_jax.data.sources import Source
from iterand_jax.data.text import (
    VOCABULARY_FILE,
    Vocabulary,
    as_lines,
    commonest_words,
    pad,
)
from iterand_jax.keys import keyed
from iterand_jax.runtime.parts import part

PyTree = Any

BOUNDS = (160, 224, 352, 512, 768, 1216, 2816)
"""The padded lengths, in tokens: the seven with the least padding of IMDB's training
split that hold its longest review, of 2,803 tokens."""


class Reviews(NamedTuple):
    """A batch: int32 token ids (N, T), lengths (N,) and labels (N,)."""

    tokens: Any
    lengths: Any
    labels: Any


class BucketedReviews(Feed):
    """Tokenized reviews on the host, in batches of similar length.

    A part of the training split, determined by `split_seed`, is held out for
    validation; the vocabulary is built from the rest.
    """

    def __init__(
        self,
        source: Source,
        placement: Placement,
        *,
        batch_size: int,
        eval_batch_size: int,
        dtype: Any,
        validation_fraction: float,
        split_seed: int,
    ):
        """Plans the batches of a source whose `read` returns texts and labels."""
        del dtype  # tokens are integers
        self.sizes, self.steps_per_epoch = plan_sizes(
            source.sizes, batch_size=batch_size, validation_fraction=validation_fraction
        )
        self._source = source
        self._placement = placement
        self._batch_size = batch_size
        self._eval_batch_size = eval_batch_size
        self._split_seed = split_seed
        self._epoch, self._batches = -1, np.empty(0)
        self._repeats = Repeats(source.name)

    @functools.cached_property
    def _training(self) -> tuple[Vocabulary, "_Encoded", "_Encoded"]:
        """The vocabulary, the training reviews and the validation reviews."""
        with part("data read"):
            texts, labels = self._source.read("train")
        train, held_out = split_indices(
            len(texts), self.sizes["validation"], seed=self._split_seed
        )
        with part("data vocabulary"):
            vocabulary = Vocabulary(commonest_words(texts[i] for i in train))

        def encoded(name, part):
            of_part = [texts[i] for i in part]
            self._repeats.log(name, of_part, labels[part])
            return _encode(vocabulary, of_part, labels[part])

        with part("data encode"):
            training = encoded("train", train)
            return vocabulary, training, encoded("validation", held_out)

    def open(self, root: Array, position: Any = None) -> None:
        """Reads the training split, builds the vocabulary and encodes the reviews.

        The test split is read only after the last step, when the trained state is
        saved. Checking the lengths of its 25,000 reviews here would delay each start by
        ten seconds.

        Raises:
          ValueError: a review of the training split is longer than the last bound.
        """
        del position
        self._root = root
        _ = self._training

    def files(self) -> dict[str, str]:
        """The vocabulary, which is needed to apply the trained network to texts."""
        vocabulary, _, _ = self._training
        return {VOCABULARY_FILE: as_lines(vocabulary.words)}

    def train_shapes(self) -> list[PyTree]:
        """A batch for each bound that occurs in the training data."""
        _, train, _ = self._training
        shapes = [_shapes(self._batch_size, BOUNDS[b]) for b in np.unique(train.groups)]
        return with_sharding(shapes, self._placement.batch)

    def batch(self, step: int) -> PyTree:
        """The `Reviews` of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        _, train, _ = self._training
        if epoch != self._epoch:
            self._batches = epoch_batches(
                self._root, epoch, groups=train.groups, batch_size=self._batch_size
            )
            self._epoch = epoch
        indices = self._batches[place]
        own = train.batch(self._placement.own(indices), train.bound(indices))
        return self._placement.put_batch(own)

    def train_inputs(
        self, arguments: PyTree, step: Array, root: Array
    ) -> tuple[tuple[Array, ...], Array]:
        """The tokens and lengths, and the index of each review in its batch."""
        del step, root
        numbers = jnp.arange(len(arguments.labels))
        return (arguments.tokens, arguments.lengths, numbers), arguments.labels

    def eval_shapes(self) -> list[PyTree]:
        """A batch and its weights for each of the bounds."""
        size = self._eval_batch_size
        weights = jax.ShapeDtypeStruct((size,), jnp.float32)
        shapes = [(_shapes(size, bound), weights) for bound in BOUNDS]
        return with_sharding(shapes, self._placement.batch)

    def split(self, name: str) -> Iterator[PyTree]:
        """Batches in order of increasing length, the last padded with its last review.

        Raises:
          ValueError: a review of the split is longer than the last bound.
        """
        vocabulary, _, data = self._training
        if name != "validation":
            texts, labels = self._source.read(name)
            self._repeats.log(name, texts, labels)
            data = _encode(vocabulary, texts, labels)
        order = np.argsort(data.lengths, kind="stable")
        for start in range(0, len(order), self._eval_batch_size):
            places = np.arange(start, start + self._eval_batch_size)
            weights = (places < len(order)).astype(np.float32)
            indices = order[np.minimum(places, len(order) - 1)]
            own = data.batch(self._placement.own(indices), data.bound(indices))
            yield self._placement.put_batch((own, self._placement.own(weights)))

    def eval_inputs(self, arguments: PyTree) -> tuple[tuple[Array, ...], Array, Array]:
        """The tokens and lengths."""
        batch, weights = arguments
        return (batch.tokens, batch.lengths), batch.labels, weights


def epoch_batches(
    root: Array, epoch: int, *, groups: np.ndarray, batch_size: int
) -> np.ndarray:
    """The indices of the reviews of each batch of an epoch, (steps, batch_size).

    Args:
      root: the root key of the run.
      epoch: its number, from 0.
      groups: the bucket of each training review; few batches span two buckets.
      batch_size: reviews in a batch.
    """
    steps = len(groups) // batch_size
    order = np.asarray(epoch_order(root, epoch, size=len(groups)))[: steps * batch_size]
    order = order[np.argsort(groups[order], kind="stable")]
    shuffled = jax.random.permutation(keyed(root, "batches", epoch), steps)
    return order.reshape(steps, batch_size)[np.asarray(shuffled)]


class _Encoded(NamedTuple):
    """A split on the host: the token ids, length, label and bucket of each review."""

    ids: Sequence[np.ndarray]
    lengths: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def bound(self, indices: np.ndarray) -> int:
        """The bound of the longest of the reviews at indices."""
        return BOUNDS[self.groups[indices].max()]

    def batch(self, indices: np.ndarray, bound: int) -> Reviews:
        """The reviews at indices, padded to a bound."""
        tokens = pad([self.ids[index] for index in indices], bound)
        return Reviews(tokens, self.lengths[indices], self.labels[indices])


def _encode(
    vocabulary: Vocabulary, texts: Sequence[str], labels: np.ndarray
) -> _Encoded:
    ids = vocabulary.encode(texts)
    lengths = np.array([len(review) for review in ids], np.int32)
    if lengths.max() > BOUNDS[-1]:
        raise ValueError(
            f"a review has {lengths.max()} tokens; possible: at most {BOUNDS[-1]}"
        )
    return _Encoded(ids, lengths, labels, np.searchsorted(BOUNDS, lengths))


def _shapes(size: int, bound: int) -> Reviews:
    one = jax.ShapeDtypeStruct((size,), jnp.int32)
    return Reviews(jax.ShapeDtypeStruct((size, bound), jnp.int32), one, one)
