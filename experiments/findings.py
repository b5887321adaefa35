"""What the paper finds, and whether ours shows it: said of each set of data alone."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.catalogue import paper_numbers
from experiments.evidence import Entry, Version, data_of, pairs
from experiments.metrics import METRICS, Statistics
from experiments.names import shown
from experiments.sweep import Experiment, Follows, Order, Peak, Relative

Measured = tuple[Entry, Statistics]


def texts(experiment: Experiment, version: Version) -> list[str]:
    """A paragraph for each order and each finding of which something was run."""
    told = [order_text(experiment, version, order) for order in experiment.orders]
    metric = experiment.metrics[0]
    for finding in experiment.findings:
        for measured in _groups(version, metric):
            match finding:
                case Peak():
                    told.append(_peak_text(finding, measured, metric))
                case Follows():
                    told.append(_follows_text(finding, measured))
                case Relative():
                    told.append(_relative_text(finding, measured, experiment))
    return [text for text in told if text]


def order_text(experiment: Experiment, version: Version, order: Order) -> str:
    """How often the order of the paper holds in ours, and where it does not."""
    metric = experiment.metrics[0]
    digits = METRICS[metric].digits
    compared, beyond, single, against = 0, 0, 0, []
    for better, worse in pairs(version.entries, order):
        ours, other = better.statistics(metric), worse.statistics(metric)
        if ours is None or other is None:
            continue
        compared += 1
        noise = _noise(ours, other)
        single += noise is None
        beyond += noise is not None and ours.mean - other.mean > noise
        if ours.mean <= other.mean:
            name = " ".join(
                f"{shown(k)} {shown(v)}" if not isinstance(v, str) else shown(v)
                for k, v in better.cell.labels.items()
                if k != order.label
            )
            against.append(f"{name} ({ours.text(digits)} against {other.text(digits)})")
    if not compared:
        return ""
    alone = f"; {single} of one seed, without a deviation" if single else ""
    text = (
        f"**{shown(order.better)} above {shown(order.worse)}**: in "
        f"{compared - len(against)} of {compared} pairs of ours (in {beyond} by more "
        f"than the deviation{alone}), in {paper_order(experiment, order)} of the paper."
    )
    return text + (f" Not so: {'; '.join(against)}." if against else "")


def paper_order(experiment: Experiment, order: Order) -> str:
    """ "17 of 18": how often an order holds in the paper's own table."""
    found = {
        labels: number.mean
        for (labels, metric), number in paper_numbers(experiment.name).items()
        if metric == experiment.metrics[0]
    }
    gains = []
    for labels, mean in found.items():
        if (order.label, order.better) in labels:
            other = labels - {(order.label, order.better)}
            worse = found.get(other | {(order.label, order.worse)})
            if worse is not None:
                gains.append(mean - worse)
    return f"{sum(gain > 0 for gain in gains)} of {len(gains)}"


def _groups(version: Version, metric: str) -> Iterator[list[Measured]]:
    """What was run, apart by network and by data."""
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for entry in version.entries:
        found = entry.statistics(metric)
        if found is not None:
            key = entry.cell.labels["network"], data_of(entry)
            groups.setdefault(key, []).append((entry, found))
    yield from groups.values()


def _noise(ours: Statistics, other: Statistics) -> float | None:
    """The deviation of a difference; None where one of them has none."""
    if ours.deviation is None or other.deviation is None:
        return None
    return math.hypot(ours.deviation, other.deviation)


def _compared(ours: Statistics, other: Statistics, digits: int) -> str:
    """How far ours is above another, and whether that is beyond the deviation."""
    gain, noise = ours.mean - other.mean, _noise(ours, other)
    if noise is None:
        told = "of one seed, without a deviation"
    else:
        told = "more than the deviation" if abs(gain) > noise else "within deviations"
    return f"{gain:+.{digits}f}, {told}"


def _network(measured: Sequence[Measured]) -> str:
    return shown(measured[0][0].cell.labels["network"])


def _peak_text(finding: Peak, measured: Sequence[Measured], metric: str) -> str:
    label, level, digits = finding.label, finding.level, METRICS[metric].digits
    along = {e.cell.labels[label]: s for e, s in measured if label in e.cell.labels}
    levels = [s for e, s in measured if e.cell.labels["method"] == level]
    if len(along) < 2 or not levels:
        return ""
    best, last = max(along, key=lambda value: along[value].mean), max(along)
    above = along[best].mean > levels[0].mean
    text = (
        f"**{finding.paper}**. Ours, {_network(measured)}: the best {shown(label)} of "
        f"{len(along)} is {shown(best)}, {'above' if above else '**not** above'} "
        f"{shown(level)} ({_compared(along[best], levels[0], digits)}). "
    )
    if best == last:
        return text + "It is the largest: accuracy does **not** fall there."
    fall = _compared(along[last], along[best], digits)
    over = _compared(along[last], levels[0], digits)
    return text + (
        f"At the largest, {shown(last)}, accuracy is lower ({fall}), and beside "
        f"{shown(level)} it is {over}."
    )


def _follows_text(finding: Follows, measured: Sequence[Measured]) -> str:
    gaps: dict[bool, list[float]] = {True: [], False: []}
    for (one, ours), (other, theirs) in itertools.combinations(measured, 2):
        ratios = [
            e.cell.labels[finding.numerator] / e.cell.labels[finding.denominator]
            for e in (one, other)
        ]
        gaps[math.isclose(*ratios)].append(abs(ours.mean - theirs.mean))
    if not all(gaps.values()):
        return ""
    same, unlike = (statistics.mean(gaps[equal]) for equal in (True, False))
    deviations = [s.deviation for _, s in measured if s.deviation is not None]
    noise = (
        f"the mean deviation of a cell is {statistics.mean(deviations):.2f}"
        if len(deviations) == len(measured)
        else "some cells have one seed, without a deviation"
    )
    shows = "as in the paper" if same < unlike else "**not** as in the paper"
    ratio = f"{shown(finding.numerator)} / {shown(finding.denominator)}"
    return (
        f"**{finding.paper}**. Ours, {_network(measured)}: cells of equal {ratio} are "
        f"{same:.2f} apart in the mean (pairs: {len(gaps[True])}), others "
        f"{unlike:.2f} (pairs: {len(gaps[False])}), {shows}; {noise}."
    )


def _relative_text(
    finding: Relative, measured: Sequence[Measured], experiment: Experiment
) -> str:
    metric = experiment.metrics[0]
    found = {e.cell.labels["method"]: (e, s) for e, s in measured}
    if not {finding.method, finding.other} <= found.keys():
        return ""
    (one, ours), (other, theirs) = found[finding.method], found[finding.other]
    if len({line["device"] for entry in (one, other) for line in entry.lines}) > 1:
        return ""
    printed = {
        dict(labels).get("method"): number.mean
        for (labels, own), number in paper_numbers(experiment.name).items()
        if own == metric
    }
    paper = printed[finding.method] / printed[finding.other]
    ratio = ours.mean / theirs.mean
    shows = "" if ratio <= finding.at_most else ", which is **more** than that"
    return (
        f"**{finding.paper}** ({paper:.4f} times). Ours, {_network(measured)}: "
        f"{ratio:.4f} times{shows} "
        f"({_compared(ours, theirs, METRICS[metric].digits)})."
    )
