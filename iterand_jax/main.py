"""Trains one config.

python -m iterand_jax.main [--config=NAME_OR_FILE] [--config.FIELD=VALUE] [FLAGS]

Without --config it trains a small network on handwritten digits, in about a minute.
Every field of the config can be overridden: --config.method=edge_popup,
--config.network.width=0.25, --config.seed=2. Run again, the same command resumes an
interrupted run, and reports that a finished one is finished.
"""

from absl import flags

from iterand_jax.configs import default, load
from iterand_jax.runtime import cli, flag_text, hosts


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_data_dir()
    cli.define_path(
        "workdir",
        None,
        "where to write, a folder or gs://BUCKET/FOLDER; default: a folder below runs/",
    )
    cli.define_hosts()
    cli.define_config(load, "digits")


def main() -> None:
    """Trains the config of the flags, with the other processes of the run if any."""
    from iterand_jax.training.config import resolve
    from iterand_jax.training.train import train_config

    values = flags.FLAGS
    resolve(values.config)  # report mistakes before waiting for other hosts
    cli.join_hosts()
    with hosts.only_first_prints():
        train_config(
            values.config, values.workdir, values.data_dir, started=cli.started()
        )


def more_help() -> str:
    """The available names of each kind and every field of a config, for --help."""
    from iterand_jax.training.choices import choices

    parts = [
        f"{heading}:\n{flag_text.indented(', '.join(names), 2)}"
        for heading, names in choices().items()
    ]
    parts.append("Fields of a config, with their defaults in configs/default.py:")
    for field, (value, meaning) in default.FIELDS.items():
        kind = f"None, or {value.__name__}" if isinstance(value, type) else repr(value)
        parts[-1] += f"\n  --config.{field} = {kind}\n{flag_text.indented(meaning, 6)}"
    for method, recipe in default.get_config().recipe.items():
        values = ", ".join(f"{field} = {value!r}" for field, value in recipe.items())
        parts[-1] += f"\n  --config.recipe.{method}.*\n{flag_text.indented(values, 6)}"
    return "\n\n".join(parts)


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        more_help=more_help,
        again="starts or continues the run",
        loads=("iterand_jax.training.train",),
        prints_result=False,
    )


if __name__ == "__main__":
    run()
