"""Ctrl-C from the first second of a command to its last, and closed streams.

Imported before anything else is, and does nothing but in a process that runs a command
of this package, or of the `experiments` beside it.

Ctrl-C ends such a process in the handler itself: it writes one line and leaves with
status 130. A KeyboardInterrupt would be raised wherever Python happens to be: in an
import it comes out as a long traceback; in a callback of the garbage collector, as
JAX's, it is printed, dropped, and the run goes on to its end; and through an `exec`, as
dataclasses use it, Python remembers it and ends by the signal, whatever status was
asked for. A flag would be looked at only after compiling. Nothing is lost by leaving at
once: what is on disk is whole after a kill at any moment, which is promised and tested
anyway. Once a run trains, `signals.stop_requests` takes over, and saves its step; the
second Ctrl-C comes here again.

Only what has to be undone, as a copy in a temporary folder or a mirror of a bucket,
is done inside `unwinding`, where Ctrl-C is a KeyboardInterrupt that is not dropped.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = 130
_PACKAGE, _BESIDE = "iterand_jax", "experiments"
_AGAIN_SECONDS = 0.05
_begun = False
_raised = threading.Event()
_words: Callable[[], str] = lambda: "interrupted while starting; nothing was begun"  # noqa: E731
closed: set[str] = set()
"""The names of the standard streams that were closed when the command began."""


def _is_command() -> bool:
    """Whether this process runs a module of ours, as `python -m` or by its script."""
    words = sys.orig_argv[1:]
    if "-m" not in words[:-1]:
        return Path(sys.argv[0] if sys.argv else "").name.split("-")[0] == _PACKAGE
    package = words[words.index("-m") + 1].split(".")[0]
    if package != _BESIDE:  # others have a package of this name, too
        return package == _PACKAGE
    folders = [*getattr(sys.modules.get(_BESIDE), "__path__", ())]
    beside = Path(__file__).resolve().parents[2] / _BESIDE
    return [Path(folder).resolve() for folder in folders] == [beside]


def _leave(number: int, frame: object) -> NoReturn:
    """Ends the process with one line; a second Ctrl-C meanwhile needs no words."""
    del number, frame
    signal.signal(signal.SIGINT, _leave_in_silence)
    try:
        text = _words()
    except Exception:  # as of a folder that cannot be read any more
        text = "interrupted"
    # A bar that is shown has no end of its line yet.
    bar = getattr(sys.modules.get("tqdm"), "tqdm", None)
    lines = "\n" * bool(getattr(bar, "_instances", ())) + text + "\n"
    with contextlib.suppress(Exception):  # as of a write that is interrupted here
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, lines.encode(errors="replace"))
    os._exit(INTERRUPTED)


def _leave_in_silence(number: int, frame: object) -> NoReturn:
    del number, frame
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def open_streams() -> None:
    """Opens standard streams that are closed on the null device, and remembers them.

    Otherwise the next file that is opened would take their numbers, and get what is
    printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            closed.add(name)
            found = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            if found != number:
                os.dup2(found, number)
                os.close(found)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end


def begin() -> None:
    """Opens closed streams, and makes Ctrl-C end the process in one line."""
    global _begun
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _begun = True
        signal.signal(signal.SIGINT, _leave)
        sys.unraisablehook = _not_dropped(sys.unraisablehook)
        # Python takes handlers down before it frees what there is, which takes tenths
        # of a second, and a Ctrl-C would end the process by the signal; what is ignored
        # stays so. Registered first, this is called last.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def ready(words: str) -> None:
    """All is loaded, and work begins: what Ctrl-C says from here on."""
    global _words
    _words = lambda: words  # noqa: E731


@contextlib.contextmanager
def saying(words: Callable[[], str]) -> Iterator[None]:
    """What Ctrl-C says inside; the function is called in the handler."""
    global _words
    before, _words = _words, words
    try:
        yield
    finally:
        _words = before


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt inside, for what has to be undone.

    It is raised again where it was dropped, as in a callback of the garbage collector.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not _leave
    ):
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _raise:
            signal.signal(signal.SIGINT, _leave)


def _raise(number: int, frame: object) -> NoReturn:
    del number, frame
    _raised.set()
    raise KeyboardInterrupt


def _not_dropped(show: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook of errors that are dropped, which raises Ctrl-C again."""
    main = threading.get_ident()

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            show(unraisable)
            return
        _raised.clear()
        with contextlib.suppress(RuntimeError):  # Python is about to end
            threading.Thread(target=_send_again, args=(main,), daemon=True).start()

    return hook


def _send_again(main: int) -> None:
    """Sends the main thread Ctrl-C until its handler has run.

    A signal, so that a call in which it waits ends, too; and more than one, as a signal
    that comes between Python's last look and the system's call does not end that.
    """
    while not _raised.wait(_AGAIN_SECONDS):
        signal.pthread_kill(main, signal.SIGINT)
        if signal.getsignal(signal.SIGINT) not in (_raise, _leave):
            return


def decided(status: object) -> None:
    """The command has ended with a status, which Ctrl-C leaves with from here on.

    Python itself would end by the signal if a KeyboardInterrupt has ever passed through
    an `exec` of a text, as that of `namedtuple`; the next one that ends well resets it.
    """
    if _begun and (status is None or isinstance(status, int)):
        exec("")
        code = status or 0
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(code))


if _is_command():
    begin()
