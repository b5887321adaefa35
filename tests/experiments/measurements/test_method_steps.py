"""The cost of steps by method: ratios of one run, and one line for bad input."""

import json

import pytest

from experiments.measurements import method_steps


def test_steps_of_methods_are_timed_by_turns(tmp_path, capsys, monkeypatch, command):
    calls = []

    def steps(config, width, name):
        assert (config, width) == ("digits", 0.0625)
        return lambda: calls.append(name), 1

    monkeypatch.setattr(method_steps, "_steps", steps)
    flags = ["--config=digits", "--width=0.0625", "--rounds=3"]
    out = tmp_path / "record.json"
    flags += ["--methods=biprop,gem_miner", f"--out={out}"]
    assert command(method_steps, *flags) == 0
    names = ["edge_popup", "edge_popup again", "biprop", "gem_miner"]
    assert calls == 3 * names
    record = json.loads(out.read_text())
    assert record["config"] == "digits"
    assert (record["width"], record["rounds"]) == (0.0625, 3)
    assert list(record["rows"]) == names
    assert record["rows"]["edge_popup"]["ratio"] == 1
    assert "biprop" in capsys.readouterr().out


@pytest.mark.slow
def test_every_method_of_the_table_makes_steps():
    rows = method_steps.measure("digits", 0.0625, ["relaxed_bernoulli", "biprop"], 1)
    assert all(row["milliseconds"] > 0 for row in rows.values())
