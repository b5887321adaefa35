"""Runs on disks that are full, read-only or removed, with closed and full streams.

What is left of a workdir is then continued to its end, without the fault. Where this
process may not mount, there are no full and read-only disks.
"""

import contextlib
import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.measurements.faults.trial import Trial

PROMISE = (
    "A run that cannot write ends with one true line and the status of bad input, or "
    "goes on where only its output is lost; what was saved is whole"
)
FLAGS = (
    *("-m", "iterand_jax.main", "--config.network.width=0.0625"),
    *("--config.checkpoint_every_steps=10", "--config.log_every_steps=5"),
)
SHORT, LONG = ("--config.epochs=3",), ("--config.epochs=5000",)
SECONDS = 300
MOMENTS = 8  # of a Ctrl-C, one in each of the first seconds
PROGRESS = re.compile(r" *\d+%\|.*\| \d+/\d+ \[.*\]$")
DROP, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2  # of prctl and capabilities (Linux)


class Ended(NamedTuple):
    """The exit status of a command, and the lines of its stderr but the progress."""

    status: int
    lines: list[str]


class Fault(NamedTuple):
    """A fault of a run.

    Attributes:
      status: with which the run ends.
      words: of its one line; "" for none.
      run: the run in a workdir, with this fault.
      stays: whether the workdir of the short run is there and can be continued.
    """

    status: int
    words: str
    run: Callable[[Path, random.Random], Ended]
    stays: bool = False


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many runs, each with one of the faults in turn.

    Their compiled programs are in a cache of their own, which a first run fills: one
    that may not write would leave cut entries in the user's.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # all programs
    # Of a given cache XLA says that its programs may be another machine's; JAX has
    # set a lower level in this process already.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    first = _run(folder / "first")
    if first != Ended(0, []):
        raise RuntimeError(f"a run without faults ends with {first}")
    digest, size = _digest(folder / "first"), _size(folder / "first")
    faults = {**FAULTS, **(_of_mounts(size) if _mounts(folder / "probe") else {})}
    draw = random.Random(seed)
    for index in range(count):
        kind = list(faults)[index % len(faults)]
        begun = time.monotonic()
        yield tried(kind, faults[kind], folder / str(index), draw, digest)._replace(
            seconds=time.monotonic() - begun
        )


def tried(
    kind: str, fault: Fault, workdir: Path, draw: random.Random, digest: str
) -> Trial:
    """The trial of a fault; `digest` is of the state at the end of the run."""
    ended = fault.run(workdir, draw)
    outcome = f"status {ended.status}, {len(ended.lines)} lines"
    kept = ended.status == fault.status
    kept = kept and len(ended.lines) == (1 if fault.words else 0)
    kept = kept and all(re.search(fault.words, line) for line in ended.lines)
    detail = " / ".join(ended.lines)[:500]
    if fault.stays:
        again = _run(workdir)
        same = again == Ended(0, []) and _digest(workdir) == digest
        outcome += ", continued to the same bits" if same else ", not continued"
        detail += "" if same else f"; again: {again}"
        kept = kept and same
    return Trial(kind, outcome, kept, detail)


def _digest(workdir: Path) -> str:
    found: str = json.loads((workdir / "result.json").read_text())["state_sha256"]
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


def _run(
    workdir: Path,
    before: Callable[[], None] = lambda: None,
    redirections: str = "",
    more: tuple[str, ...] = (),
) -> Ended:
    """Runs to the end, in a process that calls `before` first."""
    words = [sys.executable, *FLAGS, *SHORT, *more, f"--workdir={workdir}"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=before,
        timeout=SECONDS,
        check=False,
        text=True,
    )
    return Ended(done.returncode, _lines(done.stderr))


def _lines(stderr: str) -> list[str]:
    """The lines but those of the progress bar, such as " 33%|███▎ | 20/60 [...]"."""
    lines = stderr.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and not PROGRESS.match(line)]


@contextlib.contextmanager
def _training(
    workdir: Path, draw: random.Random, epochs: tuple[str, ...]
) -> Iterator[tuple[subprocess.Popen[str], list[Ended]]]:
    """A run that has saved a checkpoint; what it ends with is in the list after it."""
    words = [sys.executable, *FLAGS, *epochs, f"--workdir={workdir}"]
    ended: list[Ended] = []
    with subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_obeying,
        text=True,
    ) as process:
        while process.poll() is None and not (workdir / "checkpoints/10").exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        yield process, ended
        _, stderr = process.communicate(timeout=SECONDS)
        ended.append(Ended(process.returncode, _lines(stderr)))


