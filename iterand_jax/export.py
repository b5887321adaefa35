"""Writes a run's subnetwork: a small file, or a format that others read.

python -m iterand_jax.export --workdir=DIR
--format=ticket|safetensors|torchvision|stablehlo [--step=N] [--output=FILE]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from absl import flags

from iterand_jax.methods import SCORED
from iterand_jax.runtime import cli

if TYPE_CHECKING:
    from iterand_jax.tickets.ticket import Ticket
    from iterand_jax.training.setup import Model
    from iterand_jax.training.step import State

OUTPUTS = {
    "ticket": "ticket.safetensors",
    "safetensors": "weights.safetensors",
    "torchvision": "torchvision.safetensors",
    "stablehlo": "stablehlo",
}
"""The formats, and what each is written to in the run's folder."""


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("workdir", None, "the folder of the run", required=True)
    flags.DEFINE_enum("format", "ticket", list(OUTPUTS), "what to write")
    flags.DEFINE_integer("step", None, "which checkpoint; default: the newest")
    cli.define_path("output", None, "where to; default: a name in the workdir")


def main() -> None:
    """Exports a checkpoint of the flags' run."""
    workdir, name = Path(flags.FLAGS.workdir), flags.FLAGS.format
    output = Path(flags.FLAGS.output or workdir / OUTPUTS[name])
    export(workdir, name, output, step=flags.FLAGS.step)


def export(workdir: Path, name: str, output: Path, *, step: int | None = None) -> None:
    """Writes a run in a format, and prints how large that is.

    What is written is the newest checkpoint that is whole, or that of a step.

    The folder around the output has to be there: a mistyped one is told of at once, not
    made.

    Raises:
      ValueError: there is no run or checkpoint, its network cannot have this format, or
        the output cannot be there.
    """
    from iterand_jax.runtime.terminal import table
    from iterand_jax.tickets import formats
    from iterand_jax.tickets import ticket as tickets
    from iterand_jax.training.workdir import read_json, restore

    config = read_json(workdir / "config.json")
    _check_output(output, is_folder=name == "stablehlo")
    if name == "torchvision":
        formats.check_torchvision(config["network"]["name"])
    words = words_of(workdir, config) if name == "ticket" else None
    model, state, _ = restore(workdir, step)
    ticket = ticket_of(model, state, words)
    rows = {"network": f"{ticket.description.network['name']}, step {state.step:,}"}
    if name == "ticket":
        arrays = tickets.save(ticket, output)
        tickets.load(output)  # a ticket that cannot be read back is told of here
        rows |= sizes(ticket, arrays)
    elif name == "stablehlo":
        formats.save_program(ticket, output)
    else:
        arrays_of = {
            "safetensors": formats.flax_arrays,
            "torchvision": formats.torchvision_arrays,
        }
        formats.save_arrays(arrays_of[name](ticket), ticket.description, output)
    files = sorted(output.iterdir()) if output.is_dir() else [output]
    rows["written"] = ", ".join(f"{f} ({f.stat().st_size:,} bytes)" for f in files)
    print(table(rows))


def _check_output(output: Path, *, is_folder: bool) -> None:
    """Raises ValueError, before any work, if this file or folder cannot be written."""
    if not output.parent.is_dir():
        raise ValueError(f"cannot write {output}: there is no folder {output.parent}")
    if is_folder and output.exists() and not output.is_dir():
        raise ValueError(f"cannot write the folder {output}: it is a file")
    if not is_folder and output.is_dir():
        raise ValueError(f"cannot write the file {output}: it is a folder")


def words_of(workdir: Path, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The vocabulary that a run on texts left in its folder, None of a run on images.

    Raises:
      ValueError: it is not there.
    """
    from iterand_jax.data.datasets import get_dataset
    from iterand_jax.data.text import VOCABULARY_FILE, from_lines

    if not get_dataset(config["dataset"]["name"]).is_text:
        return None
    try:
        return from_lines((workdir / VOCABULARY_FILE).read_bytes().decode())
    except OSError as error:
        raise ValueError(f"cannot read the vocabulary of the run: {error}") from error


def ticket_of(
    model: "Model", state: "State", words: tuple[str, ...] | None = None
) -> "Ticket":
    """What a run found by this state: of a run by SGD, its dense weights."""
    from iterand_jax.data.datasets import get_dataset
    from iterand_jax.tickets.metadata import Description, Draws
    from iterand_jax.tickets.ticket import Ticket

    config = model.config
    weights, masks, draws = state.frozen, model.masks(state), None
    if config.method == "sgd":
        weights, masks = state.trainable, jax.tree.map(lambda _: None, state.trainable)
    elif config.method == "fixed_mask":
        weights = state.trainable
    else:
        draws = Draws(
            seed=config.seed,
            distribution=config.distribution,
            step=int(state.step),
            k_per=config.k_per or 0,
            sampling_rate=config.sampling_rate or 0.0,
        )
    dataset = get_dataset(config.dataset.name)
    of_pixels = "mean" in dataset.options
    description = Description(
        network={
            "name": config.network.name,
            "num_classes": dataset.outputs,
            "width": config.network.width,
            "affine": config.method not in SCORED,
            "dtype": config.dtype,
        },
        inputs=tuple((x.shape, x.dtype.name) for x in dataset.inputs),
        mean=tuple(config.dataset.mean) if of_pixels else None,
        std=tuple(config.dataset.std) if of_pixels else None,
        draws=draws,
        run={
            "dataset": config.dataset.name,
            "method": config.method,
            "distribution": config.distribution,
            "sparsity": config.sparsity,
            "step": int(state.step),
        },
    )
    return Ticket.of(description, weights, masks, state.batch_stats, words)


def sizes(ticket: "Ticket", arrays: dict[str, Any]) -> dict[str, str]:
    """What a ticket's arrays take by kind, and all of them against float32."""
    by_kind: dict[str, int] = {}
    for name, array in arrays.items():
        kind = name.split("/")[0]
        by_kind[kind] = by_kind.get(kind, 0) + array.nbytes
    statistics = by_kind.pop("batch_stats", 0)
    vocabulary = by_kind.pop("vocabulary", 0)
    packed = sum(by_kind.values())
    dense = 4 * sum(leaf.size for leaf in jax.tree.leaves(ticket.params))
    rows = {
        "parameters": f"{packed / 1e6:.3f} MB ("
        + ", ".join(f"{kind} {size / 1e6:.3f}" for kind, size in by_kind.items())
        + f") against {dense / 1e6:.2f} MB in float32: "
        f"{dense / packed:.1f} times smaller"
    }
    if statistics:
        rows["statistics"] = f"{statistics / 1e6:.3f} MB of batch normalization"
    if ticket.words is not None:
        rows["vocabulary"] = f"{vocabulary / 1e6:.3f} MB, {len(ticket.words):,} words"
    return rows


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again")


if __name__ == "__main__":
    run()
