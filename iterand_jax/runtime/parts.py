"""The parts of a longer work, reported by the code that does them to what measures it.

The data of a run is read by modules that know of no run: they name what they do, and
whoever listens around the call gets its time. Without a listener it costs nothing.
"""

import contextlib
import contextvars
import time
from collections.abc import Callable, Iterator
from typing import Any

_Listener = Callable[[str, float], Any]
_listener: contextvars.ContextVar[_Listener | None] = contextvars.ContextVar(
    "listener", default=None
)


@contextlib.contextmanager
def heard(listener: _Listener) -> Iterator[None]:
    """Calls the listener at the end of each part that this thread does inside.

    Args:
      listener: called with the name of a part and its begin by time.perf_counter().
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """A part of what is done around it; one that fails is not reported.

    >>> seen = []
    >>> with heard(lambda name, begun: seen.append(name)), part("decode"):
    ...     pass
    >>> seen
    ['decode']
    """
    begun = time.perf_counter()
    yield
    listener = _listener.get()
    if listener is not None:
        listener(name, begun)
