"""Words and their numbers: literal cases, then the real reviews."""

import collections
import re

import numpy as np
import pytest

from iterand_jax.data import datasets, sources, text
from tests import helpers

needs_real_reviews = pytest.mark.skipif(
    not sources.tfds_builder("imdb_reviews", sources.resolve_data_dir())[1],
    reason="no imdb_reviews in TFDS_DATA_DIR",
)


def words_of(one):
    """The words of a text, in order."""
    vocabulary = text.Vocabulary(text.commonest_words([one]))
    return [vocabulary.words[n - 2] for n in vocabulary.encode([one])[0]]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ("A film.", ["A", "film", "."]),
        ("I don't...", ["I", "don", "'", "t", "..."]),
        ('Good?!"  10/10', ["Good", '?!"', "10", "/", "10"]),
        ("one<br /><br />two<br>three", ["one", "two", "three"]),
        ("snake_case  naïve\tété\n日本", ["snake_case", "naïve", "été", "日本"]),
        ("the The THE", ["the", "The", "THE"]),
    ],
)
def test_words_are_runs_of_letters_or_of_other_characters(one, words):
    assert words_of(one) == words


def test_the_commonest_words_are_numbered_from_two_and_the_rest_is_unknown():
    vocabulary = text.Vocabulary(text.commonest_words(["b c a", "b a", "b d c"], 3))
    assert vocabulary.words == ("b", "a", "c")
    (numbers,) = vocabulary.encode(["a b c d e"])
    assert numbers.tolist() == [3, 2, 4, text.UNKNOWN, text.UNKNOWN]
    assert numbers.dtype == np.int32


def test_of_words_as_common_the_first_by_code_point_are_kept():
    texts = ["z y x Z b a é 0"]
    for _ in range(3):  # the counts come from threads
        assert text.commonest_words(texts, 6) == ["0", "Z", "a", "b", "x", "y"]
        assert text.commonest_words(reversed(texts), 2) == ["0", "Z"]


def test_a_text_without_words_is_one_unknown_word():
    vocabulary = text.Vocabulary(["a", "b"])
    for numbers in vocabulary.encode(["", " ", "<br />"]):
        assert numbers.tolist() == [text.UNKNOWN]
    assert vocabulary.encode([]) == []


def test_texts_cannot_name_the_padding():
    vocabulary = text.Vocabulary(text.commonest_words(["[PAD] [UNK] a"]))
    numbers = vocabulary.encode(["[PAD] [UNK] PAD"])[0]
    assert text.PADDING not in numbers
    assert len(numbers) == 7
    assert text.UNKNOWN not in numbers


def test_texts_are_padded_to_the_longest():
    vocabulary = text.Vocabulary(["a", "b"])
    tokens, lengths = vocabulary.padded(["a b", "", "b a c"])
    assert tokens.tolist() == [[2, 3, 0], [text.UNKNOWN, 0, 0], [3, 2, 1]]
    assert lengths.tolist() == [2, 1, 3]
    assert [x.dtype for x in (tokens, lengths)] == [np.int32] * 2
    tokens, lengths = vocabulary.padded([])
    assert (tokens.shape, lengths.shape) == ((0, 0), (0,))


def test_a_vocabulary_in_lines_comes_back():
    words = text.commonest_words(["naïve\x1ccafé 日本 ?! a\u2028b a\x85c d\re"])
    for some in (words, []):
        assert text.from_lines(text.as_lines(some).encode()) == tuple(some)


def test_long_inputs_are_encoded_in_their_order(monkeypatch):
    monkeypatch.setattr(text, "_CHUNK", 3)
    texts = [f"w{i} " * (i % 4 + 1) for i in range(10)]
    vocabulary = text.Vocabulary(text.commonest_words(texts))
    for i, numbers in enumerate(vocabulary.encode(texts)):
        assert numbers.tolist() == [vocabulary.words.index(f"w{i}") + 2] * (i % 4 + 1)


def test_it_is_silent_also_when_a_process_is_started_afterwards():
    program = (
        "import subprocess, sys\n"
        "from iterand_jax.data import text\n"
        "assert 'tokenizers' not in sys.modules\n"
        "vocabulary = text.Vocabulary(text.commonest_words(['a b'] * 100))\n"
        "assert len(vocabulary.encode(['a b'] * 100)) == 100\n"
        "subprocess.run([sys.executable, '-c', ''], check=True)\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    done = helpers.python("-W", "error", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@needs_real_reviews
def test_the_vocabulary_of_the_real_reviews():
    """Against the standard library's own regular expressions and counter."""
    texts, labels = datasets.open_source("imdb_reviews").read("train")
    assert np.bincount(labels).tolist() == [12_500, 12_500]
    pattern = re.compile(r"\w+|[^\w\s]+")
    split = [pattern.findall(re.sub(r"<br\s*/?>", " ", one)) for one in texts[:3000]]
    counts = collections.Counter(word for words in split for word in words)
    expected = sorted(counts, key=lambda word: (-counts[word], word))[: text.WORDS]
    vocabulary = text.Vocabulary(text.commonest_words(texts[:3000]))
    assert vocabulary.words == tuple(expected)
    numbers = {word: i + 2 for i, word in enumerate(expected)}
    for words, encoded in zip(split, vocabulary.encode(texts[:3000]), strict=True):
        assert encoded.tolist() == [numbers.get(w, text.UNKNOWN) for w in words]
