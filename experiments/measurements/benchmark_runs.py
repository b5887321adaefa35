"""Whole runs of the command: how long until the first step, and what the loop costs.

Each is a process of its own, as a user starts it, on the real dataset: once without
a cache of programs and decoded images, once with that of the first. The start is
everything from the start of the process to the end of the first step; the loop is
training, evaluation, re-randomizations and waits for checkpoints, and is compared with
the time of as many steps of its program alone. Where the dataset is not at hand, the
part says so.

With `deterministic`, a run is also killed and continued, each start without a cache,
and its state compared with that of one that was not.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iterand_jax.training.checkpoint_folder import saved_steps

RUNS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "digits": ("digits", {}),
    "conv6": (
        "cifar_conv6",
        {"network.width": 0.25, "dtype": "bfloat16", "epochs": 20},
    ),
    "resnet18": ("cifar_resnet18", {"dtype": "bfloat16", "epochs": 3}),
}
"""The config of each run, and the fields set in it."""

LOOP = ("training", "evaluation", "re-randomization", "checkpoints")
"""The seconds of a result that are the loop's."""


EVERY = 100
"""Steps between the checkpoints of a run that is killed."""

CACHES = ("without a cache", "with a cache")
"""What is compiled and decoded in a folder's first run comes from its cache later."""


def whole_run(
    config: str,
    fields: Mapping[str, Any],
    folder: Path,
    *,
    step: float | None = None,
    most: float | None = None,
) -> dict[str, Any]:
    """The seconds of a run, with the cache of earlier ones in the same folder.

    Args:
      config: its name.
      fields: those set in it.
      folder: where the cache and the workdir are.
      step: the seconds of a step of the same program alone, if they were measured.
      most: the seconds after which it is killed.

    Returns:
      Its start by part, and the loop in milliseconds a step; with `step` also the loop
      over the program.

    Raises:
      RuntimeError: the run failed, with the last line that it printed, or took longer.
    """
    seconds, result = _run(_command(config, fields, folder), folder, most)
    loop = sum(result["seconds"].get(part, 0) for part in LOOP)
    of_step = loop / result["steps"]
    return {
        "process (s)": round(seconds, 2),
        "first step (s)": result["seconds"]["first step"],
        "loop (ms a step)": round(1e3 * of_step, 4),
        **({"loop / program": round(of_step / step, 3)} if step else {}),
        "start (s)": {
            name: [round(part["begin"], 2), round(part["end"], 2)]
            for name, part in result["startup"].items()
        },
    }


def same_bits(
    config: str, fields: Mapping[str, Any], folder: Path, *, most: float
) -> dict[str, Any]:
    """Whether a killed run that is `deterministic` ends with the bits of a whole one.

    Each start compiles all its programs, which a GPU would otherwise choose by timing.

    Args:
      config: its name.
      fields: those set in it.
      folder: where the workdirs are.
      most: the seconds after which it ends.

    Returns:
      Whether the states are the same, the step at which the killed run went on, and the
      seconds of the processes.

    Raises:
      RuntimeError: a run failed, or the time was over.
    """
    started = time.perf_counter()
    fields = {**fields, "deterministic": True, "checkpoint_every_steps": EVERY}

    def left() -> float:
        return max(0.0, most - (time.perf_counter() - started))

    command = _command(config, fields, folder)
    whole, expected = _run(command, folder / "1", left())
    command = _command(config, fields, folder)
    step, killed = _killed(command, folder / "2", left())
    again, found = _run(command, folder / "3", left())
    return {
        "same bits": found["state_sha256"] == expected["state_sha256"],
        "continued from step": step,
        "processes (s)": [round(seconds, 2) for seconds in (whole, killed, again)],
    }


def _command(config: str, fields: Mapping[str, Any], folder: Path) -> list[str]:
    """The words of a run in a new workdir, which is the last of them."""
    command = [sys.executable, "-m", "iterand_jax.main", f"--config={config}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    return [*command, f"--workdir={tempfile.mkdtemp(dir=folder)}"]


def _workdir(command: list[str]) -> Path:
    return Path(command[-1].removeprefix("--workdir="))


def _environment(folder: Path) -> dict[str, str]:
    """That of a run whose caches are in a folder."""
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder.absolute() / "cache"),
        # This process keeps most of a GPU's memory.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2",
    }
    # It would be the cache of programs alone, and without the short ones.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return environment


def _run(
    command: list[str], folder: Path, most: float | None
) -> tuple[float, dict[str, Any]]:
    """Runs the command; returns the seconds of its process and its result."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            env=_environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=most,
        )
    except subprocess.TimeoutExpired:
        raise _late(most) from None
    seconds = time.perf_counter() - start
    if done.returncode:
        *_, last = ["", *done.stdout.splitlines()]
        raise RuntimeError(f"status {done.returncode}: {last}")
    return seconds, json.loads((_workdir(command) / "result.json").read_text())


def _killed(command: list[str], folder: Path, most: float) -> tuple[int, float]:
    """Kills a run at its second checkpoint; returns the newest, and its seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=_environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while len(steps := saved_steps(_workdir(command) / "checkpoints")) < 2:
            if time.perf_counter() - start > most:
                raise _late(most)
            if process.poll() is not None:
                raise RuntimeError("a run ended before it could be killed")
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    return steps[-1], time.perf_counter() - start


def _late(most: float | None) -> RuntimeError:
    return RuntimeError(f"killed after {most:.0f} s, as the time was over")
