"""The folder of a run: its config, its checkpoints, and one run in it at a time.

With several processes, only process 0 reads and writes it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from iterand_jax.data.datasets import open_source
from iterand_jax.runtime import hosts
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.locks import alone_or_refused
from iterand_jax.training import drawn, procedures, saved
from iterand_jax.training.building import build, describe
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import NOTHING_GIVEN, Given, replicas_of
from iterand_jax.training.config_json import check_same, to_json
from iterand_jax.training.record import check_recorded_config
from iterand_jax.training.run import DataRun, Run
from iterand_jax.training.step import State


def finished_result(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The result that a run of this config left in a folder, None if there is none yet.

    Raises:
      ValueError: the folder holds a run of another config.
    """

    def read() -> dict[str, Any] | None:
        if not (workdir / "config.json").exists():
            return None
        check_same(
            saved.read_object(workdir / "config.json"),
            config.to_dict(),
            f"the workdir {workdir} holds a run of another config (there / asked for)",
        )
        result = workdir / "result.json"
        return saved.read_result(result) if result.exists() else None

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

    A run that is refused inside, by a ValueError before its first checkpoint, gives its
    folder back: a config.json that was written here is removed, so that the folder is
    free for another config.

    Raises:
      ValueError: one cannot be written, or another process trains in it.
    """
    written: list[Path] = []

    def give_back() -> None:
        if not any(any(w.glob("**/checkpoints/[0-9]*")) for w in workdirs):
            for path in written:
                path.unlink(missing_ok=True)

    with contextlib.ExitStack() as locks:

        def claim() -> None:
            for workdir, config in workdirs.items():
                refusal = f"another process trains in the workdir {workdir}"
                try:
                    workdir.mkdir(parents=True, exist_ok=True)
                    lock = alone_or_refused(workdir / "lock", refusal=refusal)
                    locks.enter_context(lock)
                    if not (workdir / "config.json").exists():
                        written.append(workdir / "config.json")
                    write_atomically(workdir / "config.json", to_json(config))
                except OSError as error:
                    raise ValueError(
                        f"cannot write to the workdir {workdir}: {error}"
                    ) from error

        try:
            hosts.from_first(claim)
            yield
        except ValueError:
            give_back()
            raise


def read_config(workdir: Path, given: Given = NOTHING_GIVEN) -> ConfigDict:
    """The config of the run in a folder; see `saved.read_config`."""
    path = workdir / "config.json"
    # As a dict, which other processes get as JSON.
    fields = hosts.from_first(lambda: saved.read_config(path, given).to_dict())
    return ConfigDict(fields).lock()


def read_result(workdir: Path) -> dict[str, Any]:
    """The result of the run in a folder; see `saved.read_result`."""
    return hosts.from_first(lambda: saved.read_result(workdir / "result.json"))


class Restored(NamedTuple):
    """A run as its workdir holds it.

    Attributes:
      run: what its config determines without data, with the fan-ins of its weights.
      state: at its last checkpoint, as NumPy arrays.
      record: the host-side record, as in `record.Record`.
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
    config = read_config(workdir, given)
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
    check_recorded_config(workdir, config, restored[1])
    return Restored(drawn.as_drawn(run, *restored, given), *restored)


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
    built = build(described.config, source)
    # As it was drawn, which the config alone does not say of an earlier version's run.
    of_rules = {name: getattr(described, name) for name in ("subnetwork", "method")}
    return dataclasses.replace(built, **of_rules), state
