"""Exports the subnetwork of a run as a ticket, after checking it against the run."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from iterand_jax.data.datasets import get_dataset
from iterand_jax.data.text import VOCABULARY_FILE, from_lines
from iterand_jax.runtime import early
from iterand_jax.runtime.files import read_own, write_atomically
from iterand_jax.runtime.terminal import table
from iterand_jax.tickets import formats, hub, onnx, places
from iterand_jax.tickets import ticket as tickets
from iterand_jax.tickets.compact import folder as compact_folder
from iterand_jax.tickets.compact import removal
from iterand_jax.tickets.draws import Draws
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training import card, outputs, pruning
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.examples import Examples, examples
from iterand_jax.training.run import Run
from iterand_jax.training.saved import MOST_BYTES
from iterand_jax.training.step import State
from iterand_jax.training.workdir import read_config, restore
from iterand_jax.trees import leaves_of

PyTree = Any
FORMATS = {
    "ticket": "ticket.safetensors",
    "safetensors": "weights.safetensors",
    "torchvision": "torchvision.safetensors",
    "matrices": "matrices.safetensors",
    "stablehlo": "stablehlo",
    "onnx": "network.onnx",
    "hub": "hub",
    "compact": "compact",
}
"""The formats, and what each is written to in the run's folder."""

FOLDERS = ("stablehlo", "hub", "compact")
"""The formats that are folders."""

DENSE = ("safetensors", "torchvision", "matrices")
"""The formats that store zeros for pruned weights, in any of `formats.DTYPES`."""

OF_TICKETS = ("ticket", "safetensors", "torchvision", "stablehlo", "onnx")
"""The formats that a ticket is enough for, without its run."""

TOLERANCE = {
    "float32": 1e-4,
    "bfloat16": 5e-2,
}  # of the largest logit


def export(
    workdir: Path,
    name: str,
    output: Path | str | None = None,
    *,
    step: int | None = None,
    data_dir: str | None = None,
    push: str | None = None,
    dtype: str = "float32",
) -> None:
    """Exports a run in a format, and prints the sizes.

    Exports the newest intact checkpoint, or that of a step. First its masked weights
    are compared with the run's effective parameters, and its logits with the run's on
    test examples, or on random inputs if the dataset is not available.

    The parent folder of the output must exist: a mistyped one is an error.

    Args:
      workdir: the folder of the run.
      name: a format, one of `FORMATS`.
      output: the file, or of `FOLDERS` the folder; or a URL of it. None for one in the
        workdir, as `FORMATS` names it.
      step: which checkpoint; None for the newest.
      data_dir: where datasets are stored, for the comparison.
      push: the repository of the Hub, user/repo, that a "hub" folder is uploaded to.
      dtype: of the dense weights of the formats in `DENSE`; one of `formats.DTYPES`.
        The checks are of the weights before they are rounded to it.

    Raises:
      ValueError: there is no run or checkpoint, the format does not support its
        network, the output cannot be written, or the ticket's outputs differ from
        the run's.
    """
    config = read_config(workdir)
    output = workdir / FORMATS[name] if output is None else output
    if push is not None:
        if name != "hub":
            raise ValueError(f"--push={push} applies to --format=hub, not to {name}")
        hub.check_repo(push)
    _check_dtype(name, dtype)
    with outputs.opened(str(output), is_folder=name in FOLDERS) as path:
        if name == "torchvision":
            formats.check_torchvision(config.network.name)
        if name == "onnx":
            onnx.libraries()
        if name == "compact":
            removal.check(config.network.name)
        of_texts = name in ("ticket", "hub", "compact")
        words = words_of(workdir, config.to_dict()) if of_texts else None
        run, state, _ = restore(workdir, step)
        ticket = ticket_of(run, state, words)
        check_params(run, state, ticket)
        found = examples(run, ticket, data_dir)
        compared = check_logits(run, state, ticket, found)
        rows = {"network": f"{run.config.network.name}, step {state.step:,}"}
        if name == "compact":
            rows |= _write_compact(ticket, found, path)
        else:
            rows |= _write(run, ticket, name, path, workdir, push, dtype)
        rows["checked"] = compared
        rows["written"] = outputs.written(path, output)
        if push is not None:
            rows["pushed"] = hub.publish(path, push, card.FILES)
    print(table(rows))


