"""Runs of several processes: equal to one process, and with injected failures."""

import os
import pty
import random
import select
import signal
import time

import jax
import numpy as np
import pytest

from experiments.measurements.faults import kills as faults
from iterand_jax.training.logs import read_lines
from iterand_jax.training.workdir import restore
from tests import helpers

CONV6 = (
    "--config.network.name=conv6",
    "--config.network.width=0.0625",
    "--config.recipe.iterand.k_per=7",
    "--config.log_every_steps=2",
    "--config.epochs=1",
)


def train(workdir, *flags, processes):
    """Trains Conv6 in one process with one device, or in several with two each."""
    flags = [f"--workdir={workdir}", *CONV6, *flags]
    if processes == 1:
        return helpers.printed(*helpers.command("main", *flags))
    several = [f"--processes={processes}", "--devices_per_process=2", "--"]
    return helpers.printed(*helpers.command("launch", *several, *flags))


@pytest.mark.slow
@pytest.mark.compiles
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
@pytest.mark.compiles
def test_two_processes_have_the_losses_of_one_and_the_first_alone_prints(tmp_path):
    said = {n: train(tmp_path / str(n), processes=n) for n in (1, 2)}
    logs = [read_lines(tmp_path / str(n) / "metrics.jsonl") for n in (1, 2)]
    for one, two in zip(*logs, strict=True):
        np.testing.assert_allclose(one["train_loss"], two["train_loss"], rtol=1e-3)
        assert one["redrawn"] == two["redrawn"]
    lines = said[2].splitlines()
    assert any("4 x " in line and "of 2 processes" in line for line in lines)
    assert [line for line in lines if not line.startswith("[0] ")] == []


KINDS = ("kill while saving", "terminate", "flip a bit")  # others: one process's


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("kinds", "epochs"),
    [
        pytest.param(KINDS[:1], 4, marks=pytest.mark.slow),
        pytest.param(KINDS, 12, marks=pytest.mark.exhaustive),
    ],
)
def test_a_run_of_two_processes_survives_faults_to_the_bit(kinds, epochs, tmp_path):
    run = faults.Run(tmp_path, processes=2, epochs=epochs)
    record = faults.campaign(run, kinds, random.Random(0))
    assert record["injected"] == record["survived"] == dict.fromkeys(kinds, 1)
    assert record["same"]
    assert record["bytes_compared"] > 10_000
    assert record["lines_compared"] == epochs * 3
    for done in record["rounds"]:
        terminated = done["fault"] == "terminate"
        assert done["status"] == (75 if terminated else 128 + 9)
        assert done["others_ended_by_themselves"], done
        assert faults.MESSAGES[3 if terminated else 0] in done["reported"]
        assert terminated or {*faults.MESSAGES[1:3]} & {*done["reported"]}, done


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_an_error_of_the_first_process_is_a_line_of_each(name, tmp_path):
    (tmp_path / name).write_text("not a folder")
    flags = ["--processes=2", "--", f"--workdir={tmp_path}", *CONV6]
    done = helpers.python(*helpers.command("launch", *flags))
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if "error: " in line]
    assert len(errors) == 2, done.stdout
    assert "[1] error: process 0: " in "".join(errors)
    assert "failed first: status 2" in done.stderr
    assert "killing what is still running" not in done.stderr


LAUNCH = """
import signal, sys
from iterand_jax import launch
sys.argv[1:] = ["--heartbeat_seconds=1"]
launch.COMMAND = (sys.executable, "-c", {script!r})
launch._PARTING_SECONDS = 0
{change}
launch.run()
"""
# Holds a file open, as a child in the same group; continues once the other does too.
HOLD = """
import os, signal, subprocess, sys, time
with open({path!r}, "w") as file:
    subprocess.Popen(["sleep", "600"], stdout=file)
print("ready")
open({path!r} + sys.argv[-1][-1], "w").close()
while not all(os.path.exists({path!r} + number) for number in "01"):
    time.sleep(0.01)
"""
FIRST = "sys.argv[-1] == '--process_id=0'"


def launch(script, *, change="", **streams):
    """Starts the launcher of two processes that run a script instead of training."""
    program = LAUNCH.format(script=script, change=change)
    return helpers.started("-c", program, **streams)


