"""The loop: train, re-randomize, validate, log, checkpoint; at the end, test once."""

import contextlib
import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from jax import Array

from iterand_jax.training import parallel, setup
from iterand_jax.training.checkpoint import Checkpoints, sha256, state_leaves
from iterand_jax.training.evaluation import Evaluator, means
from iterand_jax.training.logs import Clock, MetricsLog, progress_bar
from iterand_jax.training.setup import Setup
from iterand_jax.training.step import (
    Images,
    State,
    epoch_order,
    init_state,
    train_step,
)


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite."""


@dataclasses.dataclass
class Record:
    """The host's own numbers, kept in every checkpoint.

    Attributes:
      redrawn: weights redrawn so far.
      seconds: by phase.
      validation_accuracy: after each epoch so far, in %.
    """

    redrawn: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    validation_accuracy: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Outcome:
    """What a finished run leaves.

    Attributes:
      state: after the last step.
      record: the host's numbers.
      test_loss: mean over the test split.
      test_accuracy: in %.
      state_sha256: a digest of every leaf of the state.
    """

    state: State
    record: Record
    test_loss: float
    test_accuracy: float
    state_sha256: str


def train_and_evaluate(run: Setup, workdir: Path) -> Outcome:
    """Trains from the workdir's last checkpoint or the start, and tests at the end.

    Raises:
      NonFiniteLossError: names the step; the last good checkpoint stays.
      ValueError: the workdir has checkpoints, and all are damaged.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", keep=run.config.keep_checkpoints)
    try:
        restored = checkpoints.restore(run.abstract)
        return _Trainer(run, workdir, checkpoints, restored).run()
    finally:
        checkpoints.close()


