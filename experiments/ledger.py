"""The ledger: results/*.jsonl, one line for each finished run, with its evidence.

A line is found by its config, not by the table that trained it. A run is known by
config, seed and the bytes of its data; the ledger holds it once.
"""

import copy
import dataclasses
import datetime
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from configs import default
from experiments.sweep import Run, full_epochs
from iterand_jax.data.datasets import DATASETS
from iterand_jax.networks import NETWORKS
from iterand_jax.runtime.locks import alone
from iterand_jax.training.config import differences, to_json

Line = Mapping[str, Any]

NUMBERS = (
    "test_accuracy",
    "test_loss",
    "validation_accuracy_last",
    "validation_accuracy_best",
    "sparsity_achieved",
    "parameters",
    "parameters_kept",
    "redrawn",
    "steps",
)
EVIDENCE = (
    "state_sha256",
    "seconds",
    "device",
    "versions",
    "commit",
    "dataset",
    "dataset_fingerprint",
    "dataset_official",
)
REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(NUMBERS, (int, float)),
    "experiment": str,
    "cell": str,
    "folder": str,
    "seed": int,
    "miniature": bool,
    "together": int,
    "epochs": int,
    "paper_epochs": int,
    "config_sha256": str,
    "config": dict,
    "state_sha256": str,
    "seconds": dict,
    "device": str,
    "versions": dict,
    "commit": str,
    "dataset": str,
    "dataset_fingerprint": str,
    "dataset_official": bool,
    "finished": str,
}

INSIDE: Mapping[str, type | tuple[type, ...]] = {
    "config.method": str,
    "config.batch_size": int,
    "config.dataset.name": str,
    "config.network.name": str,
    "config.network.width": (int, float),
    "seconds.training": (int, float),
    **{f"versions.{name}": str for name in ("jax", "jaxlib", "iterand_jax")},
}
"""What is read of a line's fields that are mappings, with defaults for its config."""

COUNTS = ("together", "epochs", "paper_epochs", "steps", "config.batch_size")

WITHOUT_INFLUENCE = (
    "replicas",
    "steps_per_dispatch",
    "report_memory",
    "log_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_best_checkpoints",
    "keep_checkpoint_epochs",
    "eval_batch_size",
    "dataset.workers",
)
"""Fields of a config that change no number beyond rounding."""


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What a folder of ledger files holds.

    Attributes:
      lines: whole ones, each run once, by folder name and seed.
      problems: what is wrong with the others, each with its file and line.
    """

    lines: Mapping[tuple[str, int], Sequence[Line]]
    problems: Sequence[str]

    def __iter__(self) -> Iterator[Line]:
        """Every line."""
        return itertools.chain.from_iterable(self.lines.values())

    def seeds(self, folder: str) -> list[int]:
        """The seeds of a folder name that have lines."""
        return sorted(seed for name, seed in self.lines if name == folder)

    def of(self, run: Run) -> list[Line]:
        """The lines of a run: one for each data that it was trained on."""
        lines = self.lines.get((run.folder, run.seed), ())
        return [line for line in lines if not conflicts(line, run)]

    def stale(self, run: Run) -> list[str]:
        """What lines of a run's name say that another version of its config made."""
        lines = self.lines.get((run.folder, run.seed), ())
        found = [(line["cell"], conflicts(line, run)) for line in lines]
        return [
            f"{cell}, seed {run.seed} (there / now): {'; '.join(differing)}"
            for cell, differing in found
            if differing
        ]


