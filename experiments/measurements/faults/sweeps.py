"""Two and four sweeps on one folder, with kills among them.

Several processes work through one table of short runs on digits, with one folder of
workdirs and one ledger. At random moments one of them is killed, or all are, while one
of them saves a checkpoint or between a result and its line in the ledger; those that
were killed start again, and in the end nothing is killed and all end by themselves.
What a moment has must not be lost or done again later: lines of the ledger stay as
they are, a result.json is not written again, and a run that starts again continues
from its newest checkpoint or a later one. At the end each run is in the ledger once,
with the bits of a sweep that nothing disturbed.
"""

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.measurements.faults.trial import Trial
from experiments.paper.experiment import Experiment, Lines, Miniature, grid
from experiments.sweeps import ledger
from experiments.sweeps.runs import Run, runs_of

PROMISE = (
    "Sweeps that share a folder and are killed at any moment lose nothing and do "
    "nothing twice: each run ends in the ledger once, with the same bits"
)
TABLE = Experiment(
    name="digits",
    title="Short runs on digits",
    configs={"conv2": "digits"},
    rows=grid(network=["conv2"], method=["iterand", "edge_popup"], width=[1 / 16]),
    seeds=4,
    overrides={"checkpoint_every_steps": 20, "log_every_steps": 20},
    figure=Lines(x="width"),
    miniature=Miniature(note="none", parts=()),
)
COMMAND = """
from experiments import run
from experiments.measurements.faults import sweeps
from experiments.paper import catalogue
from iterand_jax.runtime import cli
catalogue.EXPERIMENTS = {sweeps.TABLE.name: sweeps.TABLE}
cli.run(run.main, run.define_flags, positional=1)
"""
EPOCHS = 50  # of each run, of 20 steps
START = re.compile(r"^  steps  ", re.MULTILINE)  # of the plan in a run's log
KINDS = ("one", "one", "all", "all while one saves", "all at a result")
SECONDS = 1200  # timeout for a moment to come, or for all to end


class Moment(NamedTuple):
    """What the folders hold at a moment.

    Attributes:
      lines: the bytes of the ledger.
      results: of each finished run, when its result.json was written, in nanoseconds.
      saved: of each unfinished run, the step of its newest checkpoint.
      logs: of each run, the bytes of its log.
    """

    lines: bytes
    results: Mapping[str, int]
    saved: Mapping[str, int]
    logs: Mapping[str, int]


class Folders(NamedTuple):
    """The folders that sweeps share, and the runs of their table.

    Attributes:
      folder: holds the workdirs and the ledger.
      epochs: of each run.
      seeds: of each cell.
    """

    folder: Path
    epochs: int = EPOCHS
    seeds: int = TABLE.seeds

    def runs(self) -> list[Run]:
        """The runs of the table."""
        return runs_of(TABLE.cells(self.epochs), range(self.seeds))

    def workdir(self, run: Run) -> Path:
        """Where a run is trained."""
        return self.folder / "cells" / run.folder / f"seed_{run.seed}"

    def started(self) -> subprocess.Popen[bytes]:
        """A sweep, whose output is added to a file."""
        flags = [f"--epochs={self.epochs}", f"--seeds={self.seeds}"]
        flags.append(f"--workdir={self.folder / 'cells'}")
        flags.append(f"--results={self.folder / 'results'}")
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", COMMAND, TABLE.name, *flags],
                stdout=output,
                stderr=output,
            )

    def lines(self) -> bytes:
        """The bytes of the ledger."""
        path = self.folder / "results" / f"{TABLE.name}.jsonl"
        return path.read_bytes() if path.exists() else b""

    def is_saving(self) -> bool:
        """Whether a checkpoint of a run is being written."""
        return any(self.folder.glob("cells/*/seed_*/checkpoints/*tmp*"))

    def is_between(self) -> bool:
        """Whether a run has a result and no line yet."""
        results = list(self.folder.glob("cells/*/seed_*/result.json"))
        return len(results) > self.lines().count(b"\n")

    def moment(self) -> Moment:
        """What they hold now."""
        lines = self.lines()
        results, saved, logs = {}, {}, {}
        for run in self.runs():
            workdir = self.workdir(run)
            result, log = workdir / "result.json", workdir.with_suffix(".txt")
            logs[run.name] = log.stat().st_size if log.exists() else 0
            if result.exists():
                results[run.name] = result.stat().st_mtime_ns
            else:
                names = [path.name for path in workdir.glob("checkpoints/*")]
                saved[run.name] = max(map(int, filter(str.isdigit, names)), default=0)
        return Moment(lines, results, saved, logs)

    def end(self, running: Sequence[subprocess.Popen[bytes]]) -> None:
        """Waits for sweeps; those that leave runs to others have status 0, too."""
        status = [process.wait(SECONDS) for process in running]
        if any(status):
            raise ValueError((self.folder / "output.txt").read_text()[-2000:])

    def lost_since(self, before: Moment) -> list[str]:
        """What was lost or done again since a moment."""
        found = []
        if not self.lines().startswith(before.lines):
            found.append("lines of the ledger")
        for run in self.runs():
            workdir = self.workdir(run)
            if run.name in before.results:
                now = (workdir / "result.json").stat().st_mtime_ns
                if now != before.results[run.name]:
                    found.append(f"{run.name}: its result was written again")
            elif before.saved[run.name]:
                log = workdir.with_suffix(".txt").read_bytes()
                starts = START.split(log[before.logs[run.name] :].decode())[1:]
                steps = [continued_from(start) for start in starts]
                # A start that is killed at once does not say from where it continues.
                said = [step for step in steps[:-1] if step] + steps[-1:]
                if any(step < before.saved[run.name] for step in said):
                    found.append(f"{run.name}: steps were trained again")
        return found


