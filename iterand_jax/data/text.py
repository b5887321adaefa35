"""Tokenization: from texts to words, a vocabulary and token ids.

It uses Hugging Face's `tokenizers`, which needs no model, data file or network, gives
the same tokens on every platform, and does all three steps (splitting, counting,
encoding) in parallel Rust: 12 s of one core for 25,000 reviews. NLTK's Treebank
tokenizer takes 23 s and sacremoses 59 s for splitting alone, and NLTK's `word_tokenize`
needs downloaded data; spaCy, used by the tutorial that the paper's code builds on, has
many dependencies, of which only the first pipeline stage would be used.

A token is a run of letters, digits and underscores, or a run of other characters
without spaces ("don't" is don ' t). Case is kept, as in the tutorial. HTML line breaks
become spaces.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

WORDS = 25_000
"""The size of a vocabulary, without the padding and unknown tokens."""

VOCABULARY_FILE = "vocabulary.txt"
"""The file in a workdir that holds the vocabulary."""

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("[PAD]", "[UNK]")  # no word: brackets and letters are separate tokens
_CHUNK = 1000  # texts per encoding call, which bounds the memory of their tokens


def commonest_words(texts: Iterable[str], size: int = WORDS) -> list[str]:
    """The `size` most frequent words of texts, most frequent first.

    Ties are broken by the order of code points.
    """
    from tokenizers import Tokenizer, models, trainers

    counted = _with_words(Tokenizer(models.WordLevel()))
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=[], show_progress=False
    )
    counted.train_from_iterator(texts, trainer)
    numbers = counted.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def pad(numbers: Sequence[np.ndarray], length: int) -> np.ndarray:
    """The token ids of texts, int32 (N, length), padded on the right."""
    tokens = np.full((len(numbers), length), PADDING, np.int32)
    for row, text in zip(tokens, numbers, strict=True):
        row[: len(text)] = text
    return tokens


def as_lines(words: Iterable[str]) -> str:
    """A vocabulary as text: the word on line n, from 1, has the id n + 1."""
    return "".join(f"{word}\n" for word in words)  # no word has spaces


def from_lines(lines: bytes) -> tuple[str, ...]:
    """The words of a vocabulary written by `as_lines`, in UTF-8.

    Each is decoded by itself: one letter of a rare script makes a whole text large.
    """
    return tuple(line[:-1].decode() for line in io.BytesIO(lines) if line[-1:] == b"\n")


class Vocabulary:
    """Words with ids from 2 in their order; 0 is padding, 1 any other word.

    Attributes:
      words: the words of the vocabulary, without the special tokens.
    """

    def __init__(self, words: Sequence[str]):
        """The vocabulary of words, as returned by `commonest_words`."""
        from tokenizers import Tokenizer, models

        self.words = tuple(words)
        everything = (*_SPECIAL, *words)
        # Special tokens are not declared, so "[PAD]" in a text is not parsed as one.
        model = models.WordLevel(
            {word: i for i, word in enumerate(everything)}, _SPECIAL[UNKNOWN]
        )
        self._tokenizer = _with_words(Tokenizer(model))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The token ids of each text, int32; (UNKNOWN,) for a text without words."""
        return list(self._encode(texts))

    def padded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (N, T), int32, padded to the longest text, and lengths (N,)."""
        numbers = self.encode(texts)
        lengths = np.array([len(text) for text in numbers], np.int32)
        return pad(numbers, max(lengths, default=0)), lengths

    def _encode(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            for encoding in self._tokenizer.encode_batch_fast(chunk):
                yield np.array(encoding.ids or [UNKNOWN], np.int32)


def _with_words(tokenizer: Any) -> Any:
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Replace(Regex(r"<br\s*/?>"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer
