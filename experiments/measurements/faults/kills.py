"""Kills of a run, and damaged checkpoints between them, at random moments.

Each round restarts the same run, lets it make progress, and injects a fault at a
random moment: SIGKILL or SIGTERM to one of its processes, SIGKILL to the one that is
writing a checkpoint, or SIGKILL and then a truncated file or a flipped bit in the
newest checkpoint. One kill in four comes before the run has made progress. After the
last fault the run continues to its end. A fault is survived if the next start that
made progress continued from the newest checkpoint that the fault left intact, or from
a later one. At the end the bits are compared: every leaf of the state, and every
number of the log but the speed. The config is the default, with Conv6 at width 1/16.
Many faults are spread over several runs, each compared at its end. The run has one
process; the campaign `processes` does the same with two, and `recompiled` with a
program that each start compiles again.
"""

import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.measurements.faults.trial import Trial
from iterand_jax.training.logs import read_lines
from iterand_jax.training.workdir import restore
from iterand_jax.trees import leaves_of, sha256

KINDS = ("kill", "kill while saving", "terminate", "truncate", "flip a bit")
MESSAGES = (
    "process . failed first: SIGKILL",
    "another process of this run has ended",
    "Terminating process because the JAX distributed service",
    "stopped at step .* by SIGTERM",
)
PROMISE = (
    "A run that is killed at any moment, or whose newest checkpoint is damaged, "
    "continues from the newest whole one and ends with the same bits"
)
EPOCHS_BEFORE, EPOCHS_OF_A_FAULT = 10, 5  # of 20 steps; a fault takes up to a second
FAULTS_OF_A_RUN = 10
SECONDS = 1200  # timeout for a run to make progress, or to end


def trials(
    count: int,
    seed: int,
    folder: Path,
    *,
    processes: int = 1,
    recompiled: bool = False,
) -> Iterator[Trial]:
    """This many faults, and for each run whether its end has the same bits."""
    epochs = EPOCHS_BEFORE + EPOCHS_OF_A_FAULT * min(count, FAULTS_OF_A_RUN)
    run = Run(folder, processes=processes, epochs=epochs, recompiled=recompiled)
    left = [KINDS[i % len(KINDS)] for i in range(count)]
    generator = random.Random(seed)
    while left:
        record = campaign(run, left[:FAULTS_OF_A_RUN], generator)
        if not record["rounds"]:
            raise ValueError("the run ended before its faults; it needs more epochs")
        yield from _trials_of(record)
        del left[: len(record["rounds"])]
        shutil.rmtree(folder / "broken")  # "whole" has ended, and is compared again


