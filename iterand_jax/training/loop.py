"""The loop: train, re-randomize, validate, log, checkpoint; at the end, test once."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.runtime import hosts
from iterand_jax.runtime.signals import (
    InterruptedRunError,
    StopRequest,
    stop_requests,
)
from iterand_jax.runtime.terminal import progress_bar
from iterand_jax.training import memory, parallel
from iterand_jax.training.logs import Clock
from iterand_jax.training.programs import compile_programs
from iterand_jax.training.replica import Callback, Outcome, Replica, restore_together
from iterand_jax.training.run import DataRun

_FAILURE = 1000  # beyond any signal


def train_and_evaluate(
    run: DataRun, workdir: Path, callbacks: Sequence[Callback] = ()
) -> Outcome:
    """Trains from the last checkpoint or from scratch, and tests at the end.

    Raises:
      NonFiniteLossError: names the step; the last good checkpoint stays.
      InterruptedRunError: a stop signal came; the last step is saved.
      DifferingDevicesError: names the leaf and the devices; that state is not saved.
      ValueError: the workdir has checkpoints, but all are damaged.
    """
    (outcome,) = train_together([run], [workdir], callbacks=callbacks)
    return outcome


def train_together(
    runs: Sequence[DataRun],
    workdirs: Sequence[Path],
    *,
    started: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[Outcome]:
    """Trains runs that differ only in their seeds in one program, as if each alone.

    Each has a separate workdir. All resume from the newest step that all of them have
    saved. The time to the first step counts from `started`, a time.perf_counter(), by
    default from now. In process 0 each log record is passed to the callbacks.

    Raises:
      NonFiniteLossError, InterruptedRunError, ValueError: as `train_and_evaluate`.
    """
    started = time.perf_counter() if started is None else started
    replicas = [
        Replica(run, workdir, callbacks)
        for run, workdir in zip(runs, workdirs, strict=True)
    ]
    try:
        return _Trainer(replicas, started).run()
    finally:
        runs[0].feed.close()
        for replica in replicas:
            replica.checkpoints.close()


class _Trainer:
    """Trains runs from their checkpoints, or from scratch, to the end."""

    def __init__(self, replicas: Sequence[Replica], started: float):
        self._replicas, self._started = replicas, started
        first, *others = replicas
        self._run = run = first.run  # shared by all, except seeds and states
        self._roots = tuple(replica.run.root for replica in replicas)
        self._start = restore_together(replicas)
        self._stop: int | None = None  # the signal that all processes know of
        self._clock = Clock(first.record.seconds)
        with self._clock.measure("reading"):
            run.feed.open(run.root, first.record.position)
            for other in others:
                other.run.feed.open_beside(run.feed, other.run.root)
            for replica in replicas:
                replica.write_files()
        print("compiling ...", flush=True)
        with self._clock.measure("compilation"):
            self._programs = compile_programs(run, [r.state for r in replicas])
        if run.config.report_memory:
            told = memory.report(
                [replica.state for replica in replicas],
                self._programs.steps.values(),
                self._programs.evaluate.compiled(),
            )
            print(told, flush=True)
        if self._start:
            print(f"continuing from the checkpoint at step {self._start:,}")
        for replica in replicas:
            replica.open_log(self._clock)

    def run(self) -> list[Outcome]:
        """Runs to the end."""
        total = self._run.total_steps
        with (
            contextlib.ExitStack() as logs,
            progress_bar(
                total, initial=self._start, hidden=not hosts.is_first()
            ) as bar,
            stop_requests() as stop,
        ):
            for replica in self._replicas:
                logs.callback(replica.close)
            step = self._start
            while step < total and self._stop is None:
                step = self._until_event(step, bar, stop)
                self._after(step, bar)
            if self._stop is not None:
                self._save(step)
            self._wait()
            # A signal during the last step or the wait counts too.
            heard = hosts.largest(self._stop or stop.number or 0)
            if heard:
                raise InterruptedRunError(step, heard)
        return [replica.finish(self._programs) for replica in self._replicas]

    def _until_event(self, step: int, bar, stop: StopRequest) -> int:
        """Trains until the next refresh, log, validation or checkpoint, or a stop."""
        run = self._run
        periods = [
            run.config.log_every_steps,
            run.feed.steps_per_epoch,
            run.method.refresh_every,
            run.config.checkpoint_every_steps,
        ]
        end = min(step - step % period + period for period in periods if period)
        end = min(end, run.total_steps)
        with self._clock.measure("training"):
            while step < end and self._stop is None:
                batches = self._batches(step, stop)
                count = self._dispatch(step, end, batches)
                if step == self._start:
                    elapsed = time.perf_counter() - self._started
                    self._clock.seconds["first step"] = elapsed
                step += count
                bar.update(count)
                if hosts.are_alone():  # several processes agree in `_batches`
                    self._stop = stop.number
        return step

    def _batches(self, step: int, stop: StopRequest) -> tuple[Any, ...]:
        """The feeds' arguments for a step, one per run.

        One collective covers two cases: if a process fails to make its batch, all end;
        if a process got a signal, all stop after the same step.
        """
        batches: tuple[Any, ...] = ()
        failure: Exception | None = None
        try:
            batches = tuple(replica.run.feed.batch(step) for replica in self._replicas)
        except Exception as error:
            failure = error
        heard = hosts.largest(stop.number or 0 if failure is None else _FAILURE)
        if heard == _FAILURE:
            with hosts.together():
                if failure is not None:
                    raise failure
        self._stop = heard or None
        return batches

    def _dispatch(self, step: int, end: int, batches: tuple[Any, ...]) -> int:
        """Dispatches one compiled call; returns the number of steps it trained."""
        limit = min(self._programs.steps_per_dispatch, end - step)
        count = min(limit, self._run.feed.steps_alike(step))
        train = self._programs.steps[parallel.form(batches[0])]
        states = tuple(replica.state for replica in self._replicas)
        states = train(states, batches, self._roots, np.int32(count))
        # Async dispatch on CPU runs far ahead; the bar should show completed steps.
        states[-1].step.block_until_ready()
        for replica, state in zip(self._replicas, states, strict=True):
            replica.state = state
        return count

    def _after(self, step: int, bar) -> None:
        config, run, replicas = self._run.config, self._run, self._replicas
        refresh_every = run.method.refresh_every
        if refresh_every and step % refresh_every == 0:
            for replica in replicas:
                replica.refresh(self._programs, step)
        for replica in replicas:
            replica.check_finite()
        if step % config.log_every_steps == 0:
            for replica in replicas:
                replica.log_step(self._programs, step)
            self._show(bar)
        epoch, rest = divmod(step, run.feed.steps_per_epoch)
        if rest == 0:
            for replica in replicas:
                replica.log_epoch(self._programs, step)
            self._show(bar)
        every = config.checkpoint_every_steps or run.feed.steps_per_epoch
        chosen = config.keep_best_checkpoints or epoch in config.keep_checkpoint_epochs
        if step % every == 0 or (rest == 0 and chosen) or step == run.total_steps:
            self._save(step)

    def _show(self, bar) -> None:
        """Shows the means over all runs in the progress bar."""
        loss, accuracy = np.mean([replica.shown for replica in self._replicas], axis=0)
        shown = {"loss": f"{loss:.3f}", "train": f"{accuracy:.1f}%"}
        if self._replicas[0].record.validation_accuracy:
            last = [r.record.validation_accuracy[-1] for r in self._replicas]
            shown["val"] = f"{np.mean(last):.1f}%"
        bar.set_postfix(shown, refresh=False)

    def _save(self, step: int) -> None:
        """Saves all runs, after all previous saves: so one step is common to all."""
        if len(self._replicas) > 1:
            with self._clock.measure("checkpoints"):
                self._wait()
        for replica in self._replicas:
            replica.save(self._programs, step)

    def _wait(self) -> None:
        for replica in self._replicas:
            replica.checkpoints.wait()
