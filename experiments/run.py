"""Trains the runs of a table or figure: `python -m experiments.run table3`.

From nothing to a report: missing datasets are downloaded and verified, every run is
trained, and --report=DIR writes the table beside the paper's at the end.

    --only=conv6,width=0.25    a subset of cells; terms of one label are alternatives
    --seeds=3 or --seeds=2-4   default: as many as the paper
    --epochs=N                 shortened runs, reported separately from full runs
    --miniature                the experiment's small version, for a CPU
    --dtype=bfloat16           of the activations; such runs are reported separately
    --matmul_precision=highest the config's field; see the FAQ for what float32 means
    --shard=2/8                one of eight disjoint shards of the runs
    --together                 the seeds of a cell in one program, compiled once
    --within=12m               start only what can end in time (90s, 12m, 2h, 1d)
    --first=resnet18           which cells come first within the limit
    --dry_run                  only print the plan: runs, steps, estimated times
    --pack=FILE                move unfinished runs to another machine, in one file;
    --unpack=FILE              there, the command then continues them
    --workdir=runs/cells       the folder of the workdirs
    --results=runs/results     the folder of the ledger; a clone's own is results
    --report=DIR               also write the report when the runs have ended
    --data_dir=DIR             where datasets are stored

Run again, also in parallel or on another machine that shares the folders, it skips
finished runs, resumes interrupted ones, and leaves alone those that are in progress.
Exit status: 0; 1 if runs failed; 2 for bad input; 130 if stopped by Ctrl-C; 75 if
stopped by SIGTERM, a closed terminal or the limit, or if runs are left that the same
command has time for when it starts again. Everything is saved.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments import report
from experiments.paper.catalogue import get_experiment
from experiments.paper.experiment import Experiment, with_precision
from experiments.reports.evidence import versions
from experiments.sweeps import costs, ledger, packing, work
from experiments.sweeps import plan as planning
from experiments.sweeps.runs import (
    Job,
    Run,
    jobs_of,
    parse_seeds,
    parse_shard,
    runs_of,
    select,
    shard,
)
from iterand_jax.data import prepare
from iterand_jax.data.datasets import get_dataset
from iterand_jax.data.sources import DataNotFoundError
from iterand_jax.runtime import cli
from iterand_jax.training import provenance
from iterand_jax.training.config import DTYPES, MATMUL_PRECISIONS
from iterand_jax.training.shared import Shared

FAILURES = 1
OF_A_SWEEP = (
    *("data_dir", "only", "seeds", "epochs", "miniature", "dtype", "matmul_precision"),
    *("shard", "together", "within", "first", "dry_run", "report", "results"),
)
"""The flags that a move of workdirs does not take."""


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_data_dir()
    flags.DEFINE_string("only", "", "which cells, such as conv6,width=0.25")
    flags.DEFINE_string("seeds", None, "how many seeds (3), or a range (2-4)")
    flags.DEFINE_integer("epochs", None, "shortened runs", lower_bound=1)
    flags.DEFINE_boolean("miniature", False, "the experiment's small version")
    flags.DEFINE_enum("dtype", None, DTYPES, "of the activations")
    flags.DEFINE_enum(
        "matmul_precision", None, MATMUL_PRECISIONS, "of float32 products"
    )
    flags.DEFINE_string("shard", "1/1", "which of how many shards, such as 2/8")
    flags.DEFINE_boolean("together", False, "the seeds of a cell in one program")
    flags.DEFINE_string("within", None, "start only what can end in this time")
    flags.DEFINE_string("first", "", "which cells come first, as in --only")
    flags.DEFINE_boolean("dry_run", False, "only print what would be run")
    cli.define_path("pack", None, "put unfinished runs into this file")
    cli.define_path("unpack", None, "take unfinished runs from this file")
    cli.define_path("report", None, "the folder of the report to write at the end")
    cli.define_path("workdir", "runs/cells", "the folder of the workdirs")
    cli.define_path("results", ledger.FOLDER, "the folder of the ledger")


def main(name: str = "") -> None:
    """Runs an experiment."""
    values = flags.FLAGS
    if values.pack or values.unpack:
        move(name)
        return
    if values.dry_run and values.report:
        raise ValueError(
            f"--report={values.report} is written when runs have ended, and --dry_run "
            f"runs none; possible: python -m experiments.report {name} --out=FOLDER"
        )
    experiment, limit = get_experiment(name), limited()
    which, of = parse_shard(values.shard)
    runs = plan(experiment)
    first = {cell.name for cell in select([r.cell for r in runs], values.first)}
    runs = shard(runs, which, of, whole_cells=values.together)
    results = Path(values.results)
    known = ledger.read(results)
    report_unused(known, runs)
    left = [run for run in runs if not work.is_done(run, known, _data(run))]
    print(f"{name}: {len(runs)} runs, {len(runs) - len(left)} of them finished")
    jobs = jobs_of(left, together=values.together)
    if limit and left:
        jobs = limit.order(jobs, first)
        print(planning.table(limit.walk(jobs), limit), flush=True)
    elif values.dry_run and left:
        print(costs.table(left, timed_steps(left, known)))
    if values.dry_run:
        return
    file = f"{name}.jsonl" if of == 1 else f"{name}_shard_{which}_of_{of}.jsonl"
    where = Path(values.workdir), results / file, values.data_dir
    sweep = work.Sweep(
        name,
        values.miniature,
        *where,
        plan=limit,
        shared=Shared(),
        sized="ticket_kilobytes" in experiment.metrics,
    )
    ended = work.work_through(jobs, sweep) if left else {}
    if left:
        print(summary(ended))
    if values.report:
        known = ledger.read(results)
        found = versions(experiment, known)
        report.write(experiment, found, known, Path(values.report))
    if ended.get(work.FAILED):
        raise SystemExit(FAILURES)
    if limit and any(map(limit.ever_fits, ended.get(work.LATER, ()))):
        raise SystemExit(cli.STOPPED)


def move(name: str) -> None:
    """Packs or unpacks the unfinished runs of --workdir.

    Raises:
      ValueError: what the file or the folder forbid, or a table or a flag of sweeps is
        given too.
    """
    values = flags.FLAGS
    if name or (values.pack and values.unpack):
        raise ValueError(
            "--pack and --unpack exclude each other and take no table: they move all "
            f"unfinished runs of --workdir={values.workdir}"
        )
    for flag in OF_A_SWEEP:
        if values[flag].present:
            raise ValueError(
                f"--{flag} is not used with --{'pack' if values.pack else 'unpack'}, "
                f"which moves all unfinished runs of --workdir={values.workdir}"
            )
    move_all = packing.pack if values.pack else packing.unpack
    print(move_all(Path(values.workdir), Path(values.pack or values.unpack)))


def limited() -> planning.Plan | None:
    """The plan of --within, which counts from the start of this process.

    Raises:
      ValueError: --within is no time, or --first is given without it.
    """
    values = flags.FLAGS
    if not values.within:
        if values.first:
            raise ValueError(f"--first={values.first} needs --within=TIME, as 12m")
        return None
    within = planning.parse_duration(values.within)
    folders = Path(values.workdir), Path(values.results)
    return planning.Plan(within, cli.started(), *folders)


def timed_steps(runs: Sequence[Run], known: ledger.Ledger) -> list[costs.Reference]:
    """The ledger's runs on this device, and steps that are timed now for want of them.

    Without any, two of Conv6; and without a network on texts of these runs, that one's,
    whose multiply-adds take another time than those of images.
    """
    config = runs[0].config
    fields = {"dtype": config.dtype, "matmul_precision": config.matmul_precision}
    precision = provenance.precision(**fields)
    found = costs.references(known, provenance.device(), precision)
    on_texts = [run for run in runs if get_dataset(run.config.dataset.name).is_text]
    if not found and len(on_texts) < len(runs):
        for width in (0.25, 1.0):
            narrow = fields | {"network.width": width}
            found.append(costs.timed_here("cifar_conv6", **narrow))
    for run in on_texts:
        if run.config.network.name not in {reference.network for reference in found}:
            found.append(costs.timed_here(run.cell.base, **run.cell.overrides))
    return found


def plan(experiment: Experiment) -> list[Run]:
    """The runs of the flags.

    Raises:
      ValueError: invalid flags.
    """
    values = flags.FLAGS
    if values.miniature and values.epochs:
        raise ValueError(
            "--epochs and --miniature exclude each other: a miniature sets its epochs"
        )
    if values.miniature:
        cells, seeds = experiment.miniature_cells(), experiment.miniature.seeds
    else:
        cells, seeds = experiment.cells(values.epochs), experiment.seeds
    cells = [
        with_precision(
            cell, dtype=values.dtype, matmul_precision=values.matmul_precision
        )
        for cell in select(cells, values.only)
    ]
    return runs_of(cells, parse_seeds(values.seeds or str(seeds)))


def report_unused(known: ledger.Ledger, runs: Sequence[Run]) -> None:
    """Prints the lines of the ledger that cannot be used."""
    stale = [problem for run in runs for problem in known.stale(run)]
    for problem in known.problems:
        print(f"not used: {problem}", file=sys.stderr)
    for problem in stale:
        print(f"not used: of another version of its config: {problem}", file=sys.stderr)


def summary(ended: Mapping[str, Sequence[Job]]) -> str:
    """A summary of the outcomes, with advice for unfinished runs."""
    count = {status: sum(map(len, ended.get(status, ()))) for status in work.STATUSES}
    lines = [f"{count[work.FINISHED]} runs finished"]
    if count[work.ALREADY]:
        lines.append(f"{count[work.ALREADY]} had been finished by others")
    if count[work.ELSEWHERE]:
        lines.append(
            f"{count[work.ELSEWHERE]} are being done by other processes; if one of "
            "those ends early, the same command continues its runs"
        )
    if count[work.LATER]:
        lines.append(f"{count[work.LATER]} have no time left; a later call does them")
    if count[work.FAILED]:
        names = "; ".join(run.name for job in ended[work.FAILED] for run in job)
        lines.append(f"{count[work.FAILED]} failed: {names}")
    return "\n".join(lines)


def _data(run: Run) -> str | None:
    return _fingerprint(run.config.dataset.name, flags.FLAGS.data_dir)


@functools.cache
def _fingerprint(dataset: str, data_dir: str | None) -> str | None:
    try:
        if not flags.FLAGS.dry_run:
            prepare.prepare_if_possible(dataset, data_dir)
        return work.fingerprint(dataset, data_dir)
    except DataNotFoundError:
        return None


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, positional=1, prints_result=False)


if __name__ == "__main__":
    run()
