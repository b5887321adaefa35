"""The loader's throughput is measured on photographs, and settings follow from it."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from experiments.measurements import input_rate
from iterand_jax.training import provenance


def test_the_report_says_how_many_of_enough_cores_to_use():
    report = input_rate.report({"0": 650.0, "1": 600.0, "8": 4000.0}, cores=16)
    lines = report.splitlines()
    assert lines[1:4] == ["      0       650", "      1       600", "      8     4,000"]
    assert lines[-1] == "Set --config.dataset.workers=5."
    assert "5 workers" in report
    assert "500 images/s each" in report


def test_the_report_says_what_to_expect_of_too_few_cores():
    report = input_rate.report({"0": 500.0, "1": 480.0, "2": 900.0}, cores=2)
    assert "6 workers" in report
    assert report.splitlines()[-1] == (
        "The cores here (2) feed 36% of that: set --config.dataset.workers=2, and "
        "expect 900 images/s at most."
    )


@pytest.mark.parametrize(
    ("rates", "setting", "expected"),
    [
        # The smallest sufficient number counts: more workers share the cores.
        ({"4": 2200, "8": 4000, "16": 4100}, 5, None),
        ({"4": 2200, "8": 2600, "16": 2700}, 8, None),
        # Fewer workers than cores were tried, so the rate is scaled to the cores.
        ({"0": 420, "1": 400}, 6, None),
        ({"0": 120, "1": 100, "2": 200}, 16, "1,600"),
        # More workers were no faster.
        ({"4": 2000, "8": 1900, "16": 1800}, 4, "2,000"),
        ({"8": 1600, "16": 2400}, 16, "2,400"),
        # More workers than cores do not add cores.
        ({"16": 2300, "32": 2350}, 32, "2,350"),
    ],
)
def test_the_advice_follows_what_was_measured(rates, setting, expected):
    last = input_rate.report(rates, cores=16).splitlines()[-1]
    assert re.findall(r"workers=(\d+)", last) == [str(setting)]
    assert re.findall(r"expect ([\d,]+) images", last) == (
        [expected] if expected else []
    )


def test_workers_that_share_cores_do_not_look_slow():
    report = input_rate.report({"2": 800.0, "4": 810.0}, cores=2)
    assert "7 workers with a core each, at 405 images/s each" in report


def test_counts_go_up_to_the_cores(monkeypatch):
    for cores, expected in ((1, [0, 1]), (6, [0, 1, 2, 4, 6]), (8, [0, 1, 2, 4, 8])):
        monkeypatch.setattr(input_rate, "cores", lambda n=cores: n)
        assert input_rate.powers() == expected


def test_photographs_have_the_size_that_is_asked_for():
    files = list(input_rate.photographs(3))
    assert len(set(files)) == 3
    assert 110_000 < np.mean([len(content) for content in files]) < 125_000
    pixels = np.asarray(Image.open(io.BytesIO(files[0])), float)
    assert pixels.shape == (375, 500, 3)
    neighbours = np.corrcoef(pixels[:, 1:, 1].ravel(), pixels[:, :-1, 1].ravel())
    assert neighbours[0, 1] > 0.8


@pytest.mark.slow
def test_the_whole_command(tmp_path, monkeypatch, capsys, command):
    for name, value in (("IMAGES", 16), ("BATCH_SIZE", 4), ("WINDOWS", 2)):
        monkeypatch.setattr(input_rate, name, value)
    out = tmp_path / "new" / "rate.json"
    assert command(input_rate, "--workers=0,1", f"--out={out}") == 0
    record = json.loads(out.read_text())
    assert list(record["images_per_second"]) == ["0", "1"]
    assert all(rate > 0 for rate in record["images_per_second"].values())
    assert record["device"] == provenance.device()
    printed = capsys.readouterr().out
    assert "workers  images/s" in printed
    assert printed.endswith(f"wrote {out}\n")
