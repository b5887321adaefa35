"""Trains one config: `python -m iterand_jax.main --config=configs/cifar_conv6.py`.

Without --config it trains a small network on handwritten digits, in about a minute.
Every field of the config can be overridden: --config.method=edge_popup,
--config.network.width=0.25, --config.seed=2. Started again with the same command, an
interrupted run continues and a finished one says so.
"""

from pathlib import Path

from absl import flags

from iterand_jax.runtime import cli, hosts

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
    from iterand_jax.training.train import train_config

    values = flags.FLAGS
    configs.resolve(values.config)  # a mistake is told before others are waited for
    cli.join_hosts()
    with hosts.only_first_prints():
        train_config(
            values.config, values.workdir, values.data_dir, started=cli.started()
        )


if __name__ == "__main__":
    cli.run(main, define_flags)
