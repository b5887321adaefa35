"""Benchmarks the library on this machine: `python -m experiments.benchmark`.

It times whole steps of IteRand and SGD and their phases, masks, the re-randomization
against a copy of as many bytes, the time to a first step, and how all of these scale
with width, batch size and number of parameters; and it reports which of the project's
targets are met. Compared programs are timed in alternation after a warm-up; the median,
minimum and maximum are recorded. The data are random. Without --seconds, nothing is
written before all measurements are done.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

from experiments.measurements import (
    benchmark_brief,
    benchmark_report,
    records,
    synthetic,
)
from experiments.measurements import benchmark_programs as programs
from iterand_jax.runtime import cli
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.hosts import cores
from iterand_jax.runtime.timing import Times, interleaved
from iterand_jax.training import provenance
from iterand_jax.training.run import DataRun

Fields = Mapping[str, Any]
METHODS = ("iterand", "sgd")
ON_ACCELERATORS = 200
"""Seconds: a borrowed card is paid by the minute."""


class Plan(NamedTuple):
    """What the benchmark measures.

    Attributes:
      networks: by name, the config and the fields to set.
      scaled: the config whose width and batch size vary, and the fields to set.
      widths: rho, the width factors.
      batches: batch sizes.
      parameters: numbers of weights for the scaling of masks.
      repetitions: samples of each program.
    """

    networks: Mapping[str, tuple[str, Fields]]
    scaled: tuple[str, Fields]
    widths: Sequence[float]
    batches: Sequence[int]
    parameters: Sequence[int]
    repetitions: int


def plan(*, quick: bool) -> Plan:
    """What is measured on a CPU."""
    if quick:
        tiny = {
            "network.width": 1 / 16,
            "batch_size": 8,
            "sizes": {"train": 100, "test": 10},
        }
        small = ("cifar_conv2", tiny)
        return Plan({"conv2": small}, small, (1 / 16, 1 / 8), (4,), (10**3, 10**4), 2)
    networks: dict[str, tuple[str, Fields]] = {
        "conv6": ("cifar_conv6", {}),
        "resnet18": ("cifar_resnet18", {}),
    }
    return Plan(
        networks=networks,
        scaled=networks["conv6"],
        widths=(0.25, 0.5, 1, 2),
        batches=(32, 64, 128, 256),
        parameters=[10**n for n in range(4, 9)],
        repetitions=3,  # each takes seconds
    )


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_boolean(
        "peer", False, "also time PyTorch's step; needs the extra `peer`"
    )
    flags.DEFINE_float(
        "seconds",
        None,
        "what decides most about a training, that first, within so many seconds; "
        f"default: {ON_ACCELERATORS} on an accelerator, all the rest on a CPU",
    )
    flags.DEFINE_boolean(
        "quick", False, "tiny sizes: checks that it runs, the times mean nothing"
    )
    cli.define_path(
        "out", None, "write OUT/DEVICE.json, .txt and .png; default: only print"
    )


def main() -> None:
    """Measures, prints tables and targets, and writes them, the record and the plot."""
    quick, seconds = flags.FLAGS.quick, flags.FLAGS.seconds
    folder = flags.FLAGS.out and Path(flags.FLAGS.out)
    peer = _peer() if flags.FLAGS.peer else None
    if seconds is None and jax.default_backend() != "cpu":
        seconds = ON_ACCELERATORS
    if seconds is not None:
        name = f"{file_name(provenance.device())}-brief.json"
        out = folder / name if folder else None
        started = cli.started()
        benchmark_brief.run(seconds, out, quick=quick, peer=peer, started=started)
        return
    record = measure(quick=quick, peer=peer)
    report = benchmark_report.report(record)
    print(report)
    if folder:
        out = folder / f"{file_name(record['device'])}.json"
        records.write(out, record)
        write_atomically(out.with_suffix(".png"), benchmark_report.plot(record))
        write_atomically(out.with_suffix(".txt"), report + "\n")


def file_name(device: str) -> str:
    """A device's name in letters, digits and dashes.

    >>> file_name("1 x x86_64 CPU of 2 cores (AVX2)")
    '1-x-x86-64-cpu-of-2-cores-avx2'
    """
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-")


def measure(*, quick: bool, peer: Any = None) -> dict[str, Any]:
    """Measures everything; `peer` is the module `benchmark_peer`, if to be measured."""
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {what}", flush=True)

    todo = plan(quick=quick)
    first_step = {}
    for label, (name, fields) in todo.networks.items():
        say(f"{label}: the first step of a process, compiled and from the cache")
        first_step[label] = measure_first_step(name, fields)
    networks = {}
    for label, (name, fields) in todo.networks.items():
        say(f"{label}: steps, phases, masks, re-randomization")
        networks[label] = measure_network(name, fields, todo.repetitions, peer)
    replicas = measure_replicas(todo, say)
    scaling = {
        "width": measure_widths(todo, say),
        "batch": measure_batches(todo, say),
        "parameters": measure_parameters(todo, say),
    }
    say("done")
    return {
        "platform": jax.default_backend(),
        **records.origin(),
        "cores": cores(),
        "quick": quick,
        "first_step": first_step,
        "networks": networks,
        "replicas": replicas,
        "scaling": scaling,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": provenance.versions() | ({"torch": peer.version()} if peer else {}),
    }


def measure_network(
    name: str, fields: Fields, repetitions: int, peer: Any = None
) -> dict[str, Any]:
    """Times all programs of a network, interleaved."""
    calls: dict[str, Callable[[], Any]] = {}
    units = {}
    runs = {m: synthetic.build(name, method=m, **fields) for m in METHODS}
    run = runs["iterand"]
    states = {method: programs.first_state(runs[method]) for method in METHODS}
    batch = synthetic.batch(run.feed.train_shapes()[0])
    for method in METHODS:
        calls[method], units[method] = programs.training(
            runs[method], states[method], batch
        )
    calls |= programs.phases(run, states["iterand"], batch)
    pruning = programs.pruning(run.weights(run.abstract), sparsity=run.config.sparsity)
    calls["all masks"] = pruning.pop("masks")
    del pruning["re-randomization"]  # the phases of the run include it
    calls |= pruning
    if peer:
        theirs = peer.programs(run, states["iterand"], batch)
        calls["peer iterand"] = theirs.pop("step")
        calls |= {f"peer {part}": call for part, call in theirs.items()}
    times = interleaved(calls, repetitions, units)
    return {
        "config": name,
        "batch_size": run.config.batch_size,
        "dtype": run.config.dtype,
        "matmul_precision": run.config.matmul_precision,
        "parameters": _size(run),
        "steps_per_call": units["iterand"],
        "times": programs.plain(times),
    }


def measure_widths(todo: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """IteRand's step by the number of parameters, as the network widens."""
    name, fields = todo.scaled
    rows = []
    for width in todo.widths:
        say(f"{name} at width {width:g}")
        run = synthetic.build(name, **{**fields, "network.width": width})
        rows.append(_step_row(run, width, _size(run), "parameters", todo))
    return rows