def _trials_of(record: Mapping[str, Any]) -> Iterator[Trial]:
    for kind, injected in record["injected"].items():
        survived = record["survived"].get(kind, 0)
        for _ in range(survived):
            yield Trial(kind, "continued from the newest whole checkpoint", True)
        for _ in range(injected - survived):
            yield Trial(kind, "went back further", False, str(record["rounds"]))
    compared = f"{record['bytes_compared']:,} bytes, {record['lines_compared']:,} lines"
    outcome = "the same bits" if record["same"] else "other bits"
    yield Trial("the end", f"{outcome} ({compared})", record["same"], compared)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of several processes, and where it writes.

    Attributes:
      folder: holds its workdirs.
      processes: their number; several have two devices each.
      epochs: of 20 steps; a checkpoint is written every 10 steps.
      recompiled: whether each start has an empty compilation cache; then the config's
        `deterministic` is set.
    """

    folder: Path
    processes: int
    epochs: int
    recompiled: bool = False

    def _program(self) -> list[str]:
        """The command but the flags of the training."""
        python = [sys.executable, "-m"]
        if self.processes == 1:
            return [*python, "iterand_jax.main"]
        return [
            *(*python, "iterand_jax.launch", "--devices_per_process=2"),
            *(f"--processes={self.processes}", "--"),
        ]

    @contextlib.contextmanager
    def started(self, name: str) -> Iterator["Started"]:
        """Starts it in a workdir; on exit sends SIGTERM if it still runs."""
        command = [
            *self._program(),
            f"--workdir={self.folder / name}",
            *("--config.network.name=conv6", "--config.network.width=0.0625"),
            f"--config.epochs={self.epochs}",
            *("--config.recipe.iterand.k_per=7", "--config.log_every_steps=10"),
            "--config.checkpoint_every_steps=10",
            f"--config.deterministic={self.recompiled}",
        ]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if self.recompiled:
            cache = tempfile.mkdtemp(prefix="cache", dir=self.folder)
            environment["JAX_COMPILATION_CACHE_DIR"] = cache
        with (
            open(self.folder / f"{name}.txt", "w+") as output,
            subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=output,
            ) as launcher,
        ):
            started = Started(
                launcher, Path(output.name), self.folder / name, self.processes
            )
            try:
                yield started
            finally:
                launcher.terminate()


@dataclasses.dataclass(frozen=True)
class Started:
    """A started run.

    Attributes:
      launcher: the process that started its processes, or the one that it has.
      output: the file with its output.
      workdir: where it writes.
      processes: their number.
    """

    launcher: subprocess.Popen[bytes]
    output: Path
    workdir: Path
    processes: int

    def pids(self) -> list[int]:
        """The ids of its processes, in order."""
        if self.processes == 1:
            return [self.launcher.pid]
        self.wait_for(lambda: "launch: processes" in self.output.read_text())
        found = re.search(r"launch: processes (.*)", self.output.read_text())
        assert found is not None
        return [int(pid) for pid in found[1].split(", ")]

    def newest(self, *, but: Collection[int] = ()) -> int:
        """The step of its newest checkpoint, ignoring those in `but`; 0 without any."""
        folder = self.workdir / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        steps = {int(name) for name in names if name.isdigit()}
        return max(steps.difference(but), default=0)

    def continued_from(self) -> int:
        """The step of the checkpoint that it continued from; 0 without one."""
        found = re.search(r"the checkpoint at step ([\d,]+)", self.output.read_text())
        return int(found[1].replace(",", "")) if found else 0

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.workdir / "checkpoints").glob("*tmp*"))

    def wait_for_newer_than(self, step: int) -> bool:
        """Waits for a checkpoint beyond a step; False if the run ends without one."""
        return self.wait_for(lambda: self.newest() > step)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits until a condition holds; False if the run ends before it does."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if self.launcher.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(self.output.read_text())
            time.sleep(0.002)
        return True


def campaign(
    run: Run, kinds: Sequence[str], generator: random.Random
) -> dict[str, Any]:
    """Injects faults of these kinds into a run until it ends; returns the outcomes.

    Returns:
      "injected" and "survived", the counts by kind; "rounds", the events of each;
      "same", whether the final states and logs are equal, with "bytes_compared" and
      "lines_compared".
    """
    with run.started("whole") as whole:
        assert whole.launcher.wait(SECONDS) == 0, whole.output.read_text()
    survived: Counter[str] = Counter()
    pending: list[tuple[str, int]] = []  # faults, and the newest intact step after each
    damaged: set[int] = set()
    rounds: list[dict[str, Any]] = []

    def count(started: Started) -> None:
        step = started.continued_from()
        survived.update(kind for kind, whole in pending if step >= whole)
        pending.clear()
        damaged.clear()

    for kind in kinds:
        with run.started("broken") as broken:
            before = broken.newest()
            early = kind == "kill" and generator.random() < 0.25
            if early:
                time.sleep(generator.uniform(0, 8))
            else:
                broken.wait_for_newer_than(before)  # or it ends
                count(broken)
            done = _inject(kind, broken, generator)
        if done is None:
            break
        rounds.append(done)
        if "damaged" in rounds[-1]:
            damaged.add(broken.newest())
        pending.append((kind, broken.newest(but=damaged)))
    with run.started("broken") as broken:
        assert broken.launcher.wait(SECONDS) == 0, broken.output.read_text()
    count(broken)
    return {
        "injected": dict(Counter(done["fault"] for done in rounds)),
        "survived": dict(survived),
        **_comparison(whole.workdir, broken.workdir),
        "processes": run.processes,
        "rounds": rounds,
    }


def _inject(kind: str, run: Started, generator: random.Random) -> dict[str, Any] | None:
    """Injects a fault; returns its record, None if the run has ended before it."""
    pids = run.pids()
    time.sleep(generator.uniform(0, 1))
    victim = generator.randrange(len(pids))
    if kind == "kill while saving":
        victim = 0
        run.wait_for(run.is_saving)
    number = signal.SIGTERM if kind == "terminate" else signal.SIGKILL
    if run.launcher.poll() is not None:
        return None
    os.kill(pids[victim], number)
    start = time.monotonic()
    status = run.launcher.wait(SECONDS)
    said = run.output.read_text()
    done = {
        "fault": kind,
        "process": victim,
        "newest_checkpoint": run.newest(),
        "status": status,
        "seconds_to_end": round(time.monotonic() - start, 1),
        "others_ended_by_themselves": "stopping what" not in said,
        "reported": [pattern for pattern in MESSAGES if re.search(pattern, said)],
    }
    if kind in ("truncate", "flip a bit"):
        done["damaged"] = _damage(kind, run, generator)
    return done


def _damage(kind: str, run: Started, generator: random.Random) -> str:
    """Damages a file of the newest checkpoint; returns its path."""
    newest = run.workdir / "checkpoints" / str(run.newest())
    files = [p for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size]
    path = generator.choice(files)
    content = bytearray(path.read_bytes())
    place = generator.randrange(len(content))
    if kind == "truncate":
        del content[place:]
    else:
        content[place] ^= 1 << generator.randrange(8)
    path.write_bytes(content)
    return str(path.relative_to(run.workdir))


def _comparison(whole: Path, broken: Path) -> dict[str, Any]:
    """Whether two workdirs end with the same bits, and how many were compared."""
    states = [leaves_of(restore(workdir).state) for workdir in (whole, broken)]
    logs = [read_lines(workdir / "metrics.jsonl") for workdir in (whole, broken)]
    for line in [*logs[0], *logs[1]]:
        del line["examples_per_second"]
        line.pop("waiting_seconds", None)
    digests = [sha256(state) for state in states]
    return {
        "same": digests[0] == digests[1] and logs[0] == logs[1],
        "bytes_compared": sum(leaf.nbytes for leaf in states[0].values()),
        "lines_compared": len(logs[0]),
    }
