"""Exports a run's subnetwork as a ticket or in a format of other libraries.

python -m iterand_jax.export --workdir=DIR
--format=ticket|safetensors|torchvision|stablehlo|hub|compact
[--step=N] [--output=FILE]
[--push=user/repo] [--dtype=float32|float16|bfloat16]
"""

from pathlib import Path

from absl import flags

from iterand_jax.runtime import cli

FORMATS = ("ticket", "safetensors", "torchvision", "stablehlo", "hub", "compact")

DTYPES = ("float32", "float16", "bfloat16")


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("workdir", None, "the folder of the run", required=True)
    flags.DEFINE_enum("format", "ticket", FORMATS, "what to write")
    flags.DEFINE_integer("step", None, "which checkpoint; default: the newest")
    cli.define_path(
        "output", None, "the file or folder, or its URL; default: one in the workdir"
    )
    flags.DEFINE_string(
        "push", None, "of --format=hub: the repository to upload to, user/repo"
    )
    flags.DEFINE_enum(
        "dtype", "float32", DTYPES, "of the weights of safetensors and torchvision"
    )
    cli.define_data_dir()


def main() -> None:
    """Exports the checkpoint that the flags name."""
    from iterand_jax.training import exporting

    workdir, name = Path(flags.FLAGS.workdir), flags.FLAGS.format
    exporting.export(
        workdir,
        name,
        flags.FLAGS.output or workdir / exporting.FORMATS[name],
        step=flags.FLAGS.step,
        data_dir=flags.FLAGS.data_dir,
        push=flags.FLAGS.push,
        dtype=flags.FLAGS.dtype,
    )


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        again="starts again",
        loads=("iterand_jax.training.exporting",),
    )


if __name__ == "__main__":
    run()
