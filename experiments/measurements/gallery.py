"""Trains the short runs of the gallery, and writes their tickets and its page.

    python -m experiments.measurements.gallery

Each entry is a config of the package and what is changed in it: small and short, so
that all take some minutes on two CPU cores. For each, --out has a folder with what
`export --format=hub` writes (ticket, model card, config.json and the curves), and
ledger.jsonl has a line. README.md shows all that are in the ledger.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

import iterand_jax
from iterand_jax import configs
from iterand_jax.runtime import cli, files
from iterand_jax.training import card, exporting
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import read_result

SMALL: Mapping[str, Any] = {"epochs": 10, "network.width": 0.25}
RUNS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "digits_iterand": ("digits", SMALL),
    "digits_edge_popup": ("digits", {**SMALL, "method": "edge_popup"}),
    "digits_biprop": (  # without normalization it needs one threshold for all layers
        "digits",
        {
            "method": "biprop",
            "scope": ("*",),
            "sparsity_schedule": "cubic",
            "sparsity_from": 0.5,
            "sparsity_end": 10,
        },
    ),
    "digits_kaiming_0.8": (
        "digits",
        {**SMALL, "distribution": "kaiming_uniform", "sparsity": 0.8},
    ),
    "cifar_conv2": ("cifar_conv2", {"epochs": 1, "network.width": 0.125}),
    "cifar_conv6": (
        "cifar_conv6",
        {
            "distribution": "kaiming_uniform",
            "network.width": 0.25,
            "epochs": 2,
            "k_per": 6,
        },
    ),
}
"""The config of each entry, and its fields that are changed."""

TICKET, LEDGER, PAGE = exporting.FORMATS["ticket"], "ledger.jsonl", "README.md"
MOST = 5_000_000  # bytes of a ticket in the repository


def make(name: str, workdir: Path, out: Path) -> dict[str, Any]:
    """Trains an entry, exports it, and returns its line of the ledger."""
    base, fields = RUNS[name]
    config = configs.load(base)
    config.update_from_flattened_dict(dict(fields))
    train_config(config, str(workdir))
    exporting.export(workdir, "hub", out / name)
    content = (out / name / TICKET).read_bytes()
    if len(content) > MOST:
        raise ValueError(f"{name} has {len(content):,} bytes; possible: {MOST:,}")
    result = read_result(workdir)
    given = [f"--config.{field}={value}" for field, value in fields.items()]
    command = [f'"{flag}"' if "'" in flag else flag for flag in given]
    return {
        "name": name,
        "command": " ".join(
            ["python -m iterand_jax.main", f"--config={base}", *command]
        ),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **{
            key: result[key]
            for key in ("method", "network", "width", "distribution", *card.OF_RUN)
        },
    }


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The lines of a gallery's ledger by name, {} without one."""
    path = out / LEDGER
    text = path.read_text() if path.exists() else ""
    return {line["name"]: line for line in map(json.loads, text.splitlines())}


def page(lines: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of a gallery, in the order of `RUNS`."""
    parts = [
        "# Gallery",
        "Tickets of short runs of this project: small networks, trained for minutes on "
        "two CPU cores, with one seed each. They show what a ticket is, and not what "
        "the methods reach. `python -m experiments.measurements.gallery` trains them "
        f"and writes this page; `results/gallery/{LEDGER}` has a line for each.",
        f"`iterand_jax.load_ticket({'results/gallery/NAME/' + TICKET!r})` reads one. "
        f"Its folder is what `export --format=hub` writes: README.md is its card.",
        "| ticket | network, data | method | sparsity | test accuracy | bytes |\n"
        "|---|---|---|---|---|---|",
    ]
    shown = [lines[name] for name in RUNS if name in lines]
    for line in shown:
        data = line["dataset"] + ("" if line["dataset_official"] else " \\*")
        changed = " \\*\\*" if line["commit"].endswith("+changes") else ""
        cells = (
            f"`{line['name']}`{changed}",
            f"{line['network']} of width {line['width']:g}, {data}",
            f"{line['method']}, {line['distribution']}",
            f"{line['sparsity_achieved']:.2f}",
            f"{line['test_accuracy']:.2f} % after {line['epochs']} epoch"
            + "s" * (line["epochs"] > 1),
            f"{line['bytes']:,}",
        )
        parts[-1] += f"\n| {' | '.join(cells)} |"
    if not all(line["dataset_official"] for line in shown):
        parts.append("\\* Not the official pixels: images that went through JPEG.")
    if any(line["commit"].endswith("+changes") for line in shown):
        parts.append(
            "\\*\\* Trained from a checkout with changes that were not committed: the "
            "commit of its line does not say all that made it."
        )
    for line in shown:
        name, curves = line["name"], f"{line['name']}/{card.CURVES}"
        parts += [
            f"## {name}",
            f"```sh\n{line['command']}\n```",
            f"![Loss and accuracy of {name}]({curves})",
        ]
    return "\n\n".join(parts) + "\n"


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path(
        "workdir", "runs/gallery", "the folder of the runs; finished ones are kept"
    )
    cli.define_path(
        "out", "results/gallery", "the folder that the tickets and the page go to"
    )
    flags.DEFINE_enum(
        *("only", None, [*RUNS]),
        "one entry; its line of the ledger replaces the earlier one",
    )


def main() -> None:
    """Trains what is not trained yet, and writes tickets, ledger and page."""
    only, out = flags.FLAGS.only, Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in [only] if only else list(RUNS):
        workdir = Path(flags.FLAGS.workdir) / name
        workdir.mkdir(parents=True, exist_ok=True)
        line = make(name, workdir, out)
        lines = read(out) | {name: line}
        text = "".join(json.dumps(lines[n]) + "\n" for n in RUNS if n in lines)
        files.write_atomically(out / LEDGER, text)
        files.write_atomically(out / PAGE, page(lines))
        loaded = iterand_jax.load_ticket(out / name / TICKET)
        print(loaded)


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