def _obeying() -> None:
    """Root, too, obeys permissions in what this process executes then."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
        prctl(DROP, capability, 0, 0, 0)  # another user has none of them


def _small_files(workdir: Path, draw: random.Random) -> Ended:
    limit = draw.randrange(100, 20_000)
    limits = resource.RLIMIT_FSIZE, (limit, limit)
    return _run(workdir, lambda: resource.setrlimit(*limits))


def _not_a_folder(workdir: Path, draw: random.Random) -> Ended:
    workdir.write_text("")
    return _run(workdir / "run")


def _removed(workdir: Path, draw: random.Random) -> Ended:
    with _training(workdir, draw, LONG) as (_, ended):
        while os.path.exists(workdir):  # the run may write while it is removed
            shutil.rmtree(workdir, ignore_errors=True)
    return ended[0]


def _forbidden(workdir: Path, draw: random.Random) -> Ended:
    workdir.mkdir()
    with _mode(workdir, 0o555):
        return _run(workdir / "run", _obeying)


def _forbidden_later(workdir: Path, draw: random.Random) -> Ended:
    with (
        contextlib.ExitStack() as modes,
        _training(workdir, draw, LONG) as (_, ended),
    ):
        for folder in (workdir, workdir / "checkpoints"):
            modes.enter_context(_mode(folder, 0o555))
    return ended[0]


@contextlib.contextmanager
def _mode(folder: Path, mode: int) -> Iterator[None]:
    before = folder.stat().st_mode
    folder.chmod(mode)
    try:
        yield
    finally:
        folder.chmod(before)


def _interrupted(workdir: Path, draw: random.Random) -> Ended:
    """Ctrl-C at moments of the first seconds, each of the run that is left by the last.

    The first that does not end in one true line is returned, else the last.
    """
    for moment in range(MOMENTS):
        ended = _interrupted_after(workdir, draw.uniform(moment, moment + 1))
        if ended.status != 130 or len(ended.lines) != 1:
            break
    return ended


def _interrupted_after(workdir: Path, seconds: float) -> Ended:
    """Ctrl-C some seconds after the package begins to load; a wrong promise is a line.

    Until then it is Python itself that reports a Ctrl-C.
    """
    words = [sys.executable, *FLAGS, *SHORT, f"--workdir={workdir}"]
    with subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_attended,
        text=True,
    ) as process:
        while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=SECONDS)
    ended = Ended(process.returncode, _lines(stderr))
    if ended == Ended(0, []) and (workdir / "result.json").exists():  # it was faster
        return Ended(130, ["stopped"])
    said = re.search(r"step ([\d,]+)", stderr)
    if said:
        is_true = (workdir / "checkpoints" / said[1].replace(",", "")).exists()
    elif "before a checkpoint" in stderr:
        is_true = not any(workdir.glob("checkpoints/[0-9]*"))
    else:
        is_true = "had ended" not in stderr or (workdir / "result.json").exists()
    return ended if is_true else Ended(130, [*ended.lines, "which is not true"])


def _attended() -> None:
    """What was started in the background ignores Ctrl-C, and so would its processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _diverged(workdir: Path, draw: random.Random) -> Ended:
    """A loss that is infinite at once; the folder is given back."""
    return _run(workdir, more=("--config.method=sgd", "--config.learning_rate=1e6"))


def _mounts(folder: Path) -> bool:
    """Whether this process may mount a file system in memory."""
    try:
        with _mounted(folder, "size=64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _of_mounts(size: int) -> Mapping[str, Fault]:
    """The faults of disks, for a run that writes so many bytes."""

    def full(workdir: Path, draw: random.Random) -> Ended:
        limit = draw.randrange(size // 20, size * 7 // 10)
        disk = workdir.with_suffix(".disk")
        with _mounted(disk, f"size={limit}"):
            ended = _run(disk / "run")
            if (disk / "run").exists():  # else nothing was begun
                shutil.copytree(disk / "run", workdir)  # where it can be continued
        return ended

    def only_read(workdir: Path, draw: random.Random) -> Ended:
        with _mounted(workdir, "size=64k,ro"):
            return _run(workdir / "run")

    return {
        "a full disk": Fault(2, "cannot be written|cannot write", full, stays=True),
        "a read-only disk": Fault(2, "cannot write to the workdir", only_read),
    }


def _with(redirections: str) -> Callable[[Path, random.Random], Ended]:
    return lambda workdir, draw: _run(workdir, redirections=redirections)


_CLOSED = "stdout cannot be written: it is closed; what was printed is lost"
_LOST = "stdout cannot be written: No space left on device"
_STOPPED = "interrupted while starting; nothing was begun|stopped|interrupted"
FAULTS: Mapping[str, Fault] = {
    "files that may not grow": Fault(2, "cannot", _small_files, stays=True),
    "a workdir in a file": Fault(2, "cannot write to the workdir", _not_a_folder),
    "a workdir that is removed": Fault(2, "cannot be written", _removed),
    "no permission": Fault(2, "cannot write to the workdir", _forbidden),
    "no permission any more": Fault(2, "cannot be written", _forbidden_later),
    "Ctrl-C in the first seconds": Fault(130, _STOPPED, _interrupted, stays=True),
    "a first step that diverges": Fault(
        2, "no checkpoint was written", _diverged, stays=True
    ),
    "stdout closed": Fault(0, _CLOSED, _with(">&-"), stays=True),
    "stderr closed": Fault(0, "", _with("2>&-"), stays=True),
    "stdout full": Fault(0, _LOST, _with(">/dev/full"), stays=True),
}
