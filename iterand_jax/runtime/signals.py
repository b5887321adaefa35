"""Ctrl-C, SIGTERM and a closed terminal as requests to stop after the current step."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRunError(Exception):
    """A run was stopped by a signal, mostly with a checkpoint of its last step.

    Attributes:
      step: of the checkpoint that the same command continues from; 0 for none.
      number: the signal.
    """

    def __init__(self, step: int, number: int, *, saved: bool = True):
        """Stopped by a signal.

        Args:
          step: of the last checkpoint, 0 if there is none.
          number: the signal.
          saved: whether the run stopped at this step, and not at some later moment.
        """
        name = signal.Signals(number).name
        if saved:
            text = f"stopped at step {step:,} by {name}; the same command continues "
            text += "from there"
        elif step:
            text = f"stopped by {name}; the same command continues from the checkpoint "
            text += f"at step {step:,}"
        else:
            text = f"stopped by {name} before a checkpoint was written; the same "
            text += "command starts from the beginning"
        super().__init__(text)
        self.step = step
        self.number = number


@dataclasses.dataclass
class StopRequest:
    """Whether a stop was requested.

    Attributes:
      number: the signal that requested it, None before one came.
    """

    number: int | None = None


def heeded() -> list[int]:
    """The `SIGNALS` to handle: under nohup, SIGHUP stays ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [n for n in SIGNALS if n != signal.SIGHUP or not ignored]


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Blocks `SIGNALS` in processes and threads that are started inside.

    A terminal, and some schedulers, send signals to a whole process group, but workers
    must run until the process that they serve has ended. Signals that reach this thread
    meanwhile are delivered at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # multiprocessing starts it with its first process and then unblocks signals.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first of `SIGNALS` into a request; the next one has its usual effect.

    Under nohup, SIGHUP stays ignored. Outside the main thread, which alone can receive
    signals, there is never a request.
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
    requested_elsewhere = False
    try:
        yield request
    except InterruptedRunError:
        # Another process of the run got the signal. It may still reach this one, which
        # is about to end anyway and must not be killed while it does.
        requested_elsewhere = request.number is None
        raise
    finally:
        if not requested_elsewhere:
            restore()
