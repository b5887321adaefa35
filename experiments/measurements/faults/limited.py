"""Calls in a child process that has limits of memory and time."""

import contextlib
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Container
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from experiments.measurements.faults.trial import Trial

START_SECONDS = 300  # of a child: imports and what `ready` compiles


class Called(NamedTuple):
    """The result of a call.

    Attributes:
      value: that was returned; None if the child ended.
      ended: how the child ended, such as "SIGALRM" beyond the limit of time; "" if it
        did not.
      seconds: that the call took.
      megabytes: by which the largest memory of the child grew.
    """

    value: Any
    ended: str
    seconds: float
    megabytes: float

    def trial(self, kind: str, fine: Container[str], detail: str) -> Trial:
        """The trial of a change, which a value among the fine ones keeps."""
        found = self.ended or self.value
        return Trial(
            kind,
            found.partition(":")[0],
            kept=found in fine,
            detail=f"{detail}: {found}",
            seconds=self.seconds,
            megabytes=self.megabytes,
        )


class Limited:
    """A child process in which functions are called under limits.

    A call that takes too long ends the child by SIGALRM, even inside of compiled code;
    too much memory is a MemoryError, or whatever a library makes of it. The next call
    starts another child.
    """

    def __init__(
        self, *, megabytes: int, seconds: int, ready: Callable[[], object] | None = None
    ):
        """Limits for calls.

        Args:
          megabytes: of address space that calls may add to what the child has.
          seconds: of one call.
          ready: called in the child before the limits hold; it imports and compiles.
        """
        self._megabytes, self._seconds, self._ready = megabytes, seconds, ready
        self._child: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Self:
        """Starts nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.kill()
            self._child.join()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Called:
        """function(*arguments) in the child; it is a function of a module."""
        if self._child is None:
            self._start()
        begun = time.monotonic()
        self._pipe.send((function, arguments))
        value, megabytes, ended = None, 0.0, ""
        try:
            value, megabytes = self._pipe.recv()
        except EOFError:
            self._child.join()
            code = self._child.exitcode
            ended = signal.Signals(-code).name if code < 0 else f"status {code}"
            self._child = None
        return Called(value, ended, time.monotonic() - begun, megabytes)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        limits = self._megabytes, self._seconds, self._ready
        self._child = context.Process(target=_serve, args=(theirs, *limits))
        self._child.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS):
            raise TimeoutError(f"no child process after {START_SECONDS} seconds")
        self._pipe.recv()


def _serve(
    pipe: Connection, megabytes: int, seconds: int, ready: Callable[[], object] | None
) -> None:
    """The child: answers calls until the pipe closes."""
    if ready is not None:
        ready()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also in C
    most = _address_space() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            Path("/proc/self/clear_refs").write_text("5")  # the peak is now's memory
            before = _memory("VmRSS")
            signal.alarm(seconds)
            value = function(*arguments)
            signal.alarm(0)
            pipe.send((value, (_memory("VmHWM") - before) / 2**10))


def _address_space() -> int:
    """The bytes of this process's address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _memory(name: str) -> int:
    """The kilobytes of memory of this process, now (VmRSS) or at its peak (VmHWM).

    The peak of getrusage is inherited from the parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found)
