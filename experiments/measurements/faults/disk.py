"""Runs on disks that are full, read-only or removed, with closed and full streams."""

import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.measurements.faults.trial import Trial

PROMISE = (
    "A run that cannot write ends with one true line and the status of bad input, or "
    "goes on where only its output is lost; what was saved is whole"
)
FLAGS = (
    *("-m", "iterand_jax.main", "--config.network.width=0.0625", "--config.epochs=3"),
    *("--config.checkpoint_every_steps=10", "--config.log_every_steps=5"),
)
SECONDS = 300
PROGRESS = re.compile(r" *\d+%\|.*\| \d+/\d+ \[.*\]$")


class Ended(NamedTuple):
    """The exit status of a command, and the lines of its stderr but the progress."""

    status: int
    lines: list[str]


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many runs, each with one of the faults in turn.

    Their compiled programs are in a cache of their own, which a first run fills: one
    that may not write would leave cut entries in the user's.
    """
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # all programs
    first = _run(folder / "first")
    if first != Ended(0, []):
        raise RuntimeError(f"a run without faults ends with {first}")
    draw = random.Random(seed)
    kinds = list(_FAULTS)
    for index in range(count):
        kind = kinds[index % len(kinds)]
        workdir = folder / str(index)
        begun = time.monotonic()
        status, words, fault = _FAULTS[kind]
        ended = fault(workdir, draw)
        kept = ended.status == status and len(ended.lines) == (1 if words else 0)
        kept = kept and all(words in line for line in ended.lines)
        outcome = f"status {ended.status}, {len(ended.lines)} lines"
        detail = " / ".join(ended.lines)[:500]
        yield Trial(kind, outcome, kept, detail, time.monotonic() - begun)


def _run(workdir: Path, limit: int | None = None, redirections: str = "") -> Ended:
    """Runs to the end, with files of at most `limit` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [sys.executable, *FLAGS, f"--workdir={workdir}"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=limited,
        timeout=SECONDS,
        check=False,
        text=True,
    )
    return Ended(done.returncode, _lines(done.stderr))


def _lines(stderr: str) -> list[str]:
    """The lines but those of the progress bar, such as " 33%|███▎ | 20/60 [...]"."""
    lines = stderr.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and not PROGRESS.match(line)]


def _small_files(workdir: Path, draw: random.Random) -> Ended:
    return _run(workdir, limit=draw.randrange(100, 20_000))


def _not_a_folder(workdir: Path, draw: random.Random) -> Ended:
    workdir.write_text("")
    return _run(workdir / "run")


def _removed(workdir: Path, draw: random.Random) -> Ended:
    words = [sys.executable, *FLAGS, "--config.epochs=5000", f"--workdir={workdir}"]
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (workdir / "checkpoints/10").exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        while os.path.exists(workdir):  # the run may write while it is removed
            shutil.rmtree(workdir, ignore_errors=True)
        _, stderr = process.communicate(timeout=SECONDS)
    return Ended(process.returncode, _lines(stderr))


_LOST = "stdout cannot be written: No space left on device"
_FAULTS: dict[str, tuple[int, str, Callable[[Path, random.Random], Ended]]] = {
    "files that may not grow": (2, "cannot", _small_files),
    "a workdir in a file": (2, "cannot write to the workdir", _not_a_folder),
    "a workdir that is removed": (2, "cannot be written", _removed),
    "stdout closed": (0, "", lambda w, draw: _run(w, redirections=">&-")),
    "stderr closed": (0, "", lambda w, draw: _run(w, redirections="2>&-")),
    "stdout full": (0, _LOST, lambda w, draw: _run(w, redirections=">/dev/full")),
}
