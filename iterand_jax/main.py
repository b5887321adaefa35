"""Trains one config: `python -m iterand_jax.main --config=configs/cifar_conv6.py`.

Without --config it trains a small network on handwritten digits, in about a minute.
Every field of the config can be overridden: --config.method=edge_popup,
--config.network.width=0.25, --config.seed=2. Started again with the same command, an
interrupted run continues and a finished one says so.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from iterand_jax.runtime import bucket, cli, hosts

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "digits.py"


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_data_dir()
    flags.DEFINE_string(
        "workdir",
        None,
        "where to write, a folder or gs://BUCKET/FOLDER; default: a folder below runs/",
    )
    cli.define_hosts()
    cli.define_config(DEFAULT_CONFIG)


def main() -> None:
    """Trains the config of the flags, with the other processes of the run if any."""
    from iterand_jax.training import config as configs

    values = flags.FLAGS
    configs.resolve(values.config)  # a mistake is told before others are waited for
    cli.join_hosts()
    with hosts.only_first_prints():
        train(values.config, values.workdir, values.data_dir, started=cli.started())


def train(
    config: ConfigDict,
    workdir: str | None = None,
    data_dir: str | None = None,
    *,
    started: float | None = None,
) -> dict[str, Any]:
    """Resolves a config, trains it to its end, and prints what came out.

    Args:
      config: as a config file's get_config() returns it.
      workdir: where to write, a folder or a URL of one in a bucket; None for a folder
        below runs/ named after the config.
      data_dir: where datasets lie; None for $TFDS_DATA_DIR or TFDS's own.
      started: the time.perf_counter() from which the time to the first step counts;
        None for now.

    Returns:
      The result, as in result.json.

    Raises:
      ValueError: in one line, what is not possible and what is.
    """
    from iterand_jax.training import config as configs
    from iterand_jax.training import provenance
    from iterand_jax.training import workdir as workdirs

    started = time.perf_counter() if started is None else started
    config = configs.resolve(config)
    workdir = workdir or _default_workdir(config, configs.to_json(config))
    if not hosts.are_alone():
        hosts.check_same(
            {
                "the config": configs.to_json(config),
                "the commit": provenance.commit(),
                **{f"the version of {n}": v for n, v in provenance.versions().items()},
            }
        )
    with _folder_here(workdir) as folder:
        result = workdirs.finished_result(folder, config)
        if result is not None:
            print("this run is finished already:")
        else:
            result = _train(config, folder, data_dir, started)
        print(workdirs.summary(result, folder))
    return result


@contextlib.contextmanager
def _folder_here(workdir: str) -> Iterator[Path]:
    """A workdir as a folder of this machine, for the process that uses it."""
    if not bucket.is_url(workdir):
        yield Path(workdir)
        return
    with contextlib.ExitStack() as stack:
        folder = Path(workdir)
        with hosts.together():
            if hosts.is_first():
                folder = stack.enter_context(bucket.mirrored(workdir))
        print(f"the workdir {workdir} is kept up from {folder}", flush=True)
        yield folder


def _train(
    config: ConfigDict, workdir: Path, data_dir: str | None, started: float
) -> dict[str, Any]:
    from iterand_jax.data import datasets, prepare
    from iterand_jax.training import config as configs
    from iterand_jax.training import loop, setup, stages
    from iterand_jax.training import workdir as workdirs

    with hosts.together():
        prepare.prepare_if_possible(config.dataset.name, data_dir)
        source = datasets.open_source(config.dataset.name, data_dir)
    hosts.check_same({"the dataset": source.fingerprint})
    if config.method == configs.IMP:
        setup.build(stages.stages(config)[0], source)  # refuses before it writes
        with workdirs.claimed({workdir: config}):
            return stages.train(config, source, workdir)
    members = workdirs.members(workdir, config)
    left = {
        folder: setup.build(own, source)
        for folder, own in members.items()
        if workdirs.finished_result(folder, own) is None
    }
    with workdirs.claimed({workdir: config} | members):
        if left:
            runs = list(left.values())
            print(workdirs.plan(runs, workdir), flush=True)
            outcomes = loop.train_together(runs, list(left), started=started)
            for run, outcome, folder in zip(runs, outcomes, left, strict=True):
                result = workdirs.write_result(run, outcome, folder)
        if config.replicas > 1:
            result = workdirs.write_summary_of(members, workdir)
    return result


def _default_workdir(config: ConfigDict, text: str) -> str:
    tag = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"runs/{config.dataset.name}_{config.network.name}_{config.method}_{tag}"


if __name__ == "__main__":
    cli.run(main, define_flags)
