"""What of a sweep ends within a time limit: prices, an order, and the time left.

A run is priced by what this call has learned, else by the runs of the ledger on this
device, or by a step that is timed now: where there are no such runs, and where those of
its network disagree, as of a machine that was busy with other work. It is priced again
just before it would start, when more is known, and starts only if it can end in the
time left. Should a price have been too low, the run is stopped with a checkpoint
shortly before the limit.
"""

import contextlib
import datetime
import functools
import json
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.paper.experiment import Cell
from experiments.paper.names import hours_text
from experiments.sweeps import costs, ledger
from experiments.sweeps.costs import Price, Reference
from experiments.sweeps.runs import Job
from iterand_jax.training import provenance

SAFETY = 1.1  # a run starts if it has this times its price left
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
TIMING = 1 / 20  # of the limit, after which no more steps are timed
COMPARED = ("method", "distribution")
"""The labels that differ within a column of a table."""

Form = tuple[str, int]
"""The folder of a job's cell and the number of its runs: they share programs."""


def parse_duration(text: str) -> float:
    """The seconds of "90s", "12m", "1.5h" or "2d".

    Raises:
      ValueError: anything else.

    >>> parse_duration("12m"), parse_duration("1.5h")
    (720.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not seconds:
        raise ValueError(
            f"--within must be a time such as 90s, 12m or 2h; got {text!r}"
        )
    return seconds


class Begun(NamedTuple):
    """What the checkpoints of a run say.

    Attributes:
      steps: done, at the newest checkpoint.
      devices: [device, precision] of each machine that trained it, in order; empty
        without a checkpoint or in those of earlier versions.
    """

    steps: int
    devices: Sequence[Sequence[str]]


def begun(workdir: Path) -> Begun:
    """Reads the names and records of checkpoints in a workdir and in its stages."""
    steps, devices = 0, []
    for folder in sorted(workdir.glob("**/checkpoints")):
        saved = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        if saved:
            steps += max(saved)
            devices += _devices(folder / str(max(saved)) / "record" / "metadata")
    return Begun(steps, devices)


def _devices(record: Path) -> list[list[str]]:
    try:
        parts = json.loads(record.read_text()).get("parts", [])
        return [[str(part["device"]), str(part["precision"])] for part in parts]
    except Exception:  # damaged, in any way: the run takes an earlier one
        return []


class Planned(NamedTuple):
    """A job in a plan.

    Attributes:
      job: its runs.
      price: of the job.
      ends: seconds from now until it ends; None if it cannot end in time.
    """

    job: Job
    price: Price
    ends: float | None


class Plan:
    """Decides which jobs start within a limit.

    Attributes:
      within: the limit in seconds.
      saving: the seconds at its end that are kept for a last checkpoint.
    """

    def __init__(
        self,
        within: float,
        started: float,
        workdirs: Path,
        results: Path,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """The limit counts from `started`, a time of the clock."""
        self.within, self.saving = within, min(10.0, within / 20)
        self._started, self._clock = started, clock
        self._workdirs, self._results = workdirs, results
        self._forms: set[Form] = set()  # that this process has trained
        self._measured: dict[tuple[str, str], Reference] = {}
        ago = datetime.timedelta(seconds=clock() - started)
        begun = datetime.datetime.now(datetime.UTC) - ago
        self._since = begun.isoformat(timespec="seconds")
        self._timing = 0.0  # seconds spent on timing steps

    def left(self) -> float:
        """The seconds until the last checkpoint has to begin."""
        return self._started + self.within - self.saving - self._clock()

    def fits(self, job: Job) -> bool:
        """Whether a job can end in the time left; if so, it counts as begun."""
        if SAFETY * self._prices()(job, self._forms).total > self.left():
            return False
        self._forms.add(_form(job))
        return True

    def ever_fits(self, job: Job) -> bool:
        """Whether a job could end in a later call with the same limit."""
        return SAFETY * self._prices()(job, ()).total <= self.within - self.saving

    def order(self, jobs: Sequence[Job], first: Collection[str]) -> list[Job]:
        """Jobs by priority.

        What has a checkpoint comes first, then the cells named in `first`, then column
        by column, the cheapest first, with the first seeds of all its cells first.
        """
        price_of = self._prices(timing=False)  # of those that start later
        prices = [price_of(job, ()).total for job in jobs]
        columns: dict[Any, float] = {}
        for job, price in zip(jobs, prices, strict=True):
            columns[_column(job)] = columns.get(_column(job), 0.0) + price

        def priority(job: Job) -> tuple[Any, ...]:
            column = _column(job)
            return (
                not self._done(job),
                job[0].cell.name not in first,
                columns[column],
                sorted(column, key=str),
                job[0].seed,
            )

        return sorted(jobs, key=priority)

    def walk(self, jobs: Sequence[Job]) -> list[Planned]:
        """What would start, in this order, if all prices are right."""
        price_of, forms = self._prices(), set(self._forms)
        now, found = 0.0, []
        for job in jobs:
            price = price_of(job, forms)  # which may time a step
            fits = now + SAFETY * price.total <= self.left()
            if fits:
                now += price.total
                forms.add(_form(job))
            found.append(Planned(job, price, now if fits else None))
        return found

    def _done(self, job: Job) -> int:
        """The steps that every run of a job has done."""
        cell = self._workdirs / job[0].folder
        return min(begun(cell / f"seed_{run.seed}").steps for run in job)

    def _prices(self, timing: bool = True) -> Callable[[Job, Collection[Form]], Price]:
        """(job, forms that this process has trained) -> price, by the ledger of now.

        Without timing, a step is timed only where the ledger has none.
        """
        known = ledger.read(self._results)

        @functools.cache
        def of_ledger(precision: str) -> Sequence[Reference]:
            return costs.references(known, provenance.device(), precision)

        def price(job: Job, forms: Collection[Form]) -> Price:
            config, cell = job[0].config, job[0].cell
            precision = provenance.precision(config.dtype, config.matmul_precision)
            lines = of_ledger(precision)
            near = costs.alike(cell, lines, self._since)
            late = any(reference.finished >= self._since for reference in near)
            sure = late or (bool(near) and (costs.agree(near) or not timing))
            timed = [] if sure else self._measure(cell, precision, near)
            done, again = self._done(job), _form(job) in forms
            one = costs.price(
                cell, [*lines, *timed], done=done, again=again, since=self._since
            )
            return one._replace(seconds=one.seconds * len(job))

        return price

    def _measure(
        self, cell: Cell, precision: str, near: Sequence[Reference]
    ) -> Sequence[Reference]:
        """The steps timed now, of this cell's network if there is time for it."""
        config = cell.config(seed=0)
        form = precision, f"{config.network.name} {config.network.width:g}"
        timed = [r for (of, _), r in self._measured.items() if of == precision]
        spent = self._timing > TIMING * self.within
        if form not in self._measured and not (spent and (near or timed)):
            begun = self._clock()
            self._measured[form] = costs.timed_here(cell.base, **cell.overrides)
            self._timing += self._clock() - begun
            timed.append(self._measured[form])
        return timed


