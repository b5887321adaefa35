"""A run that is asked to stop saves its last step, and continues from there."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from iterand_jax.data import datasets
from iterand_jax.runtime.signals import (
    SIGNALS,
    InterruptedRunError,
    stop_requests,
)
from iterand_jax.training import loop
from iterand_jax.training import run as building
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import resolve
from iterand_jax.training.logs import read_lines


def run(config, workdir, signals=()):
    """Trains; `signals` maps steps to the signals that come while they are done."""
    built = building.build(resolve(config), datasets.open_source("digits"))
    batch = built.feed.batch

    def batch_and_signal(step):
        if step in signals:
            signal.raise_signal(signals[step])
        return batch(step)

    built.feed.batch = batch_and_signal
    workdir.mkdir(exist_ok=True)
    return loop.train_and_evaluate(built, workdir)


def metrics(workdir):
    lines = read_lines(workdir / "metrics.jsonl")
    return [line | {"examples_per_second": 0} for line in lines]


def test_a_stopped_run_ends_with_the_same_bits(tiny_config, tmp_path, capsys):
    config = tiny_config()
    whole = run(config, tmp_path / "whole")
    before = [signal.getsignal(number) for number in SIGNALS]
    for step, number in ((33, signal.SIGTERM), (45, signal.SIGINT)):
        with pytest.raises(InterruptedRunError) as stopped:
            run(config, tmp_path / "stopped", {step: number})
        assert stopped.value.step == step + 1
        assert stopped.value.number == number
        assert f"stopped at step {step + 1} by {number.name}" in str(stopped.value)
        assert [signal.getsignal(number) for number in SIGNALS] == before
    capsys.readouterr()
    resumed = run(config, tmp_path / "stopped")
    assert "continuing from the checkpoint at step 46" in capsys.readouterr().out
    assert resumed.state_sha256 == whole.state_sha256
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_signal_in_the_last_step_leaves_the_test_to_the_next_start(
    tiny_config, tmp_path, capsys
):
    """So a run of several stages does not begin the next one."""
    config = tiny_config(epochs=1)
    with pytest.raises(InterruptedRunError, match="stopped at step 20 by SIGTERM"):
        run(config, tmp_path, {19: signal.SIGTERM})
    outcome = run(config, tmp_path)
    assert "continuing from the checkpoint at step 20" in capsys.readouterr().out
    assert int(outcome.state.step) == 20


def test_a_signal_while_the_last_checkpoint_is_written_counts(
    tiny_config, tmp_path, monkeypatch
):
    wait = Checkpoints.wait

    def signalled(self):
        signal.raise_signal(signal.SIGTERM)
        wait(self)

    monkeypatch.setattr(Checkpoints, "wait", signalled)
    with pytest.raises(InterruptedRunError, match="stopped at step 20 by SIGTERM"):
        run(tiny_config(epochs=1), tmp_path)
    assert (tmp_path / "checkpoints" / "20").is_dir()


@pytest.fixture
def interruptible():
    """Python's own answer to Ctrl-C, which a job in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_acts_as_ever():
    with stop_requests() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_after_another_process_stopped_the_run_does_not_kill_this_one():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(InterruptedRunError), stop_requests() as request:
        raise InterruptedRunError(3, signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert request.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_threads_that_cannot_receive_signals_have_no_requests():
    seen = []

    def ask():
        with stop_requests() as request:
            seen.append(request.number)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [None]


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert request.number is None


@pytest.mark.slow
@pytest.mark.usefixtures("attended")
def test_a_run_whose_terminal_is_closed_saves_its_step(tmp_path):
    """It can no longer write a word there, the progress bar neither."""
    flags = ["--config.epochs=100000", "--config.network.width=0.0625"]
    command = [sys.executable, "-m", "iterand_jax.main", f"--workdir={tmp_path}"]
    terminal, end = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    with subprocess.Popen(command + flags, **streams) as process:
        os.close(end)
        step = wait_for_step(1, tmp_path, process)
        os.close(terminal)
        wait_for_step(step + 50, tmp_path, process)  # each of which the bar would tell
        os.kill(process.pid, signal.SIGHUP)
    assert process.returncode == 75
    step = read_lines(tmp_path / "metrics.jsonl")[-1]["step"]
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert max(steps) >= step


@pytest.mark.slow
@pytest.mark.usefixtures("attended")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)],
)
def test_the_command_tells_by_its_status_who_stopped_it(number, status, tmp_path):
    flags = ["--config.epochs=100000", "--config.network.width=0.0625"]
    command = [sys.executable, "-m", "iterand_jax.main", f"--workdir={tmp_path}"]
    with subprocess.Popen(
        command + flags, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        wait_for_step(1, tmp_path, process)
        assert "another process trains in" in refused(command + flags)
        os.kill(process.pid, number)
        said = process.communicate()[1].splitlines()[-1]
    assert process.returncode == status
    assert f"by {number.name}; the same command continues from there" in said
    step = int(said.split("step ")[1].split(" ")[0].replace(",", ""))
    assert (tmp_path / "checkpoints" / str(step)).is_dir()


def wait_for_step(step, workdir, process):
    """Waits for a log line of this step or a later one; returns its step."""
    while True:
        assert process.poll() is None
        lines = read_lines(workdir / "metrics.jsonl")
        if lines and lines[-1]["step"] >= step:
            return lines[-1]["step"]
        time.sleep(0.02)  # the process may have no other core than this one


def refused(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    return done.stderr
