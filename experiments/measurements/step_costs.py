"""Time and memory of a training step of each config on this machine.

    python -m experiments.measurements.step_costs

For every config: the median time of IteRand's step and its spread, the largest memory
of the process, and the compiler's memory estimate of a step, at the batch measured and
at the config's own (which is only compiled); then the size of a checkpoint, how long it
blocks training, and how long until it is written to the temporary folder. The data are
random numbers in the shapes of the config's batches: the cost of a step does not depend
on them. Each config is measured in a separate process.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments.measurements import records, synthetic
from iterand_jax import configs
from iterand_jax.runtime import cli
from iterand_jax.training import memory
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.programs import compile_steps
from iterand_jax.training.record import Record

NAMES = [name for name in configs.names() if name != "default"]
STEPS = 3  # timed, after a warm-up step
MIB = 2**20


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_list(
        "configs", NAMES, "names of configs, separated by commas; default: all"
    )
    flags.DEFINE_integer(
        "imagenet_batch",
        8,
        "the batch of ImageNet's configs; their own of 128 takes minutes on a CPU",
        lower_bound=1,
    )
    records.define_out()
    flags.DEFINE_string("one", None, "measure one config and print its JSON")


def main() -> None:
    """Measures, prints a table and writes the record."""
    values = flags.FLAGS
    if values.one:
        print(json.dumps(measure(values.one, values.imagenet_batch)))
        return
    unknown = sorted({*values.configs} - {*NAMES})
    if unknown:
        raise ValueError(f"unknown config {unknown[0]!r}; possible: {', '.join(NAMES)}")
    print(HEAD)
    rows = []
    for name in values.configs:
        command = [sys.executable, "-m", "experiments.measurements.step_costs"]
        command += [f"--one={name}", f"--imagenet_batch={values.imagenet_batch}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for row in json.loads(done.stdout):
            rows.append(row)
            print(line(row), flush=True)
    record = {
        "rows": rows,
        **records.origin(),
    }
    records.write(values.out, record)


HEAD = (
    f"{'config':<26}{'shape':<20}{'step (s)':>9} {'fastest to slowest':<20}"
    f"{'examples/s':>11}{'process':>10}{'compiler':>10}{'own batch':>11}"
    f"{'checkpoint':>12} {'stops (s)':>10}{'written (s)':>12}"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table; memory in MiB."""
    spread = f"{min(row['seconds']):.3f} to {max(row['seconds']):.3f}"
    return (
        f"{row['config']:<26}{row['shape']:<20}{row['median']:>9.3f} {spread:<20}"
        f"{row['batch_size'] / row['median']:>11.1f}{row['process_mib']:>10,.0f}"
        f"{row['compiler_mib']:>10,.0f}{row['own_batch_mib']:>11,.0f}"
        f"{row['checkpoint_mib']:>12,.1f} {row['checkpoint_stops']:>10.3f}"
        f"{row['checkpoint_written']:>12.3f}"
    )


def measure(name: str, imagenet_batch: int) -> list[dict[str, Any]]:
    """A row for each batch shape of a config."""
    own = synthetic.build(name)
    streamed = own.config.dataset.name == "imagenet2012"
    run = synthetic.build(name, batch_size=imagenet_batch) if streamed else own
    rows = []
    for shapes, own_shapes in zip(
        run.feed.train_shapes(), own.feed.train_shapes(), strict=True
    ):
        state = jax.jit(run.init_state)(run.root)
        step = compile_steps(run, [state], shapes)
        needed = _peak(step)
        full = _peak(compile_steps(own, [state], own_shapes)) if streamed else needed
        batch = synthetic.batch(shapes)
        seconds = []
        for _ in range(STEPS + 1):
            start = time.perf_counter()
            (state,) = jax.block_until_ready(step((state,), (batch,), (run.root,), 1))
            seconds.append(round(time.perf_counter() - start, 4))
        assert int(state.bad_step) < 0
        inputs = jax.eval_shape(run.feed.train_inputs, shapes, 0, run.root)[0]
        rows.append(
            {
                "config": name,
                "shape": "x".join(map(str, inputs[0].shape)),
                "batch_size": run.config.batch_size,
                "seconds": seconds[1:],
                "median": statistics.median(seconds[1:]),
                "process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                / 1024,
                "compiler_mib": needed,
                "own_batch_mib": full,
                **checkpoint_cost(state),
            }
        )
    return rows


def checkpoint_cost(state: Any) -> dict[str, float]:
    """The size of a checkpoint of a state, and the seconds that it takes.

    The minimum of several, which excludes one-time setup.
    """
    stops, written = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = Checkpoints(folder, keep=1)
        for step in range(STEPS):
            start = time.perf_counter()
            checkpoints.save(step, state, dataclasses.asdict(Record()))
            stops.append(time.perf_counter() - start)
            checkpoints.wait()
            written.append(time.perf_counter() - start)
        checkpoints.close()
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {
        "checkpoint_mib": sum(sizes) / MIB,
        "checkpoint_stops": min(stops),
        "checkpoint_written": min(written),
    }


def _peak(step: jax.stages.Compiled) -> float:
    analysis = step.memory_analysis()
    return memory.peak(analysis) / MIB if analysis else float("nan")


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", cached=False, unwinds=True)


if __name__ == "__main__":
    run()
