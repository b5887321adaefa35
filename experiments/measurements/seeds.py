"""Several seeds on one device: unrolled in a program, under vmap, or as processes.

    python -m experiments.measurements.seeds --out=record.json

Each form trains on random data, and its seed-steps per second are divided by those of
one seed alone: for the two programs by turns in one process, for processes by one of
them. The trainer unrolls. Processes come first, before this one has programs.
"""

import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments.measurements import benchmark_programs, records, synthetic
from iterand_jax.runtime import cli
from iterand_jax.runtime.timing import interleaved
from iterand_jax.training.run import DataRun

ROUNDS = 9
READY = 600  # seconds until each process has compiled


class Cell(NamedTuple):
    """What is trained: a config, and the width of its network."""

    config: str
    width: float


CELLS = {
    "digits": Cell("digits", 0.25),
    "conv6": Cell("cifar_conv6", 0.25),
    "conv6 whole": Cell("cifar_conv6", 1.0),
    "resnet18": Cell("cifar_resnet18", 0.25),
}


def measure(cell: Cell, seeds: int, seconds: float) -> dict[str, float]:
    """Seed-steps per second of each form, over those of one seed; and of that one."""
    one, several = (as_processes(cell, n, seconds) for n in (1, seeds))
    run = _build(cell)
    state = benchmark_programs.first_state(run)
    batch = synthetic.batch(run.feed.train_shapes()[0])
    programs = {
        "alone": benchmark_programs.training(run, state, batch),
        "unrolled": benchmark_programs.training(run, state, batch, replicas=seeds),
        "under vmap": benchmark_programs.under_vmap(run, state, batch, seeds),
    }
    calls = {name: call for name, (call, _) in programs.items()}
    units = {name: count for name, (_, count) in programs.items()}
    times = interleaved(calls, ROUNDS, units)
    alone = times["alone"].median
    return {
        "alone, seed-steps/s": round(1 / alone, 2),
        "unrolled": round(alone / times["unrolled"].median, 3),
        "under vmap": round(alone / times["under vmap"].median, 3),
        "processes": round(several / one, 3),
    }


def _build(cell: Cell) -> DataRun:
    fields: dict[str, Any] = {"network.width": cell.width}
    return synthetic.build(cell.config, **fields)


def as_processes(cell: Cell, processes: int, seconds: float) -> float:
    """The steps per second of so many processes at once, in all."""
    context = multiprocessing.get_context("spawn")
    # Each takes what it needs of a GPU, not three quarters of it.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # Of a cache that the user gives XLA says that programs may be another machine's.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    barrier, rates = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(target=_train, args=(cell, seconds, barrier, rates))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise ValueError(f"a process of {processes} that train {cell.config} failed")
    return sum(rates.get() for _ in started)


def _train(cell: Cell, seconds: float, barrier: Barrier, rates: Any) -> None:
    """Steps for so many seconds, from when all processes have compiled theirs."""
    try:
        run = _build(cell)
        batch = synthetic.batch(run.feed.train_shapes()[0])
        state = benchmark_programs.first_state(run)
        call, count = benchmark_programs.training(run, state, batch)
        jax.block_until_ready(call())
    except BaseException:  # as of memory: the others do not wait for this one
        barrier.abort()
        raise
    barrier.wait(READY)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        jax.block_until_ready(call())
        steps += count
    rates.put(steps / (time.perf_counter() - begun))


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_list("cells", [*CELLS], f"of {', '.join(CELLS)}, separated by commas")
    flags.DEFINE_integer("seeds", 3, "that train at once", lower_bound=2)
    flags.DEFINE_float("seconds", 10, "of the steps of processes", lower_bound=0)
    records.define_out()


def main() -> None:
    """Measures, prints a table and writes the record."""
    values = flags.FLAGS
    if unknown := [name for name in values.cells if name not in CELLS]:
        raise ValueError(
            f"no cells: {', '.join(unknown)}; possible: {', '.join(CELLS)}"
        )
    rows = {}
    for name in values.cells:
        rows[name] = measure(CELLS[name], values.seeds, values.seconds)
        line = ", ".join(f"{form} {value:g}" for form, value in rows[name].items())
        print(f"{name}: {line}", flush=True)
    chosen = {"seeds": values.seeds, "seconds": values.seconds}
    cells = {name: CELLS[name]._asdict() for name in rows}
    records.write(
        values.out, {**chosen, "cells": cells, "rows": rows, **records.origin()}
    )


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", cached=False, unwinds=True)


if __name__ == "__main__":
    run()
