"""Trains one config.

python -m iterand_jax.main [--config=NAME_OR_FILE] [--config.FIELD=VALUE] [FLAGS]

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

from iterand_jax import configs
from iterand_jax.configs import default
from iterand_jax.runtime import bucket, cli, hosts


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_data_dir()
    cli.define_path(
        "workdir",
        None,
        "where to write, a folder or gs://BUCKET/FOLDER; default: a folder below runs/",
    )
    cli.define_hosts()
    cli.define_config(configs.load, "digits")


def main() -> None:
    """Trains the config of the flags, with the other processes of the run if any."""
    from iterand_jax.training.config import resolve

    values = flags.FLAGS
    resolve(values.config)  # a mistake is told before others are waited for
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
    from iterand_jax.training import config as fields
    from iterand_jax.training import provenance
    from iterand_jax.training import workdir as workdirs

    started = time.perf_counter() if started is None else started
    config = fields.resolve(config)
    workdir = workdir or _default_workdir(config, fields.to_json(config))
    if not hosts.are_alone():
        hosts.check_same(
            {
                "the config": fields.to_json(config),
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
    from iterand_jax.training import config as fields
    from iterand_jax.training import loop, setup, stages
    from iterand_jax.training import workdir as workdirs

    with hosts.together():
        prepare.prepare_if_possible(config.dataset.name, data_dir)
        source = datasets.open_source(config.dataset.name, data_dir)
    hosts.check_same({"the dataset": source.fingerprint})
    if config.method == fields.IMP:
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


def choices() -> str:
    """What there is to choose from, and every field of a config, for --help."""
    from iterand_jax.data.augment import AUGMENTATIONS
    from iterand_jax.data.datasets import DATASETS
    from iterand_jax.distributions import DISTRIBUTIONS
    from iterand_jax.methods import METHODS
    from iterand_jax.networks import NETWORKS
    from iterand_jax.training.config import IMP
    from iterand_jax.training.schedules import SCHEDULES

    named = {
        "Configs": configs.names(),
        "Methods": (*METHODS, IMP),
        "Networks": NETWORKS,
        "Datasets": DATASETS,
        "Distributions": DISTRIBUTIONS,
        "Augmentations": AUGMENTATIONS,
        "Schedules": SCHEDULES,
    }
    parts = [f"{what}:\n{cli.indented(', '.join(of), 2)}" for what, of in named.items()]
    parts.append("Fields of a config, with their defaults in configs/default.py:")
    for field, (value, meaning) in default.FIELDS.items():
        kind = f"None, or {value.__name__}" if isinstance(value, type) else repr(value)
        parts[-1] += f"\n  --config.{field} = {kind}\n{cli.indented(meaning, 6)}"
    for method, recipe in default.get_config().recipe.items():
        values = ", ".join(f"{field} = {value!r}" for field, value in recipe.items())
        parts[-1] += f"\n  --config.recipe.{method}.*\n{cli.indented(values, 6)}"
    return "\n\n".join(parts)


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, more_help=choices)


if __name__ == "__main__":
    run()
