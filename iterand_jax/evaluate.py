"""Prints the test accuracy of a run's saved subnetwork again.

python -m iterand_jax.evaluate --workdir=DIR
"""

from pathlib import Path

from absl import flags

from iterand_jax import command

_WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "where datasets lie; default: $TFDS_DATA_DIR or TFDS's own"
)


def main() -> None:
    """Restores the last checkpoint and evaluates it on the test split."""
    from ml_collections import ConfigDict

    from iterand_jax.data import sources
    from iterand_jax.training import loop, setup
    from iterand_jax.training.checkpoint import Checkpoints
    from iterand_jax.training.workdir import read_json

    workdir = Path(_WORKDIR.value)
    config = ConfigDict(read_json(workdir / "config.json"))
    run = setup.build(config, sources.open_source(config.dataset.name, _DATA_DIR.value))
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise ValueError(f"{workdir} holds no checkpoint")
    checkpoints = Checkpoints(folder, keep=config.keep_checkpoints)
    restored = checkpoints.restore(run.abstract)
    checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint")
    state = restored[0]
    loss, accuracy = loop.evaluate_test(run, state)
    print(f"step {int(state.step):,} of {run.total_steps:,}")
    print(f"test accuracy {accuracy:.2f} %, test loss {loss:.4f}")


if __name__ == "__main__":
    command.run(main)
