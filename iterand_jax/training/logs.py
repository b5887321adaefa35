"""The logs of a run: metrics.jsonl and TensorBoard events."""

import collections
import concurrent.futures
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iterand_jax.runtime.files import appended, read_own, write_atomically

_LOGGER = logging.getLogger(__name__)
MOST_LISTED = 5  # damaged lines
MOST_BYTES = 2**30
"""Of a log. One of ImageNet's runs has 20,000 lines, of at most 2 kB."""


class DamagedLine(NamedTuple):
    """A line of a log that is not a record.

    Attributes:
      number: of the line, from 1.
      reason: what is wrong with it.
      content: the line itself.
    """

    number: int
    reason: str
    content: bytes


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line truncated by a kill is skipped.

    So are damaged lines (`read_log`), which a run sets aside when it continues.
    """
    return read_log(path)[0]


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[DamagedLine]]:
    """The records of a metrics.jsonl, and its lines that are none.

    A record is a JSON object with a step. The last line, if it does not end, was cut by
    a kill and is in neither list.

    Raises:
      ValueError: it is no regular file, or has more than `MOST_BYTES`.
    """
    if not os.path.lexists(path):
        return [], []
    records, damaged = [], []
    for number, line in enumerate(read_own(path, MOST_BYTES).split(b"\n")[:-1], 1):
        try:
            record = json.loads(line.decode())
            json.dumps(record)
        except (ValueError, RecursionError):
            damaged.append(DamagedLine(number, "it is not JSON", line))
            continue
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            damaged.append(DamagedLine(number, "it has no step", line))
            continue
        records.append(record)
    return records, damaged


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
        summary = [value(tag=tag, simple_value=x) for tag, x in values.items()]
        event = self._event(
            wall_time=time.time(), step=step, summary=self._summary(value=summary)
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
                records, damaged = read_log(self._path)
                self._set_aside(damaged)
                kept = [r for r in records if r["step"] <= from_step]
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

    def _set_aside(self, damaged: Sequence[DamagedLine]) -> None:
        """Moves lines that cannot be read to a file beside the log, and names them."""
        if not damaged:
            return
        target = self._path.with_name("damaged_" + self._path.name)
        with appended(target) as file:
            file.writelines(line.content + b"\n" for line in damaged)
        for line in damaged[:MOST_LISTED]:
            _LOGGER.warning(
                "damaged line %d of %s: %s; set aside in %s",
                *(line.number, self._path, line.reason, target.name),
            )
        if len(damaged) > MOST_LISTED:
            _LOGGER.warning("%d lines of %s are damaged", len(damaged), self._path)

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
    """A log that a thread opens and writes, in order, while training goes on.

    After a failure nothing more is written; the next call raises its error.
    """

    def __init__(self, open_log: Callable[[], MetricsLog]):
        """Takes what opens the log, which `open` begins."""
        self._open_log, self._failed = open_log, False
        self._log: MetricsLog | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "log")
        self._pending: collections.deque[concurrent.futures.Future] = (
            collections.deque()
        )

    def open(self) -> None:
        """Opens the log, soon."""
        self._pending.append(self._thread.submit(self._open))

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
            if self._log is not None:
                self._log.close()

    def _open(self) -> None:
        self._failed = True
        self._log = self._open_log()
        self._failed = False

    def _write(self, record: dict[str, Any]) -> None:
        if not self._failed:
            assert self._log is not None
            self._failed = True
            self._log.write(record)
            self._failed = False


class Clock:
    """Seconds by phase, accumulated over restarts."""

    def __init__(self, seconds: dict[str, float]):
        """Starts from seconds measured before."""
        self.seconds = dict(seconds)
        self._aside = 0.0
        self._since = self._now()

    def start(self) -> None:
        """Begins the time that the next `lap` adds, as does the end of a `measure`."""
        self._since = self._now()

    def lap(self, phase: str) -> None:
        """Adds the time since the last lap to a phase."""
        now = self._now()
        self.add(phase, now - self._since)
        self._since = now

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to a phase."""
        start = self._now()
        try:
            yield
        finally:
            self._since = self._now()
            self.add(phase, self._since - start)

    def set_aside(self, phase: str, seconds: float) -> None:
        """Adds seconds that have just passed to a phase, and to no other around it."""
        self.add(phase, seconds)
        self._aside += seconds

    def _now(self) -> float:
        return time.perf_counter() - self._aside

    def add(self, phase: str, seconds: float) -> None:
        """Adds seconds to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
