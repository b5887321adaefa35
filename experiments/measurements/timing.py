"""Timing programs for comparison: after a warm-up, and in alternation."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

SAMPLE = 0.02  # seconds at least, of as many calls as that takes

Programs = Mapping[str, Callable[[], Any]]


class Times(NamedTuple):
    """Seconds per call or unit: of the middle, the fastest, the slowest sample.

    `processor` is the middle of the seconds that this process had of all cores.
    """

    median: float
    fastest: float
    slowest: float
    processor: float
    samples: int


def interleaved(
    programs: Programs, repetitions: int, units: Mapping[str, int] | None = None
) -> dict[str, Times]:
    """The times of some programs, each sampled once in every round.

    Load that comes and goes falls on all alike. A call before each sample is not
    counted: it brings back what the program before took from caches and threads. The
    first sample of each, of one call, says how many calls the others take.

    Args:
      programs: by name, compiled; what a call returns is waited for.
      repetitions: rounds.
      units: steps, say, of a call, by which its time is divided; 1 where it is silent.
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
    """Seconds of the clock and of the processors for each of some calls."""
    jax.block_until_ready(program())
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        result = program()
    jax.block_until_ready(result)
    seconds = time.perf_counter() - start, time.process_time() - processor
    return seconds[0] / calls, seconds[1] / calls
