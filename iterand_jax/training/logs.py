"""The logs of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iterand_jax.runtime.files import write_atomically


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line truncated by a kill is skipped."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


class _Events:
    """TensorBoard events, on disk when `write` returns.

    tensorboardX's SummaryWriter writes in a thread. A full disk ends the thread, and
    the run would hang once its queue is full.
    """

    def __init__(self, folder: Path, *, from_step: int):
        """Opens a new file; TensorBoard hides earlier files' events beyond the step."""
        # Imported lazily: it takes most of a second, which would slow down --help.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        if from_step:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = self._event(step=from_step + 1, session_log=started)
            self._writer.write_event(event)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step by their tags."""
        value = self._summary.Value
        told = [value(tag=tag, simple_value=x) for tag, x in values.items()]
        event = self._event(
            wall_time=time.time(), step=step, summary=self._summary(value=told)
        )
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"the log {path} cannot be written: {reason}") from error


class MetricsLog:
    """metrics.jsonl and the TensorBoard events of the same numbers.

    Each record has "kind", "step" and "epoch"; its numbers become the events
    "kind/name"; per-layer lists are not. If a write fails, the methods raise OSError,
    which names the file or folder.
    """

    def __init__(self, workdir: Path, *, from_step: int):
        """Continues the log of a workdir from a step; later records are dropped."""
        self._path, self._folder = workdir / "metrics.jsonl", workdir / "tensorboard"
        with contextlib.ExitStack() as opened:
            with _writing(self._path):
                kept = [r for r in read_lines(self._path) if r["step"] <= from_step]
                lines = "".join(json.dumps(r) + "\n" for r in kept)
                write_atomically(self._path, lines)
                self._file = opened.enter_context(open(self._path, "a"))
            with _writing(self._folder):
                self._events = _Events(self._folder, from_step=from_step)
            opened.pop_all()

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record."""
        numbers = {
            f"{record['kind']}/{name}": value
            for name, value in record.items()
            if name != "step" and isinstance(value, int | float)
        }
        with _writing(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        with _writing(self._folder):
            self._events.write(record["step"], numbers)

    def close(self) -> None:
        """Closes both files."""
        try:
            with _writing(self._folder):
                self._events.close()
        finally:
            with _writing(self._path):
                self._file.close()


class SilentLog(MetricsLog):
    """The no-op log of the processes that do not write it."""

    def __init__(self, workdir: Path, *, from_step: int):
        """Opens nothing."""

    def write(self, record: dict[str, Any]) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Closes nothing."""


class Clock:
    """Seconds by phase, accumulated over restarts."""

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
