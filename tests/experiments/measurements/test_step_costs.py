"""The cost of a step is measured for every config, on data of its shapes."""

import json

import pytest

from experiments.measurements import step_costs


def test_an_unknown_config_is_named(fails):
    words = "unknown config 'cifar_conv7'; possible: cifar_conv2"
    fails(step_costs, ["--configs=digits,cifar_conv7"], words)


@pytest.mark.slow
def test_a_measurement_is_printed_and_recorded(tmp_path, capsys, command):
    out = tmp_path / "new" / "costs.json"
    assert command(step_costs, "--configs=digits", f"--out={out}") == 0
    record = json.loads(out.read_text())
    (row,) = record["rows"]
    assert (row["config"], row["shape"], row["batch_size"]) == (
        "digits",
        "64x8x8x1",
        64,
    )
    assert len(row["seconds"]) == step_costs.STEPS
    assert min(row["seconds"]) <= row["median"] <= max(row["seconds"])
    assert row["process_mib"] > row["compiler_mib"] > 1
    assert row["checkpoint_written"] > row["checkpoint_stops"] > 0
    assert row["checkpoint_mib"] > 0.1
    assert record["versions"]["jax"]
    assert "64x8x8x1" in capsys.readouterr().out
