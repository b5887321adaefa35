"""Sparsities that follow a schedule: a value of each step of a training.

A schedule is a table that the host computes, with an index of integers: every program
that reads it, in training, evaluation or export, finds the same bits, on any platform.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["FORMS", "Schedule"]

FORMS: Mapping[str, Callable[[float, float, float], float]] = {
    "cubic": lambda start, to, t: to + (start - to) * (1 - t) ** 3,
    "cosine": lambda start, to, t: to + (start - to) * (1 + math.cos(math.pi * t)) / 2,
    "gradual": lambda start, to, t: 1 - (1 - start) ** (1 - t) * (1 - to) ** t,
}
"""(start, to, the share t in [0, 1] of the time that has passed) -> the sparsity.

cubic is that of gradual pruning (Zhu and Gupta 2017) and of global biprop; gradual
removes the same fraction of what is left in equal times, as iterative pruning does.
"""

MOST_VALUES = 1024  # of a table
LAST = 2**31 - 1  # steps are counted in 32 bits


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A sparsity that goes from `start` to `to` between two steps.

    Before `begin` it is `start`, from `end` on it is `to`. Between them it has up to
    1,024 values, each for equally many steps.

    Attributes:
      to: the sparsity at the end.
      start: the sparsity at the beginning.
      begin: the step at which it starts to change.
      end: the step at which it has reached `to`.
      form: how it changes, one of `FORMS`.

    Raises:
      ValueError: an unknown form, or an end that is not after the beginning. (Its
        sparsities are checked by the `Subnetwork` that takes it.)

    >>> schedule = Schedule(to=0.75, start=0.5, begin=10, end=20, form="cubic")
    >>> [float(schedule.at(step)) for step in (0, 15, 20, 1000)]
    [0.5, 0.71875, 0.75, 0.75]
    """

    to: float
    start: float = 0.0
    begin: int = 0
    end: int = 1
    form: str = "cubic"

    def __post_init__(self):
        """Raises ValueError for what cannot be a field's value."""
        if self.form not in FORMS:
            raise ValueError(
                f"unknown form {self.form!r} of a schedule; possible: "
                f"{', '.join(FORMS)}"
            )
        steps = self.begin, self.end
        whole = all(type(s) is int for s in steps)
        if not (whole and 0 <= self.begin < self.end <= LAST):
            raise ValueError(
                f"a schedule goes from a step to a later one, 0 <= begin < end < 2**31"
                f"; got begin={self.begin!r}, end={self.end!r}"
            )

    @property
    def _stride(self) -> int:
        return -(-(self.end - self.begin) // MOST_VALUES)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The values of equally many steps each, and then `to`."""
        span, form = self.end - self.begin, FORMS[self.form]
        passed = (n * self._stride / span for n in range(-(-span // self._stride)))
        values = [form(self.start, self.to, t) for t in passed]
        return np.asarray([*values, self.to], np.float32)

    def at(self, step: Any) -> Array:
        """The sparsity of a step, a float32 scalar.

        Args:
          step: an integer, which may be traced: the number of updates done.

        >>> Schedule(to=0.5, end=4, form="cosine").at(2)
        Array(0.25, dtype=float32)
        """
        step = jnp.asarray(step, jnp.int32)
        number = jnp.clip(step - self.begin, 0, self.end - self.begin) // self._stride
        number = jnp.where(step >= self.end, len(self._table) - 1, number)
        return jnp.asarray(self._table)[number]

    def value(self, step: int) -> float:
        """The sparsity of a step as a number, without a device.

        >>> Schedule(to=0.5, end=4, form="cosine").value(2)
        0.25
        """
        with jax.ensure_compile_time_eval():
            return float(self.at(step))
