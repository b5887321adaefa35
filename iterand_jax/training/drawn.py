"""The fan-ins that the weights of a run were drawn with, when it is continued or read.

Weights that are redrawn have to follow the distribution of those that are there, so a
checkpoint holds the fan-in of every pruned leaf. Checkpoints written before this have
none. Their fan-ins were by the names of leaves alone: all axes of a kernel but the last
were inputs, also the heads of an attention layer and the layers of a stack, and a stack
had one threshold. Whether that is so for a leaf shows in the second moment of its
weights, 2 / fan-in.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from iterand_jax.rules import Rule
from iterand_jax.rules.defaults import UNRECORDED_RULES
from iterand_jax.rules.patterns import literal
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.training import pruning
from iterand_jax.training.building import describe
from iterand_jax.training.config import NOTHING_GIVEN, Given
from iterand_jax.training.run import Run
from iterand_jax.training.step import State
from iterand_jax.trees import leaves_of

__all__ = ["as_drawn", "check_drawn"]


def check_drawn(run: Run, state: State, record: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint was drawn with fan-ins other than the run's.

    Args:
      run: that is to continue from the checkpoint.
      state: of the checkpoint.
      record: of the checkpoint, its host-side record.
    """
    check_recorded(run, record)
    for path, fan_in in _unrecorded(run, state, record).items():
        raise ValueError(
            f"the weights of {path!r} were drawn by an earlier version with the fan-in "
            f"{fan_in:g}, which is {run.fan_ins[path]:g}: the run can be read and not "
            f"continued; train it again in another workdir"
        )


def as_drawn(
    run: Run, state: State, record: Mapping[str, Any], given: Given = NOTHING_GIVEN
) -> Run:
    """The run with the fan-ins and thresholds of its checkpoint, to read it.

    Args:
      run: as its config describes it.
      state: of the checkpoint.
      record: of the checkpoint, its host-side record.
      given: objects that replace names in its config.

    Raises:
      ValueError: the checkpoint records other fan-ins than the run has, or lacks what
        its sparsity schedule needs.
    """
    check_recorded(run, record)
    rules, leaves = [], leaves_of(run.weights(run.abstract))
    for path, fan_in in _unrecorded(run, state, record).items():
        inputs, outputs, *_ = run.subnetwork.axes(path, leaves[path])
        rules.append(
            Rule(literal(path), True, in_axis=inputs, out_axis=outputs, fan_in=fan_in)
        )
    steps: Any = 1
    if pruning.waits_for_epochs(run.config):
        steps = record.get("steps_per_epoch")
        if type(steps) is not int or steps < 1:
            raise ValueError(
                f"the record of a checkpoint has {steps!r:.60} steps in an epoch, "
                f"which its sparsity schedule counts"
            )
    return describe(run.config, given, rules, steps) if rules or steps > 1 else run


def check_recorded(run: Run, record: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint records other fan-ins than the run has."""
    recorded = record.get("fan_ins") or {}
    if not isinstance(recorded, dict) or not all(
        isinstance(fan_in, int | float) for fan_in in recorded.values()
    ):
        raise ValueError(f"the record of a checkpoint has {recorded!r:.60}")
    for path, fan_in in recorded.items():
        here = run.fan_ins.get(path)
        if here != fan_in:
            raise ValueError(
                f"the weights of {path!r} were drawn with the fan-in {fan_in:g}, and "
                f"the network has {'none' if here is None else f'{here:g}'} there: it "
                f"is another network than the run's"
            )


def _unrecorded(run: Run, state: State, record: Mapping[str, Any]) -> dict[str, float]:
    """{path: fan-in} of the leaves drawn with another fan-in than the run's."""
    if run.method.resampling is None or record.get("fan_ins") is not None:
        return {}
    earlier, found = Subnetwork(rules=UNRECORDED_RULES), {}
    weights = leaves_of(run.weights(state))
    for path, fan_in in run.fan_ins.items():
        then = earlier.fan_in(path, weights[path])
        if then is not None and then != fan_in:
            moment = float(np.mean(np.square(weights[path], dtype=np.float64))) / 2
            if abs(math.log(moment * then)) < abs(math.log(moment * fan_in)):
                found[path] = then
    return found
