"""What is extracted of a run's log, and that the page has the rows of the record."""

import json
from pathlib import Path

import pytest

from experiments.measurements import long_runs
from iterand_jax.training.train import train_config

ROOT = Path(__file__).parents[3]


def test_the_page_has_the_rows_of_the_record():
    runs = json.loads((ROOT / long_runs.RECORD).read_text())["runs"]
    page = (ROOT / "docs/measured/numbers.md").read_text()
    for row in long_runs.rows(runs):
        assert row in page


def test_resamplings_are_those_of_the_refreshes():
    runs = json.loads((ROOT / long_runs.RECORD).read_text())["runs"]
    for run in runs:
        found = run["redrawn"] / run["parameters"]
        assert found == pytest.approx(long_runs.expected_redraws(run), rel=2e-3)


@pytest.mark.smoke
def test_a_run_is_extracted(tiny_config, tmp_path, monkeypatch, capsys, command):
    config = tiny_config(epochs=2, log_every_steps=1)
    train_config(config, str(tmp_path / "runs" / "one"))
    record, figure = tmp_path / "record.json", tmp_path / "churn.png"
    monkeypatch.setattr(long_runs, "EPOCHS", (1, 2))
    given = {"workdirs": tmp_path / "runs", "record": record, "figure": figure}
    flags = [f"--{name}={value}" for name, value in given.items()]
    assert command(long_runs, *flags) == 0
    (run,) = json.loads(record.read_text())["runs"]
    lines = (tmp_path / "runs/one/metrics.jsonl").read_text().splitlines()
    churns = [json.loads(line).get("mask_churn") for line in lines]
    churns = [churn for churn in churns if churn is not None]
    assert len(churns) == run["steps"]
    assert run["changes"] == pytest.approx(sum(churns), abs=1e-3)
    half = len(churns) // 2
    first = 100 * sum(churns[:half]) / half
    assert run["churn"][0] == pytest.approx(first, abs=1e-4)
    assert len(run["churn"]) == 2
    assert figure.stat().st_size > 1000
    assert "| 1 |" in capsys.readouterr().out
