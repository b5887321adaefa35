"""How long devices wait for batches that the host makes: whether a feed keeps up.

A wait counts from when the devices have done all that they were given, so that a batch
that comes while they still compute costs nothing, however long the loop waited for it.
It is part of the seconds of training. With several processes it lasts until the slowest
has its batch.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from iterand_jax.training.logs import Clock
from iterand_jax.training.run import DataRun

PHASE = "waiting for data"
"""The name in the seconds of a result; data that stays on devices has none."""

BOUND = 0.05
"""The share of the training from which on a run says that its feed does not keep up."""

_LOGGER = logging.getLogger(__name__)


class Waiting:
    """Measures the waits of a run for its feed."""

    def __init__(self, run: DataRun, clock: Clock):
        """Of a run whose seconds a clock adds up, over its restarts."""
        self._clock, self._warned = clock, False
        self._counts = not run.dataset.resident
        self._can_help = "workers" in run.dataset.options
        self._begun: dict[str, float] = {}  # at the last line
        if self._counts:
            clock.seconds.setdefault(PHASE, 0.0)
            self._thread = ThreadPoolExecutor(1, "waiting")

    def close(self) -> None:
        """Ends its thread, which may still wait for the devices."""
        if self._counts:
            self._thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def measure(self, last: Any) -> Iterator[None]:
        """Adds the time inside in which no device computes.

        Args:
          last: arrays that the devices compute last, which are not donated; None if
            they have nothing to do.
        """
        if not self._counts:
            yield
            return
        # A thread sees when they are done, since this one waits for the batch.
        done = None if last is None else self._thread.submit(_done, last)
        begun = time.perf_counter()
        yield
        now = time.perf_counter()
        if done is not None:
            if not done.done():
                return
            begun = max(begun, done.result())
        self._clock.add(PHASE, now - begun)

    def warn(self) -> None:
        """Warns once, at a log line, if the feed does not keep up since the last one.

        The first line of a start only begins the count: workers start until then.
        """
        seconds, since = self._clock.seconds, self._begun
        self._begun = dict(seconds)
        if not self._counts or self._warned or PHASE not in since:
            return
        passed = {name: seconds[name] - since.get(name, 0) for name in _OF_SHARE}
        if share(passed) > BOUND:
            self._warned = True
            _LOGGER.warning("since the last line of the log %s", self._said(passed))

    def said_of_all(self) -> str | None:
        """The sentence of a whole run, None where its feed keeps up."""
        seconds = self._clock.seconds
        return self._said(seconds) if share(seconds) > BOUND else None

    def _said(self, seconds: Mapping[str, float]) -> str:
        helps = "more of dataset.workers help while there are cores"
        return (
            f"the devices waited for data for {seconds[PHASE]:.1f} of "
            f"{seconds['training']:.1f} s of training ({share(seconds):.0%}): the feed "
            f"does not keep up{f'; {helps}' if self._can_help else ''}"
        )


_OF_SHARE = PHASE, "training"


def share(seconds: Mapping[str, float]) -> float:
    """The share of the training in which devices waited; 0 where nothing was counted.

    >>> share({"training": 8.0, "waiting for data": 2.0}), share({"training": 8.0})
    (0.25, 0.0)
    """
    training = seconds.get("training", 0.0)
    return seconds.get(PHASE, 0.0) / training if training > 0 else 0.0


def _done(arrays: Any) -> float:
    """The time.perf_counter() at which arrays are computed."""
    with contextlib.suppress(Exception):  # whoever reads them gets the error
        jax.block_until_ready(arrays)
    return time.perf_counter()