def read(folder: Path) -> Ledger:
    """Reads every *.jsonl of a folder; what cannot be used is reported, not raised."""
    lines: dict[tuple[str, int], list[Line]] = {}
    problems: list[str] = []
    first: dict[tuple[Any, ...], str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
            if not text.strip():
                continue
            where = f"{path}:{number}"
            line, problem = _parse(text)
            if line is None:
                problems.append(f"{where}: {problem}")
                continue
            earlier = first.setdefault(_key(line), where)
            if earlier != where:
                problems.append(f"{where}: the same run as {earlier}")
                continue
            lines.setdefault((line["folder"], line["seed"]), []).append(line)
    return Ledger(lines, problems)


def append(path: Path, line: Line) -> bool:
    """Appends a line to a ledger file unless the folder's ledger holds its run.

    One process at a time writes in the folder. The line is on disk, whole, when this
    returns, and a line that a crash cut short is left alone, on a line of its own.

    Returns:
      Whether it was appended.
    """
    lock = path.parent / ".lock"
    with alone(lock, while_waiting=f"waiting for the ledger's lock {lock}"):
        held = {_key(other) for other in read(path.parent)}
        if _key(line) in held:
            return False
        content = json.dumps(line, sort_keys=True).encode() + b"\n"
        with path.open("ab") as file:
            if file.tell() and not _ends_a_line(path):
                content = b"\n" + content
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return True


def line_of(
    run: Run, result: Mapping[str, Any], *, experiment: str, miniature: bool, together=1
) -> dict[str, Any]:
    """The ledger's line of a finished run.

    Args:
      run: what was trained.
      result: its result.json.
      experiment: the name of the experiment that trained it.
      miniature: whether as a part of the experiment's miniature.
      together: how many seeds trained in one program; they share the seconds.
    """
    text = to_json(run.config)
    now = datetime.datetime.now(datetime.UTC)
    return {
        "experiment": experiment,
        "cell": run.cell.name,
        "folder": run.folder,
        "seed": run.seed,
        "miniature": miniature,
        "together": together,
        "epochs": run.config.epochs,
        "paper_epochs": full_epochs(run.cell),
        "config_sha256": hashlib.sha256(text.encode()).hexdigest()[:16],
        "config": json.loads(text),
        "finished": now.isoformat(timespec="seconds"),
        **{name: result[name] for name in (*NUMBERS, *EVIDENCE)},
    }


def conflicts(line: Line, run: Run) -> list[str]:
    """The fields "field: there / now" in which a line's config is not the run's.

    A field that the line lacks is newer than it, and had its default.
    """
    return differences(_normal(line["config"]), _normal(run.config.to_dict()))


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A line's config with the defaults of the fields that are newer than it."""
    return _merged(_defaults(), config)


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """A complete config without the fields that change no number."""
    merged = complete_config(config)
    for name in WITHOUT_INFLUENCE:
        *outer, field = name.split(".")
        functools.reduce(dict.__getitem__, outer, merged).pop(field)
    return merged


@functools.cache
def _defaults() -> dict[str, Any]:
    defaults = default.get_config().to_dict()
    del defaults["recipe"]
    return defaults


def _merged(defaults: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(defaults)
    for name, value in given.items():
        inner = merged.get(name)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            merged[name] = _merged(inner, value)
        else:
            merged[name] = value
    return merged


def _parse(text: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        line = json.loads(text)
    except ValueError as error:
        return None, f"not JSON: {error}"
    if not isinstance(line, dict):
        return None, "not a JSON object"
    problem = _of_wrong_type(line, REQUIRED) or _wrong_inside(line)
    return (None, problem) if problem else (line, "")


def _wrong_inside(line: Line) -> str:
    """What is wrong in the mappings of a line, or with its counts; "" if nothing is."""
    complete = {**line, "config": complete_config(line["config"])}
    fields = flatten_dict(complete, sep=".")
    kinds, counts = dict(INSIDE), [*COUNTS]
    kinds |= {f"seconds.{phase}": (int, float) for phase in line["seconds"]}
    if fields.get("config.method") == "iterand":
        kinds["config.k_per"] = int
        counts.append("config.k_per")
    problem = _of_wrong_type(fields, kinds)
    if problem:
        return problem
    for field in counts:
        if fields[field] < 1:
            return f"{field}={fields[field]} is not at least 1"
    for field, possible in (
        ("config.dataset.name", DATASETS),
        ("config.network.name", NETWORKS),
    ):
        if fields[field] not in possible:
            return f"unknown {field} {fields[field]!r}"
    return ""


def _of_wrong_type(
    fields: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]]
) -> str:
    """What is wrong with the first field that is not of its kind; "" if none is."""
    for field, kind in kinds.items():
        if field not in fields:
            return f"no field {field!r}"
        value = fields[field]
        # A bool is an int in Python, not here.
        if not isinstance(value, kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            return f"{field}={value!r} is of the wrong type"
    return ""


def _key(line: Line) -> tuple[Any, ...]:
    config = json.dumps(_normal(line["config"]), sort_keys=True)
    return line["folder"], line["seed"], line["dataset_fingerprint"], config


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
