"""Vectors of words: what is read, what is missing, and what is no such file."""

import hashlib
import os

import numpy as np
import pytest

from iterand_jax.data.vectors import check_vectors, read_vectors

TEXT = "film 1 -2.5\nThe 3 4e-1\nfilm 7 7\nnew york 5 6\ngood 0 1\r\n"


@pytest.fixture
def file(tmp_path):
    def make(text):
        path = tmp_path / "vectors.txt"
        path.write_bytes(text.encode())
        return str(path)

    return make


def test_words_are_found_as_they_are_written(file):
    """The first of two lines counts; a word may have a space; case matters."""
    words = ["good", "the", "film", "new york", "The", "bad"]
    found = read_vectors(file(TEXT), words, 2)
    assert found.missing == ("the", "bad")
    assert found.array.dtype == np.float32
    rows = [[0, 1], [0, 0], [1, -2.5], [5, 6], [3, 0.4], [0, 0]]
    np.testing.assert_array_equal(found.array, np.float32(rows))
    assert found.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: it is no regular file"):
        read_vectors(str(tmp_path / "pipe"), ["a"], 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 3\n", "line 1 of the vectors in .* has 3 numbers; possible: 2, the f"),
        ("400000 2\na 1 2\n", "line 1 of the vectors in .* has 1 numbers; possible: 2"),
        ("a 1 2\nb 1\n", "line 2 of the vectors in .* has 1 numbers; possible: 2"),
        ("a 1 2\n\n", "line 2 of the vectors in .* has 0 numbers; possible: 2"),
        ("a 1 nan\n", "line 1 of the vectors in .* has what is no finite number"),
        ("a 1 x\n", "line 1 of the vectors in .* has what is no finite number"),
        ("b 1 2\n", "has none of the 1 words looked up"),
        ("", "has none of the 1 words looked up"),
    ],
)
def test_another_file_is_refused_in_one_line(text, message, file):
    with pytest.raises(ValueError, match=message) as error:
        read_vectors(file(text), ["a"], 2)
    assert "\n" not in str(error.value)


def test_the_first_line_shows_a_wrong_file_at_once(file):
    check_vectors(file("a 1 2\nb\n"), 2)  # the second line is not read
    with pytest.raises(ValueError, match=r"line 1 of the vectors in .* has 2 numbers"):
        check_vectors(file("a 1 2\n"), 50)
    with pytest.raises(ValueError, match=r"cannot read the vectors in none\.txt: No"):
        check_vectors("none.txt", 50)