def export_ticket(
    path: str, name: str, output: Path | str | None = None, *, dtype: str = "float32"
) -> None:
    """Writes a ticket in another format, or as one of the present version.

    A program of StableHLO is renewed so. There is no run that its logits could be
    compared with; the ticket itself is restored bit for bit, by its checksums.

    Args:
      path: of the ticket, or its URL.
      name: a format, one of `OF_TICKETS`.
      output: as in `export`; None for one beside the ticket, or of a URL in the current
        folder.
      dtype: as in `export`.

    Raises:
      ValueError: no ticket, or its network has no such format; or as a ticket it has
        no output, which by default could be the ticket itself.
    """
    if name not in OF_TICKETS:
        raise ValueError(
            f"--format={name} needs the folder of a run, --workdir=DIR; of a ticket "
            f"possible: {', '.join(OF_TICKETS)}"
        )
    _check_dtype(name, dtype)
    if output is None and name == "ticket":
        raise ValueError("--format=ticket of a ticket needs --output=FILE")
    if output is None:
        output = places.folder(path) / FORMATS[name]
    with outputs.opened(str(output), is_folder=name in FOLDERS) as target:
        ticket = tickets.load(path)
        rows = {"ticket": ticket.description.network.get("name", "a tree of arrays")}
        if name == "ticket":
            rows |= outputs.sizes(ticket, tickets.save(ticket, target))
        else:
            rows |= outputs.write(ticket, name, target, dtype)
        rows["written"] = outputs.written(target, output)
    print(table(rows))


def _check_dtype(name: str, dtype: str) -> None:
    if dtype != "float32" and name not in DENSE:
        raise ValueError(
            f"--dtype={dtype} applies to {', '.join(DENSE)}, not to {name}"
        )


def _write(
    run: Run,
    ticket: Ticket,
    name: str,
    output: Path,
    workdir: Path,
    push: str | None,
    dtype: str,
) -> dict[str, str]:
    """Writes a ticket in a format; returns what is reported of its size."""
    if name in ("ticket", "hub"):
        file = output
        if name == "hub":
            output.mkdir(exist_ok=True)
            file = output / FORMATS["ticket"]
        arrays = tickets.save(ticket, file)
        tickets.load(file)  # one that cannot be read back is refused here
        if name == "hub":
            about = card.measured(workdir, ticket.description.run["step"])
            about = about._replace(trains_weights=run.method.trains_weights)
            text = card.card(ticket, about, file.stat().st_size, push)
            write_atomically(output / card.CARD, text)
            of_config = json.dumps(card.config(ticket, about), indent=2, sort_keys=True)
            write_atomically(output / card.CONFIG, of_config + "\n")
            if about.curves is not None:
                write_atomically(output / card.CURVES, about.curves)
        return outputs.sizes(ticket, arrays)
    if name == "matrices":
        arrays = formats.in_dtype(_matrices(run, ticket), dtype)
        formats.save_arrays(arrays, ticket.description, output)
        return {}
    return outputs.write(ticket, name, output, dtype)


def _matrices(run: Run, ticket: Ticket) -> dict[str, np.ndarray]:
    """The variables of a ticket, masked weights as matrices (outputs, inputs)."""
    axes = {
        f"params/{path}": run.subnetwork.axes(path, leaf)
        for path, leaf in leaves_of(ticket.masks).items()
    }
    return formats.matrices(formats.flax_arrays(ticket), axes)


def _write_compact(ticket: Ticket, found: Examples, output: Path) -> dict[str, str]:
    """Writes a ticket without its dead channels; returns what is reported of it."""
    smaller = removal.compact(ticket)
    report = compact_folder.compare(ticket, smaller, found.raw)
    compact_folder.save(smaller.ticket, report, output)
    return compact_folder.rows(report)