class _Trainer:
    """One run from a checkpoint, or from nothing, to its end."""

    def __init__(self, run: Setup, workdir: Path, checkpoints: Checkpoints, restored):
        self._run = run
        self._checkpoints = checkpoints
        self._replicated = parallel.replicated(run.mesh)
        state, record = restored or (None, {})
        self._record = Record(**record)
        self._clock = Clock(self._record.seconds)
        with self._clock.measure("reading"):
            self._train, self._validation = setup.read_training(run)
        print("compiling ...", flush=True)
        with self._clock.measure("compilation"):
            self._compile(state)
        self._start = int(self._state.step)
        if self._start:
            print(f"continuing from the checkpoint at step {self._start:,}")
        self._log = MetricsLog(workdir, from_step=self._start)
        now = self._start, self._clock.seconds.get("training", 0.0)
        self._timed = {"step": now, "epoch": now}

    def _compile(self, restored: State | None) -> None:
        run = self._run
        if restored is None:
            init = functools.partial(
                init_state, task=run.task, image_shape=run.source.image_shape
            )
            self._state = jax.jit(init, out_shardings=self._replicated)(run.root)
        else:
            self._state = jax.device_put(restored, self._replicated)
        self._order = jax.jit(
            functools.partial(epoch_order, size=run.train_size),
            out_shardings=self._replicated,
        )
        step = functools.partial(
            train_step,
            task=run.task,
            batch_size=run.config.batch_size,
            log_every=run.config.log_every_steps,
            batch_sharding=parallel.batch_sharded(run.mesh),
        )
        jitted = jax.jit(
            step,
            donate_argnums=0,
            out_shardings=self._replicated,
            compiler_options=parallel.compiler_options(run.config.dtype),
        )
        self._step = jitted.lower(
            self._state, self._train, self._order(run.root, 0), run.root
        ).compile()
        self._evaluate = Evaluator(run)
        if run.task.method.refresh_every:
            self._refresh = parallel.compile_refresh(
                run.task.method, run.mesh, run.root, self._state
            )

    def run(self) -> Outcome:
        """Runs to the end."""
        total = self._run.total_steps
        with (
            contextlib.closing(self._log),
            progress_bar(total, initial=self._start) as bar,
        ):
            step = self._start
            while step < total:
                step = self._until_event(step, bar)
                self._after(step, bar)
        self._checkpoints.wait()
        return self._finish()

    def _until_event(self, step: int, bar) -> int:
        """Trains to the next step after which something else is due."""
        config, per_epoch = self._run.config, self._run.steps_per_epoch
        periods = [
            config.log_every_steps,
            per_epoch,
            self._run.task.method.refresh_every,
            config.checkpoint_every_steps,
        ]
        end = min(step - step % period + period for period in periods if period)
        end = min(end, self._run.total_steps)
        with self._clock.measure("training"):
            order = self._order_of(step // per_epoch)
            for _ in range(step, end):
                self._state = self._step(
                    self._state, self._train, order, self._run.root
                )
                # On CPU the dispatch runs far ahead; the bar should tell what is done.
                self._state.step.block_until_ready()
                bar.update()
        return end

    def _order_of(self, epoch: int) -> Array:
        return self._order(self._run.root, np.int32(epoch))

    def _after(self, step: int, bar) -> None:
        config, run = self._run.config, self._run
        refresh_every = run.task.method.refresh_every
        if refresh_every and step % refresh_every == 0:
            with self._clock.measure("re-randomization"):
                frozen, redrawn = self._refresh(
                    run.root, step, self._state.trainable, self._state.frozen
                )
                self._state = self._state._replace(frozen=frozen)
                self._record.redrawn += int(redrawn)
        self._check_finite()
        if step % config.log_every_steps == 0:
            self._log_step(step, bar)
        if step % run.steps_per_epoch == 0:
            self._log_epoch(step, bar)
        every = config.checkpoint_every_steps or run.steps_per_epoch
        if step % every == 0 or step == run.total_steps:
            self._save(step)

    def _check_finite(self) -> None:
        bad_step = int(self._state.bad_step)
        if bad_step >= 0:
            raise NonFiniteLossError(
                f"the loss is not finite at step {bad_step:,}; the last good "
                f"checkpoint is kept (try a smaller learning_rate than "
                f"{self._run.config.learning_rate:g})"
            )

    def _log_step(self, step: int, bar) -> None:
        loss, accuracy = means(self._state.window)
        self._log.write(
            {
                "kind": "step",
                "step": step,
                "epoch": step / self._run.steps_per_epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                **self._common("step", step),
            }
        )
        self._show(bar, loss, accuracy)

    def _log_epoch(self, step: int, bar) -> None:
        with self._clock.measure("evaluation"):
            validation = self._evaluate(self._state, self._validation)
        self._record.validation_accuracy.append(validation[1])
        loss, accuracy = means(self._state.epoch)
        self._log.write(
            {
                "kind": "epoch",
                "step": step,
                "epoch": step // self._run.steps_per_epoch,
                "train_loss": loss,
                "train_accuracy": accuracy,
                "validation_loss": validation[0],
                "validation_accuracy": validation[1],
                **self._common("epoch", step),
            }
        )
        self._show(bar, loss, accuracy)

    def _common(self, kind: str, step: int) -> dict[str, float]:
        """What every line tells; images/s are those of training since its last line."""
        timed, seconds = self._timed[kind]
        self._timed[kind] = step, self._clock.seconds["training"]
        images = (step - timed) * self._run.config.batch_size
        return {
            "learning_rate": float(self._run.schedule(step - 1)),
            "images_per_second": round(images / (self._timed[kind][1] - seconds), 1),
            "redrawn": self._record.redrawn,
        }

    def _show(self, bar, loss: float, accuracy: float) -> None:
        shown = {"loss": f"{loss:.3f}", "train": f"{accuracy:.1f}%"}
        if self._record.validation_accuracy:
            shown["val"] = f"{self._record.validation_accuracy[-1]:.1f}%"
        bar.set_postfix(shown, refresh=False)

    def _save(self, step: int) -> None:
        with self._clock.measure("checkpoints"):
            self._record.seconds = self._clock.seconds
            self._checkpoints.save(step, self._state, dataclasses.asdict(self._record))

    def _finish(self) -> Outcome:
        with self._clock.measure("evaluation"):
            test = Images(*self._run.source.read("test"))
            loss, accuracy = self._evaluate(self._state, test)
        self._record.seconds = self._clock.seconds
        return Outcome(
            state=self._state,
            record=self._record,
            test_loss=loss,
            test_accuracy=accuracy,
            state_sha256=sha256(state_leaves(self._state)),
        )