def test_processes_get_the_flags_and_the_imports():
    change = "sys.argv += ['--import=json,csv', '--', '--config=digits', '--help']"
    launcher = launch("import sys; print(*sys.argv[1:])", change=change)
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0
    given = "--import=json --import=csv --config=digits --help"
    assert {line.split(" ", 4)[4] for line in said.splitlines()} == {
        f"{given} --process_id={index}" for index in range(2)
    }


LONG = "[print('x' * 999) for _ in range(999)]"  # more than a pipe buffers


@pytest.mark.parametrize("where", [os.pipe, pty.openpty])
@pytest.mark.parametrize("errors", ["read", "not read"])
def test_output_that_nobody_reads_ends_nothing(errors, where):
    reader, writer = where()
    streams = {"stdout": writer} | ({"stderr": writer} if errors == "not read" else {})
    launcher = launch(LONG, **streams)
    os.close(writer)
    os.close(reader)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, said
    if errors == "read":
        processes, lost = said.splitlines()
        assert processes.startswith("launch: processes ")
        assert lost.startswith("stdout cannot be written: ")


@pytest.fixture
def unread(tmp_path):
    """A launcher whose processes printed more than a pipe buffers, and have ended."""
    path = str(tmp_path / "held")
    os.mkfifo(path)
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    script = HOLD.format(path=path) + LONG
    launcher = launch(script, change="launch._READING_SECONDS = 60")
    assert select.select([held], [], [], 60)[0]
    os.close(held)
    yield launcher
    launcher.kill()
    launcher.communicate()


def test_a_reader_who_pauses_gets_every_line_and_holds_up_nobody(unread):
    said, _ = unread.communicate(timeout=60)
    assert unread.returncode == 0
    assert len(said.splitlines()) == 2 * 1000


def test_a_signal_ends_the_wait_for_a_reader_who_never_comes(unread):
    deadline = time.monotonic() + 60
    while unread.poll() is None and time.monotonic() < deadline:
        unread.terminate()  # the first may still be for the processes
        time.sleep(0.1)
    assert unread.returncode == -signal.SIGTERM


def test_an_end_is_reported_though_somebody_else_holds_the_output():
    script = f"""
import signal, subprocess, sys
if {FIRST}:
    print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    sys.exit(3)
signal.pause()
"""
    launcher = launch(script, change="launch._READING_SECONDS = 1")
    holder = int(launcher.stdout.readline().removeprefix("[0] "))
    try:
        _, said = launcher.communicate(timeout=60)
    finally:
        os.kill(holder, signal.SIGKILL)
    assert launcher.returncode == 3
    assert said.splitlines()[1:] == [
        "launch: process 0 failed first: status 3",
        "launch: killing what is still running: process 1",
    ]


@pytest.mark.parametrize(
    ("then", "status"),
    [
        ("signal.pause()", -signal.SIGKILL),  # of the launcher
        ("sys.exit(0)", 0),
        (f"sys.exit(3) if {FIRST} else signal.pause()", 3),
    ],
)
def test_what_processes_started_ends_with_them_and_all_with_the_launcher(
    tmp_path, then, status
):
    path = str(tmp_path / "held")
    os.mkfifo(path)
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    launcher = launch(HOLD.format(path=path) + then)
    try:
        assert [launcher.stdout.readline()[4:] for _ in "01"] == ["ready\n"] * 2
        if status < 0:
            launcher.kill()
        assert launcher.wait(60) == status
    finally:
        launcher.kill()
        launcher.communicate()
    assert select.select([held], [], [], 60)[0]
    assert os.read(held, 1) == b""  # nobody has it open
    os.close(held)


def test_the_end_of_the_terminal_ends_nothing_that_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        launcher = launch("import time; print('ready'); time.sleep(1)")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert launcher.stdout.readline().endswith("ready\n")
    launcher.send_signal(signal.SIGHUP)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, said


def test_a_signal_while_processes_start_reaches_all():
    early = """
start = launch._start
def signalled(*arguments):
    signal.raise_signal(signal.SIGTERM)
    return start(*arguments)
launch._start = signalled
"""
    launcher = launch("import signal; signal.pause()", change=early)
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGTERM, said
    assert "failed first: SIGTERM" in said
    assert "killing what is still running" not in said
