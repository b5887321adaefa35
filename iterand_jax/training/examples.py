"""The inputs that the answers of an exported ticket are compared on."""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from iterand_jax.data import augment
from iterand_jax.data.datasets import open_source
from iterand_jax.data.sources import DataNotFoundError, Source
from iterand_jax.data.text import WORDS
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training.building import build
from iterand_jax.training.run import Run

CHECKED = 64  # examples


class Examples(NamedTuple):
    """Inputs of a run.

    Attributes:
      raw: as `Ticket.apply` takes them.
      inputs: the same as the run's network takes them.
      what: says what they are.
    """

    raw: tuple[Any, ...]
    inputs: tuple[Any, ...]
    what: str


def examples(run: Run, ticket: Ticket, data_dir: str | None) -> Examples:
    """Test examples of a run, or random inputs if its dataset is not available."""
    dataset, config = run.dataset, run.config
    try:
        if dataset.is_text and ticket.words is None:
            raise DataNotFoundError("there is no vocabulary")
        source = open_source(config.dataset.name, data_dir)
    except DataNotFoundError:
        return _random_examples(run, ticket)
    if dataset.is_text:
        texts, _ = source.read("test")
        tokens = ticket.tokenize(list(texts[:CHECKED]))
        return Examples(tokens, tokens, f"{len(tokens[1])} test examples")
    return _test_examples(config, source)


def _test_examples(config: ConfigDict, source: Source) -> Examples:
    loaded = build(config, source)
    with contextlib.closing(loaded.feed.split("test")) as batches:  # type: ignore
        batch, weights = next(batches)
    count = min(CHECKED, int(np.sum(np.asarray(weights) > 0)))
    first = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[:count]), (batch, weights))
    inputs, _, _ = loaded.eval_inputs(first)
    raw = (np.asarray(first[0].images),)
    return Examples(raw, inputs, f"{count} test examples")


def _random_examples(run: Run, ticket: Ticket) -> Examples:
    generator = np.random.default_rng(0)
    description = ticket.description
    what = f"{CHECKED} random inputs, as the dataset is not here,"
    if run.dataset.is_text:
        words = getattr(run.network, "vocabulary_size", WORDS + 2)
        lengths = generator.integers(1, 30, CHECKED).astype(np.int32)
        tokens = generator.integers(1, words, (CHECKED, 30)).astype(np.int32)
        tokens = np.where(np.arange(30) < lengths[:, None], tokens, 0)
        return Examples((tokens, lengths), (tokens, lengths), what)
    shape = (CHECKED, *description.inputs[0][0][1:])
    if description.mean is None or description.std is None:
        arrays = (generator.standard_normal(shape, np.float32),)
        return Examples(arrays, arrays, what)
    pixels = generator.integers(0, 256, shape).astype(np.uint8)
    dtype = jnp.dtype(run.config.dtype)
    normalized = augment.normalize(
        jnp.asarray(pixels), description.mean, description.std, dtype
    )
    return Examples((pixels,), (normalized,), what)
