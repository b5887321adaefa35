"""Whole runs of the command: how long until the first step, and what the loop costs.

Each is a process of its own, as a user starts it, on the real dataset: once without
a cache of programs and decoded images, once with that of the first. The start is
everything from the start of the process to the end of the first step; the loop is
training, evaluation, re-randomizations and waits for checkpoints, and is compared with
the time of as many steps of its program alone. Where the dataset is not at hand, the
part says so.
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
    seconds, result = _run(config, fields, folder, most)
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


def _run(
    config: str, fields: Mapping[str, Any], folder: Path, most: float | None
) -> tuple[float, dict[str, Any]]:
    """Runs the command; returns the seconds of its process and its result."""
    workdir = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "iterand_jax.main", f"--config={config}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder.absolute() / "cache"),
        # This process keeps most of a GPU's memory.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2",
    }
    # It would be the cache of programs alone, and without the short ones.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [*command, f"--workdir={workdir}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=most,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"killed after {most:.0f} s, as the time was over") from None
    seconds = time.perf_counter() - start
    if done.returncode:
        *_, last = ["", *done.stdout.splitlines()]
        raise RuntimeError(f"status {done.returncode}: {last}")
    return seconds, json.loads((workdir / "result.json").read_text())
