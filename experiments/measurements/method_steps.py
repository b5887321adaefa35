"""What a training step of each method costs, as a ratio to one of edge-popup.

    python -m experiments.measurements.method_steps --out=record.json

    --config=cifar_resnet18    default: cifar_conv6
    --width=1                  default: 0.25
    --rounds=N                 default: 25
    --methods=biprop,random_erk  default: all of the table of later methods

Each method trains the network of the config on random data with the fields that it has
in that table. In every round each of them makes one step (on accelerators as many as
are dispatched at once), and its time is divided by edge-popup's of that round; the
median of these ratios is shown. edge-popup itself is timed twice: its second row is
what the machine makes of equal programs.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.measurements import benchmark_programs, records, synthetic
from experiments.paper.successors import EMERGES, METHODS
from iterand_jax.runtime import files

BASE, AGAIN = "edge_popup", "edge_popup again"
SPARSITY = 0.9
AT_MOST = 1.10
"""The ratio that a method is meant to stay within."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Times, prints a table and writes the record."""
    every = [*METHODS, *EMERGES]
    parser = argparse.ArgumentParser(prog="experiments.measurements.method_steps")
    parser.add_argument("--config", default="cifar_conv6")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--methods", default=",".join(every))
    parser.add_argument("--out", type=files.path, help="where the record goes")
    flags = parser.parse_args(arguments)
    chosen = flags.methods.split(",")
    if unknown := [name for name in chosen if name not in every]:
        parser.error(f"no methods: {', '.join(unknown)}; possible: {', '.join(every)}")
    if flags.rounds < 1:
        parser.error(f"--rounds is {flags.rounds}; possible: at least 1")
    rows = measure(flags.config, flags.width, chosen, flags.rounds)
    print(f"{'method':<28}{'step (ms)':>10}{'ratio':>8}   at most {AT_MOST:.2f}")
    for name, row in rows.items():
        kept = "" if row["ratio"] <= AT_MOST else "   more"
        print(f"{name:<28}{row['milliseconds']:>10.1f}{row['ratio']:>8.3f}{kept}")
    chosen_fields = {"config": flags.config, "width": flags.width}
    records.write(
        flags.out,
        {**chosen_fields, "rounds": flags.rounds, "rows": rows, **records.origin()},
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


if __name__ == "__main__":
    main()
