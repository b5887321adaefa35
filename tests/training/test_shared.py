"""Successive runs share data and programs, and their results do not change."""

import pytest

from iterand_jax.data.resident_feed import ResidentArrays
from iterand_jax.training import loop
from iterand_jax.training.shared import Shared
from iterand_jax.training.train import train_config


@pytest.fixture
def counted(monkeypatch):
    """Counts how often programs are compiled and data is opened."""
    found = {"compiled": 0, "opened": 0}
    compile_programs, opening = loop.compile_programs, ResidentArrays.open

    def compiled(*arguments):
        found["compiled"] += 1
        return compile_programs(*arguments)

    def opened(self, *arguments):
        found["opened"] += 1
        return opening(self, *arguments)

    monkeypatch.setattr(loop, "compile_programs", compiled)
    monkeypatch.setattr(ResidentArrays, "open", opened)
    return found


@pytest.mark.slow
def test_runs_of_one_form_share_programs_and_data_and_train_as_alone(
    counted, tiny_config, tmp_path
):
    shared = Shared()

    def train(name, shared=None, **fields):
        config = tiny_config(epochs=1, **fields)
        return train_config(config, str(tmp_path / name), shared=shared)

    train("a", shared, seed=0)
    assert counted == {"compiled": 1, "opened": 1}
    same = train("b", shared, seed=1)
    assert counted == {"compiled": 1, "opened": 1}
    assert "program step" not in same["startup"]
    other = train("c", shared, seed=1, method="edge_popup")
    assert counted == {"compiled": 2, "opened": 1}
    train("d", shared, seed=2)  # the programs of the first form are still there
    assert counted == {"compiled": 2, "opened": 1}
    train("e", shared, seed=0, batch_size=32)
    assert counted == {"compiled": 3, "opened": 2}
    train("f", shared, seed=0)  # other data have replaced them
    assert counted == {"compiled": 4, "opened": 3}

    for result, fields in (
        (same, {"seed": 1}),
        (other, {"seed": 1, "method": "edge_popup"}),
    ):
        alone = train(f"alone {fields}", **fields)
        assert alone["state_sha256"] == result["state_sha256"]
        assert alone["validation_accuracies"] == result["validation_accuracies"]
        assert alone["test_loss"] == result["test_loss"]


@pytest.mark.slow
def test_only_the_newest_programs_are_kept(counted, tiny_config, tmp_path):
    shared = Shared(number=1)
    for i, method in enumerate(["sgd", "edge_popup", "sgd"]):
        config = tiny_config(epochs=1, method=method)
        train_config(config, str(tmp_path / str(i)), shared=shared)
    assert counted == {"compiled": 3, "opened": 1}
