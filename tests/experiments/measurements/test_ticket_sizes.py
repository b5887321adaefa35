"""The sizes of tickets: exact for masks and signs, and measured in a run."""

import json

import numpy as np
import pytest

from experiments.measurements import ticket_sizes
from iterand_jax.training.train import train_config

TINY = {
    "network.width": 1 / 16,
    "recipe.iterand.sparsity": 0.5,
    "sizes": {"train": 1280, "test": 10},
}


@pytest.mark.smoke
def test_sizes_of_a_tiny_network():
    few = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    found = ticket_sizes.bytes_of("cifar_conv2", few, **TINY)
    parameters = found["float32"] // 4
    assert found["edge_popup"] == pytest.approx(parameters / 8, abs=5)
    # Half of the weights have a sign, and each of the five leaves has a scale.
    signed = 1.5 * parameters / 8 + 5 * 4
    assert found["signed_constant"] == pytest.approx(signed, abs=10)
    assert found["edge_popup"] < found["iterand_as_measured"] < found["float32"]
    worst, refreshes = found["iterand_at_worst"], found["refreshes"]
    assert refreshes > 0
    assert found["iterand_as_measured"] < worst < found["float32"]


@pytest.mark.slow
def test_the_draws_of_a_run_are_resampled(tiny_config, tmp_path, monkeypatch, command):
    monkeypatch.setattr(ticket_sizes, "NETWORKS", ())
    config = tiny_config(distribution="kaiming_uniform", epochs=1)
    train_config(config, str(tmp_path / "run"))
    out = tmp_path / "sizes.json"
    assert command(ticket_sizes, f"--workdir={tmp_path / 'run'}", f"--out={out}") == 0
    run = json.loads(out.read_text())["measured_in"]
    assert run["refreshes"] == 2
    assert 0.5 < run["never_redrawn"] <= 1
    numbers, _ = ticket_sizes.measured_in(tmp_path / "run")
    assert set(np.unique(numbers)) <= {0, 1, 2}
    train_config(tiny_config(epochs=1), str(tmp_path / "constant"))
    with pytest.raises(ValueError, match="signed_constant; possible: iterand with Kai"):
        ticket_sizes.measured_in(tmp_path / "constant")
