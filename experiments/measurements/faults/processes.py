"""The faults of `kills`, injected into a run of two processes that train together."""

from collections.abc import Iterator
from pathlib import Path

from experiments.measurements.faults import kills
from experiments.measurements.faults.trial import Trial

PROMISE = (
    "When a process of a run is killed, the others end; the same command continues "
    "from the newest whole checkpoint and ends with the same bits"
)


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many faults, and for each run whether its end has the same bits."""
    return kills.trials(count, seed, folder, processes=2)
