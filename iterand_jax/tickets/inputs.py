"""The inputs of a ticket's network, checked before it is compiled for them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from iterand_jax.data.text import WORDS
from iterand_jax.tickets.metadata import Description


def check(description: Description, inputs: Sequence[Any]) -> None:
    """Checks the shapes of inputs and, where they are known, token ids and lengths.

    Raises:
      ValueError: they are of other shapes than the network takes, or out of range.
    """
    if not description.inputs:
        raise ValueError(
            "the ticket says no inputs of a network, so it has nothing to apply; "
            "its params are put into your own model"
        )
    expected = [("N", *shape[1:]) for shape, _ in description.inputs]
    shapes = [np.shape(x) for x in inputs]
    ranks = [len(shape) for shape in shapes]
    texts = description.of_texts
    if ranks != [len(shape) for shape in expected] or (
        not texts and shapes[0][1:] != expected[0][1:]
    ):
        raise ValueError(f"inputs of shapes {shapes}; possible: {expected}")
    if texts:
        _check_texts(description, *inputs)


def _check_texts(description: Description, tokens: Any, lengths: Any) -> None:
    (texts, longest), (counted,) = np.shape(tokens), np.shape(lengths)
    if texts != counted:
        raise ValueError(f"{counted} lengths for {texts} texts")
    words = getattr(description.build(), "vocabulary_size", WORDS + 2)
    limits = {"token ids": (tokens, words - 1), "lengths": (lengths, longest)}
    for name, (array, limit) in limits.items():
        if isinstance(array, jax.core.Tracer) or not np.size(array):
            continue  # the values are not known
        least, most = np.min(array), np.max(array)
        if least < 0 or most > limit:
            raise ValueError(f"{name} from {least} to {most}; possible: 0 to {limit}")
