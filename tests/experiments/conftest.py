"""Shared fixtures of sweeps: a tiny experiment, and lines without a run."""

import pytest

from experiments.paper import catalogue
from experiments.paper.experiment import Experiment, Lines, Miniature, Part, grid
from experiments.sweeps import ledger
from experiments.sweeps.runs import Run

TINY = Experiment(
    name="tiny",
    title="A table of digits",
    configs={"conv2": "digits"},
    rows=grid(network=["conv2"], method=["iterand", "edge_popup"], width=[0.0625]),
    seeds=2,
    overrides={"epochs": 3, "checkpoint_every_steps": 10},
    figure=Lines(x="width"),
    miniature=Miniature(
        note="one epoch",
        parts=[
            Part(
                grid(network=["conv2"], method=["iterand"], width=[0.0625]),
                epochs=1,
            )
        ],
    ),
)


@pytest.fixture
def tiny(monkeypatch):
    """An experiment of four short runs, known by its name."""
    experiments = dict(catalogue.EXPERIMENTS) | {TINY.name: TINY}
    monkeypatch.setattr(catalogue, "EXPERIMENTS", experiments)
    monkeypatch.setitem(catalogue.published(), TINY.name, {})
    catalogue.paper_numbers.cache_clear()
    return TINY


@pytest.fixture
def line():
    """Makes a line of the ledger without training anything."""

    def make(cell, seed, accuracy, *, experiment="table3", miniature=False, **fields):
        run = Run(cell, seed, cell.config(seed))
        result = {
            **dict.fromkeys(ledger.NUMBERS, 1.0),
            "test_accuracy": accuracy,
            "validation_accuracy_last": accuracy + 1,
            "parameters": 4_000_000,
            "parameters_kept": 2_000_000,
            "steps": 351 * run.config.epochs,
            "state_sha256": "0" * 64,
            "seconds": {"training": 3600.0, "re-randomization": 36.0},
            "device": "1 x test device",
            "versions": {"jax": "0.1", "jaxlib": "0.2", "iterand_jax": "0.3"},
            "commit": "abc",
            "dataset": run.config.dataset.name,
            "dataset_fingerprint": "f" * 16,
            "dataset_official": True,
            "dtype": run.config.dtype,
            "matmul_precision": run.config.matmul_precision,
            "precision": run.config.dtype,
            "startup": {"program step": {"begin": 1.0, "end": 3.5, "cached": False}},
            "validation_accuracies": [accuracy],
            "ticket_bytes": 20_000 + 10 * len(cell.name),
        }
        made = ledger.line_of(run, result, experiment=experiment, miniature=miniature)
        return made | {"finished": "2026-01-01T00:00:00+00:00"} | fields

    return make
