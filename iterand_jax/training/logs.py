"""What a run tells while it runs: metrics.jsonl, TensorBoard events, a progress bar."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that readers and kills leave the old or the new one, whole."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w" if isinstance(content, str) else "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


class MetricsLog:
    """metrics.jsonl and the TensorBoard events of the same numbers.

    Each record has "kind", "step" and "epoch"; its other numbers become the events
    "kind/name".
    """

    def __init__(self, workdir: Path, *, from_step: int):
        """Continues the log of a workdir from a step; what is beyond it is dropped."""
        # Imported here: it takes most of a second, which --help should not.
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        kept = [r for r in read_lines(self._path) if r["step"] <= from_step]
        write_atomically(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = open(self._path, "a")
        self._events = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=from_step + 1 if from_step else None,
        )

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name not in ("kind", "step"):
                self._events.add_scalar(
                    f"{record['kind']}/{name}", value, record["step"]
                )

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()


class SilentLog(MetricsLog):
    """What a process has for a log that another one writes."""

    def __init__(self, workdir: Path, *, from_step: int):
        """Opens nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Closes nothing."""


class Clock:
    """Seconds by phase, adding up over restarts."""

    def __init__(self, seconds: dict[str, float]):
        """Starts from seconds measured before."""
        self.seconds = dict(seconds)

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed


def progress_bar(total: int, *, initial: int, hidden: bool = False) -> tqdm:
    """A bar of steps; on a terminal it is live, in a file it is a line now and then."""
    live = sys.stderr.isatty()
    return tqdm(
        disable=hidden,
        total=total,
        initial=initial,
        unit="step",
        mininterval=0.2 if live else 30.0,
        dynamic_ncols=live,
        smoothing=0.1,
    )


def table(rows: dict[str, str], indent: str = "  ") -> str:
    """Two aligned columns of text."""
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:<{width}}  {text}" for name, text in rows.items())