def words_of(
    workdir: Path, config: Mapping[str, Any], given: Given = NOTHING_GIVEN
) -> tuple[str, ...] | None:
    """The vocabulary saved in the folder of a text run, None for an image run.

    Raises:
      ValueError: it is not there, or is no text in a regular file.
    """
    dataset = given.dataset or get_dataset(config["dataset"]["name"])
    if not dataset.is_text:
        return None
    path = workdir / VOCABULARY_FILE
    try:
        return from_lines(read_own(path, MOST_BYTES))
    except OSError as error:
        raise ValueError(f"cannot read the vocabulary of the run: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, at byte {error.start}") from error


def ticket_of(run: Run, state: State, words: tuple[str, ...] | None = None) -> Ticket:
    """The ticket of a state; for a run without masks, its dense weights."""
    config, method = run.config, run.method
    draws, masks, weights = None, run.masks(state), run.weights(state)
    if method.rescales:  # what the network sees follows from no draw
        weights = run.params(state)
    elif method.resampling is not None:
        k_per, sampling_rate = method.resampling
        draws = Draws(
            seed=config.seed,
            distribution=config.distribution,
            step=int(state.step),
            k_per=k_per,
            sampling_rate=sampling_rate,
            fan_ins=run.fan_ins,
        )
    if masks is None:
        masks = jax.tree.map(lambda _: None, weights)
    of_pixels = "mean" in run.dataset.options
    description = Description(
        network={
            "name": config.network.name,
            "num_classes": run.dataset.outputs,
            "width": config.network.width,
            "affine": run.affine,
            "dtype": config.dtype,
        },
        inputs=tuple((x.shape, x.dtype.name) for x in run.dataset.inputs),
        mean=tuple(config.dataset.mean) if of_pixels else None,
        std=tuple(config.dataset.std) if of_pixels else None,
        draws=draws,
        module=run.network,
        run={
            "dataset": config.dataset.name,
            "method": config.method,
            "distribution": config.distribution,
            "sparsity": config.sparsity,
            **pruning.options(config),
            "step": int(state.step),
        },
    )
    return Ticket.of(description, weights, masks, state.batch_stats, words)


def ticket_bytes(workdir: Path) -> int:
    """The size of the ticket of a run's newest checkpoint, as a file."""
    config = read_config(workdir)
    run, state, _ = restore(workdir)
    ticket = ticket_of(run, state, words_of(workdir, config.to_dict()))
    check_params(run, state, ticket)
    with early.unwinding(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FORMATS["ticket"]
        tickets.save(ticket, file)
        return file.stat().st_size


def check_params(run: Run, state: State, ticket: Ticket) -> None:
    """Raises ValueError unless a ticket's weights equal the effective parameters.

    A ticket has the method's weights * masks. In a custom method they may differ from
    its `params`, which are what the network is trained with.
    """
    rebuilt = leaves_of(ticket.params)
    for path, leaf in leaves_of(run.params(state)).items():
        differ = int(np.sum(np.asarray(leaf) != rebuilt[path]))
        if differ:
            raise ValueError(
                f"the method {run.config.method} cannot be exported: {differ:,} of "
                f"{leaf.size:,} weights of {path} are not its weights * masks"
            )


def check_logits(run: Run, state: State, ticket: Ticket, found: Examples) -> str:
    """Compares a ticket's logits with the run's; returns a description of the check.

    Both take the raw pixels or tokens, but are compiled separately and so may round
    differently.

    Raises:
      ValueError: they differ by more than rounding.
    """
    raw, inputs, what = found
    variables = {"params": run.params(state), "batch_stats": state.batch_stats}
    expected = np.asarray(jax.jit(run.network.apply)(variables, *inputs))
    logits = np.asarray(ticket.apply(*raw))
    largest = float(np.abs(expected).max())
    difference = float(np.abs(logits - expected).max())
    if not difference <= TOLERANCE[run.config.dtype] * max(largest, 1e-30):
        raise ValueError(
            f"the ticket does not answer as the run does: on {what} a logit differs by "
            f"{difference:g}, where the largest is {largest:g}"
        )
    return f"logits on {what} are the run's, to {difference:.1e}"
