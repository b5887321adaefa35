"""A run that is stopped by a signal saves its last step, and resumes from there."""

import os
import pty
import signal
import subprocess
import threading

import pytest

from iterand_jax.runtime.signals import (
    SIGNALS,
    InterruptedRunError,
    stop_requests,
)
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.logs import read_lines
from tests import helpers
from tests.helpers import assert_one_line_error, wait_for_step

LONG = ("--config.epochs=100000", "--config.network.width=0.0625")


def test_a_signal_in_the_last_step_leaves_the_test_to_the_next_start(
    tiny_config, tmp_path, capsys
):
    """So a run of several stages does not begin the next one."""
    config = tiny_config(epochs=1)
    with helpers.signalled(19, signal.SIGTERM):
        helpers.train(config, tmp_path)
    outcome = helpers.train(config, tmp_path)
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
    with helpers.stopped(20, signal.SIGTERM):
        helpers.train(tiny_config(epochs=1), tmp_path)
    assert (tmp_path / "checkpoints" / "20").is_dir()


@pytest.fixture
def interruptible():
    """Python's default handler of Ctrl-C, which a background job does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.smoke
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
    """Neither the run nor the progress bar can write to it any more."""
    command = helpers.command("main", f"--workdir={tmp_path}", *LONG)
    terminal, end = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    with helpers.started(*command, **streams) as process:
        os.close(end)
        step = wait_for_step(1, tmp_path, process)
        os.close(terminal)
        wait_for_step(step + 50, tmp_path, process)  # each of which updates the bar
        os.kill(process.pid, signal.SIGHUP)
    assert process.returncode == 75
    step = read_lines(tmp_path / "metrics.jsonl")[-1]["step"]
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert max(steps) >= step


@pytest.mark.slow
@pytest.mark.usefixtures("attended")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 75), (signal.SIGINT, 130)],
)
def test_the_status_of_the_command_shows_who_stopped_it(number, status, tmp_path):
    command = helpers.command("main", f"--workdir={tmp_path}", *LONG)
    with helpers.started(*command, stdout=subprocess.DEVNULL) as process:
        wait_for_step(1, tmp_path, process)
        assert_one_line_error(helpers.python(*command), "another process trains in")
        os.kill(process.pid, number)
        said = process.communicate()[1].splitlines()[-1]
    assert process.returncode == status
    assert f"by {number.name}; the same command continues from there" in said
    step = int(said.split("step ")[1].split(" ")[0].replace(",", ""))
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
