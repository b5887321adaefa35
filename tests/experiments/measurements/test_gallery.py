"""The gallery: its tickets are those of its ledger, and its page is made of it."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import iterand_jax
from experiments.measurements import gallery
from iterand_jax.data.datasets import open_source

FOLDER = Path(__file__).parents[3] / "results" / "gallery"
LINES = gallery.read(FOLDER)


def test_the_tickets_are_those_of_the_ledger():
    assert len(LINES) >= 6
    assert LINES.keys() <= gallery.RUNS.keys()
    for name, line in LINES.items():
        content = (FOLDER / name / gallery.TICKET).read_bytes()
        assert len(content) == line["bytes"] <= gallery.MOST
        assert hashlib.sha256(content).hexdigest() == line["sha256"]
        assert (FOLDER / name / "curves.png").exists()
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert folders == LINES.keys()


def test_the_page_is_that_of_the_ledger():
    assert (FOLDER / gallery.PAGE).read_text() == gallery.page(LINES)
    with_jpeg = [line["dataset_official"] for line in LINES.values()]
    assert ("Not the official pixels" in gallery.page(LINES)) is not all(with_jpeg)


def test_a_run_of_changes_that_were_not_committed_is_marked():
    clean = {name: line | {"commit": "a"} for name, line in LINES.items()}
    changed = clean | {"cifar_conv2": LINES["cifar_conv2"] | {"commit": "a+changes"}}
    assert "not committed" not in gallery.page(clean)
    assert "not committed" in gallery.page(changed)
    assert "| `cifar_conv2` \\*\\* |" in gallery.page(changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LINES))
def test_a_ticket_loads_by_the_lines_on_its_card(name, monkeypatch):
    monkeypatch.chdir(FOLDER / name)
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.S)
    texts, pixels = ["a good film"], np.zeros((2, 32, 32, 3), np.uint8)
    if name.startswith("digits"):
        pixels, labels = open_source("digits").read("test")
    scope = {"images": pixels, "texts": texts}
    exec(compile(code, "README.md", "exec"), scope)
    assert np.isfinite(scope["logits"]).all()
    if name.startswith("digits"):
        accuracy = 100 * np.mean(scope["logits"].argmax(1) == labels)
        assert accuracy == pytest.approx(LINES[name]["test_accuracy"], abs=1e-3)


@pytest.mark.slow
def test_an_entry_is_trained_exported_and_described(tmp_path, monkeypatch, command):
    fields = {"epochs": 1, "network.width": 1 / 16}
    monkeypatch.setattr(gallery, "RUNS", {"one": ("digits", fields)})
    folders = f"--workdir={tmp_path}/runs", f"--out={tmp_path}/out"
    assert command(gallery, *folders) == 0
    lines = gallery.read(tmp_path / "out")
    assert lines["one"]["command"].endswith("epochs=1 --config.network.width=0.0625")
    ticket = iterand_jax.load_ticket(tmp_path / "out" / "one" / gallery.TICKET)
    assert ticket.description.network["width"] == 1 / 16
    assert (tmp_path / "out" / "README.md").read_text() == gallery.page(lines)
