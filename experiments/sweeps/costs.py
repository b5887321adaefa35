"""Cost estimates of runs: steps, and times extrapolated from runs or timed steps.

The time of a step, with its share of validation and checkpoints, is scaled by
multiply-adds from the runs of the most similar network, which is accurate to a factor
of about two for other widths. Runs of the same network can disagree by as much: one was
alone on its machine, another beside others, a third of an earlier version.
"""

import collections
import datetime
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from experiments.measurements import synthetic
from experiments.paper.experiment import Cell
from experiments.paper.names import hours_text
from experiments.sweeps import ledger
from experiments.sweeps.ledger import Ledger, Line, full_config
from experiments.sweeps.runs import Run
from iterand_jax.data.datasets import get_dataset
from iterand_jax.networks import build_network
from iterand_jax.networks.multiply_adds import count_multiply_adds
from iterand_jax.training import provenance
from iterand_jax.training.programs import compile_steps

REPEATED = ("training", "re-randomization", "evaluation", "checkpoints")
"""The phases of a run whose time grows with its steps."""

EVALUATION = 0.1  # the time of validation, as a share of the steps'
TIMED = 3.0  # seconds of steps, or 50 of them, at least 4
AGREE = 1.2  # the slowest of equally similar steps over the fastest, at most
WORDS = 350  # per review, padding included: the work of a step is per word


class Reference(NamedTuple):
    """A timed step.

    Attributes:
      network: its name.
      work: multiply-adds of a forward pass of its batch.
      seconds: per step, with its share of all that a run repeats.
      origin: where it was measured.
      startup: the seconds to the first step of such a run, None if unknown.
      again: the same for a run after another of its form in one process.
      method: of its run.
      finished: when it was measured, in UTC, as the ledger has it.
    """

    network: str
    work: float
    seconds: float
    origin: str
    startup: float | None = None
    again: float | None = None
    method: str = ""
    finished: str = ""


class Price(NamedTuple):
    """The estimated time of a run.

    Attributes:
      startup: the seconds to its first step.
      seconds: of its steps.
      origin: what the estimate is based on.
    """

    startup: float
    seconds: float
    origin: str

    @property
    def total(self) -> float:
        """All its seconds."""
        return self.startup + self.seconds


def steps(cell: Cell) -> int:
    """The steps of a run; without its data, computed from the official sizes."""
    config = cell.config(seed=0)
    trainings = 1 + (config.retrainings or 0)
    return trainings * config.epochs * _steps_per_epoch(cell.base)


@functools.cache
def _steps_per_epoch(base: str) -> int:
    """The steps of an epoch: cells have the data and batch size of their config."""
    return synthetic.build(base).feed.steps_per_epoch


def work(config: ConfigDict) -> float:
    """Multiply-adds of a forward pass on a batch."""
    one = _multiply_adds(config.dataset.name, config.network.name, config.network.width)
    words = WORDS if get_dataset(config.dataset.name).is_text else 1
    return one * words * config.batch_size


@functools.cache
def _multiply_adds(dataset: str, name: str, width: float) -> float:
    """Multiply-adds per image, or per word of a text."""
    inputs, outputs = get_dataset(dataset).inputs, get_dataset(dataset).outputs
    network = build_network(name, num_classes=outputs, width=width)
    variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return count_multiply_adds(jax.make_jaxpr(network.apply)(variables, *inputs).jaxpr)


def references(
    lines: Iterable[Line], device: str, precision: str = "float32"
) -> list[Reference]:
    """The ledger's timed steps on a device, in one precision."""
    found = []
    for line in lines:
        if (line["device"], ledger.precision(line)) == (device, precision):
            config = ConfigDict(unflatten_dict(full_config(line["config"]), sep="."))
            repeated = sum(line["seconds"].get(phase, 0.0) for phase in REPEATED)
            found.append(
                Reference(
                    config.network.name,
                    work(config),
                    repeated / line["steps"] / line["together"],
                    f"the ledger's {line['cell']}",
                    *_startups(line),
                    config.method,
                    line["finished"],
                )
            )
    return found


def _startups(line: Line) -> tuple[float | None, float | None]:
    """The seconds to the first step: of a run alone, and of one after its like."""
    took, parts = line["seconds"].get("first step"), line.get("startup")
    if parts is None:
        return took, None
    if "program step" not in parts:  # it took the programs of an earlier run
        return None, took
    return took, parts.get("state", 0.0) + parts.get("first dispatch", 0.0)


