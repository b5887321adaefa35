"""Times programs for comparison, interleaved and after a warm-up."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

SAMPLE = 0.02  # seconds at least, over as many calls as needed

Programs = Mapping[str, Callable[[], Any]]


class Times(NamedTuple):
    """Seconds per call or unit: of the median, the fastest, the slowest sample.

    `processor` is the median of the CPU seconds of this process on all cores.
    """

    median: float
    fastest: float
    slowest: float
    processor: float
    samples: int


def interleaved(
    programs: Programs, repetitions: int, units: Mapping[str, int] | None = None
) -> dict[str, Times]:
    """Times programs, sampling each once per round.

    Varying load thus affects all equally. The call before each sample is not timed: it
    warms the caches and threads that the program before used. The first sample of each
    is of one call and determines the number of calls of the others.

    Args:
      programs: by name, compiled; times include the wait for the last result.
      repetitions: rounds.
      units: by name, such as steps per call, by which times are divided; default 1.
    """
    units = units or {}
    calls = {
        name: max(1, math.ceil(SAMPLE / _seconds(program, 1)[0]))
        for name, program in programs.items()
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(repetitions):
        for name, program in programs.items():
            samples[name].append(_seconds(program, calls[name]))
    return {name: _summary(samples[name], units.get(name, 1)) for name in programs}


def _summary(samples: list[tuple[float, float]], units: int) -> Times:
    seconds = [clock / units for clock, _ in samples]
    return Times(
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        statistics.median(processor / units for _, processor in samples),
        samples=len(samples),
    )


def _seconds(program: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds per call, after one call that is not timed."""
    jax.block_until_ready(program())
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        result = program()
    jax.block_until_ready(result)
    seconds = time.perf_counter() - start, time.process_time() - processor
    return seconds[0] / calls, seconds[1] / calls
