"""What is left of tickets without their dead channels: weights, work and time.

    python -m experiments.measurements.compact

Tickets of random masks and weights with the layers' own sparsities, that is, nothing
was trained: a channel is dead by chance. Beside each, the multiply-adds that are left
by the analysis alone, which knows of paths but of no values. Times are medians of a
call with 16 examples, of the ticket's program and the smaller one by turns.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.measurements import records
from iterand_jax.analysis.liveness import live_weights
from iterand_jax.runtime import cli
from iterand_jax.tickets.compact import folder, removal
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training.examples import examples
from iterand_jax.training.exporting import ticket_of, words_of
from iterand_jax.training.workdir import read_config, read_result, restore
from iterand_jax.trees import map_paths

NETWORKS = (("conv6", 0.125), ("vgg11", 0.125), ("resnet18", 0.125), ("conv6", 1.0))
SPARSITIES = (0.5, 0.9, 0.95, 0.99)
EXAMPLES = 16

OF_RUN = (
    *("method", "distribution", "sparsity", "epochs", "steps", "dataset"),
    *("dataset_official", "test_accuracy", "state_sha256"),
)


def random_ticket(name: str, width: float, sparsity: float, seed: int = 0) -> Ticket:
    """A CIFAR-10 ticket of Kaiming normal weights and a random mask of each leaf."""
    network = {"name": name, "num_classes": 10, "width": width, "affine": False}
    description = Description(
        network={**network, "dtype": "float32"},
        inputs=(((1, 32, 32, 3), "float32"),),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    rng, abstract = np.random.default_rng(seed), description.abstract()

    def weights(_: str, leaf: Any) -> np.ndarray:
        fan_in = leaf.size // leaf.shape[-1] * (1 - sparsity)
        normal = rng.standard_normal(leaf.shape, np.float32)
        return normal * np.float32(np.sqrt(2 / fan_in))

    def mask(_: str, leaf: Any) -> np.ndarray:
        kept = rng.permutation(leaf.size) >= round(sparsity * leaf.size)
        return kept.reshape(leaf.shape)

    params = map_paths(weights, abstract["params"])
    masks = map_paths(mask, abstract["params"])
    statistics = map_paths(
        lambda path, leaf: np.full(leaf.shape, path.endswith("var"), np.float32),
        abstract.get("batch_stats", {}),
    )
    return Ticket.of(description, params, masks, statistics)


def by_analysis(ticket: Ticket) -> dict[str, int]:
    """Weights in channels that the analysis finds alive, and the channels of layers."""
    description = ticket.description
    inputs = [jax.ShapeDtypeStruct(*one) for one in description.inputs]
    kept = jax.tree.map(lambda leaf: leaf != 0, ticket.params)
    weights = outputs = there = 0
    for live in live_weights(description.build(), inputs, kept).values():
        if live.ndim > 1:
            pairs = live.reshape(-1, *live.shape[-2:]).any(0)
            into, out = (int(np.any(pairs, axis=axis).sum()) for axis in (1, 0))
            weights += into * out * (live.size // pairs.size)
            outputs, there = outputs + out, there + live.shape[-1]
    return {"weights": weights, "alive_outputs": outputs, "outputs": there}


def measure(ticket: Ticket, inputs: Sequence[Any]) -> dict[str, Any]:
    """What `compare` finds of a ticket, and what the analysis does."""
    found = removal.compact(ticket)
    report = folder.compare(ticket, found, inputs)
    del report["channels"]  # a line for each layer
    return report | {"analysis": by_analysis(ticket)}


def of_random(name: str, width: float, sparsity: float) -> dict[str, Any]:
    """The measurement of a random ticket."""
    ticket = random_ticket(name, width, sparsity)
    pixels = np.random.default_rng(1).integers(0, 256, (EXAMPLES, 32, 32, 3), np.uint8)
    about = {"network": name, "width": width, "sparsity": sparsity}
    return about | measure(ticket, (pixels,))


def of_run(workdir: Path) -> dict[str, Any]:
    """The measurement of a run's newest checkpoint."""
    config, result = read_config(workdir), read_result(workdir)
    run, state, _ = restore(workdir)
    ticket = ticket_of(run, state, words_of(workdir, config.to_dict()))
    about = {"network": config.network.name, "width": config.network.width}
    about |= {name: result[name] for name in OF_RUN}
    return about | measure(ticket, examples(run, ticket, None).raw)


def row(found: dict[str, Any]) -> str:
    """A measurement as a row of a table in Markdown."""
    before, after = found["before"], found["after"]
    alive = found["analysis"]
    times = before["multiply_adds"] / after["multiply_adds"]
    milliseconds = [1e3 * one["processor_seconds"] for one in (before, after)]
    cells = (
        f"{found['network']}, {found['width']:g}",
        f"{found['sparsity']:g}",
        f"{1 - alive['alive_outputs'] / alive['outputs']:.0%}",
        f"{before['parameters']:,} to {after['parameters']:,}",
        f"{before['multiply_adds'] / 1e6:.2f} to {after['multiply_adds'] / 1e6:.2f}",
        f"{times:.2f}",
        f"{milliseconds[0]:.1f} to {milliseconds[1]:.1f}",
    )
    return f"| {' | '.join(cells).replace('%', ' %')} |"


def read(out: Path | None) -> dict[str, list[dict[str, Any]]]:
    """The measurements of a record so far, which are not made again."""
    record = json.loads(out.read_text()) if out and out.exists() else {}
    return {name: record.get(name, []) for name in ("random", "runs")}


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("workdir", None, "a finished run; each adds one", several=True)
    cli.define_path(
        "out",
        None,
        "write the record to this file after each, and go on from it; "
        "default: only print",
    )


def main() -> None:
    """Prints and writes the measurements."""
    out = flags.FLAGS.out and Path(flags.FLAGS.out)
    found = read(out)
    cells = [(n, w, p) for n, w in NETWORKS for p in SPARSITIES]
    for name, width, sparsity in cells[len(found["random"]) :]:
        found["random"].append(of_random(name, width, sparsity))
        print(row(found["random"][-1]), flush=True)
        records.write(out, {**found, **records.origin()})
    workdirs = map(Path, flags.FLAGS.workdir or ())
    found["runs"] = [of_run(workdir) for workdir in workdirs] or found["runs"]
    for line in found["runs"]:
        print(row(line), flush=True)
    records.write(out, {**found, **records.origin()})


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="goes on from --out", cached=False)


if __name__ == "__main__":
    run()
