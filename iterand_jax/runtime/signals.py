"""Ctrl-C, SIGTERM and a closed terminal as a request to stop after the present step."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRunError(Exception):
    """A run stopped as it was asked to, with a checkpoint of its last step.

    Attributes:
      step: steps done.
      number: the signal that asked.
    """

    def __init__(self, step: int, number: int):
        """At a step, for a signal."""
        super().__init__(
            f"stopped at step {step:,} by {signal.Signals(number).name}; the same "
            "command continues from there"
        )
        self.step = step
        self.number = number


@dataclasses.dataclass
class StopRequest:
    """Whether to stop.

    Attributes:
      number: the signal that asked for it, None while none has.
    """

    number: int | None = None


def heeded() -> list[int]:
    """Those of `SIGNALS` that count: nohup has the end of the terminal ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in SIGNALS if n != signal.SIGHUP or not ignored]


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes and threads that are started inside never get one of `SIGNALS`.

    A terminal, and some schedulers, send them to a whole group of processes, where
    those that help should go on until the one they help has ended. What comes to this
    thread meanwhile it gets at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # multiprocessing starts this helper with its first process, and then unblocks.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first of `SIGNALS` into a request; the next one acts as ever.

    What nohup ignores, the end of the terminal, stays ignored. Outside the main thread,
    which alone can receive signals, there is never a request.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in heeded()}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number, frame) -> None:
        del frame
        request.number = number
        restore()

    for number in previous:
        signal.signal(number, handle)
    asked_elsewhere = False
    try:
        yield request
    except InterruptedRunError:
        # Another process of the run got the signal. It may yet come to this one, which
        # is about to end anyway and should not be killed in that.
        asked_elsewhere = request.number is None
        raise
    finally:
        if not asked_elsewhere:
            restore()
