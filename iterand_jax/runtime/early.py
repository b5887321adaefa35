"""The first seconds of a command: Ctrl-C while libraries load, and closed streams.

Imported before anything else is, and does nothing but in a process that runs a command
of this package. Until `ready` is called, Ctrl-C ends the process with one
line: an exception in the middle of an import can be swallowed by it, or come out as a
long traceback, and nothing has been begun that could be lost.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130
_PACKAGE = "iterand_jax"


def _is_command() -> bool:
    """Whether this process runs a module of ours, as `python -m` or by its script."""
    words = sys.orig_argv[1:]
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1].split(".")[0] == _PACKAGE
    return Path(sys.argv[0] if sys.argv else "").name.split("-")[0] == _PACKAGE


def _leave(number: int, frame: object) -> NoReturn:
    del number, frame
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted while starting; nothing was begun\n")
    os._exit(INTERRUPTED)


def open_streams() -> None:
    """Opens standard streams that are closed on the null device.

    Otherwise the next file that is opened would take their numbers, and get what is
    printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            found = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            if found != number:
                os.dup2(found, number)
                os.close(found)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end


def begin() -> None:
    """Opens closed streams, and makes Ctrl-C end the process in one line."""
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def ready() -> None:
    """Ctrl-C is a KeyboardInterrupt again: all is loaded, and work begins."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command():
    begin()
