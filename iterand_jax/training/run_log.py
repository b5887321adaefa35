"""The lines of a run's log: one for each log step, and one for each epoch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iterand_jax.runtime import hosts
from iterand_jax.training import churn
from iterand_jax.training.evaluation import Evaluation, means
from iterand_jax.training.logs import BackgroundLog, Clock, MetricsLog, SilentLog
from iterand_jax.training.numbers import Numbers
from iterand_jax.training.record import Record
from iterand_jax.training.run import DataRun
from iterand_jax.training.startup import Startup
from iterand_jax.training.waiting import PHASE as WAITING

Callback = Callable[[dict[str, Any]], None]
"""Called with each log record: a line of metrics.jsonl plus its "seed"."""


class _Timed(NamedTuple):
    """A log line: its step, and the seconds of training and of waiting until then."""

    step: int
    training: float
    waiting: float

    @classmethod
    def at(cls, step: int, clock: Clock) -> "_Timed":
        """What a clock shows now."""
        seconds = clock.seconds
        return cls(step, seconds.get("training", 0.0), seconds.get(WAITING, 0.0))


class RunLog:
    """The log of a run, which a thread writes."""

    def __init__(
        self,
        run: DataRun,
        workdir: Path,
        record: Record,
        *,
        clock: Clock,
        startup: Startup,
        step: int,
        callbacks: Sequence[Callback] = (),
    ):
        """Plans the log; nothing is opened yet.

        Args:
          run: the run.
          workdir: where its metrics.jsonl is.
          record: of the run, which counts what was resampled.
          clock: of the loop, whose seconds tell the speed.
          startup: gets the part of opening the log.
          step: from which it is continued; later lines are removed.
          callbacks: get each line in process 0.
        """
        self._run, self._record, self._clock = run, record, clock
        self._callbacks = callbacks
        log = MetricsLog if hosts.is_first() else SilentLog

        def opened() -> MetricsLog:
            with startup.part("log"):
                return log(workdir, from_step=step)

        self._log = BackgroundLog(opened)
        self._masks = run.abstract_masks if run.has_churn else None
        now = _Timed.at(step, clock)
        self._timed = {"step": now, "epoch": now}

    def open(self) -> None:
        """Continues the log, in a thread; what is written waits for it."""
        self._log.open()

    def wait(self) -> None:
        """Returns when all lines are written."""
        self._log.wait()

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def step(self, numbers: Numbers, step: int) -> tuple[float, float]:
        """Logs the metrics since the last log step; returns loss and accuracy."""
        changes = {}
        if self._masks is not None:
            changes = churn.record(numbers.changed, self._masks)
        loss, accuracy = means(numbers.window)
        self._write(
            {
                "kind": "step",
                "step": step,
                "epoch": step / self._run.feed.steps_per_epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                **changes,
                **self._common("step", numbers, step),
            }
        )
        return loss, accuracy

    def epoch(
        self, numbers: Numbers, step: int, validation: Evaluation
    ) -> tuple[float, float]:
        """Logs the metrics of an epoch; returns its training loss and accuracy."""
        loss, accuracy = means(numbers.epoch)
        self._write(
            {
                "kind": "epoch",
                "step": step,
                "epoch": step // self._run.feed.steps_per_epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": validation.loss,
                "validation_accuracy": validation.accuracy,
                **self._common("epoch", numbers, step),
            }
        )
        return loss, accuracy

    def _write(self, line: dict[str, Any]) -> None:
        """Appends a line to the log; if that fails, all processes end."""
        with hosts.together():
            self._log.write(line)
            if hosts.is_first():
                for callback in self._callbacks:
                    callback({"seed": self._run.config.seed, **line})

    def _common(self, kind: str, numbers: Numbers, step: int) -> dict[str, float]:
        """The fields of every record; speed is that of training since the last one."""
        last, now = self._timed[kind], _Timed.at(step, self._clock)
        self._timed[kind] = now
        examples = self._run.examples(step) - self._run.examples(last.step)
        fields = {
            "learning_rate": numbers.learning_rate,
            "examples_per_second": round(examples / (now.training - last.training), 1),
            "redrawn": self._record.redrawn,
        }
        if WAITING in self._clock.seconds:
            fields["waiting_seconds"] = round(now.waiting - last.waiting, 3)
        return fields
