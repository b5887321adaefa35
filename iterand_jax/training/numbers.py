"""The numbers of a log line, packed into one array to take a single transfer.

A log line needs a dozen scalars and, for each layer, how many entries of its mask
changed. Fetched one by one, each would need a program and a synchronization, which on a
GPU cost more than the steps between two lines.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from iterand_jax.training.step import State, Totals

PyTree = Any
_TOTALS = len(Totals._fields)


class Numbers(NamedTuple):
    """The numbers of a state, on the host.

    Attributes:
      bad_step: the first step whose loss was not finite; -1 if there is none.
      learning_rate: of the last step.
      window: totals since the last log step.
      epoch: totals since the epoch began.
      changed: for each mask, the number of entries that changed since the last log
        step; empty if not requested.
    """

    bad_step: int
    learning_rate: float
    window: Totals
    epoch: Totals
    changed: Sequence[int]


def pack(state: State, schedule: optax.Schedule, changed: PyTree = ()) -> Array:
    """The numbers of a state as int32 (n,), with floats bitcast."""
    rate = jnp.asarray(schedule(state.step - 1), jnp.float32)
    floats = jnp.stack([rate, *state.window, *state.epoch])
    integers = jnp.stack([state.bad_step, *jax.tree.leaves(changed)])
    bits = lax.bitcast_convert_type(floats, jnp.int32)
    return jnp.concatenate([bits, integers])


def unpack(row: np.ndarray) -> Numbers:
    """The numbers that `pack` packed.

    >>> row = np.array([0.5, 2, 3, 4, 5, 6, 7], np.float32).view(np.int32)
    >>> found = unpack(np.append(row, np.int32([-1, 8, 9])))
    >>> found.bad_step, found.learning_rate, found.changed
    (-1, 0.5, [8, 9])
    >>> float(found.window.loss), float(found.epoch.examples)
    (2.0, 7.0)
    """
    end = 1 + 2 * _TOTALS
    rate, *totals = row[:end].view(np.float32)
    bad_step, *changed = row[end:].tolist()
    return Numbers(
        bad_step=bad_step,
        learning_rate=float(rate),
        window=Totals(*totals[:_TOTALS]),
        epoch=Totals(*totals[_TOTALS:]),
        changed=changed,
    )
