"""Prints the test accuracy of a run's saved subnetwork again.

python -m iterand_jax.evaluate --workdir=DIR
"""

from pathlib import Path

from absl import flags

from iterand_jax import command


def define_flags() -> None:
    """Defines the flags of this command."""
    command.define_data_dir()
    flags.DEFINE_string("workdir", None, "the folder of the run", required=True)


def main() -> None:
    """Restores the last checkpoint and evaluates it on the test split."""
    from ml_collections import ConfigDict

    from iterand_jax.data import sources
    from iterand_jax.training import setup
    from iterand_jax.training.checkpoint import Checkpoints
    from iterand_jax.training.evaluation import Evaluator
    from iterand_jax.training.step import Images
    from iterand_jax.training.workdir import read_json

    workdir = Path(flags.FLAGS.workdir)
    config = ConfigDict(read_json(workdir / "config.json"))
    source = sources.open_source(config.dataset.name, flags.FLAGS.data_dir)
    run = setup.build(config, source)
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{workdir} holds no checkpoint")
    checkpoints = Checkpoints(folder, keep=config.keep_checkpoints)
    restored = checkpoints.restore(run.abstract)
    checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint")
    state = restored[0]
    loss, accuracy = Evaluator(run)(state, Images(*source.read("test")))
    print(f"step {int(state.step):,} of {run.total_steps:,}")
    print(f"test accuracy {accuracy:.2f} %, test loss {loss:.4f}")


if __name__ == "__main__":
    command.run(main, define_flags)
