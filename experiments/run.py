"""Trains the runs of a table or figure: `python -m experiments.run table3`.

    --only=conv6,width=0.25    a subset of cells; terms of one label are alternatives
    --seeds=3 or --seeds=2-4   default: as many as the paper
    --epochs=N                 shortened runs, reported separately from full runs
    --miniature                the experiment's small version, for a CPU
    --dtype=bfloat16           of the activations; such runs are reported separately
    --matmul_precision=highest the config's field; see the FAQ for what float32 means
    --shard=2/8                one of eight disjoint shards of the runs
    --together                 the seeds of a cell in one program, compiled once
    --dry_run                  only print cells, steps and estimated hours
    --workdir=runs/cells       the folder of the workdirs
    --results=runs/results     the folder of the ledger; a clone's own is results
    --data_dir=DIR             where datasets are stored

Run again, also in parallel or on another machine that shares the folders, it skips
finished runs, resumes interrupted ones, and leaves alone those that are in progress.
Exit status: 0; 1 if runs failed; 2 for bad input; 130 if stopped by Ctrl-C and 75 by
SIGTERM or a closed terminal, both with everything saved.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from experiments.paper.catalogue import get_experiment
from experiments.paper.experiment import Experiment, with_precision
from experiments.sweeps import costs, ledger, work
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
from iterand_jax.data.sources import DataNotFoundError
from iterand_jax.runtime import cli
from iterand_jax.training import provenance
from iterand_jax.training.config import DTYPES, MATMUL_PRECISIONS

FAILURES = 1


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
    flags.DEFINE_boolean("dry_run", False, "only print what would be run")
    cli.define_path("workdir", "runs/cells", "the folder of the workdirs")
    cli.define_path("results", ledger.FOLDER, "the folder of the ledger")


def main(name: str = "") -> None:
    """Runs an experiment."""
    values = flags.FLAGS
    experiment = get_experiment(name)
    which, of = parse_shard(values.shard)
    runs = plan(experiment)
    runs = shard(runs, which, of, whole_cells=values.together)
    results = Path(values.results)
    known = ledger.read(results)
    tell_unused(known, runs)
    left = [run for run in runs if not work.is_done(run, known, _data(run))]
    print(f"{name}: {len(runs)} runs, {len(runs) - len(left)} of them finished")
    if not left:
        return
    if values.dry_run:
        config = left[0].config
        fields = {"dtype": config.dtype, "matmul_precision": config.matmul_precision}
        precision = provenance.precision(**fields)
        timed = costs.references(known, provenance.device(), precision)
        timed = timed or [costs.timed_here(width, **fields) for width in (0.25, 1.0)]
        print(costs.table(left, timed))
        return
    file = f"{name}.jsonl" if of == 1 else f"{name}_shard_{which}_of_{of}.jsonl"
    ended = work.work_through(
        jobs_of(left, together=values.together),
        work.Sweep(
            name,
            values.miniature,
            Path(values.workdir),
            results / file,
            values.data_dir,
        ),
    )
    print(summary(ended))
    if ended[work.FAILED]:
        raise SystemExit(FAILURES)


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


def tell_unused(known: ledger.Ledger, runs: Sequence[Run]) -> None:
    """Prints the lines of the ledger that cannot be used."""
    stale = [problem for run in runs for problem in known.stale(run)]
    for problem in known.problems:
        print(f"not used: {problem}", file=sys.stderr)
    for problem in stale:
        print(f"not used: of another version of its config: {problem}", file=sys.stderr)


def summary(ended: Mapping[str, Sequence[Job]]) -> str:
    """A summary of the outcomes, with advice for unfinished runs."""
    count = {status: sum(map(len, jobs)) for status, jobs in ended.items()}
    lines = [f"{count[work.FINISHED]} runs finished"]
    if count[work.ALREADY]:
        lines.append(f"{count[work.ALREADY]} had been finished by others")
    if count[work.ELSEWHERE]:
        lines.append(
            f"{count[work.ELSEWHERE]} are being done by other processes; if one of "
            "those ends early, the same command continues its runs"
        )
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


if __name__ == "__main__":
    cli.run(main, define_flags, positional=1)
