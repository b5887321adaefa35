"""Whether our runs reproduce the paper's rankings, separately for each dataset."""

import math

from experiments.paper.catalogue import paper_numbers
from experiments.paper.experiment import Experiment, Order
from experiments.paper.names import shown
from experiments.reports.evidence import Version, pairs
from experiments.reports.metrics import METRICS

NOT_IN_THE_PAPER = "0 of 0"


def order_text(experiment: Experiment, version: Version, order: Order) -> str:
    """How often the paper's order holds in our runs, and where it does not."""
    metric = experiment.metrics[0]
    digits = METRICS[metric].digits
    compared, known, beyond, against = 0, 0, 0, []
    for better, worse in pairs(version.entries, order):
        ours, other = better.statistics(metric), worse.statistics(metric)
        if ours is None or other is None:
            continue
        compared += 1
        gain = ours.mean - other.mean
        if ours.deviation is not None and other.deviation is not None:
            known += 1
            beyond += gain > math.hypot(ours.deviation, other.deviation)
        if gain <= 0:
            name = " ".join(
                shown(v) if isinstance(v, str) else f"{shown(k)} {shown(v)}"
                for k, v in better.cell.labels.items()
                if k != order.label
            )
            against.append(f"{name} ({ours.text(digits)} against {other.text(digits)})")
    if not compared:
        return ""
    text = (
        f"**{shown(order.better)} above {shown(order.worse)}**: in "
        f"{compared - len(against)} of {compared} pairs of ours "
        f"({_certainty(compared, known, beyond)})"
    )
    held = paper_order(experiment, order)
    text += "." if held == NOT_IN_THE_PAPER else f", in {held} of the paper."
    return text + (f" Not so: {'; '.join(against)}." if against else "")


def _certainty(compared: int, known: int, beyond: int) -> str:
    """How many of the compared pairs differ by more than chance, as far as is known."""
    if not known:
        return "each with a single seed, which has no deviation"
    of = "" if known == compared else f" of the {known} of several seeds"
    return f"in {beyond}{of} by more than the deviation"


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
