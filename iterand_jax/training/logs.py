"""The logs of a run: metrics.jsonl and TensorBoard events."""

import collections
import concurrent.futures
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


class BackgroundLog:
    """A log whose records a thread writes, in order, while training goes on.

    After a failed write nothing more is written; the next call raises its error.
    """

    def __init__(self, log: MetricsLog):
        """Takes over a log."""
        self._log, self._failed = log, False
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "log")
        self._pending: collections.deque[concurrent.futures.Future] = (
            collections.deque()
        )

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record, soon."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._write, record))

    def wait(self) -> None:
        """Returns when all records are written."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Waits, and closes the log."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._log.close()

    def _write(self, record: dict[str, Any]) -> None:
        if not self._failed:
            self._failed = True
            self._log.write(record)
            self._failed = False


class Clock:
    """Seconds by phase, accumulated over restarts."""

    def __init__(self, seconds: dict[str, float]):
        """Starts from seconds measured before."""
        self.seconds = dict(seconds)
        self._since = time.perf_counter()

    def start(self) -> None:
        """Begins the time that the next `lap` adds, as does the end of a `measure`."""
        self._since = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Adds the time since the last lap to a phase."""
        now = time.perf_counter()
        self._add(phase, now - self._since)
        self._since = now

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._since = time.perf_counter()
            self._add(phase, self._since - start)

    def _add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