def continued_from(log: str) -> int:
    """The step from which a start continues, by its log; 0 if it does not say one."""
    found = re.search(r"from the checkpoint at step ([\d,]+)", log)
    return int(found[1].replace(",", "")) if found else 0


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many kills: half of them among two sweeps, half among four."""
    draw = random.Random(seed)
    whole = Folders(folder / "whole")
    whole.end([whole.started()])
    for sweeps, kills in ((2, count - count // 2), (4, count // 2)):
        left = [KINDS[number % len(KINDS)] for number in range(kills)]
        while left:  # in another folder, if all runs end before
            shared = Folders(folder / f"{sweeps}_{len(left)}")
            found = list(disturbed(shared, sweeps, left, draw))
            if not found:
                raise ValueError("the sweeps ended before a kill; they need more runs")
            yield from found
            yield compared(shared, whole, f"the end of {sweeps} sweeps")
            del left[: len(found)]


def disturbed(
    shared: Folders, sweeps: int, kinds: Sequence[str], draw: random.Random
) -> Iterator[Trial]:
    """A trial for each kill among sweeps, until they end by themselves."""
    running = [shared.started() for _ in range(sweeps)]
    moments: list[tuple[str, Moment]] = []
    try:
        for kind in kinds:
            time.sleep(draw.uniform(0, 10))
            killed = [draw.randrange(sweeps)] if kind == "one" else range(sweeps)
            if not _comes(kind, shared, running):
                break
            for index in killed:
                running[index].kill()
                running[index].wait()
            moments.append((kind, shared.moment()))
            for index in killed:
                running[index] = shared.started()
        shared.end(running)
    finally:
        for process in running:
            process.kill()
            process.wait()
    for kind, moment in moments:
        lost = shared.lost_since(moment)
        outcome = "something lost or done twice" if lost else "nothing lost"
        yield Trial(f"{kind} of {sweeps}", outcome, not lost, "; ".join(lost))


def _comes(
    kind: str, shared: Folders, running: Sequence[subprocess.Popen[bytes]]
) -> bool:
    """Waits for the moment of a kind; False if all sweeps end before."""
    conditions: Mapping[str, Callable[[], bool]] = {
        "all while one saves": shared.is_saving,
        "all at a result": shared.is_between,
    }
    condition = conditions.get(kind, lambda: True)
    deadline = time.monotonic() + SECONDS
    while True:
        if all(process.poll() is not None for process in running):
            return False
        if condition():
            return True
        if time.monotonic() > deadline:
            raise TimeoutError((shared.folder / "output.txt").read_text()[-2000:])
        time.sleep(0.001)


def compared(shared: Folders, whole: Folders, kind: str) -> Trial:
    """The trial of the end: the ledger and its bits."""
    known, expected = (ledger.read(own.folder / "results") for own in (shared, whole))
    runs = shared.runs()
    digests = [
        [one["state_sha256"] for r in runs for one in k.of(r)]
        for k in (known, expected)
    ]
    kept = digests[0] == digests[1] and len(digests[0]) == len(runs)
    kept = kept and not known.problems
    outcome = f"each of {len(runs)} runs once, the same bits"
    return Trial(kind, outcome if kept else "another ledger", kept, str(known.problems))
