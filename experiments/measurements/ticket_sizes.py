"""The sizes of tickets of the paper's networks.

    python -m experiments.measurements.ticket_sizes

Bytes of all parameters at width 1 with random masks, packed as in a ticket. Masks,
signs and seeds have these sizes whatever is trained; the draw numbers of IteRand do
not. "At worst", they are those of masks that are random at every refresh of the whole
run; "as measured", a bootstrap sample of those of a run's kept weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.measurements import records, synthetic
from iterand_jax.runtime import cli
from iterand_jax.tickets import packing
from iterand_jax.training.exporting import ticket_of
from iterand_jax.training.workdir import read_result, restore
from iterand_jax.trees import leaves_of

NETWORKS = ("cifar_conv6", "cifar_resnet18", "imagenet_resnet50")

RECORDED = (
    *("network", "width", "distribution", "sparsity", "seed", "epochs", "steps"),
    *("dataset", "dataset_official", "test_accuracy", "state_sha256", "commit"),
)
"""The fields of a run's result that are recorded."""


def bytes_of(
    name: str, measured: np.ndarray | None = None, **fields: Any
) -> dict[str, int]:
    """Bytes of a config's network by kind; config fields may be set."""
    run = synthetic.build(name, **fields)
    config, rng = run.config, np.random.default_rng(0)
    refreshes = run.total_steps // config.k_per
    total: dict[str, int] = {"refreshes": refreshes, "float32": 0}
    for path, leaf in leaves_of(run.weights(run.abstract)).items():
        removed = round(config.sparsity * leaf.size)
        mask = rng.permutation(leaf.size) >= removed
        kept = int(mask.sum())
        chosen = rng.binomial(refreshes, config.sampling_rate, kept)
        unused = rng.geometric(config.sparsity, kept) - 1  # kept when chosen, at last
        numbers = {
            "edge_popup": np.zeros(kept, int),
            "iterand_at_worst": np.maximum(chosen - unused, 0),
        }
        if measured is not None:
            numbers["iterand_as_measured"] = rng.choice(measured, kept)
        total["float32"] += 4 * leaf.size
        signs = np.where(mask, rng.choice(np.array([-1, 1], np.float32), leaf.size), 0)
        packed = {"signed_constant": packing.pack(path, packing.Leaf(signs, mask))}
        weights = np.where(mask, rng.standard_normal(leaf.size, np.float32), 0)
        for kind, of_kept in numbers.items():
            number = np.zeros(leaf.size, np.int32)
            number[mask] = of_kept
            packed[kind] = packing.pack(path, packing.Leaf(weights, mask, number))
        for kind, arrays in packed.items():
            size = sum(array.nbytes for array in arrays.values())
            total[kind] = total.get(kind, 0) + size
    return total


def measured_in(workdir: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The draw numbers of a run's kept weights, and the run's result.

    Raises:
      ValueError: a run without refreshes, or with signed constants.
    """
    model, state, _ = restore(workdir)
    ticket, result = ticket_of(model, state), read_result(workdir)
    draws = ticket.description.draws
    if not draws or not draws.k_per or not draws.can_be_replayed():
        raise ValueError(
            f"the run in {workdir} is by {result['method']} with "
            f"{result['distribution']}; possible: iterand with Kaiming weights"
        )
    masks = leaves_of(ticket.masks)
    numbers = np.concatenate(
        [n[masks[path]] for path, n in leaves_of(draws.numbers(ticket.params)).items()]
    )
    return numbers, {
        **{name: result[name] for name in RECORDED},
        "refreshes": draws.step // draws.k_per,
        "never_redrawn": round(float(np.mean(numbers == 0)), 4),
    }


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path(
        "workdir",
        None,
        'a finished run by IteRand with Kaiming weights, for "as measured"',
    )
    records.define_out()


def main() -> None:
    """Prints and writes the sizes."""
    workdir, out = flags.FLAGS.workdir, flags.FLAGS.out
    measured, run = measured_in(Path(workdir)) if workdir else (None, None)
    found = {name: bytes_of(name, measured) for name in NETWORKS}
    for name, row in found.items():
        refreshes, dense = row["refreshes"], row["float32"]
        print(f"{name}: {refreshes:,} refreshes")
        for kind in list(row)[1:]:
            times = dense / row[kind]
            print(f"  {kind:<20}{row[kind] / 1e6:>9.3f} MB{times:>7.1f} times smaller")
    record = {
        "bytes": found,
        "measured_in": run,
        **records.origin(),
    }
    records.write(out, record)


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again")


if __name__ == "__main__":
    run()
