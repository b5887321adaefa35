"""One command from nothing: download, checksum, runs, ledger, report."""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from experiments.sweeps import ledger
from tests.data.test_prepare import CIFAR10_ARCHIVE, CLASSES, tar

ROOT = Path(__file__).parents[2]
COMMAND = """
import hashlib, sys
from pathlib import Path
from experiments import run
from experiments.paper import catalogue
from experiments.paper.experiment import Experiment, Lines, Miniature, grid
from iterand_jax.data import archives
from iterand_jax.runtime import cli

url, size, digest = sys.argv[1], int(sys.argv[2]), sys.argv[3]
archive = archives.Archive(url, size, digest, False)
archives.registered_archives = lambda builder: {Path(url).name: archive}
small = Experiment(
    name="small",
    title="A table of CIFAR-10",
    configs={"conv2": "cifar_conv2"},
    rows=grid(network=["conv2"], method=["iterand", "edge_popup"], width=[0.0625]),
    seeds=1,
    overrides={"epochs": 2, "batch_size": 8, "eval_batch_size": 8},
    figure=Lines(x="width"),
    miniature=Miniature(note="none", parts=[]),
)
catalogue.EXPERIMENTS = {**catalogue.EXPERIMENTS, "small": small}
catalogue.published()["small"] = {}
del sys.argv[1:4]
cli.run(run.main, run.define_flags, positional=1)
"""


def made_up_archive():
    """CIFAR-10's binary version in its official layout, with ten images a file."""
    folder = "cifar-10-batches-bin"
    files = {f"{folder}/batches.meta.txt": "\n".join([*CLASSES, "", ""]).encode()}
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = generator.integers(0, 256, (10, 3072), np.uint8)
        rows = (bytes([label]) + row.tobytes() for label, row in enumerate(pixels))
        files[f"{folder}/{name}.bin"] = b"".join(rows)
    return tar(files, "w:gz")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    """The URL of a made-up archive on a server of this machine, and its bytes."""
    content = made_up_archive()
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / CIFAR10_ARCHIVE).write_bytes(content)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{CIFAR10_ARCHIVE}", content
        server.shutdown()


@pytest.mark.slow
def test_one_command_downloads_checks_trains_and_reports(served, tmp_path):
    url, content = served
    digest = hashlib.sha256(content).hexdigest()
    folders = {
        name: tmp_path / name for name in ("data_dir", "workdir", "results", "report")
    }
    options = [f"--{name}={folder}" for name, folder in folders.items()]

    def command(sha256, *flags):
        return subprocess.run(
            [
                *(sys.executable, "-c", COMMAND, url, str(len(content)), sha256),
                *("small", *options, *flags),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    wrong = command("0" * 64, "--only=iterand")
    assert wrong.returncode == 1
    assert f"SHA-256 {digest}, not the official" in wrong.stderr
    assert not list(folders["results"].glob("*.jsonl"))

    done = command(digest, "--within=1h")
    assert done.returncode == 0, done.stderr
    lines = list(ledger.read(folders["results"]))
    assert sorted(line["config"]["method"] for line in lines) == [
        "edge_popup",
        "iterand",
    ]
    assert all(len(line["validation_accuracies"]) == 2 for line in lines)
    planned = done.stdout.splitlines()
    assert planned[0] == "small: 2 runs, 0 of them finished"
    assert planned[1].split() == ["run", "start-up", "steps", "ends", "after"]
    assert planned[4].startswith("within 1.0 h on ")
    assert "2 runs finished" in planned
    text = (folders["report"] / "small.md").read_text()
    assert "2 of 2 runs." in text
    assert "small_learning.png" in text
    assert (folders["report"] / "small_learning.png").stat().st_size > 10_000

    again = command(digest, "--within=1h")
    assert again.stdout == "small: 2 runs, 2 of them finished\n"
