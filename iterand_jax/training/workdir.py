"""The folder of a run: its config, its checkpoints, and one run in it at a time.

With several processes, only process 0 reads and writes it.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from iterand_jax.data.datasets import open_source
from iterand_jax.runtime import hosts
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.locks import alone_or_refused
from iterand_jax.training import procedures
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import (
    NOTHING_GIVEN,
    Given,
    completed,
    differences,
    replicas_of,
    to_json,
)
from iterand_jax.training.run import DataRun, Run, build, describe
from iterand_jax.training.step import State


def finished_result(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The result that a run of this config left in a folder, None if there is none yet.

    Raises:
      ValueError: the folder holds a run of another config.
    """

    def read() -> dict[str, Any] | None:
        if not (workdir / "config.json").exists():
            return None
        saved = completed(_parsed(workdir / "config.json"))
        differing = differences(saved, config.to_dict())
        if differing:
            raise ValueError(
                f"the workdir {workdir} holds a run of another config (there / asked "
                f"for): {'; '.join(differing)}"
            )
        result = workdir / "result.json"
        return _parsed(result) if result.exists() else None

    return hosts.from_first(read)


def members(workdir: Path, config: ConfigDict) -> dict[Path, ConfigDict]:
    """The folder and config of each run that a resolved config trains.

    A single run has the workdir itself. Replicas, and the stages of a procedure, have
    folders in it, which are workdirs of single runs.
    """
    if config.method in procedures.PROCEDURES:
        own = procedures.stages(config)
        return {workdir / f"stage_{i}": stage for i, stage in enumerate(own)}
    if config.replicas == 1:
        return {workdir: config}
    return {workdir / f"seed_{own.seed}": own for own in replicas_of(config)}


@contextlib.contextmanager
def claimed(workdirs: Mapping[Path, ConfigDict]) -> Iterator[None]:
    """Makes folders of runs, writes their configs, and keeps other processes out.

    Raises:
      ValueError: one cannot be written, or another process trains in it.
    """
    with contextlib.ExitStack() as locks:

        def claim() -> None:
            for workdir, config in workdirs.items():
                refusal = f"another process trains in the workdir {workdir}"
                try:
                    workdir.mkdir(parents=True, exist_ok=True)
                    lock = alone_or_refused(workdir / "lock", refusal=refusal)
                    locks.enter_context(lock)
                    write_atomically(workdir / "config.json", to_json(config))
                except OSError as error:
                    raise ValueError(
                        f"cannot write to the workdir {workdir}: {error}"
                    ) from error

        hosts.from_first(claim)
        yield


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a workdir.

    Raises:
      ValueError: there is none, or it does not parse.
    """
    return hosts.from_first(lambda: _parsed(path))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


class Restored(NamedTuple):
    """A run as its workdir holds it.

    Attributes:
      run: what its config determines without data.
      state: at its last checkpoint, as NumPy arrays.
      record: the host-side record, as in `replica.Record`.
    """

    run: Run
    state: State
    record: dict[str, Any]


def restore(
    workdir: Path, step: int | None = None, given: Given = NOTHING_GIVEN
) -> Restored:
    """Reads the config and a checkpoint of a run; needs no data.

    Args:
      workdir: the folder of the run.
      step: which checkpoint; None for the newest intact one.
      given: objects that replace names in its config.

    Raises:
      ValueError: there is no run, no such checkpoint, or all are damaged.
    """
    config = ConfigDict(completed(read_json(workdir / "config.json")))
    own = members(workdir, config)
    if workdir not in own:
        folders = ", ".join(map(str, own))
        raise ValueError(f"{workdir} holds no checkpoint; its runs are in {folders}")
    run, folder, restored = describe(config, given), workdir / "checkpoints", None
    if hosts.from_first(folder.is_dir):
        checkpoints = Checkpoints(folder, keep=config.keep_checkpoints, only_read=True)
        with contextlib.closing(checkpoints):
            if step is None:
                restored = checkpoints.restore(run.abstract)
            else:
                restored = checkpoints.restore_step(step, run.abstract)
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint")
    return Restored(run, *restored)


def restore_with_data(
    workdir: Path, step: int | None = None, data_dir: str | None = None
) -> tuple[DataRun, State]:
    """Reads the config and a checkpoint of a run, and opens its dataset.

    Args:
      workdir: the folder of the run.
      step: which checkpoint; None for the newest intact one.
      data_dir: where the dataset is stored; None for the default folder.

    Raises:
      ValueError: as `restore`, or the dataset cannot be read.
    """
    described, state, _ = restore(workdir, step)
    source = open_source(described.config.dataset.name, data_dir)
    return build(described.config, source), state
