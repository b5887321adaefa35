"""Trains one config: `python -m iterand_jax.main --config=configs/cifar_conv6.py`.

Without --config it trains a small network on handwritten digits, in about a minute.
Every field of the config can be overridden: --config.method=edge_popup,
--config.network.width=0.25, --config.seed=2. Started again with the same command, an
interrupted run continues and a finished one says so.
"""

import hashlib
from pathlib import Path

from absl import flags

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
    """Resolves the config, trains, and prints what came out."""
    from iterand_jax.training import config as configs
    from iterand_jax.training import workdir as workdirs

    config = configs.resolve(flags.FLAGS.config)
    workdir = Path(
        flags.FLAGS.workdir or _default_workdir(config, configs.to_json(config))
    )
    result = workdirs.open_workdir(workdir, config)
    if result is not None:
        print("this run is finished already:")
    else:
        result = _train(config, workdir)
    print(workdirs.summary(result, workdir))


def _train(config, workdir: Path):
    from iterand_jax.data import prepare, sources
    from iterand_jax.training import loop, setup
    from iterand_jax.training import workdir as workdirs

    prepare.prepare_if_possible(config.dataset.name, flags.FLAGS.data_dir)
    source = sources.open_source(config.dataset.name, flags.FLAGS.data_dir)
    run = setup.build(config, source)
    print(workdirs.plan(run, workdir), flush=True)
    outcome = loop.train_and_evaluate(run, workdir)
    return workdirs.write_result(run, outcome, workdir)


def _default_workdir(config, text: str) -> str:
    tag = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"runs/{config.dataset.name}_{config.network.name}_{config.method}_{tag}"


if __name__ == "__main__":
    define_flags()
    command.run(main)
