"""The loop: train, re-randomize, validate, log, checkpoint; at the end, test once."""

import contextlib
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iterand_jax.data.feeds import with_sharding
from iterand_jax.runtime import hosts, parts
from iterand_jax.runtime.signals import (
    InterruptedRunError,
    StopRequest,
    stop_requests,
)
from iterand_jax.runtime.terminal import progress_bar
from iterand_jax.training import memory, parallel
from iterand_jax.training.logs import Clock
from iterand_jax.training.programs import compile_programs
from iterand_jax.training.readings import Readings
from iterand_jax.training.record import Outcome
from iterand_jax.training.replica import Replica, restore_together
from iterand_jax.training.run import DataRun
from iterand_jax.training.run_log import Callback
from iterand_jax.training.shared import Shared
from iterand_jax.training.startup import Startup
from iterand_jax.training.waiting import Waiting

_FAILURE = 1000  # beyond any signal


def train_and_evaluate(
    run: DataRun,
    workdir: Path,
    callbacks: Sequence[Callback] = (),
    startup: Startup | None = None,
) -> Outcome:
    """Trains from the last checkpoint or from scratch, and tests at the end.

    Raises:
      NonFiniteLossError: names the step; the last good checkpoint stays.
      InterruptedRunError: a stop signal came; the last step is saved.
      DifferingDevicesError: names the leaf and the devices; that state is not saved.
      ValueError: the workdir has checkpoints, but all are damaged.
    """
    (outcome,) = train_together([run], [workdir], startup=startup, callbacks=callbacks)
    return outcome


def train_together(
    runs: Sequence[DataRun],
    workdirs: Sequence[Path],
    *,
    startup: Startup | None = None,
    callbacks: Sequence[Callback] = (),
    shared: Shared | None = None,
) -> list[Outcome]:
    """Trains runs that differ only in their seeds in one program, as if each alone.

    Each has a separate workdir. All resume from the newest step that all of them have
    saved. `startup` gets the parts of this start; the time to the first step counts
    from its begin, by default from now. In process 0 each log record is passed to the
    callbacks. `shared` has the data and programs of earlier runs, and keeps these.

    Raises:
      NonFiniteLossError, InterruptedRunError, ValueError: as `train_and_evaluate`.
    """
    startup = startup or Startup()
    replicas = [
        Replica(run, workdir, callbacks)
        for run, workdir in zip(runs, workdirs, strict=True)
    ]
    try:
        with contextlib.ExitStack() as ended:
            return _Trainer(replicas, startup, ended, shared or Shared()).run()
    finally:
        runs[0].feed.close()
        for replica in replicas:
            replica.checkpoints.close()


