"""Exports a run's subnetwork as a ticket or in a format of other libraries.

python -m iterand_jax.export --workdir=DIR
    --format=ticket|safetensors|torchvision|matrices|stablehlo|onnx|hub|compact
    [--step=N] [--output=FILE] [--push=user/repo] [--dtype=float32|float16|bfloat16]
python -m iterand_jax.export --ticket=FILE_OR_URL
    --format=safetensors|torchvision|stablehlo|onnx|ticket [--output=FILE] [--dtype=...]
"""

from pathlib import Path

from absl import flags

from iterand_jax.runtime import cli

FORMATS = (
    "ticket",
    "safetensors",
    "torchvision",
    "matrices",
    "stablehlo",
    "onnx",
    "hub",
    "compact",
)

DTYPES = ("float32", "float16", "bfloat16")


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("workdir", None, "the folder of the run")
    cli.define_path(
        "ticket", None, "a ticket, instead of a run: a file, hf://user/repo or a URL"
    )
    flags.DEFINE_enum("format", "ticket", FORMATS, "what to write")
    flags.DEFINE_integer("step", None, "which checkpoint; default: the newest")
    cli.define_path(
        "output",
        None,
        "the file or folder, or its URL; default: one in the workdir, or beside the "
        "ticket, or here if that is at a URL",
    )
    flags.DEFINE_string(
        "push", None, "of --format=hub: the repository to upload to, user/repo"
    )
    flags.DEFINE_enum(
        *("dtype", "float32", DTYPES),
        "of the weights of safetensors, torchvision and matrices",
    )
    cli.define_data_dir()


def main() -> None:
    """Exports the checkpoint or ticket that the flags name."""
    from iterand_jax.training import exporting

    values = flags.FLAGS
    if (values.workdir is None) == (values.ticket is None):
        raise ValueError("give one of --workdir=DIR and --ticket=FILE")
    if values.ticket is not None:
        _of_ticket(values.ticket, values.format)
        return
    exporting.export(
        Path(values.workdir),
        values.format,
        values.output,
        step=values.step,
        data_dir=values.data_dir,
        push=values.push,
        dtype=values.dtype,
    )


def _of_ticket(ticket: str, name: str) -> None:
    from iterand_jax.training import exporting

    for flag in ("step", "data_dir", "push"):
        given = flags.FLAGS[flag].value
        if given is not None:
            raise ValueError(f"--{flag}={given} does not apply to a ticket")
    output, dtype = flags.FLAGS.output, flags.FLAGS.dtype
    exporting.export_ticket(ticket, name, output, dtype=dtype)


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        again="starts again",
        prints_result=False,
        loads=("iterand_jax.training.exporting",),
    )


if __name__ == "__main__":
    run()
