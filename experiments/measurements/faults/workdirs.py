"""Workdirs with damaged or foreign files: used, or refused in one line.

A small run leaves a workdir. Of a copy one file is changed at random: config.json,
result.json, metrics.jsonl, or a file of a checkpoint; or a pipe or a link stands in its
place. Then the copy is used, as evaluate, export, analyze and a run that resumes use
it: its config and newest whole checkpoint are read, its result is summarized, its log
is continued and drawn. Where a changed config.json is used, the checkpoint is also
evaluated, as other masks or data would show there alone. Now and then the run is
continued to its end, whose bits are compared.
"""

import contextlib
import io
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.measurements.faults import mutators
from experiments.measurements.faults.limited import Limited
from experiments.measurements.faults.trial import REFUSED, Trial, outcome_of
from iterand_jax.configs import load
from iterand_jax.training import curves, printed
from iterand_jax.training.config import resolve
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.logs import MetricsLog, read_lines
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import (
    finished_result,
    read_result,
    restore,
    restore_with_data,
)
from iterand_jax.trees import leaves_of, sha256

PROMISE = (
    "A workdir of which a file is damaged or foreign is used with the bits that a "
    "checkpoint of it was saved with, and evaluated as before, or refused in one line "
    "of a ValueError or OSError; at most 2 GiB of address space and 120 seconds"
)
MEGABYTES, SECONDS = 2048, 120
CONTINUED = 40  # one in so many is continued to its end
A_CHILD = 50  # trials of one process
FINE = ("used", REFUSED, "continued to the same bits")


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """This many workdirs, each with a changed file; half of them of checkpoints."""
    draw = random.Random(seed)
    whole, copy = folder / "whole", folder / "copy"
    digests = prepare(whole)
    with contextlib.ExitStack() as children:
        for number in range(count):
            if number % A_CHILD == 0:  # each trained run adds to the address space
                children.close()
                limits = Limited(megabytes=MEGABYTES, seconds=SECONDS, ready=quiet)
                child = children.enter_context(limits)
            shutil.copytree(whole, copy)
            kind, use = change(copy, draw)
            called = child.call(outcome, use, copy, digests)
            changed = f"{kind}, continued" if use == "continue" else kind
            yield called.trial(changed, FINE, f"number {number} of seed {seed}")
            shutil.rmtree(copy)


def prepare(whole: Path) -> dict[str, str]:
    """Trains the run; returns what is to be found again, as text.

    By step the digest of the state, and by "STEP evaluated" what it evaluates to; as
    "end" the digest after the last step.
    """
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        train_config(config(), str(whole))
    steps = [int(path.name) for path in (whole / "checkpoints").iterdir()]
    found = {}
    for step in steps:
        run, state = restore_with_data(whole, step)
        found[f"{step}"] = digest_of(state)
        found[f"{step} evaluated"] = evaluated(run, state)
    return found | {"end": read_result(whole)["state_sha256"]}


def config() -> ConfigDict:
    """Of a run of Conv2 at width 1/16: 4 epochs of 5 steps."""
    found = load("digits")
    fields: Mapping[str, Any] = {
        "network.name": "conv2",
        "network.width": 1 / 16,
        "epochs": 4,
        "batch_size": 256,
        "log_every_steps": 5,
        "checkpoint_every_steps": 5,
        "keep_checkpoints": 4,
    }
    found.update_from_flattened_dict(fields)
    found.recipe.iterand.k_per = 3
    return found


