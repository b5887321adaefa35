"""Runs of several processes: as one process, and broken in every way."""

import random
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import faults
from iterand_jax.training.logs import read_lines
from iterand_jax.training.workdir import restore

CONV6 = (
    "--config.network.name=conv6",
    "--config.network.width=0.0625",
    "--config.recipe.iterand.k_per=7",
    "--config.log_every_steps=2",
    "--config.epochs=1",
)


def train(workdir, *flags, processes):
    """Trains Conv6 in one process with one device, or in several with two each."""
    command = [sys.executable, "-m", "iterand_jax.main"]
    if processes > 1:
        command = [*command[:2], "iterand_jax.launch", f"--processes={processes}"]
        command += ["--devices_per_process=2", "--"]
    command += [f"--workdir={workdir}", *CONV6, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_keep_and_redraw_what_one_does(tmp_path):
    """With a learning rate too small to move a score, all bits are equal."""
    states = []
    for processes in (1, 2):
        workdir = tmp_path / str(processes)
        train(workdir, "--config.learning_rate=1e-30", processes=processes)
        states.append(restore(workdir))
    assert states[0].record["redrawn"] == states[1].record["redrawn"] > 0
    for part in ("trainable", "frozen", "masks"):
        one, two = (getattr(restored.state, part) for restored in states)
        jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_the_first_alone_tells(tmp_path):
    said = {n: train(tmp_path / str(n), processes=n) for n in (1, 2)}
    logs = [read_lines(tmp_path / str(n) / "metrics.jsonl") for n in (1, 2)]
    for one, two in zip(*logs, strict=True):
        np.testing.assert_allclose(one["train_loss"], two["train_loss"], rtol=1e-3)
        assert one["redrawn"] == two["redrawn"]
    lines = said[2].splitlines()
    assert any("4 x " in line and "of 2 processes" in line for line in lines)
    assert [line for line in lines if not line.startswith("[0] ")] == []


@pytest.mark.slow
def test_a_run_of_two_processes_survives_faults_to_the_bit(tmp_path):
    run = faults.Run(tmp_path, processes=2, epochs=40)
    record = faults.campaign(run, faults.KINDS, random.Random(0))
    assert record["injected"] == record["survived"] == dict.fromkeys(faults.KINDS, 1)
    assert record["same"]
    assert record["bytes_compared"] > 10_000
    assert record["lines_compared"] == 40 * 3
    for done in record["rounds"]:
        terminated = done["fault"] == "terminate"
        assert done["status"] == (75 if terminated else 128 + 9)
        assert done["others_ended_by_themselves"], done
        assert faults.TOLD[3 if terminated else 0] in done["told"]
        assert terminated or {*faults.TOLD[1:3]} & {*done["told"]}, done


@pytest.mark.slow
def test_an_error_of_the_first_process_is_a_line_of_each(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    command = [sys.executable, "-m", "iterand_jax.launch", "--processes=2", "--"]
    command += [f"--workdir={tmp_path}", *CONV6]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if "error: " in line]
    assert len(errors) == 2, done.stdout
    assert "[1] error: process 0: " in "".join(errors)
    assert "ended first, by status 2" in done.stderr
    assert "stopping what still runs" not in done.stderr
