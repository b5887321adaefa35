"""Which reviews are repeats, and what is left when they are taken out."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.measurements import review_repeats as measured
from iterand_jax.data.sources import Source

ROOT = Path(__file__).parents[3]
TEXTS = {
    "train": (["a", "b", "a", "c", "d"], np.array([1, 0, 1, 0, 1], np.int32)),
    "test": (["e", "c", "f", "e", "c"], np.array([0, 0, 1, 0, 0], np.int32)),
}
SOURCE = Source(
    name="texts",
    num_classes=2,
    sizes={"train": 5, "test": 5},
    encoding="text",
    fingerprint="none",
    read=TEXTS.__getitem__,
)


@pytest.mark.parametrize(
    ("drop", "train"), [(False, ["a", "b", "a", "c", "d"]), (True, ["a", "b", "d"])]
)
def test_repeats_are_left_out_of_training_alone(drop, train):
    source = measured.with_more_splits(SOURCE, drop=drop)
    found = {split: source.read(split) for split in source.sizes}
    assert found["train"][0] == train
    assert found["test"][0] == TEXTS["test"][0]
    assert found[measured.TRAINED][0] == ["c", "c"]
    assert found[measured.COPIES][0] == ["e", "c"]
    for split, (texts, labels) in found.items():
        assert len(texts) == len(labels) == source.sizes[split]
    if drop:
        assert found["train"][1].tolist() == [1, 0, 1]


def test_the_page_has_the_rows_of_the_record():
    runs = json.loads((ROOT / "results/review_repeats.json").read_text())["runs"]
    page = (ROOT / "docs/measured/data.md").read_text()
    for row in measured.rows(runs):
        assert row in page


def test_the_gain_is_that_of_pairs_of_one_seed():
    def run(name, seed, accuracy):
        fields = {"model": "words", "dataset": name, "seed": seed}
        return {**fields, "without_trained": accuracy}

    whole, left_out = measured.KINDS
    accuracies = [(whole, 0, 80.0), (whole, 1, 84.0)]
    accuracies += [(left_out, 1, 82.0), (left_out, 0, 80.0), (left_out, 2, 10.0)]
    found = measured.gain([run(*row) for row in accuracies], "words")
    assert found == (1.0, pytest.approx(2**0.5))