class _Trainer:
    """Trains runs from their checkpoints, or from scratch, to the end."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        startup: Startup,
        ended: contextlib.ExitStack,
        shared: Shared,
    ):
        self._replicas, self._startup, self._shared = replicas, startup, shared
        first, *others = replicas
        self._run = run = first.run  # shared by all, except seeds and states
        self._roots = tuple(replica.run.root for replica in replicas)
        self._stop: int | None = None  # the signal that all processes know of
        kept = shared.programs(run, len(replicas))
        if kept is None:
            print("compiling ...", flush=True)
        else:
            self._programs = kept
        # Data that stays on devices has known shapes: compile while it is read.
        # The pmap of the refresh can be lowered for shapes by a process alone only.
        early = run.dataset.resident and hosts.are_alone()
        if early and kept is None:
            replicated = parallel.replicated(run.mesh)
            shapes = with_sharding(run.abstract, replicated)
            self._programs = compile_programs(run, [shapes] * len(replicas), startup)
            ended.callback(self._programs.cancel)
        with startup.part("state"):
            self._start = restore_together(replicas)
        self._clock = Clock(first.record.seconds)
        self._waiting = Waiting(run, self._clock)
        ended.callback(self._waiting.close)
        with (
            self._clock.measure("reading"),
            startup.part("reading"),
            parts.heard(startup.add),
        ):
            opened = shared.feed(run)
            if opened is None:
                run.feed.open(run.root, first.record.position)
            else:
                run.feed.open_beside(opened, run.root)
            for other in others:
                other.run.feed.open_beside(run.feed, other.run.root)
            for replica in replicas:
                replica.write_files()
        if not early:
            states = [replica.state for replica in replicas]
            self._programs = compile_programs(run, states, startup)
            ended.callback(self._programs.cancel)
        # Whatever waits for a program, it is no time of training or of its like.
        self._programs.waited = functools.partial(self._clock.set_aside, "compilation")
        self._programs.waited(0.0)  # of a start that has all of them
        assert self._programs.steps
        if run.config.report_memory:
            report = memory.report(
                [replica.state for replica in replicas],
                self._programs.steps.values(),
                self._programs.evaluate.compiled(),
            )
            print(report, flush=True)
        if self._start:
            print(f"continuing from the checkpoint at step {self._start:,}")
        for replica in replicas:
            replica.prepare_log(self._clock, startup)

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
            self._readings = Readings(
                self._replicas,
                self._programs,
                self._clock,
                self._waiting,
                bar,
                self._start,
            )
            self._saved = time.perf_counter()
            self._clock.start()
            step = self._start
            if step == total:
                self._begin_rest()
            while step < total and self._stop is None:
                step = self._until_event(step, stop)
                self._after(step)
            if self._stop is not None:
                self._save(step)
            self._wait()
            # A signal during the last step or the wait counts too.
            heard = hosts.largest(self._stop or stop.number or 0)
            if heard:
                raise InterruptedRunError(step, heard)
        if (said := self._waiting.said_of_all()) is not None:
            print(said, flush=True)
        self._programs.wait()  # of a short run one may still compile, and be recorded
        outcomes = [
            replica.finish(self._programs, self._startup.parts)
            for replica in self._replicas
        ]
        self._shared.keep(self._run, len(self._replicas), self._programs)
        return outcomes

    def _begin_rest(self) -> None:
        """Begins what the first step does not need: other programs, and the logs."""
        self._programs.begin_others()
        for replica in self._replicas:
            replica.open_log()

    def _until_event(self, step: int, stop: StopRequest) -> int:
        """Trains until the next refresh, log, validation or checkpoint, or a stop."""
        run = self._run
        periods = [
            run.config.log_every_steps,
            run.feed.steps_per_epoch,
            0 if run.config.resample == "before" else run.method.refresh_every,
            run.config.checkpoint_every_steps,
        ]
        end = min(step - step % period + period for period in periods if period)
        end = min(end, run.total_steps)
        every = run.method.refresh_every
        if every and run.config.resample == "before":
            if (step + 1) % every == 0:
                self._refresh(step + 1)
            end = min(end, step + every - (step + 1) % every)
        while step < end and self._stop is None:
            begun = time.perf_counter()
            batches = self._batches(step, stop)
            first = step == self._start
            step += self._dispatch(step, end, batches)
            if first or not self._programs.runs_ahead:
                # Async dispatch on CPU runs far ahead, which would show nothing.
                self._replicas[-1].state.step.block_until_ready()
                self._readings.arrived(step)
            elif step < end:
                self._readings.ask(step)
            if first:
                self._startup.add("first dispatch", begun)
                elapsed = time.perf_counter() - self._startup.started
                self._clock.seconds["first step"] = elapsed
                self._begin_rest()
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
        with self._waiting.measure(self._readings.last):
            try:
                batches = tuple(r.run.feed.batch(step) for r in self._replicas)
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
        """Dispatches one compiled call; returns the number of steps it trains."""
        limit = min(self._programs.steps_per_dispatch, end - step)
        count = min(limit, self._run.feed.steps_alike(step))
        train = self._programs.steps[parallel.form(batches[0])]
        states = tuple(replica.state for replica in self._replicas)
        states = train(states, batches, self._roots, np.int32(count))
        for replica, state in zip(self._replicas, states, strict=True):
            replica.state = state
        return count

    def _after(self, step: int) -> None:
        """Does what is due after a step.

        A refresh, a validation and a checkpoint wait for the steps before them, so that
        each is timed by itself.
        """
        config, run, replicas = self._run.config, self._run, self._replicas
        refresh_every = run.method.refresh_every
        after = refresh_every and config.resample == "after"
        if after and step % refresh_every == 0:
            self._readings.ask(step)
            self._refresh(step)
        self._readings.ask(step, logs=step % config.log_every_steps == 0)
        epoch, rest = divmod(step, run.feed.steps_per_epoch)
        if rest == 0:
            numbers = self._readings.observe()
            for replica, own in zip(replicas, numbers, strict=True):
                replica.log_epoch(self._programs, own, step)
            self._readings.show()
        if self._is_due(step, epoch, rest):
            self._save(step)

    def _refresh(self, number: int) -> None:
        """Resamples what is due with the update of this number, from 1."""
        self._readings.observe()
        for replica in self._replicas:
            replica.refresh(self._programs, number)

    def _is_due(self, step: int, epoch: int, rest: int) -> bool:
        """Whether to save after a step, which is the `rest`th after an epoch."""
        config = self._run.config
        chosen = self._run.keep_best or epoch in config.keep_checkpoint_epochs
        if step == self._run.total_steps or (rest == 0 and chosen):
            return True
        every = config.checkpoint_every_steps
        if every and step % every == 0:
            return True
        seconds = parallel.checkpoint_seconds(config.checkpoint_every_seconds, every)
        if not seconds:
            return rest == 0 and not every
        # Work is safe once it is on disk, which takes as long as it last took.
        takes = max(replica.checkpoints.seconds for replica in self._replicas)
        late = time.perf_counter() - self._saved + takes >= seconds
        return bool(hosts.largest(late))

    def _save(self, step: int) -> None:
        """Saves all runs, after all previous saves: so one step is common to all."""
        self._readings.observe()
        with self._clock.measure("checkpoints"):
            if len(self._replicas) > 1:
                self._wait()
            # All devices must hold the same state, or nothing is saved.
            if self._programs.check:
                for replica in self._replicas:
                    self._programs.check(replica.state)
            # Copied now, as the next step donates the states.
            states = tuple(replica.state for replica in self._replicas)
            copies = self._programs.copy(states)
        self._saved = time.perf_counter()
        for replica, copied in zip(self._replicas, copies, strict=True):
            replica.save(copied, step)

    def _wait(self) -> None:
        for replica in self._replicas:
            replica.checkpoints.wait()
