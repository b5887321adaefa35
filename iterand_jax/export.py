"""Takes the subnetwork of a run away, as one small file or in a format others read.

python -m iterand_jax.export --workdir=DIR
--format=ticket|safetensors|torchvision|stablehlo [--step=N] [--output=FILE]
"""

from pathlib import Path

from absl import flags

from iterand_jax.runtime import cli

FORMATS = ("ticket", "safetensors", "torchvision", "stablehlo")


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("workdir", None, "the folder of the run", required=True)
    flags.DEFINE_enum("format", "ticket", FORMATS, "what to write")
    flags.DEFINE_integer("step", None, "which checkpoint; default: the newest")
    flags.DEFINE_string("output", None, "where to; default: a name in the workdir")
    cli.define_data_dir()


def main() -> None:
    """Exports a checkpoint of the flags' run."""
    from iterand_jax.training import exporting

    workdir, name = Path(flags.FLAGS.workdir), flags.FLAGS.format
    output = Path(flags.FLAGS.output or workdir / exporting.FORMATS[name])
    exporting.export(
        workdir, name, output, step=flags.FLAGS.step, data_dir=flags.FLAGS.data_dir
    )


if __name__ == "__main__":
    cli.run(main, define_flags)
