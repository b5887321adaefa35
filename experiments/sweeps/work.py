"""Training the runs of a sweep, each once, with any number of concurrent processes.

A process locks a run's lock file until the run is in the ledger, and the operating
system releases the lock of a process that exits or is killed. So no run is trained
twice, and the next process resumes what a killed one has left.
"""

import contextlib
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
from tqdm import tqdm

from experiments.sweeps import costs, ledger, packing
from experiments.sweeps.plan import Plan, begun, stopping_in_time
from experiments.sweeps.runs import Job, Run
from iterand_jax.data import datasets, prepare
from iterand_jax.runtime.locks import alone_or_refused
from iterand_jax.runtime.signals import SIGNALS, InterruptedRunError
from iterand_jax.training import provenance
from iterand_jax.training.config import resolve
from iterand_jax.training.exporting import ticket_bytes
from iterand_jax.training.shared import Shared
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import finished_result, read_result

FINISHED, ALREADY, ELSEWHERE, FAILED = "finished", "already", "elsewhere", "failed"
LATER = "later"
STATUSES = (FINISHED, ALREADY, ELSEWHERE, FAILED, LATER)


class Sweep(NamedTuple):
    """What the runs of a sweep are for, and where they are stored.

    Attributes:
      experiment: its name.
      miniature: whether the runs are of its miniature.
      workdirs: holds a folder for each config, with a workdir for each seed.
      ledger: the file that lines are appended to; its folder holds the whole ledger.
      data_dir: where datasets are stored; None for $TFDS_DATA_DIR or TFDS's default.
      plan: what can start within a limit; None without one.
      shared: the data and programs that its runs share; None to share none.
      sized: whether its table compares the sizes of tickets, which are then measured.
    """

    experiment: str
    miniature: bool
    workdirs: Path
    ledger: Path
    data_dir: str | None
    plan: Plan | None = None
    shared: Shared | None = None
    sized: bool = False


class InterruptedSweepError(InterruptedRunError):
    """A sweep stopped by a signal while no run was training."""

    def __init__(self, number: int):
        """Names the signal that stopped it."""
        super().__init__(0, number)
        name = signal.Signals(number).name
        self.args = (f"stopped by {name} between runs; the same command continues",)


def work_through(jobs: Sequence[Job], sweep: Sweep) -> Mapping[str, list[Job]]:
    """Runs, in order, every job that is neither finished nor in progress elsewhere.

    Jobs in progress elsewhere are checked again at the end. A job that fails is
    reported, and the others continue.

    Returns:
      The jobs by outcome: FINISHED here, finished ALREADY, in progress ELSEWHERE,
      FAILED, LATER for those that the plan has no time for.

    Raises:
      InterruptedRunError: one of `SIGNALS` arrived; progress is saved.
      KeyboardInterrupt: SIGINT arrived while no run was training.
    """
    ended: dict[str, list[Job]] = {status: [] for status in STATUSES}
    live = sys.stderr.isatty()
    bar = tqdm(
        total=sum(map(_cost, jobs)),
        dynamic_ncols=live,
        mininterval=0.1 if live else 30.0,
        smoothing=0,  # estimate from all jobs, not from recent ones
        bar_format="{desc}|{bar}| {elapsed} so far, {remaining} left",
    )
    in_time = stopping_in_time(sweep.plan) if sweep.plan else contextlib.nullcontext()
    with bar, _stopping() as stop_if_asked, in_time:

        def do(job: Job) -> None:
            seeds = ", ".join(str(run.seed) for run in job)
            name = f"{job[0].cell.name}, seed {seeds}"
            bar.set_description_str(f"{name} ")
            status, words = _do(job, sweep, stop_if_asked)
            ended[status].append(job)
            tqdm.write(f"{status}: {name}: {words}", file=sys.stderr)
            if status == FINISHED:
                bar.update(_cost(job))
            elif status != ELSEWHERE:
                bar.total -= _cost(job)

        for job in jobs:
            do(job)
        busy, ended[ELSEWHERE] = ended[ELSEWHERE], []
        for job in busy:
            do(job)
    return ended


