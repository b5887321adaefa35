"""One of the runs that train together: its state, its log, its checkpoints."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from iterand_jax.runtime import hosts
from iterand_jax.runtime.files import write_atomically
from iterand_jax.training import churn, parallel
from iterand_jax.training.checkpoint import Checkpoints, state_leaves
from iterand_jax.training.evaluation import means
from iterand_jax.training.logs import BackgroundLog, Clock, MetricsLog, SilentLog
from iterand_jax.training.numbers import Numbers
from iterand_jax.training.programs import Programs
from iterand_jax.training.run import DataRun
from iterand_jax.training.step import State
from iterand_jax.trees import sha256

Callback = Callable[[dict[str, Any]], None]
"""Called with each log record: a line of metrics.jsonl plus its "seed"."""


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass
class Record:
    """The host-side record, saved in every checkpoint.

    Attributes:
      redrawn: the number of weights resampled so far.
      seconds: by phase, for all runs in the program; "first step" is the time since
        the last start.
      validation_accuracy: after each epoch so far, in %.
      position: the position of the feed.
    """

    redrawn: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    validation_accuracy: list[float] = dataclasses.field(default_factory=list)
    position: Any = None


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
    """

    state: State
    record: Record
    test_loss: float
    test_accuracy: float
    test_examples: int
    state_sha256: str
    startup: dict[str, Any]


