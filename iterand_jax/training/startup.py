"""What a process does before its first step, in seconds, part by part.

Programs compile in threads while data is read, so parts overlap: each has its begin and
its end, in seconds after the process began.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from iterand_jax.runtime import compilation

T = TypeVar("T")
Part = dict[str, Any]


class Startup:
    """The parts of a start.

    Attributes:
      started: when it began, on the clock of time.perf_counter().
      parts: {name: {"begin": seconds, "end": seconds}}; a program has the seconds
        "traced", "lowered" and "compiled" of these too, and whether it was "cached".
    """

    def __init__(self, started: float | None = None):
        """Begins now, or began then."""
        self.started = time.perf_counter() if started is None else started
        self.parts: dict[str, Part] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that lasts as long as what is inside."""
        begun = time.perf_counter()
        yield
        self.add(name, begun)

    def program(self, name: str, make: Callable[[], T]) -> T:
        """What `make` compiles, in this thread."""
        begun = time.perf_counter()
        with compilation.timed() as times:
            made = make()
        part = self.add(name, begun)
        known = times.lowered + times.compiled
        part["traced"] = round(max(0.0, part["end"] - part["begin"] - known), 3)
        part["lowered"] = round(times.lowered, 3)
        part["compiled"] = round(times.compiled, 3)
        part["cached"] = times.cached
        return made

    def add(self, name: str, begun: float) -> Part:
        """A part that began at a time of time.perf_counter() and ends now."""
        now = time.perf_counter()
        begin, end = (round(t - self.started, 3) for t in (begun, now))
        self.parts[name] = {"begin": begin, "end": end}
        return self.parts[name]
