"""From texts to token ids: words, the vocabulary and its numbers.

The tokenizer is Hugging Face's `tokenizers`: it needs no model, no data file and no
network, splits the same way everywhere, and does all three parts (words, their counts,
their numbers) in parallel Rust: 12 s of one core for 25,000 reviews. NLTK's Treebank
tokenizer takes 23 s and sacremoses 59 s for the words alone, and NLTK's `word_tokenize`
wants downloaded data; spaCy, which the tutorial the paper built on used, is a pipeline
with many dependencies of which this would use the first stage.

A word is a run of letters, digits and underscores, or a run of other characters without
spaces ("don't" is don ' t). Case is kept, as in the tutorial. Markup that stands for a
line break is a space.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

WORDS = 25_000
"""The size of a vocabulary, without padding and the unknown word."""

VOCABULARY_FILE = "vocabulary.txt"
"""Where the folder of a run keeps its vocabulary."""

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("[PAD]", "[UNK]")  # brackets never are in one token with letters
_CHUNK = 1000  # texts encoded at once, which bounds the memory of their tokens


def commonest_words(texts: Iterable[str], size: int = WORDS) -> list[str]:
    """The `size` commonest words of texts, by falling count.

    Of words as common, those first in the order of code points are kept.
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
    """The numbers of the words of texts, (N, length), int32, padded at their ends."""
    tokens = np.full((len(numbers), length), PADDING, np.int32)
    for row, text in zip(tokens, numbers, strict=True):
        row[: len(text)] = text
    return tokens


def as_lines(words: Iterable[str]) -> str:
    """A vocabulary as a text: the word of line n, from 1, has the number n + 1."""
    return "".join(f"{word}\n" for word in words)  # no word has spaces


def from_lines(lines: str) -> tuple[str, ...]:
    """The words of what `as_lines` made."""
    return tuple(lines.split("\n")[:-1])


class Vocabulary:
    """Words, numbered from 2 in their order; padding is 0, every other word 1.

    Attributes:
      words: that have a number of their own.
    """

    def __init__(self, words: Sequence[str]):
        """The vocabulary of words, as `commonest_words` gives them."""
        from tokenizers import Tokenizer, models

        self.words = tuple(words)
        everything = (*_SPECIAL, *words)
        # Not told of its special tokens, it does not look for them in texts.
        model = models.WordLevel(
            {word: i for i, word in enumerate(everything)}, _SPECIAL[UNKNOWN]
        )
        self._tokenizer = _with_words(Tokenizer(model))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The numbers of the words of each text, int32; (UNKNOWN,) if it has none."""
        return list(self._encode(texts))

    def padded(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The numbers (N, T), int32, padded to the longest text, and lengths (N,)."""
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
