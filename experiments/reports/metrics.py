"""The metrics that tables compare, read from a line of the ledger."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.sweeps.ledger import Line


class Metric(NamedTuple):
    """A metric of a run.

    Attributes:
      title: with its unit.
      of: reads the number from a ledger line; None if the run has none.
      digits: decimals, as the paper prints them.
    """

    title: str
    of: Callable[[Line], float | None]
    digits: int = 2


class Statistics(NamedTuple):
    """The mean of n runs and their sample deviation (n - 1), None for one run."""

    n: int
    mean: float
    deviation: float | None

    def text(self, digits: int) -> str:
        """Text such as "75.16 ± 0.23".

        >>> Statistics(3, 75.16, 0.234).text(2), Statistics(1, 75.16, None).text(1)
        ('75.16 ± 0.23', '75.2')
        """
        mean = f"{self.mean:.{digits}f}"
        if self.deviation is None:
            return mean
        return f"{mean} ± {self.deviation:.{digits}f}"


def statistics_of(metric: Metric, lines: Sequence[Line]) -> Statistics | None:
    """The statistics of a metric over lines; None if no line has it."""
    found = [value for value in map(metric.of, lines) if value is not None]
    if not found:
        return None
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return Statistics(len(found), statistics.mean(found), deviation)


def _training_seconds(line: Line) -> float:
    seconds = line["seconds"]
    randomization = seconds.get("re-randomization", 0.0)
    return (seconds["training"] + randomization) / line["together"]


def _randomization_ms(line: Line) -> float | None:
    k_per = line["config"].get("k_per")
    if not k_per:
        return None
    times = line["steps"] // k_per * line["together"]
    seconds = line["seconds"].get("re-randomization")
    return 1000 * seconds / times if times and seconds is not None else None


def _ticket_kilobytes(line: Line) -> float | None:
    size = line.get("ticket_bytes")
    return None if size is None else size / 1e3


METRICS: Mapping[str, Metric] = {
    "test_accuracy": Metric("test accuracy (%)", lambda line: line["test_accuracy"]),
    "validation_accuracy": Metric(
        "validation accuracy (%)", lambda line: line["validation_accuracy_last"]
    ),
    "training_seconds": Metric("training (s)", _training_seconds),
    "randomization_ms": Metric("one randomization (ms)", _randomization_ms),
    "sparsity_percent": Metric(
        "sparsity (%)", lambda line: 100 * line["sparsity_achieved"], digits=0
    ),
    "ticket_kilobytes": Metric("ticket (kB)", _ticket_kilobytes, digits=1),
    "parameters_kept": Metric(
        "parameters kept (M)", lambda line: line["parameters_kept"] / 1e6
    ),
    "parameters": Metric(
        "parameters (M)", lambda line: line["parameters"] / 1e6, digits=1
    ),
}
