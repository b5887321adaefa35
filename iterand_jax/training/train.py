"""Trains one config to the end: data, runs, results, in a workdir.

The command line calls this; `iterand_jax.train` is the Python API.
"""

import contextlib
import hashlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from iterand_jax.data import datasets, prepare, sources
from iterand_jax.data.sources import Source
from iterand_jax.runtime import bucket, early, hosts, modes, remote
from iterand_jax.runtime.signals import InterruptedRunError
from iterand_jax.training import (
    building,
    loop,
    memory,
    printed,
    procedures,
    provenance,
    results,
    stages,
)
from iterand_jax.training import config as configs
from iterand_jax.training import workdir as workdirs
from iterand_jax.training.checkpoint_folder import saved_steps
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.config_json import to_json
from iterand_jax.training.run import DataRun
from iterand_jax.training.run_log import Callback
from iterand_jax.training.shared import Shared
from iterand_jax.training.startup import Startup


@modes.fixed()
def train_config(
    config: ConfigDict,
    workdir: str | None = None,
    data_dir: str | None = None,
    *,
    started: float | None = None,
    callbacks: Sequence[Callback] = (),
    given: Given = NOTHING_GIVEN,
    shared: Shared | None = None,
) -> dict[str, Any]:
    """Resolves a config, trains it to the end, and prints the result.

    Args:
      config: as a config file's get_config() returns it.
      workdir: where to write, a folder or a URL of one in a bucket; None for a folder
        below runs/ named after the config.
      data_dir: where datasets are stored; None for $TFDS_DATA_DIR or TFDS's default.
      started: the time.perf_counter() from which the time to the first step counts;
        None for now.
      callbacks: called in process 0 with each log record plus its "seed"; an
        exception from one ends the run.
      given: a network and a dataset that replace those that the config names.
      shared: data and programs of earlier runs in this process; it keeps this run's.

    Returns:
      The result, as in result.json.

    Raises:
      ValueError: in one line, what is not possible and what is.
    """
    startup = Startup(started)
    startup.add("imports", startup.started)
    config = configs.resolve(config, given)
    workdir = workdir or _default_workdir(config, to_json(config))
    if not hosts.are_alone():
        hosts.check_same(
            {
                "the config": to_json(config),
                "the commit": provenance.commit(),
                **{f"the version of {n}": v for n, v in provenance.versions().items()},
            }
        )
    with _folder_here(workdir) as folder, _interrupts_named(folder, config):
        result = workdirs.finished_result(folder, config)
        if result is not None:
            print("this run is finished already:")
        else:
            with startup.part("device"):
                jax.devices()
            with startup.part("dataset"):
                source = _open_source(config, data_dir, given)
            result = _train(config, source, folder, startup, callbacks, given, shared)
        print(printed.summary(result, folder))
    return result


@contextlib.contextmanager
def _folder_here(workdir: str) -> Iterator[Path]:
    """The workdir as a local folder: for a bucket URL, a mirrored one."""
    if not remote.is_url(workdir):
        yield Path(workdir)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(workdir)
        with hosts.together():
            if hosts.is_first():
                folder = stack.enter_context(bucket.mirrored(workdir))
        print(f"the workdir {workdir} is mirrored from {folder}", flush=True)
        yield folder


@contextlib.contextmanager
def _interrupts_named(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Says of a Ctrl-C before the first step, or of a second one, what is saved."""

    def stopped() -> InterruptedRunError:
        folders = [own / "checkpoints" for own in workdirs.members(workdir, config)]
        steps = [max(saved_steps(folder), default=0) for folder in folders]
        # Replicas continue from a common step; the first stages may be finished.
        staged = config.method in procedures.PROCEDURES
        newest = max(steps) if staged else min(steps)
        return InterruptedRunError(newest, signal.SIGINT, saved=False)

    def words() -> str:
        if (workdir / "result.json").exists():
            return "interrupted after the run had ended; the same command shows it"
        return str(stopped())

    try:
        with early.saying(words):
            yield
    except KeyboardInterrupt as error:
        raise stopped() from error


def _open_source(config: ConfigDict, data_dir: str | None, given: Given) -> Source:
    with hosts.together():
        if given.dataset is not None:
            source = given.dataset.open(sources.resolve_data_dir(data_dir))
        else:
            prepare.prepare_if_possible(config.dataset.name, data_dir)
            source = datasets.open_source(config.dataset.name, data_dir)
    hosts.check_same({"the dataset": source.fingerprint})
    return source


def _train(
    config: ConfigDict,
    source: Source,
    workdir: Path,
    startup: Startup,
    callbacks: Sequence[Callback],
    given: Given,
    shared: Shared | None = None,
) -> dict[str, Any]:
    members = workdirs.members(workdir, config)
    if config.method in procedures.PROCEDURES:
        with startup.part("network"):
            built = stages.build(config, source, workdir, given)
        _check_built(list(built.values())[-1:])
        with workdirs.claimed({workdir: config}):
            return stages.train(config, built, workdir, callbacks, startup)
    with startup.part("network"):
        left = {
            folder: building.build(own, source, given)
            for folder, own in members.items()
            if workdirs.finished_result(folder, own) is None
        }
    _check_built(list(left.values()))
    for folder, run in left.items():
        with hosts.together():
            if not (folder / "checkpoints").is_dir():  # else the run has read them
                run.check_vectors()
    with workdirs.claimed({workdir: config} | members):
        if left:
            runs = list(left.values())
            print(printed.plan(runs, workdir), flush=True)
            outcomes = loop.train_together(
                runs,
                list(left),
                startup=startup,
                callbacks=callbacks,
                shared=shared,
            )
            for run, outcome, folder in zip(runs, outcomes, left, strict=True):
                result = results.write_result(run, outcome, folder)
        if config.replicas > 1:
            result = results.write_summary_of(members, workdir)
    return result


def _check_built(runs: Sequence[DataRun]) -> None:
    """Raises ValueError for runs that cannot be trained together here.

    Nothing is written before: a workdir is claimed when nothing can be refused.
    """
    if runs:
        memory.check_fits(
            runs[0].config, [run.abstract for run in runs], runs[0].dataset.inputs
        )


def _default_workdir(config: ConfigDict, text: str) -> str:
    tag = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"runs/{config.dataset.name}_{config.network.name}_{config.method}_{tag}"
