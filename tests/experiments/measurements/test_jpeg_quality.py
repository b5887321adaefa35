"""Images that are compressed again, and what that costs by pairs of one seed."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.measurements import jpeg_quality as measured
from iterand_jax.data.datasets import DATASETS
from iterand_jax.data.sources import Source
from tests.helpers import ROOT

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
SOURCE = Source(
    name="noise",
    num_classes=2,
    sizes={"train": 6},
    encoding="png",
    fingerprint="none",
    read={"train": (IMAGES, np.arange(6, dtype=np.int32) % 2)}.__getitem__,
)


def test_a_lower_quality_loses_more_and_is_another_dataset():
    found = {quality: measured.compressed(SOURCE, quality) for quality in (95, 75, 50)}
    images = {quality: source.read("train")[0] for quality, source in found.items()}
    losses = {
        quality: measured.distance(IMAGES, images[quality])["decibels"]
        for quality in found
    }
    assert losses[95] > losses[75] > losses[50] > 5
    assert len({source.fingerprint for source in found.values()} | {"none"}) == 4
    assert found[50].deviation == "compressed once more by JPEG at quality 50"
    assert found[50].read("train")[1].tolist() == [0, 1, 0, 1, 0, 1]


def test_colors_are_sampled_at_half_as_in_the_copy_at_hand():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, ::2] = 255, 0, 0  # red and black columns: their colors are mixed
    assert int(measured.again(image, 95)[:, 1::2, 0].min()) > 30


def test_the_cost_is_that_of_pairs_of_one_seed():
    accuracies = {
        "cifar10_as_it_is": [60.0, 70.0, 10.0],
        "cifar10_quality_75": [59.0, 67.0],
    }
    runs = [
        {"dataset": name, "method": "sgd", "seed": seed, "test_accuracy": accuracy}
        for name, found in accuracies.items()
        for seed, accuracy in enumerate(found)
    ]
    assert measured.rows(runs) == [
        "| as it is | sgd | 3 | 46.67 ± 32.15 |  |",
        "| once more at 75 | sgd | 2 | 63.00 ± 5.66 | -2.00 ± 1.41 |",
    ]


def test_the_page_has_the_rows_of_the_record():
    record = json.loads((ROOT / "results/jpeg_quality.json").read_text())
    assert record["fields"] == measured.FIELDS
    page = (ROOT / "docs/measured/data.md").read_text()
    for row in measured.rows(record["runs"]):
        assert row in page
    for distance in record["test images"].values():
        assert f"{distance['decibels']} dB" in page


def test_each_seed_has_all_datasets_before_the_next():
    found = measured.cells("sgd", 2)
    assert [seed for _, _, seed in found] == [0, 0, 0, 1, 1, 1]
    assert {name for name, _, _ in found[:3]} == measured.QUALITIES.keys()


@pytest.mark.slow
def test_shortened_runs_are_recorded_and_found_again(
    monkeypatch, tmp_path, command, capfd
):
    draw = np.random.default_rng(0)
    parts = {
        name: (draw.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n) % 10)
        for name, n in (("train", 300), ("test", 50))
    }
    sizes = {name: len(labels) for name, (_, labels) in parts.items()}
    changed = {"num_classes": 10, "sizes": sizes, "image_shape": (32, 32, 3)}
    source = dataclasses.replace(SOURCE, read=parts.__getitem__, **changed)
    monkeypatch.setattr(measured, "open_cifar10", lambda folder: source)
    monkeypatch.setattr(measured, "FIELDS", {"network.width": 1 / 16, "epochs": 1})
    flags = ("--seeds=1", f"--dir={tmp_path / 'runs'}", f"--out={tmp_path / 'r.json'}")
    assert command(measured, *flags) == 0
    printed = capfd.readouterr().out
    record = json.loads((tmp_path / "r.json").read_text())
    assert {run["dataset"] for run in record["runs"]} == measured.QUALITIES.keys()
    assert len({run["dataset_fingerprint"] for run in record["runs"]}) == 3
    found = record["test images"]
    assert found["cifar10_quality_75"] != found["cifar10_quality_50"]
    assert "\n".join(measured.rows(record["runs"])) in printed
    # As in a process of its own.
    shipped = {k: v for k, v in DATASETS.table.items() if k not in measured.QUALITIES}
    monkeypatch.setattr(DATASETS, "table", shipped)
    assert command(measured, *flags) == 0
    assert "finished" in capfd.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["runs"] == record["runs"]
