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
    """This many faults; the last trial says whether the ends have the same bits."""
    run = kills.Run(
        folder,
        processes=2,
        epochs=kills.EPOCHS_BEFORE + kills.EPOCHS_OF_A_FAULT * count,
    )
    return kills.trials_of(run, count, seed)
