"""What the repeats of IMDB do to the accuracy of two classifiers.

    python -m experiments.measurements.review_repeats --out=results/review_repeats.json

The training part is used as it is, and without its repeats: later copies of a review,
and reviews that are in the test split, too. Each run is tested on the test split, on
the reviews of it that are in the training split, and on later copies within it, so that
the accuracy without either follows.
"""

import dataclasses
import functools
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import iterand_jax
from experiments.measurements import records
from iterand_jax.data.datasets import get_dataset, open_source, register_dataset
from iterand_jax.data.feeds import split_indices
from iterand_jax.data.sources import Source, open_imdb_reviews
from iterand_jax.data.text import Vocabulary, commonest_words
from iterand_jax.runtime import cli
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.workdir import restore_with_data

KINDS = {"imdb_with_repeats": False, "imdb_without_repeats": True}
"""The datasets of this script, and whether they leave out repeats in training."""

LSTM = {"method": "sgd", "network.width": 0.25, "epochs": 3}
"""The fields of the LSTM's config that are set."""

HELD_OUT = 7_500
"""Training reviews that are not trained on, as in the config."""

KEY = ("model", "dataset", "seed")

Runs = Sequence[Mapping[str, Any]]

TRAINED, COPIES = "test_trained", "test_copies"
"""Further splits: test reviews in the training split, and later copies within test."""


def later_copies(texts: Sequence[str]) -> np.ndarray:
    """Which texts, bool (n,), are the same as one before.

    >>> later_copies(["a", "b", "a"]).tolist()
    [False, False, True]
    """
    first = {text: index for index, text in reversed([*enumerate(texts)])}
    return np.array([first[text] < index for index, text in enumerate(texts)], bool)


