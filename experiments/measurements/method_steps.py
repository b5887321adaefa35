"""What a training step of each method costs, as a ratio to one of edge-popup.

    python -m experiments.measurements.method_steps --out=record.json

Each method trains the network of the config on random data with the fields that it has
in that table. In every round each of them makes one step (on accelerators as many as
are dispatched at once), and its time is divided by edge-popup's of that round; the
median of these ratios is shown. edge-popup itself is timed twice: its second row is
what the machine makes of equal programs.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags

from experiments.measurements import benchmark_programs, records, synthetic
from experiments.paper.successors import EMERGES, METHODS
from iterand_jax.runtime import cli

BASE, AGAIN = "edge_popup", "edge_popup again"
EVERY = [*METHODS, *EMERGES]
SPARSITY = 0.9
AT_MOST = 1.10
"""The ratio that a method is meant to stay within."""


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("config", "cifar_conv6", "the name of the config")
    flags.DEFINE_float("width", 0.25, "the width factor of its network")
    flags.DEFINE_integer("rounds", 25, "how often each makes steps", lower_bound=1)
    flags.DEFINE_list(
        *("methods", EVERY),
        "names, separated by commas; default: all of the table of later methods",
    )
    records.define_out()


def main() -> None:
    """Times, prints a table and writes the record."""
    values = flags.FLAGS
    if unknown := [name for name in values.methods if name not in EVERY]:
        raise ValueError(
            f"no methods: {', '.join(unknown)}; possible: {', '.join(EVERY)}"
        )
    rows = measure(values.config, values.width, values.methods, values.rounds)
    print(f"{'method':<28}{'step (ms)':>10}{'ratio':>8}   at most {AT_MOST:.2f}")
    for name, row in rows.items():
        kept = "" if row["ratio"] <= AT_MOST else "   more"
        print(f"{name:<28}{row['milliseconds']:>10.1f}{row['ratio']:>8.3f}{kept}")
    chosen = {name: values[name].value for name in ("config", "width", "rounds")}
    records.write(
        values.out,
        {**chosen, "rows": rows, **records.origin()},
    )


def measure(
    config: str, width: float, methods: Sequence[str], rounds: int
) -> dict[str, dict[str, float]]:
    """The median milliseconds of a step and its ratio to edge-popup's, by method."""
    order = [BASE, AGAIN, *(name for name in methods if name != BASE)]
    programs = {name: _steps(config, width, name) for name in order}
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        for name, (call, count) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append((time.perf_counter() - start) / count)
    return {
        name: {
            "milliseconds": round(1000 * statistics.median(times), 2),
            "ratio": round(
                statistics.median(
                    mine / base for mine, base in zip(times, seconds[BASE], strict=True)
                ),
                3,
            ),
        }
        for name, times in seconds.items()
    }


def _steps(config: str, width: float, name: str) -> tuple[Any, int]:
    """A call that makes steps of a method, and how many; it was called once."""
    fields: Mapping[str, Any] = METHODS.get(name.removesuffix(" again"), {})
    own = {"method": name.removesuffix(" again"), "network.width": width, **fields}
    if name not in EMERGES:
        own["sparsity"] = SPARSITY
    run = synthetic.build(config, **own)
    arguments = synthetic.batch(run.feed.train_shapes()[0])
    state = benchmark_programs.first_state(run)
    call, count = benchmark_programs.training(run, state, arguments)
    jax.block_until_ready(call())
    return call, count


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", cached=False)


if __name__ == "__main__":
    run()