def measure_batches(todo: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """IteRand's step by the batch size."""
    name, fields = todo.scaled
    rows = []
    for size in todo.batches:
        say(f"{name} at batch {size}")
        run = synthetic.build(name, **{**fields, "batch_size": size})
        rows.append(_step_row(run, size, size, "images", todo))
    return rows


def measure_replicas(todo: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """A step of one seed alone, and of three seeds in one program."""
    name, fields = todo.scaled
    width = todo.widths[0]
    say(f"{name} at width {width:g}: three seeds in one program")
    run = synthetic.build(name, **{**fields, "network.width": width})
    batch = synthetic.batch(run.feed.train_shapes()[0])
    calls, units = {}, {}
    for label, replicas in (("alone", 1), ("of three", 3)):
        calls[label], units[label] = programs.training(
            run, programs.first_state(run), batch, replicas=replicas
        )
    times = interleaved(calls, todo.repetitions, units)
    return {"config": name, "width": width, "times": programs.plain(times)}


def measure_parameters(todo: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Masks, re-randomization and a copy by the number of weights."""
    rows = []
    for number in todo.parameters:
        say(f"masks and re-randomization of {number:,} weights")
        leaf = jax.ShapeDtypeStruct((number // 100, 100), jnp.float32)
        params = {"kernel": leaf}
        calls = programs.pruning(params, sparsity=0.5, both_ways=False)
        times = interleaved(calls, todo.repetitions)
        rows.append(_row(number, number, "weights", times))
    return rows


def measure_first_step(name: str, fields: Fields) -> dict[str, Any]:
    """Seconds to the first step of two processes, the second with a warm cache.

    "process" is the whole process, imports included.
    """
    with tempfile.TemporaryDirectory() as cache:
        kinds = ("compiled", "cached")
        return {kind: _first_step_of_a_process(name, fields, cache) for kind in kinds}


def _first_step_of_a_process(name: str, fields: Fields, cache: str) -> dict[str, float]:
    script = (
        "import json\n"
        "from experiments.measurements.benchmark_programs import first_step\n"
        f"print(json.dumps(first_step({name!r}, {dict(fields)!r})))"
    )
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA warns of cached programs' CPU features
    }
    start = time.perf_counter()
    printed = _python(script, environment)
    return {"process": time.perf_counter() - start, **json.loads(printed)}


def _python(script: str, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def _peer() -> Any:
    try:
        from experiments.measurements import benchmark_peer
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--peer needs PyTorch ({error}): pip install -e '.[peer]'"
        ) from None
    return benchmark_peer


def _step_row(
    run: DataRun, size: float, units: int, unit: str, todo: Plan
) -> dict[str, Any]:
    batch = synthetic.batch(run.feed.train_shapes()[0])
    call, steps = programs.training(run, programs.first_state(run), batch)
    times = interleaved({"step": call}, max(2, todo.repetitions // 2), {"step": steps})
    return _row(size, units, unit, times)


def _row(
    size: float, units: int, unit: str, times: Mapping[str, Times]
) -> dict[str, Any]:
    return {"size": size, "units": units, "unit": unit, "times": programs.plain(times)}


def _size(run: DataRun) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(run.weights(run.abstract)))


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", cached=False, unwinds=True)


if __name__ == "__main__":
    run()
