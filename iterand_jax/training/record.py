"""What a run is on the host: the record in its checkpoints, and its outcome."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from iterand_jax.training.config_json import check_same
from iterand_jax.training.evaluation import Evaluation
from iterand_jax.training.step import State


@dataclasses.dataclass
class Record:
    """The host-side record, saved in every checkpoint.

    Attributes:
      redrawn: the number of weights resampled so far.
      seconds: by phase, for all runs in the program; "first step" is the time since
        the last start, "waiting for data" is part of "training" (`waiting`).
      validation_accuracy: after each epoch so far, in %.
      position: the position of the feed.
      validation_loss: after each epoch so far.
      vectors: of the file that an embedding started as: its sha256, and how many words
        it was searched for and how many it lacked; None without one.
      fan_ins: of the weights that were drawn, by path; None if they are trained.
      steps_per_epoch: in which a sparsity schedule counts; None for other runs.
      parts: what the run was computed by: the first "step", "device", "precision",
        "versions" and "commit" of each part; one for most runs.
    """

    redrawn: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    validation_accuracy: list[float] = dataclasses.field(default_factory=list)
    position: Any = None
    validation_loss: list[float] = dataclasses.field(default_factory=list)
    vectors: dict[str, Any] | None = None
    fan_ins: dict[str, float] | None = None
    parts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    steps_per_epoch: int | None = None

    def saved_by(self, config: ConfigDict) -> dict[str, Any]:
        """What a checkpoint of a run of this config holds of it: JSON."""
        return dataclasses.asdict(self) | {"config": config.to_dict()}

    def best_epoch(self, by: str) -> int:
        """The epoch, from 1, of the best validation "accuracy" or "loss".

        Of equal ones the newest, as `Checkpoints` keeps it.
        """
        scores = self.scores(by)
        return max(range(len(scores)), key=lambda i: (scores[i], i)) + 1

    def scores(self, by: str | None) -> list[float]:
        """What ranks the epochs so far, larger for better; by default the accuracy."""
        if by == "loss":
            losses = self.validation_loss
            return [-math.inf if math.isnan(loss) else -loss for loss in losses]
        return self.validation_accuracy


def check_recorded_config(
    workdir: Path, config: ConfigDict, fields: Mapping[str, Any]
) -> None:
    """Raises ValueError if a checkpoint was saved by a run of another config.

    A config.json that was changed by hand or damaged may be a config, too: of other
    masks, or of other data. The checkpoints of earlier versions have no config.
    """
    if "config" in fields:
        check_same(
            fields["config"],
            config.to_dict(),
            f"a checkpoint in {workdir} was saved with another config (then / now)",
        )


_OF_A_PART = ("device", "precision")


def _dicts(parts: Any) -> list[dict[str, Any]]:
    if not isinstance(parts, list) or not all(isinstance(p, dict) for p in parts):
        raise ValueError(f"the record of a checkpoint has {parts!r:.60}")
    return parts


def record_of(fields: dict[str, Any]) -> Record:
    """The record of a checkpoint.

    Raises:
      ValueError: it is not one that a run wrote.
    """
    names = {field.name for field in dataclasses.fields(Record)}
    fields = {name: value for name, value in fields.items() if name != "config"}
    found = Record(**{name: fields[name] for name in names & fields.keys()})
    numbers: list[Any] = [found.redrawn, found.steps_per_epoch or 0]
    for values, kind in (
        (found.seconds, dict),
        (found.validation_accuracy, list),
        (found.validation_loss, list),
        (found.fan_ins or {}, dict),
    ):
        if not isinstance(values, kind):
            raise ValueError(f"the record of a checkpoint has {values!r:.60}")
        numbers += values.values() if isinstance(values, dict) else values
    texts = [part.get(name) for part in _dicts(found.parts) for name in _OF_A_PART]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the record of a checkpoint has {found.parts!r:.60}")
    if fields.keys() - names or not all(isinstance(x, int | float) for x in numbers):
        raise ValueError(f"the record of a checkpoint has {sorted(fields)!r:.200}")
    return found


@dataclasses.dataclass
class Outcome:
    """The outcome of a finished run.

    Attributes:
      state: after the last step.
      record: the host-side record.
      test_loss: mean over the test split.
      test_accuracy: in %.
      test_examples: the number evaluated.
      state_sha256: a digest of every leaf of the state.
      startup: the parts of the last start, as in `startup.Startup`.
      best_epoch: the epoch that `config.test_best` asks for, from 1; None without it.
      best: its evaluation on the test split; None without it, or if its checkpoint
        cannot be read any more.
    """

    state: State
    record: Record
    test_loss: float
    test_accuracy: float
    test_examples: int
    state_sha256: str
    startup: dict[str, Any]
    best_epoch: int | None = None
    best: Evaluation | None = None