def _cost(job: Job) -> float:
    """The cost of a job, in arbitrary units."""
    return sum(costs.work_of(run.cell) for run in job)


class _TerminatedError(BaseException):
    """SIGTERM; not an Exception, so that handlers of failed runs do not catch it."""


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[], None]]:
    """Stops a sweep at once at SIGTERM, except while a run handles it.

    A run's own handler may catch a signal just as the run ends. Python also writes the
    number of every signal to a socket, whoever handles it; the yielded function checks
    the socket, and raises InterruptedSweepError if there is one.
    """
    read, write = socket.socketpair()

    def stop_if_asked() -> None:
        with contextlib.suppress(BlockingIOError):
            for number in read.recv(4096):
                if number in SIGNALS:
                    raise InterruptedSweepError(number)

    def end(number, frame) -> None:
        raise _TerminatedError

    with read, write:
        read.setblocking(False)
        write.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        previous = signal.signal(signal.SIGTERM, end)
        try:
            yield stop_if_asked
        except _TerminatedError:
            raise InterruptedSweepError(signal.SIGTERM) from None
        finally:
            signal.signal(signal.SIGTERM, previous)
            signal.set_wakeup_fd(before)


def fingerprint(dataset: str, data_dir: str | None) -> str:
    """The fingerprint of the data on this machine.

    Raises:
      DataNotFoundError: the data is absent.
    """
    return datasets.open_source(dataset, data_dir).fingerprint


def is_done(run: Run, known: ledger.Ledger, data: str | None) -> bool:
    """Whether the ledger holds a run on this data, in the precision of this machine.

    data: the fingerprint; None for official data.
    """
    config = run.config
    own = provenance.precision(config.dtype, config.matmul_precision)
    lines = [line for line in known.of(run) if ledger.precision(line) == own]
    if data is None:
        return any(line["dataset_official"] for line in lines)
    return any(line["dataset_fingerprint"] == data for line in lines)


def _do(job: Job, sweep: Sweep, stop_if_asked: Callable[[], None]) -> tuple[str, str]:
    """Runs a job; returns its outcome, and a text for the log."""
    cell = sweep.workdirs / job[0].folder
    with contextlib.ExitStack() as claims:
        for run in job:
            lock = cell / f"seed_{run.seed}.lock"
            try:
                claims.enter_context(alone_or_refused(lock, refusal="claimed"))
            except ValueError:
                return ELSEWHERE, "another process is doing this"
            away = packing.packed(cell / f"seed_{run.seed}")
            if away:
                return ELSEWHERE, away
        try:
            if sweep.plan and not sweep.plan.fits(job):
                return LATER, f"it cannot end in the {sweep.plan.left():.0f} s left"
            return _train(job, sweep, stop_if_asked)
        except (InterruptedRunError, KeyboardInterrupt):
            raise
        except Exception as error:
            with _log(cell, job) as log:
                traceback.print_exception(error, file=log)
            text = " ".join(str(error).split()) or type(error).__name__
            return FAILED, f"{text} (see {log.name})"


def _train(
    job: Job, sweep: Sweep, stop_if_asked: Callable[[], None]
) -> tuple[str, str]:
    dataset = job[0].config.dataset.name
    prepare.prepare_if_possible(dataset, sweep.data_dir)
    data = fingerprint(dataset, sweep.data_dir)
    known = ledger.read(sweep.ledger.parent)
    if all(is_done(run, known, data) for run in job):
        return ALREADY, "in the ledger"
    for run in job:
        _check_precision(run, sweep.workdirs / run.folder / f"seed_{run.seed}")
    accuracies = []
    with contextlib.ExitStack() as claims:
        together = _can_train_together(job, sweep, claims)
        for part in [job] if together else [[run] for run in job]:
            if all(is_done(run, known, data) for run in part):
                continue
            stop_if_asked()
            for run, result in zip(part, _results(part, sweep), strict=True):
                _record(run, result, data, sweep)
                accuracies.append(f"{result['test_accuracy']:.2f} %")
    return FINISHED, ", ".join(accuracies) + " test accuracy"


