"""The startup time of a process, up to its first step, by part.

Programs compile in threads while data is read, so parts overlap: each has a begin and
an end, in seconds since the process started. In "dataset" files are found and hashed,
and small sets are read. "reading" is the rest of the data, and within it, where a
dataset does it apart: "data read" is of texts or of arrays of decoded images, "data
decode" the reading and decoding of images that are not kept as such, "data keep" the
writing of these arrays, "data copy" the copy to the devices, "data repeats" the search
for examples that are there twice.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from iterand_jax.runtime import compilation

T = TypeVar("T")
Part = dict[str, Any]


class Startup:
    """Records the parts of a startup.

    Attributes:
      started: its start by time.perf_counter().
      parts: {name: {"begin": seconds, "end": seconds}}; for a program also the seconds
        "traced", "lowered" and "compiled", and whether it was "cached".
    """

    def __init__(self, started: float | None = None):
        """Starts now, or at a given time.perf_counter()."""
        self.started = time.perf_counter() if started is None else started
        self.parts: dict[str, Part] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Records the duration of a with block as a part."""
        begun = time.perf_counter()
        yield
        self.add(name, begun)

    def program(self, name: str, make: Callable[[], T]) -> T:
        """Compiles with `make` in this thread, as a part; returns the result."""
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
        """Records a part from a time.perf_counter() until now.

        Of several with one name, from the first begin to the last end.
        """
        now = time.perf_counter()
        begin, end = (round(t - self.started, 3) for t in (begun, now))
        with self._lock:
            part = self.parts.setdefault(name, {"begin": begin, "end": end})
            part["begin"] = min(part["begin"], begin)
            part["end"] = max(part["end"], end)
            return part
