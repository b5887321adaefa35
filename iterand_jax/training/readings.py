"""The numbers of steps that devices have been given, read when they are done.

The loop gives devices steps before they have done those before; what logs need of a
state is asked for at once, comes back in one transfer, and is read later.
"""

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from iterand_jax.runtime import hosts
from iterand_jax.training.logs import Clock
from iterand_jax.training.numbers import Numbers, unpack
from iterand_jax.training.programs import Programs
from iterand_jax.training.replica import Replica
from iterand_jax.training.waiting import Waiting

_AHEAD = 2  # dispatches that a device has before it: one runs, one waits


class _Dispatched(NamedTuple):
    """Steps that the devices have been given.

    Attributes:
      step: the number of steps done after them.
      numbers: what logs need of the states then, as `Programs.numbers` gives it.
      logs: whether it is a log step.
    """

    step: int
    numbers: Array
    logs: bool


class Readings:
    """Asks for numbers, reads them in their order, logs and shows them."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        programs: Programs,
        clock: Clock,
        waiting: Waiting,
        bar: Any,
        step: int,
    ):
        """Of runs that train together.

        Args:
          replicas: the runs.
          programs: theirs.
          clock: of the loop.
          waiting: warns where the feed does not keep up.
          bar: the progress bar.
          step: of the states now.
        """
        self._replicas, self._programs = replicas, programs
        self._clock, self._waiting, self._bar = clock, waiting, bar
        self._dispatched: collections.deque[_Dispatched] = collections.deque()
        self._step = step  # up to which they were read
        self._numbers: list[Numbers] = []

    @property
    def last(self) -> Array | None:
        """What the devices compute last of what was asked for; None if all is read."""
        return self._dispatched[-1].numbers if self._dispatched else None

    def ask(self, step: int, *, logs: bool = False) -> None:
        """Requests the numbers after a step, and reads those requested before."""
        states = tuple(replica.state for replica in self._replicas)
        if logs:
            masks, numbers = self._programs.log(states)
            for replica, own in zip(self._replicas, masks, strict=True):
                replica.state = replica.state._replace(masks=own)
        else:
            numbers = self._programs.numbers(states)
        numbers.copy_to_host_async()
        self._dispatched.append(_Dispatched(step, numbers, logs))
        self.observe(_AHEAD if self._programs.runs_ahead else 0)

    def observe(self, ahead: int = 0) -> list[Numbers]:
        """Reads the numbers of all but the last `ahead` dispatches, and logs them.

        Returns:
          Those that were read last, of each run.
        """
        while len(self._dispatched) > ahead:
            step, numbers, logs = self._dispatched.popleft()
            rows = np.asarray(numbers)  # waits for the device
            self.arrived(step)
            self._numbers = [unpack(row) for row in rows]
            for replica, own in zip(self._replicas, self._numbers, strict=True):
                replica.check_finite(own)
            if logs:
                for replica, own in zip(self._replicas, self._numbers, strict=True):
                    replica.log_step(own, step)
                self.show()
                if hosts.is_first():
                    self._waiting.warn()
        return self._numbers

    def arrived(self, step: int) -> None:
        """A step is done: shows it, and counts the time since the last one."""
        self._clock.lap("training")
        self._bar.update(step - self._step)
        self._step = step

    def show(self) -> None:
        """Shows the means over all runs in the progress bar."""
        loss, accuracy = np.mean([replica.shown for replica in self._replicas], axis=0)
        shown = {"loss": f"{loss:.3f}", "train": f"{accuracy:.1f}%"}
        if self._replicas[0].record.validation_accuracy:
            last = [r.record.validation_accuracy[-1] for r in self._replicas]
            shown["val"] = f"{np.mean(last):.1f}%"
        self._bar.set_postfix(shown, refresh=False)
