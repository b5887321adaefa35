"""The faults of `kills` where each start compiles the run's programs again.

A GPU's programs are chosen by timing when they are compiled, so this asks for the
config's `deterministic`; on CPUs it is `kills`, and slower. Where this process could
take a GPU's memory from the run's, set XLA_PYTHON_CLIENT_PREALLOCATE=false.
"""

from collections.abc import Iterator
from pathlib import Path

from experiments.measurements.faults import kills
from experiments.measurements.faults.trial import Trial

PROMISE = (
    "With config.deterministic, a run that is killed at any moment and continues with "
    "programs that are compiled again ends with the same bits"
)


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many faults, and for each run whether its end has the same bits."""
    return kills.trials(count, seed, folder, recompiled=True)
