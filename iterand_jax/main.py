"""Trains one config: `python -m iterand_jax.main --config=configs/cifar_conv6.py`.

Without --config it trains a small network on handwritten digits, in about a minute.
Every field of the config can be overridden: --config.method=edge_popup,
--config.network.width=0.25, --config.seed=2. Started again with the same command, an
interrupted run continues and a finished one says so.
"""

import hashlib
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from iterand_jax import command

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "digits.py"


def define_flags() -> None:
    """Defines the flags of this command."""
    command.define_data_dir()
    flags.DEFINE_string(
        "workdir", None, "where to write; default: a folder below runs/"
    )
    command.define_config(DEFAULT_CONFIG)


def main() -> None:
    """Trains the config of the flags."""
    train(flags.FLAGS.config, flags.FLAGS.workdir, flags.FLAGS.data_dir)


def train(
    config: ConfigDict, workdir: str | None = None, data_dir: str | None = None
) -> dict[str, Any]:
    """Resolves a config, trains it to its end, and prints what came out.

    Args:
      config: as a config file's get_config() returns it.
      workdir: where to write; None for a folder below runs/ named after the config.
      data_dir: where datasets lie; None for $TFDS_DATA_DIR or TFDS's own.

    Returns:
      The result, as in result.json.

    Raises:
      ValueError: in one line, what is not possible and what is.
    """
    from iterand_jax.training import config as configs
    from iterand_jax.training import workdir as workdirs

    config = configs.resolve(config)
    folder = Path(workdir or _default_workdir(config, configs.to_json(config)))
    result = workdirs.finished_result(folder, config)
    if result is not None:
        print("this run is finished already:")
    else:
        result = _train(config, folder, data_dir)
    print(workdirs.summary(result, folder))
    return result


def _train(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    from iterand_jax.data import prepare, sources
    from iterand_jax.training import loop, setup
    from iterand_jax.training import workdir as workdirs

    prepare.prepare_if_possible(config.dataset.name, data_dir)
    run = setup.build(config, sources.open_source(config.dataset.name, data_dir))
    workdirs.write_config(workdir, config)
    print(workdirs.plan(run, workdir), flush=True)
    outcome = loop.train_and_evaluate(run, workdir)
    return workdirs.write_result(run, outcome, workdir)


def _default_workdir(config: ConfigDict, text: str) -> str:
    tag = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"runs/{config.dataset.name}_{config.network.name}_{config.method}_{tag}"


if __name__ == "__main__":
    command.run(main, define_flags)
