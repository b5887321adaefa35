"""Word vectors from a file in the text format of GloVe.

Each line has a word, a space, and its numbers, separated by spaces.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Vectors", "check_vectors", "read_vectors"]


class Vectors(NamedTuple):
    """The vectors of words.

    Attributes:
      array: float32 (words, features), zeros for a word that is not in the file.
      missing: these words, in their order.
      sha256: of the file.
    """

    array: np.ndarray
    missing: tuple[str, ...]
    sha256: str


def check_vectors(path: str, features: int) -> None:
    """Raises ValueError unless the first line of a file is a vector of this length.

    It reads no further, so that a wrong file is found before any work.
    """
    _, line = next(_lines(path), (1, b""))
    _split(path, 1, line, features)


def read_vectors(path: str, words: Sequence[str], features: int) -> Vectors:
    """The vectors of words.

    A word is looked up as it is written: capital letters count. Of a word on two lines
    the first counts.

    Args:
      path: of the file, UTF-8.
      words: whose vectors are read.
      features: the numbers of each vector.

    Raises:
      ValueError: in one line, the file cannot be read; a line has not so many numbers,
        or one that is not finite; or the file has none of the words.
    """
    rows = {word.encode(): row for row, word in enumerate(words)}
    array, found = np.zeros((len(words), features), np.float32), set()
    digest = hashlib.sha256()
    for number, line in _lines(path):
        digest.update(line)
        word, values = _split(path, number, line, features)
        row = rows.get(word)
        if row is not None and row not in found:
            array[row] = _finite(path, number, values)
            found.add(row)
    if not found:
        raise ValueError(f"{path} has none of the {len(words):,} words looked up")
    missing = tuple(word for row, word in enumerate(words) if row not in found)
    return Vectors(array, missing, digest.hexdigest())


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a file."""
    own = Path(path).expanduser()
    if own.exists() and not own.is_file():  # a pipe would be waited for
        raise ValueError(f"cannot read the vectors in {path}: it is no regular file")
    try:
        with own.open("rb") as file:
            yield from enumerate(file, start=1)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot read the vectors in {path}: {reason}") from error


def _split(
    path: str, number: int, line: bytes, features: int
) -> tuple[bytes, list[bytes]]:
    """The word of a line and its numbers, as text.

    A word may have spaces, but not that of the first line, which shows how many numbers
    the lines have.
    """
    word, *values = line.rstrip(b"\r\n").rsplit(b" ", features)
    if len(values) != features or (number == 1 and b" " in word):
        raise ValueError(
            f"line {number} of the vectors in {path} has "
            f"{max(0, len(line.split()) - 1)} numbers; possible: {features}, the "
            f"features of the embedding"
        )
    return word, values


def _finite(path: str, number: int, values: Sequence[bytes]) -> np.ndarray:
    with contextlib.suppress(ValueError):
        array = np.array([float(value) for value in values], np.float32)
        if np.isfinite(array).all():
            return array
    raise ValueError(
        f"line {number} of the vectors in {path} has what is no finite number"
    )