def change(workdir: Path, draw: random.Random) -> tuple[str, str]:
    """Changes a file of a workdir; returns the kind, and how it is used then."""
    elsewhere = workdir.with_name("elsewhere")
    name = draw.choice(["config.json", "result.json", "metrics.jsonl", *["state"] * 3])
    again = draw.randrange(CONTINUED) == 0
    if name == "state":
        saved = sorted((workdir / "checkpoints").rglob("*"))
        path = draw.choice([p for p in saved if p.is_file()])
        kind = _damage(path, draw, elsewhere)
        return f"a checkpoint: {kind}", "continue" if again else "restore"
    path = workdir / name
    if name == "metrics.jsonl" and draw.random() < 0.05:
        return f"{name}: {_replaced(path, draw, elsewhere)}", "log"
    if name == "metrics.jsonl":
        lines = path.read_bytes().splitlines(keepends=True)
        index = draw.randrange(len(lines))
        if draw.random() < 0.5:
            kind, lines[index] = mutators.changed_bytes(lines[index], draw)
        else:
            kind, value = mutators.changed_json(json.loads(lines[index]), draw)
            lines[index] = mutators.text_of(value).encode() + b"\n"
        path.write_bytes(b"".join(lines))
        return f"{name}: {kind}", "continue" if again else "log"
    if draw.random() < 0.3:
        kind = _damage(path, draw, elsewhere)
    elif draw.random() < 0.1:
        kind, foreign = "foreign", draw.choice(mutators.STRANGE)
        path.write_text(mutators.text_of(foreign))
    else:
        kind, value = mutators.changed_json(json.loads(path.read_bytes()), draw)
        path.write_text(mutators.text_of(value))
    return f"{name}: {kind}", "evaluate" if name == "config.json" else "summary"


def _damage(path: Path, draw: random.Random, elsewhere: Path) -> str:
    if draw.random() < 0.1:
        path.unlink()
        return "removed"
    if draw.random() < 0.1:
        return _replaced(path, draw, elsewhere)
    kind, content = mutators.changed_bytes(path.read_bytes(), draw)
    path.write_bytes(content)
    return kind


def _replaced(path: Path, draw: random.Random, elsewhere: Path) -> str:
    """Puts a pipe that nobody writes to in the place of a file, or a link to it."""
    if draw.random() < 0.5:
        path.unlink()
        os.mkfifo(path)
        return "a pipe"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)
    return "a link"


def quiet() -> None:
    """Warnings of damage are no part of the count."""
    logging.disable(logging.CRITICAL)


def outcome(use: str, workdir: Path, digests: Mapping[str, str]) -> str:
    """What using a workdir does."""
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            return _USES[use](workdir, digests)
    except Exception as error:
        return outcome_of(error, most=6000, refusals=(ValueError, OSError))


def _restore(workdir: Path, digests: Mapping[str, str]) -> str:
    state = restore(workdir).state
    restore_with_data(workdir)
    same = digest_of(state) == digests.get(str(int(state.step)))
    return "used" if same else "other bits: "


def _evaluate(workdir: Path, digests: Mapping[str, str]) -> str:
    run, state = restore_with_data(workdir)
    if evaluated(run, state) != digests.get(f"{int(state.step)} evaluated"):
        return "another evaluation: "
    return _restore(workdir, digests)


def evaluated(run: DataRun, state: State) -> str:
    """What a checkpoint evaluates to on both splits, to all digits."""
    run.feed.open(run.root)
    evaluate = Evaluator(run)
    return repr([evaluate(state, split) for split in ("validation", "test")])


def _summary(workdir: Path, digests: Mapping[str, str]) -> str:
    result = finished_result(workdir, resolve(config()))
    if result is not None:
        printed.summary(result, workdir)
    return "used"


def _log(workdir: Path, digests: Mapping[str, str]) -> str:
    before = len(read_lines(workdir / "metrics.jsonl"))
    MetricsLog(workdir, from_step=10**6).close()
    curves.draw(workdir, read_result(workdir), k_per=3)
    kept = len(read_lines(workdir / "metrics.jsonl"))
    return "used" if kept == before >= 4 else f"lines lost: {before}, {kept}"


def _continue(workdir: Path, digests: Mapping[str, str]) -> str:
    (workdir / "result.json").unlink(missing_ok=True)
    found = train_config(config(), str(workdir))["state_sha256"]
    return FINE[2] if found == digests["end"] else "other bits at the end: "


def digest_of(state: Any) -> str:
    """Of all leaves of a state."""
    return sha256(leaves_of(state))


_USES: Mapping[str, Callable[[Path, Mapping[str, str]], str]] = {
    "restore": _restore,
    "evaluate": _evaluate,
    "summary": _summary,
    "log": _log,
    "continue": _continue,
}
