"""A ResNet trains on ImageNet by the command and is interrupted twice unharmed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from iterand_jax.data import prepare
from iterand_jax.training.logs import read_lines
from tests import helpers
from tests.helpers import encode

STEPS = 25
FIELDS = {
    "network.name": "imagenet_resnet18",
    "network.width": 0.0625,
    "batch_size": 4,
    "eval_batch_size": 4,
    "dataset.workers": 2,
    "epochs": 1,
    "warmup_epochs": 0,
    "final_epochs": 0,
    "k_per": 2,
    "checkpoint_every_steps": 3,
    "log_every_steps": 1,
}


@pytest.fixture
def data_dir(class_folders, smooth_image, tmp_path):
    """The ImageNet of `class_folders` with 90 training images more: 101, one truncated.

    Each is larger than a crop, as most of ImageNet's are.
    """
    files = tmp_path / "files"
    shutil.copytree(class_folders, files)
    classes = sorted((files / "train").iterdir())
    for i in range(90):
        image = smooth_image(10 + i, 230 + 2 * i, 300)
        (classes[i % 3] / f"more_{i}.JPEG").write_bytes(encode(image))
    prepare.prepare("imagenet2012", str(tmp_path / "data"), str(files))
    return tmp_path / "data"


@contextlib.contextmanager
def started(data_dir, workdir):
    """The command in its own process group, which is killed at the end."""
    flags = ["--config=configs/imagenet_resnet50.py", f"--data_dir={data_dir}"]
    flags += [f"--workdir={workdir}"]
    flags += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    process = helpers.started(
        *helpers.command("main", *flags),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def train(data_dir, workdir):
    """Trains to the end; returns the output."""
    with started(data_dir, workdir) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def saved(workdir):
    """The steps of the complete checkpoints."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return [int(name) for name in names if name.isdigit()]


def stop_while_it_trains(data_dir, workdir, stop, *, beyond):
    """Stops the run once it has a checkpoint and logged a step beyond this one.

    Its pipe ends when the last process that could write to it has ended. Returns its
    status, and what was printed.
    """
    with started(data_dir, workdir) as process:
        while process.poll() is None:
            lines = read_lines(workdir / "metrics.jsonl")
            if saved(workdir) and lines[-1]["step"] > beyond:
                stop(process.pid)
                break
            time.sleep(0.01)
        said, _ = process.communicate(timeout=60)
    return process.returncode, said


def kill(pid):
    """Signals the main process only."""
    os.kill(pid, signal.SIGKILL)


def close_terminal(pid):
    """Signals the whole process group, as a closing terminal does."""
    os.killpg(pid, signal.SIGHUP)


def outcome(workdir):
    """The result and the log, without measured times."""
    result = json.loads((workdir / "result.json").read_text())
    return helpers.untimed(result), helpers.metrics(workdir)


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.usefixtures("attended")
def test_a_stopped_run_leaves_no_process_and_ends_with_the_same_bits(
    data_dir, tmp_path
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    status, said = stop_while_it_trains(data_dir, stopped, kill, beyond=4)
    assert status == -signal.SIGKILL, said
    step = read_lines(stopped / "metrics.jsonl")[-1]["step"]
    assert 4 < step < STEPS
    status, said = stop_while_it_trains(data_dir, stopped, close_terminal, beyond=step)
    assert status == 75, said
    last = max(saved(stopped))
    assert step < last < STEPS
    said = train(data_dir, stopped)
    assert f"continuing from the checkpoint at step {last}" in said
    assert "truncated.JPEG" in train(data_dir, whole)
    result, lines = outcome(whole)
    assert (result, lines) == outcome(stopped)
    assert result["test_examples"] == 4  # of 5, one of which is truncated
    assert len(result["state_sha256"]) == 64
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1), STEPS]
    assert result["redrawn"] > 0