def _form(job: Job) -> Form:
    return job[0].folder, len(job)


def _column(job: Job) -> frozenset[tuple[str, Any]]:
    labels = job[0].cell.labels.items()
    return frozenset((name, value) for name, value in labels if name not in COMPARED)


def table(planned: Iterable[Planned], plan: Plan) -> str:
    """The plan as text: what starts, in order, and when it ends."""
    lines = [f"{'run':<56}{'start-up':>10}{'steps':>10}{'ends after':>12}"]
    origins: dict[str, None] = {}
    spent = plan.within - plan.saving - plan.left()
    for job, price, ends in planned:
        seeds = ", ".join(str(run.seed) for run in job)
        when = "no time" if ends is None else hours_text((spent + ends) / 3600)
        took = (hours_text(s / 3600) for s in (price.startup, price.seconds))
        name = f"{job[0].cell.name}, seed {seeds}"
        lines.append(f"{name:<56}{next(took):>10}{next(took):>10}{when:>12}")
        origins[price.origin] = None
    limit = hours_text(plan.within / 3600)
    lines.append(f"within {limit} on {provenance.device()}, by {'; '.join(origins)}")
    return "\n".join(lines)


@contextlib.contextmanager
def stopping_in_time(plan: Plan) -> Iterator[None]:
    """Sends this process SIGTERM when the time is up, which saves a run and stops."""

    def stop(number, frame) -> None:
        del number, frame
        print("the time of --within is up: saving and stopping", flush=True)
        signal.raise_signal(signal.SIGTERM)

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, plan.left()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
