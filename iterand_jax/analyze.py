"""Analyzes a found subnetwork: a table of its layers, and a figure.

python -m iterand_jax.analyze --workdir=DIR [--step=N] [--other=DIR_OR_TICKET]
    [--output=PNG]
python -m iterand_jax.analyze --ticket=FILE_OR_URL [--other=DIR_OR_TICKET]
    [--output=PNG]
"""

from pathlib import Path

from absl import flags

from iterand_jax.runtime import cli
from iterand_jax.runtime.files import check_written


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_path("workdir", None, "the folder of the run")
    flags.DEFINE_integer("step", None, "which checkpoint; default: the newest")
    cli.define_path(
        "ticket", None, "a ticket, instead of a run: a file, hf://user/repo or a URL"
    )
    cli.define_path("other", None, "a run's folder or a ticket to compare with")
    cli.define_path(
        "output",
        None,
        "the figure; default: analysis.png beside the input, or here if it is at a URL",
    )


def main() -> None:
    """Prints the table and draws the figure."""
    from iterand_jax.analysis import figure, printed, report

    workdir, ticket = flags.FLAGS.workdir, flags.FLAGS.ticket
    if (workdir is None) == (ticket is None):
        raise ValueError("give one of --workdir=DIR and --ticket=FILE")
    if ticket is not None and flags.FLAGS.step is not None:
        raise ValueError(f"--step={flags.FLAGS.step} does not apply to a ticket")
    folder = Path(workdir) if workdir else report.folder_of(ticket)
    output = Path(flags.FLAGS.output or folder / "analysis.png")
    try:
        check_written(output)  # before any work
    except OSError as error:
        raise ValueError(f"cannot write {output}: {error.strerror}") from error
    if flags.FLAGS.output and not output.parent.is_dir():
        raise ValueError(f"cannot write {output}: there is no folder {output.parent}")
    found = report.report(
        workdir or ticket, flags.FLAGS.other or None, step=flags.FLAGS.step
    )
    print(printed.text(found))
    figure.draw(found, output)
    print(f"wrote {output}")


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        again="starts again",
        loads=("iterand_jax.analysis.report",),
    )


if __name__ == "__main__":
    run()
