"""Learning rates as functions of the step, changed once per epoch as in the paper."""

from collections.abc import Callable

import jax.numpy as jnp
import optax


def cosine(
    learning_rate: float, *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """eta/2 * (1 + cos(pi * e / E)) in epoch e of E, from 0 (Appendix B.2).

    >>> schedule = cosine(0.2, epochs=100, steps_per_epoch=351)
    >>> [round(float(schedule(step)), 6) for step in (0, 350, 351, 50 * 351)]
    [0.2, 0.2, 0.199951, 0.1]
    """

    def schedule(step):
        epoch = jnp.minimum(step // steps_per_epoch, epochs)
        return learning_rate / 2 * (1 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def constant(
    learning_rate: float, *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """The same learning rate in every step."""
    del epochs, steps_per_epoch
    return optax.constant_schedule(learning_rate)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "cosine": cosine,
    "constant": constant,
}


def get_schedule(
    name: str, learning_rate: float, *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """The schedule of a name in `SCHEDULES`: step (from 0) -> learning rate.

    Raises:
      ValueError: an unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; possible: {', '.join(SCHEDULES)}")
    return SCHEDULES[name](
        learning_rate, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
