"""Iterative magnitude pruning (IMP), the baseline of Table 7, as a sequence of runs.

A dense network is trained; then, several times, the weights of the smallest magnitude
are pruned (`magnitude.magnitude_masks`), the others are rewound to their values early
in the dense training, and the sparser network is retrained with the whole schedule.

Every stage is a run in its own folder, stage_0 (dense), stage_1, ... A retraining
starts from a checkpoint of step 0 that holds its masks and rewound weights, so a stage
can be resumed, evaluated and exported like any run.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from iterand_jax.data.sources import Source
from iterand_jax.methods.magnitude import magnitude_masks
from iterand_jax.subnetwork import apply_masks
from iterand_jax.training import building, loop, printed, results, workdir
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.record import Record
from iterand_jax.training.run import DataRun
from iterand_jax.training.run_log import Callback
from iterand_jax.training.startup import Startup
from iterand_jax.training.step import State


def build(
    config: ConfigDict, source: Source, folder: Path, given: Given = NOTHING_GIVEN
) -> dict[Path, DataRun]:
    """The folder and run of each stage of a resolved config.

    Raises:
      ValueError: in one line, what is not possible in one of them.
    """
    own = workdir.members(folder, config).items()
    return {path: building.build(stage, source, given) for path, stage in own}


def train(
    config: ConfigDict,
    built: Mapping[Path, DataRun],
    folder: Path,
    callbacks: Sequence[Callback] = (),
    startup: Startup | None = None,
) -> dict[str, Any]:
    """Trains all stages of a resolved config, skipping finished ones.

    Args:
      config: resolved.
      built: from `build`.
      folder: of all stages.
      callbacks: called with each log record.
      startup: gets the parts of this start, of the first stage that is trained now.

    Returns:
      The result of the last stage, with the seconds and steps summed over all stages,
      and the result of each as "stages".
    """
    folders, runs = [*built], [*built.values()]
    done = []
    for index, (run, stage) in enumerate(zip(runs, folders, strict=True)):
        result = workdir.finished_result(stage, run.config)
        if result is None:
            print(f"retraining {index} of {config.retrainings}" if index else "dense")
            with workdir.claimed({stage: run.config}):
                if index:
                    # A retraining starts from the masks and rewound weights.
                    trained = _trained(runs[index - 1], folders[index - 1])
                    early = _early(config, runs[0], folders[0])
                    _begin(run, stage, trained, early)
                print(printed.plan([run], stage), flush=True)
                outcome = loop.train_and_evaluate(run, stage, callbacks, startup)
                startup = None
                result = results.write_result(run, outcome, stage)
        done.append(result)
    return results.write_stages(config, done, folder)


def _trained(run: DataRun, folder: Path) -> State:
    """The final state of a stage; an earlier checkpoint would give other masks."""
    try:
        return workdir.restore(folder, run.total_steps).state
    except Exception as error:
        raise ValueError(
            f"the checkpoint of step {run.total_steps} in {folder} cannot be read "
            f"({error}): move the folder away to train the stage again"
        ) from error


def _early(config: ConfigDict, dense: DataRun, folder: Path) -> State:
    """The state that the weights are rewound to."""
    if config.rewind_epochs:
        step = config.rewind_epochs * dense.feed.steps_per_epoch
        return workdir.restore(folder, step).state
    return jax.jit(dense.init_state)(dense.root)


def _begin(run: DataRun, folder: Path, trained: State, early: State) -> None:
    """Writes the step-0 checkpoint of a retraining, unless it has started already."""
    checkpoints = Checkpoints(folder / "checkpoints", keep=run.config.keep_checkpoints)
    with contextlib.closing(checkpoints):
        if checkpoints.steps():
            return
        # New masks from the trained weights; the kept weights are rewound.
        find = functools.partial(
            magnitude_masks,
            run.subnetwork,
            sparsity=run.config.sparsity,
            sparsity_of=run.config.sparsity_of,
        )
        found = jax.jit(find)(trained.trainable)
        state = jax.jit(run.init_state)(run.root)._replace(
            trainable=apply_masks(early.trainable, found),
            frozen=found,
            batch_stats=early.batch_stats,
        )
        checkpoints.save(0, state, Record().saved_by(run.config))
