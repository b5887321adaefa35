"""The ledger: *.jsonl files with one line per finished run and its provenance.

A line is looked up by its config, not by the table that it was trained for. A run is
identified by config, seed, data fingerprint and the precision that it computed in; the
ledger holds it once.
"""

import dataclasses
import datetime
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from experiments.paper.experiment import full_epochs
from experiments.sweeps.runs import Run
from iterand_jax.runtime.files import appended
from iterand_jax.runtime.locks import alone
from iterand_jax.training.config_json import completed, differences, to_json
from iterand_jax.training.fields import shown
from iterand_jax.training.saved import MOST_LEVELS, is_flat, is_usual, one_line

Line = Mapping[str, Any]
OF_SECONDS, ACCURACIES = ("seconds", "startup"), "validation_accuracies"

FOLDER = "runs/results"
"""Where commands look for the ledger by default; the clone's own is in `results`."""

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
RESULT: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(NUMBERS, (int, float)),
    "state_sha256": str,
    "seconds": dict,
    "device": str,
    "versions": dict,
    "commit": str,
    "dataset": str,
    "dataset_fingerprint": str,
    "dataset_official": bool,
}
"""The fields of a line that come from result.json, with their types."""

NEWER: Mapping[str, type] = {
    **dict.fromkeys(("dtype", "matmul_precision", "precision"), str),
    "startup": dict,
    "validation_accuracies": list,
}
"""Fields that lines and results of earlier versions lack, with their types.

"startup" has the seconds of each part of the last start, and "validation_accuracies"
the accuracy in % after each epoch.
"""

OF_SOME: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("best_epoch", "best_test_accuracy", "best_test_loss"), (int, float)
    ),
    "vectors": dict,
    "ticket_bytes": int,
}
"""Fields that only some configs have, and "ticket_bytes", which some tables measure."""

REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    **RESULT,
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
    "finished": str,
}
"""All fields of a line."""

WITHOUT_INFLUENCE = (
    "replicas",
    "steps_per_dispatch",
    "report_memory",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_seconds",
    "keep_checkpoints",
    "keep_best_checkpoints",
    "keep_checkpoint_epochs",
    "eval_batch_size",
    "dataset.workers",
    "test_best",
)
"""Config fields that change no result beyond rounding."""


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The contents of a folder of ledger files.

    Attributes:
      lines: the valid ones, each run once, by folder name and seed.
      problems: the reasons why others are invalid, each with its file and line.
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
        """The conflicts of lines with the run's name that another config made."""
        lines = self.lines.get((run.folder, run.seed), ())
        found = [(line["cell"], conflicts(line, run)) for line in lines]
        return [
            f"{cell}, seed {run.seed} (there / now): {'; '.join(differing)}"
            for cell, differing in found
            if differing
        ]


def read(folder: Path) -> Ledger:
    """Reads every *.jsonl of a folder; invalid lines are reported, not raised."""
    lines: dict[tuple[str, int], list[Line]] = {}
    problems: list[str] = []
    first: dict[tuple[Any, ...], str] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
            if not text.strip():
                continue
            where = f"{path}:{number}"
            line, problem = _parse(text)
            if problem:
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

    A lock lets one process at a time write in the folder. The whole line is on disk
    when this returns. A partial line left by a crash stays, on a separate line.

    Returns:
      Whether it was appended.
    """
    lock = path.parent / ".lock"
    with alone(lock, while_waiting=f"waiting for the ledger's lock {lock}"):
        held = {_key(other) for other in read(path.parent)}
        if _key(line) in held:
            return False
        content = json.dumps(line, sort_keys=True).encode() + b"\n"
        with appended(path) as file:
            if path.read_bytes()[-1:] not in (b"", b"\n"):
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
        **{name: result[name] for name in RESULT},
        **{name: result[name] for name in (*NEWER, *OF_SOME) if name in result},
        **_startup(result),
    }


def _startup(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The duration of each part, of a result that has them."""
    parts = result.get("startup")
    if parts is None:
        return {}
    took = {name: round(p["end"] - p["begin"], 3) for name, p in parts.items()}
    return {"startup": took}


def conflicts(line: Line, run: Run) -> list[str]:
    """The fields "field: old / new" in which a line's config differs from the run's."""
    return differences(full_config(line["config"]), full_config(run.config.to_dict()))


def full_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's fields by dotted name, without those that change no result.

    A field that the config lacks was added later, and has its default.
    """
    fields = flatten_dict(completed(config), sep=".")
    return {name: v for name, v in fields.items() if name not in WITHOUT_INFLUENCE}


def precision(line: Line) -> str:
    """The precision of a run, as `provenance.precision` names it.

    A line without that field is older: on a CPU float32 was float32, but on another
    device it may have been TF32, so the device is part of the name.
    """
    dtype = full_config(line["config"])["dtype"]
    certain = dtype != "float32" or "CPU" in line["device"]
    return line.get("precision", dtype if certain else f"{dtype} on {line['device']}")


def _parse(text: bytes) -> tuple[dict[str, Any], str]:
    """Parses a line; returns it and its problem, "" if it is valid."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON: {one_line(error)}"
    if not isinstance(line, dict):
        return {}, "not a JSON object"
    if not is_flat(line, MOST_LEVELS):
        return {}, f"nests deeper than {MOST_LEVELS} levels"
    for field, kind in REQUIRED.items():
        if field not in line:
            return {}, f"no field {field!r}"
        value = line[field]
        # In Python a bool is an int; here it is refused.
        if not isinstance(value, kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            return {}, f"{field}={shown(value)} is of the wrong type"
    for field, kind in {**NEWER, **OF_SOME}.items():
        if field in line and not isinstance(line[field], kind):
            return {}, f"{field}={shown(line[field])} is of the wrong type"
    return line, _problem_inside(line)


def _problem_inside(line: Line) -> str:
    """What is wrong with the values of a line whose fields have their types."""
    inside = {f"{f}.{k}": v for f in OF_SECONDS for k, v in line.get(f, {}).items()}
    found = [*inside.items(), *((field, line[field]) for field in NUMBERS)]
    found += [(ACCURACIES, value) for value in line.get(ACCURACIES, ())]
    for field, value in found:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or (isinstance(value, int) and not is_usual(value)):
            return f"{one_line(ValueError(field))}={shown(value)} is no number"
    for field in ("steps", "together", "epochs"):
        if not line[field] > 0:
            return f"{field}={line[field]!r} is not above 0"
    try:
        hash(_key(line))
    except Exception as error:  # of a config that another program wrote, any
        return f"its config is not one of a run: {one_line(error)}"
    return ""


def _key(line: Line) -> tuple[Any, ...]:
    config = json.dumps(full_config(line["config"]), sort_keys=True)
    data = line["dataset_fingerprint"]
    return line["folder"], line["seed"], data, precision(line), config
