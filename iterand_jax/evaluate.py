"""Evaluates a run's saved subnetwork on the test split.

python -m iterand_jax.evaluate --workdir=DIR [--step=N]
"""

from pathlib import Path

from absl import flags

from iterand_jax.runtime import cli


def define_flags() -> None:
    """Defines the flags of this command."""
    cli.define_data_dir()
    cli.define_path("workdir", None, "the folder of the run")
    flags.DEFINE_integer("step", None, "which checkpoint; default: the newest")


def main() -> None:
    """Restores a checkpoint and evaluates it on the test split."""
    from iterand_jax.training.evaluation import Evaluator
    from iterand_jax.training.workdir import restore_with_data

    values = flags.FLAGS
    run, state = restore_with_data(Path(values.workdir), values.step, values.data_dir)
    test = Evaluator(run)(state, "test")
    print(f"step {int(state.step):,} of {run.total_steps:,}")
    print(
        f"test accuracy {test.accuracy:.2f} %, test loss {test.loss:.4f} "
        f"on {test.examples:,} examples"
    )


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        required=("workdir",),
        again="starts again",
        loads=("iterand_jax.training.evaluation",),
    )


if __name__ == "__main__":
    run()