def among(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Which texts, bool (n,), are one of others."""
    held = set(others)
    return np.array([text in held for text in texts], bool)


def with_more_splits(source: Source, *, drop: bool) -> Source:
    """The source with the splits of `TRAINED` and `COPIES`.

    Args:
      source: of texts, with the splits "train" and "test".
      drop: leave out the repeats of the training split.
    """
    train, of_train = source.read("train")
    test, of_test = source.read("test")
    repeated = later_copies(train) | among(train, test)
    keep = ~repeated if drop else np.ones(len(train), bool)
    chosen = {
        "train": (train, of_train, keep),
        "test": (test, of_test, np.ones(len(test), bool)),
        TRAINED: (test, of_test, among(test, train)),
        COPIES: (test, of_test, later_copies(test)),
    }

    def read(split: str) -> tuple[list[str], np.ndarray]:
        texts, labels, kept = chosen[split]
        return [texts[i] for i in np.flatnonzero(kept)], labels[kept]

    sizes = {name: int(kept.sum()) for name, (_, _, kept) in chosen.items()}
    return dataclasses.replace(source, sizes=sizes, read=read)


@functools.cache
def _opened(folder: str, drop: bool) -> Source:
    return with_more_splits(open_imdb_reviews(folder), drop=drop)


def without(whole: tuple[float, int], part: tuple[float, int]) -> float:
    """The accuracy in % without a part, from (accuracy in %, examples) of both.

    >>> without((50.0, 10), (100.0, 2))
    37.5
    """
    (of_whole, size), (of_part, less) = whole, part
    return (of_whole * size - of_part * less) / (size - less)


def of_lstm(name: str, seed: int, workdir: Path) -> dict[str, Any]:
    """Trains or continues a run on a dataset of `KINDS` and tests it on each split."""
    fields = {"dataset.name": name, "seed": seed, **LSTM}
    result = iterand_jax.train("imdb_lstm", fields, workdir=workdir)
    run, state = restore_with_data(workdir)
    evaluator = Evaluator(run)
    parts = {"test": (result.test_accuracy, result.record["test_examples"])}
    for split in (TRAINED, COPIES):
        found = evaluator(state, split)
        parts[split] = found.accuracy, found.examples
    return _run("lstm", name, seed, run.feed.sizes["train"], parts)


@functools.cache
def _words() -> tuple[Any, ...]:
    """Which words each review has, with their labels and which are repeats."""
    from scipy.sparse import csr_array

    source = open_source("imdb_reviews")
    (train, of_train), (test, of_test) = map(source.read, ("train", "test"))
    vocabulary = Vocabulary(commonest_words(train))

    def counted(texts: Sequence[str]) -> Any:
        found = [np.unique(numbers) for numbers in vocabulary.encode(texts)]
        ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
        ones = np.ones(ends[-1], np.float32)
        shape = len(texts), len(vocabulary.words) + 2
        return csr_array((ones, np.concatenate(found), ends), shape=shape)

    parts = {TRAINED: among(test, train), COPIES: later_copies(test)}
    repeated = later_copies(train) | among(train, test)
    return counted(train), of_train, counted(test), of_test, repeated, parts


def of_words(name: str, seed: int) -> dict[str, Any]:
    """Fits a logistic regression on which words are there; the seed chooses the part.

    Without repeats it is the same part but for them.
    """
    from sklearn.linear_model import LogisticRegression

    train, of_train, test, of_test, repeated, parts = _words()
    part, _ = split_indices(len(of_train), HELD_OUT, seed=seed)
    if KINDS[name]:
        part = part[~repeated[part]]
    model = LogisticRegression(C=0.02, solver="liblinear", random_state=0)
    right = model.fit(train[part], of_train[part]).predict(test) == of_test
    masks = {"test": np.ones(len(of_test), bool), **parts}
    accuracies = {
        k: (100 * float(right[m].mean()), int(m.sum())) for k, m in masks.items()
    }
    return _run("words", name, seed, len(part), accuracies)


def _run(
    model: str,
    name: str,
    seed: int,
    size: int,
    parts: Mapping[str, tuple[float, int]],
) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": name,
        "seed": seed,
        "training_reviews": size,
        "accuracy": {
            split: round(accuracy, 3) for split, (accuracy, _) in parts.items()
        },
        "examples": {split: examples for split, (_, examples) in parts.items()},
        "without_trained": round(without(parts["test"], parts[TRAINED]), 3),
        "without_copies": round(without(parts["test"], parts[COPIES]), 3),
    }


def rows(runs: Runs) -> list[str]:
    """A row of the page's table for each model and kind: means and deviations."""
    lines = []
    for model, name in dict.fromkeys((run["model"], run["dataset"]) for run in runs):
        of_kind = _of(runs, model, name)
        columns = (
            [run["accuracy"]["test"] for run in of_kind],
            [run["without_trained"] for run in of_kind],
            [run["without_copies"] for run in of_kind],
            [run["accuracy"][TRAINED] for run in of_kind],
        )
        sizes = statistics.mean(run["training_reviews"] for run in of_kind)
        cells = [f"{sizes:,.0f}", str(len(of_kind)), *map(records.mean_of, columns)]
        kind = name.removeprefix("imdb_").replace("_", " ")
        lines.append(f"| {model}, {' | '.join([kind, *cells])} |")
    return lines


def _of(runs: Runs, model: str, name: str) -> Runs:
    return [run for run in runs if (run["model"], run["dataset"]) == (model, name)]


def gain(runs: Runs, model: str) -> tuple[float, float]:
    """What repeats in training add, in points of accuracy, over the seeds.

    Returns:
      The mean and deviation of the differences between runs of one seed, by the test
      reviews that are in no training split.
    """
    with_, without_ = (
        {run["seed"]: run["without_trained"] for run in _of(runs, model, name)}
        for name in KINDS
    )
    gains = [
        with_[seed] - without_[seed] for seed in sorted(with_.keys() & without_.keys())
    ]
    spread = statistics.stdev(gains) if len(gains) > 1 else math.nan
    return statistics.mean(gains), spread


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_enum(
        *("model", "words", ("words", "lstm")),
        "words: logistic regression on the words of a review; lstm: `imdb_lstm` by SGD "
        "at width 0.25, 3 epochs of the paper's 15",
    )
    flags.DEFINE_integer(
        "seeds", 5, "how many runs of each of the two kinds", lower_bound=1
    )
    cli.define_path(
        "dir",
        None,
        "for the workdirs of the LSTMs, which continue there; default: a temporary one",
    )
    cli.define_path(
        "out", None, "add the runs to this record after each; default: only print"
    )


def main() -> None:
    """Trains, prints and adds to the record."""
    values = flags.FLAGS
    folder = Path(values.dir or tempfile.mkdtemp())
    for name, drop in KINDS.items():
        opened = functools.partial(_opened, drop=drop)
        register_dataset(name, get_dataset("imdb_reviews")._replace(open=opened))
    runs = records.runs_of(values.out)
    for seed in range(values.seeds):
        for name in KINDS:
            if values.model == "lstm":
                run = of_lstm(name, seed, folder / f"{name}_{seed}")
            else:
                run = of_words(name, seed)
            runs = records.with_run(runs, run, KEY)
            records.write(values.out, {"lstm": LSTM, "runs": runs, **records.origin()})
    print("\n".join(rows(runs)))
    found, spread = gain(runs, values.model)
    print(f"{values.model}: repeats add {found:.3f} points, deviation {spread:.3f}")


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", unwinds=True)


if __name__ == "__main__":
    run()
