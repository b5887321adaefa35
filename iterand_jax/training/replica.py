"""One of the runs that train together: its state, its log, its checkpoints."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from iterand_jax.data.text import as_lines
from iterand_jax.data.vectors import Vectors
from iterand_jax.runtime import hosts
from iterand_jax.runtime.files import write_atomically
from iterand_jax.training import drawn, parallel, provenance, pruning
from iterand_jax.training.checkpoint import Checkpoints, state_leaves
from iterand_jax.training.evaluation import Evaluation
from iterand_jax.training.logs import Clock
from iterand_jax.training.numbers import Numbers
from iterand_jax.training.programs import Programs
from iterand_jax.training.record import (
    Outcome,
    Record,
    check_recorded_config,
    record_of,
)
from iterand_jax.training.run import DataRun
from iterand_jax.training.run_log import Callback, RunLog
from iterand_jax.training.startup import Startup
from iterand_jax.training.step import State
from iterand_jax.trees import sha256

MISSING_FILE = "missing_words.txt"
"""The file in a workdir that lists the words that `config.network.vectors` lacks."""


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite."""


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
            keep_best=run.keep_best,
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
            given, vectors = self.run.read_vectors()
            init = jax.jit(self.run.init_state, out_shardings=replicated)
            self.state = init(self.run.root, given)
            if vectors is not None:
                self.record.vectors = self._report_missing(vectors)
        else:
            check_recorded_config(self._workdir, self.run.config, restored[1])
            self.record = record_of(restored[1])
            drawn.check_drawn(self.run, *restored)
            self.state = self._on_devices(restored[0])
        if pruning.waits_for_epochs(self.run.config):
            self.record.steps_per_epoch = self._checked_steps()
        if self.run.method.resampling is not None:
            self.record.fan_ins = self.run.fan_ins
        self._add_part()

    def _checked_steps(self) -> int:
        """The steps of an epoch, which are those that a schedule was begun with."""
        before, now = self.record.steps_per_epoch, self.run.feed.steps_per_epoch
        if before not in (None, now):
            raise ValueError(
                f"the sparsity schedule was begun with {before} steps in an epoch, and "
                f"the data has {now}: it is other data than the run's"
            )
        return now

    def _on_devices(self, state: State) -> State:
        replicated = parallel.replicated(self.run.mesh)
        return jax.make_array_from_process_local_data(replicated, state)

    def _report_missing(self, vectors: Vectors) -> dict[str, Any]:
        """Prints and writes which words a file of vectors lacks; returns the counts."""
        missing, all_words = vectors.missing, len(vectors.array)
        if hosts.is_first():
            shown = f": {', '.join(missing[:10])}" if missing else ""
            more = ", ..." if len(missing) > 10 else ""
            print(
                f"vectors: {all_words - len(missing):,} of {all_words:,} words are in "
                f"{self.run.config.network.vectors}, {len(missing):,} are not and "
                f"start as zeros{shown}{more}",
                flush=True,
            )
        text = as_lines(missing)
        hosts.from_first(lambda: write_atomically(self._workdir / MISSING_FILE, text))
        return {
            "sha256": vectors.sha256,
            "words": all_words,
            "missing": len(missing),
        }

    def _add_part(self) -> None:
        """Records what computes from here on, if it is not what did before."""
        config = self.run.config
        part = {
            "device": provenance.device(),
            "precision": provenance.precision(config.dtype, config.matmul_precision),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
        }
        step = int(self.state.step)
        if step and not self.record.parts:  # of a version that did not record it
            self.record.parts.append({"step": 0, **provenance.UNKNOWN_PART})
        before = self.record.parts[-1:]
        if not before or any(before[0][name] != part[name] for name in part):
            self.record.parts.append({"step": step, **part})

    def write_files(self) -> None:
        """Writes the feed's files, such as a vocabulary, once the feed is open."""

        def write() -> None:
            for name, text in self.run.feed.files().items():
                write_atomically(self._workdir / name, text)

        hosts.from_first(write)

    def prepare_log(self, clock: Clock, startup: Startup) -> None:
        """Plans the log of the workdir; seconds come from the clock of the loop."""
        self._clock = clock
        self._log = RunLog(
            self.run,
            self._workdir,
            self.record,
            clock=clock,
            startup=startup,
            step=int(self.state.step),
            callbacks=self._callbacks,
        )

    def open_log(self) -> None:
        """Continues the log, in a thread; what is written waits for it."""
        self._log.open()

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def check_finite(self, numbers: Numbers) -> None:
        """Raises NonFiniteLossError if the loss of a step was not finite."""
        if numbers.bad_step >= 0:
            steps = self.checkpoints.steps()
            kept = (
                f"the checkpoint of step {steps[-1]:,} is kept"
                if steps
                else ("no checkpoint was written")
            )
            raise NonFiniteLossError(
                f"the loss is not finite at step {numbers.bad_step:,}; {kept} (try a "
                f"smaller learning_rate than {self.run.config.learning_rate:g})"
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
        self.shown = self._log.step(numbers, step)

    def log_epoch(self, programs: Programs, numbers: Numbers, step: int) -> None:
        """Validates, and logs the metrics of the epoch."""
        with self._clock.measure("evaluation"):
            validation = programs.evaluate(self.state, "validation")
        self.record.validation_accuracy.append(validation.accuracy)
        self.record.validation_loss.append(validation.loss)
        self.shown = self._log.epoch(numbers, step, validation)

    def save(self, copied: State, step: int) -> None:
        """Saves a checkpoint of a copy of the state, in the background."""
        with self._clock.measure("checkpoints"):
            # A run that continues from here needs all lines up to here.
            with hosts.together():
                self._log.wait()
            # The host-side record: times, and the position of the feed.
            self.record.seconds = self._clock.seconds
            self.record.position = self.run.feed.position()
            # Only at the end of an epoch is there a validation of this state, by which
            # the best checkpoints are kept.
            at_epoch_end = step % self.run.feed.steps_per_epoch == 0
            scores = self.record.scores(self.run.config.test_best)
            score = scores[-1] if at_epoch_end else None
            record = self.record.saved_by(self.run.config)
            self.checkpoints.save(step, copied, record, score, copied=True)

    def finish(self, programs: Programs, startup: dict[str, Any]) -> Outcome:
        """Evaluates on the test set: the last epoch, and the best one if asked to."""
        best, epoch = None, None
        with self._clock.measure("evaluation"):
            test = programs.evaluate(self.state, "test")
            if self.run.config.test_best is not None:
                epoch = self.record.best_epoch(self.run.config.test_best)
                best = self._evaluated_after(epoch, programs)
        self.record.seconds = self._clock.seconds
        return Outcome(
            state=self.state,
            record=self.record,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            test_examples=test.examples,
            state_sha256=sha256(state_leaves(self.state)),
            startup=startup,
            best_epoch=epoch,
            best=best,
        )

    def _evaluated_after(self, epoch: int, programs: Programs) -> Evaluation | None:
        """The evaluation of an epoch on the test split; None if its checkpoint is lost.

        The run is done: its end does not depend on a file that was damaged since. One
        that cannot be read now is not lost, and ends the run before its result.
        """
        try:
            state = self._state_after(epoch)
        except OSError as error:
            raise OSError(
                f"{error}; all is trained and saved, and the same command tests epoch "
                f"{epoch}, the best by validation, once it can be read"
            ) from error
        except ValueError as error:
            if hosts.is_first():
                print(
                    f"the result has no test accuracy of epoch {epoch}, the best by "
                    f"validation: {error}",
                    file=sys.stderr,
                    flush=True,
                )
            return None
        return programs.evaluate(state, "test")

    def _state_after(self, epoch: int) -> State:
        step = epoch * self.run.feed.steps_per_epoch
        if step == int(self.state.step):
            return self.state
        state, _ = self.checkpoints.restore_step(step, self.run.abstract)
        return self._on_devices(state)


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