def _check_precision(run: Run, workdir: Path) -> None:
    """Refuses to go on with a run in another precision than it was begun in."""
    config = run.config
    own = provenance.precision(config.dtype, config.matmul_precision)
    for device, precision in begun(workdir).devices:
        if precision not in (own, provenance.UNKNOWN):
            raise ValueError(
                f"{workdir} holds a run begun in another precision ({precision} on "
                f"{device}, {own} here): move it away, or choose another --workdir or "
                "--matmul_precision"
            )


def _can_train_together(job: Job, sweep: Sweep, claims: contextlib.ExitStack) -> bool:
    """Whether the runs of a job can be replicas in the folder of their cell.

    They cannot if the folder has or had other seeds. No other process makes replicas
    there while the locks in `claims` are held.
    """
    if len(job) == 1:
        return False
    first, cell = job[0], sweep.workdirs / job[0].folder
    try:
        lock = alone_or_refused(cell / "together.lock", refusal="claimed")
        claims.enter_context(lock)
        finished_result(cell, resolve(first.cell.draft(first.seed, len(job))))
    except ValueError:
        return False
    return True


def _record(run: Run, result: Mapping[str, Any], data: str, sweep: Sweep) -> None:
    """Appends a run to the ledger."""
    cell = sweep.workdirs / run.folder
    if result["dataset_fingerprint"] != data:
        raise ValueError(
            f"{cell / f'seed_{run.seed}'} holds a run on other data "
            f"({result['dataset_fingerprint']} there, {data} here): move it away or "
            "choose another --workdir"
        )
    line = ledger.line_of(
        run,
        result,
        experiment=sweep.experiment,
        miniature=sweep.miniature,
        together=_trained_together(cell, run.seed, result),
    )
    if sweep.sized:
        line["ticket_bytes"] = ticket_bytes(cell / f"seed_{run.seed}")
    config = run.config
    own = provenance.precision(config.dtype, config.matmul_precision)
    if ledger.precision(line) != own:
        raise ValueError(
            f"{cell / f'seed_{run.seed}'} holds a run in another precision "
            f"({ledger.precision(line)} there, {own} here): move it away or choose "
            "another --workdir"
        )
    ledger.append(sweep.ledger, line)


def _trained_together(cell: Path, seed: int, result: Mapping[str, Any]) -> int:
    """How many seeds of a cell were trained in one program and share its time."""
    others = [
        p for p in cell.glob("seed_*/result.json") if p.parent.name != f"seed_{seed}"
    ]
    results = [read_result(path.parent) for path in others]
    return 1 + sum(own["seconds"] == result["seconds"] for own in results)


def _results(job: Job, sweep: Sweep) -> list[Mapping[str, Any]]:
    """Trains or resumes the runs of a job; returns their results."""
    first, cell = job[0], sweep.workdirs / job[0].folder
    config = first.cell.draft(first.seed, replicas=len(job))
    folder = cell / f"seed_{first.seed}" if len(job) == 1 else cell
    with _log(cell, job) as log, contextlib.redirect_stdout(log):
        result = train_config(config, str(folder), sweep.data_dir, shared=sweep.shared)
    jax.clear_caches()  # the next run uses those that are shared, or its own
    if len(job) == 1:
        return [result]
    return [result["replicas"][f"seed_{run.seed}"] for run in job]


def _log(cell: Path, runs: Job) -> TextIO:
    """The file for the output of runs, beside their workdirs."""
    seeds = "_".join(str(run.seed) for run in runs)
    return (cell / f"seed_{seeds}.txt").open("a", buffering=1)