class Replica:
    """One of the runs that train together.

    Attributes:
      run: the network, method, data and config.
      checkpoints: the checkpoints in its workdir.
      state: the current state; the caller of the train step replaces it.
      record: the host-side record.
      shown: the last training loss and accuracy.
    """

    state: State
    record: Record
    shown: tuple[float, float]

    def __init__(self, run: DataRun, workdir: Path, callbacks: Sequence[Callback] = ()):
        """Opens the checkpoints of a workdir."""
        self.run = run
        self.checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep=run.config.keep_checkpoints,
            keep_best=run.config.keep_best_checkpoints,
            keep_steps=[
                epoch * run.feed.steps_per_epoch
                for epoch in run.config.keep_checkpoint_epochs
            ],
        )
        self._workdir = workdir
        self._callbacks = callbacks

    def start(self, restored: tuple[State, dict[str, Any]] | None) -> None:
        """Starts from a restored checkpoint, or from the initial state."""
        replicated = parallel.replicated(self.run.mesh)
        if restored is None:
            self.record = Record()
            init = jax.jit(self.run.init_state, out_shardings=replicated)
            self.state = init(self.run.root)
        else:
            self.record = Record(**restored[1])
            self.state = jax.make_array_from_process_local_data(replicated, restored[0])

    def write_files(self) -> None:
        """Writes the feed's files, such as a vocabulary, once the feed is open."""

        def write() -> None:
            for name, text in self.run.feed.files().items():
                write_atomically(self._workdir / name, text)

        hosts.from_first(write)

    def open_log(self, clock: Clock) -> None:
        """Continues the log of the workdir; seconds come from the clock of the loop."""
        step = int(self.state.step)
        self._clock = clock
        log = MetricsLog if hosts.is_first() else SilentLog
        with hosts.together():
            self._log = BackgroundLog(log(self._workdir, from_step=step))
        self._masks = self.run.abstract_masks if self.run.has_churn else None
        now = step, clock.seconds.get("training", 0.0)
        self._timed = {"step": now, "epoch": now}

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def check_finite(self, numbers: Numbers) -> None:
        """Raises NonFiniteLossError if the loss of a step was not finite."""
        if numbers.bad_step >= 0:
            raise NonFiniteLossError(
                f"the loss is not finite at step {numbers.bad_step:,}; the last good "
                f"checkpoint is kept (try a smaller learning_rate than "
                f"{self.run.config.learning_rate:g})"
            )

    def refresh(self, programs: Programs, step: int) -> None:
        """Re-randomizes, and counts the resampled weights."""
        with self._clock.measure("re-randomization"):
            frozen, redrawn = programs.refresh(
                self.run.root, step, self.state.trainable, self.state.frozen
            )
            self.state = self.state._replace(frozen=frozen)
            self.record.redrawn += int(redrawn)

    def log_step(self, numbers: Numbers, step: int) -> None:
        """Logs the metrics since the last log step."""
        changes = {}
        if self._masks is not None:
            changes = churn.record(numbers.changed, self._masks)
        loss, accuracy = self.shown = means(numbers.window)
        self._write(
            {
                "kind": "step",
                "step": step,
                "epoch": step / self.run.feed.steps_per_epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                **changes,
                **self._common("step", numbers, step),
            }
        )

    def log_epoch(self, programs: Programs, numbers: Numbers, step: int) -> None:
        """Validates, and logs the metrics of the epoch."""
        with self._clock.measure("evaluation"):
            validation = programs.evaluate(self.state, "validation")
        self.record.validation_accuracy.append(validation.accuracy)
        loss, accuracy = self.shown = means(numbers.epoch)
        self._write(
            {
                "kind": "epoch",
                "step": step,
                "epoch": step // self.run.feed.steps_per_epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": validation.loss,
                "validation_accuracy": validation.accuracy,
                **self._common("epoch", numbers, step),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        """Appends a line to the log; if that fails, all processes end."""
        with hosts.together():
            self._log.write(line)
            if hosts.is_first():
                for callback in self._callbacks:
                    callback({"seed": self.run.config.seed, **line})

    def _common(self, kind: str, numbers: Numbers, step: int) -> dict[str, float]:
        """The fields of every record; speed is that of training since the last one."""
        timed, seconds = self._timed[kind]
        self._timed[kind] = step, self._clock.seconds["training"]
        examples = (step - timed) * self.run.config.batch_size
        return {
            "learning_rate": numbers.learning_rate,
            "examples_per_second": round(
                examples / (self._timed[kind][1] - seconds), 1
            ),
            "redrawn": self.record.redrawn,
        }

    def save(self, copied: State, step: int) -> None:
        """Saves a checkpoint of a copy of the state, in the background."""
        with self._clock.measure("checkpoints"):
            # A run that continues from here needs all lines up to here.
            with hosts.together():
                self._log.wait()
            # The host-side record: times, and the position of the feed.
            self.record.seconds = self._clock.seconds
            self.record.position = self.run.feed.position()
            # Only at the end of an epoch is there a validation accuracy of this state,
            # by which the best checkpoints are kept.
            at_epoch_end = step % self.run.feed.steps_per_epoch == 0
            score = self.record.validation_accuracy[-1] if at_epoch_end else None
            record = dataclasses.asdict(self.record)
            self.checkpoints.save(step, copied, record, score, copied=True)

    def finish(self, programs: Programs, startup: dict[str, Any]) -> Outcome:
        """Evaluates on the test set."""
        with self._clock.measure("evaluation"):
            test = programs.evaluate(self.state, "test")
        self.record.seconds = self._clock.seconds
        return Outcome(
            state=self.state,
            record=self.record,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            test_examples=test.examples,
            state_sha256=sha256(state_leaves(self.state)),
            startup=startup,
        )


def restore_together(replicas: Sequence[Replica]) -> int:
    """Starts all at the newest step for which all have an intact checkpoint, or at 0.

    A kill can come while some have saved a step and others have not; checkpoints beyond
    the common step are removed. Returns the step.

    Raises:
      ValueError: all checkpoints of one of them are damaged.
    """
    newest = None
    while True:
        restored = [
            replica.checkpoints.restore(replica.run.abstract, newest)
            for replica in replicas
        ]
        steps = {int(found[0].step) if found else 0 for found in restored}
        newest = min(steps)
        if len(steps) == 1:
            for replica, found in zip(replicas, restored, strict=True):
                replica.start(found)
            return newest