def timed_here(base: str, **fields: Any) -> Reference:
    """Times steps of a config on random data on this device.

    Of Conv6, that takes about 15 seconds on two cores. The programs that a run needs
    besides the step's, and its data, are estimated to take half as long as that one.

    Args:
      base: the name of a config file.
      **fields: of the config, such as dtype.
    """
    begun = time.perf_counter()
    run = synthetic.build(base, **fields)

    def unlike(shapes: Any) -> int:
        return abs(WORDS - max(leaf.shape[-1] for leaf in jax.tree.leaves(shapes)))

    shapes = min(run.feed.train_shapes(), key=unlike)  # texts have several lengths
    state = jax.jit(run.init_state)(run.root)
    step, batch = compile_steps(run, [state], shapes), synthetic.batch(shapes)
    startup = time.perf_counter() - begun
    seconds: list[float] = []
    while len(seconds) < 4 or (sum(seconds) < TIMED and len(seconds) < 50):
        start = time.perf_counter()
        (state,) = jax.block_until_ready(step((state,), (batch,), (run.root,), 1))
        seconds.append(time.perf_counter() - start)
    network, one = run.config.network, statistics.median(seconds[1:])  # warm
    origin = f"a step of {network.name} at width {network.width:g} timed now"
    return Reference(
        network.name,
        work(run.config),
        (1 + EVALUATION) * one,
        f"{origin} ({one:.3f} s)",
        startup=1.5 * startup,
        method=run.config.method,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def work_of(cell: Cell) -> float:
    """Multiply-adds of all forward passes of a run."""
    return steps(cell) * work(cell.config(seed=0))


def alike(cell: Cell, known: Iterable[Reference], since: str = "") -> list[Reference]:
    """The most similar timed steps to a run's.

    Of the same network, if there are any, and the nearest size; among them the ones
    measured since a time, if there are any, and among those of the same method.

    Args:
      cell: of the run.
      known: timed steps.
      since: a time in UTC, as the ledger has it; "" for all times.
    """
    config = cell.config(seed=0)
    wanted = work(config)

    def unlike(reference: Reference) -> tuple[bool, float]:
        ratio = math.log(reference.work / wanted)
        return reference.network != config.network.name, abs(ratio)

    far = [(unlike(reference), reference) for reference in known]
    least = min((distance for distance, _ in far), default=None)
    found = [reference for distance, reference in far if distance == least]
    found = [r for r in found if r.finished >= since] or found
    return [r for r in found if r.method == config.method] or found


def agree(alike: Iterable[Reference]) -> bool:
    """Whether equally similar steps take equally long, so that one can be priced."""
    seconds = [reference.seconds for reference in alike]
    return max(seconds) <= AGREE * min(seconds)


def price(
    cell: Cell,
    known: Sequence[Reference],
    *,
    done: int = 0,
    again: bool = False,
    of_alike: Callable[[Iterable[float]], float] = statistics.median,
    since: str = "",
) -> Price:
    """The estimated time of a run.

    Needs at least one timed step.

    Args:
      cell: of the run.
      known: the timed steps of its device, in its precision.
      done: the steps that are already done.
      again: whether a run of the same form comes before it in its process.
      of_alike: which of the times of equally similar steps counts.
      since: as in `alike`, of its step and its start-up.
    """
    config = cell.config(seed=0)
    nearest = alike(cell, known, since)
    wanted = work(config)
    seconds = of_alike(r.seconds * wanted / r.work for r in nearest)
    others = f" (median of {len(nearest)})" if len(nearest) > 1 else ""
    own = [r for r in known if r.network == config.network.name] or known
    late = [r for r in own if r.finished >= since]
    alone = _startups_of(late, "startup") or _startups_of(own, "startup")
    after = _startups_of(late, "again") or _startups_of(own, "again")
    startup = statistics.median((after if again else alone) or alone or after or [0.0])
    left = max(0, steps(cell) - done) * seconds
    return Price(startup, left, nearest[0].origin + others)


def _startups_of(known: Iterable[Reference], kind: str) -> list[float]:
    times = (getattr(reference, kind) for reference in known)
    return [seconds for seconds in times if seconds is not None]


def left_text(runs: Sequence[Run], known: Ledger) -> str:
    """What runs would take on each device of the ledger, in each of its precisions.

    The fastest comes first. An accelerator takes less than this for networks that are
    wider than those that it has run, as it is not busy with small ones. Of equally
    similar runs the fastest counts: some were made beside other work.
    """
    kinds = dict.fromkeys((line["device"], ledger.precision(line)) for line in known)
    cells = {run.cell.name: run.cell for run in runs}
    number = collections.Counter(run.cell.name for run in runs)
    times = {}
    of_idle = functools.partial(price, of_alike=min)
    for device, precision in kinds:
        if ", then " in device:  # begun on one and ended on another
            continue
        timed = references(known, device, precision)
        took = sum(n * of_idle(cells[name], timed).total for name, n in number.items())
        times[f"{device} in {precision}"] = took / 3600
    fastest = sorted(times.items(), key=lambda item: item[1])
    return "; ".join(f"{hours_text(hours)} on {on}" for on, hours in fastest)


def table(runs: Sequence[Run], known: Sequence[Reference]) -> str:
    """A table of cells, steps and estimated hours, the totals, and their basis."""
    lines = [f"{'cell':<52}{'seeds':>6}{'steps':>14}{'time':>12}"]
    total_steps, total_hours = 0, 0.0
    origins: dict[str, None] = {}  # in order
    for name, group in itertools.groupby(runs, key=lambda run: run.cell.name):
        of_cell = list(group)
        one = price(of_cell[0].cell, known)
        took = one.total * len(of_cell) / 3600
        number = steps(of_cell[0].cell) * len(of_cell)
        total_steps, total_hours = total_steps + number, total_hours + took
        origins[one.origin] = None
        lines.append(f"{name:<52}{len(of_cell):>6}{number:>14,}{hours_text(took):>12}")
    lines.append(
        f"{'total':<52}{len(runs):>6}{total_steps:>14,}{hours_text(total_hours):>12}"
    )
    lines.append(
        f"estimated on {provenance.device()}, in proportion to multiply-adds, from "
        + "; ".join(origins)
    )
    return "\n".join(lines)
