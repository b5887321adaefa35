"""Learning-rate schedules; they change once per epoch, as in the paper."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax

__all__ = [
    "OPTIONS",
    "SCHEDULES",
    "constant",
    "cosine",
    "get_schedule",
    "multistep",
    "warmup_cosine",
]


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
    """The same learning rate in every step.

    >>> constant(0.1, epochs=3, steps_per_epoch=351)(1000)
    0.1
    """
    del epochs, steps_per_epoch
    return optax.constant_schedule(learning_rate)


def warmup_cosine(
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int,
    final_epochs: int,
    final_learning_rate: float,
) -> optax.Schedule:
    """The ImageNet schedule (Appendix B.2): linear warm-up, cosine, constant.

    Epoch i, from 1, of W warm-up epochs has eta * i / W; epoch e, from 0, of the E
    cosine epochs has eta/2 * (1 + cos(pi * e / E)); the final epochs have
    `final_learning_rate`.

    Raises:
      ValueError: no epoch is left for the cosine.

    >>> schedule = warmup_cosine(
    ...     0.1,
    ...     epochs=105,
    ...     steps_per_epoch=1,
    ...     warmup_epochs=5,
    ...     final_epochs=5,
    ...     final_learning_rate=1e-5,
    ... )
    >>> [round(float(schedule(step)), 6) for step in (0, 4, 5, 52, 99, 100)]
    [0.02, 0.1, 0.1, 0.050827, 2.7e-05, 1e-05]
    """
    between = epochs - warmup_epochs - final_epochs
    if between < 1:
        raise ValueError(
            f"warmup_epochs={warmup_epochs} and final_epochs={final_epochs} leave none "
            f"of {epochs} epochs for the cosine"
        )
    decay = cosine(learning_rate, epochs=between, steps_per_epoch=1)

    def schedule(step):
        epoch = step // steps_per_epoch
        rising = learning_rate * (epoch + 1) / max(warmup_epochs, 1)
        rate = jnp.where(epoch < warmup_epochs, rising, decay(epoch - warmup_epochs))
        return jnp.where(epoch < epochs - final_epochs, rate, final_learning_rate)

    return schedule


def multistep(
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    milestones: Sequence[int],
    decay_factor: float,
) -> optax.Schedule:
    """Multiplies the learning rate by a factor at each milestone, in epochs.

    Milestones beyond the last epoch are never reached; a milestone that is listed twice
    is applied twice.

    >>> schedule = multistep(
    ...     0.1, epochs=160, steps_per_epoch=351, milestones=(80, 120), decay_factor=0.1
    ... )
    >>> [round(float(schedule(351 * epoch)), 6) for epoch in (0, 79, 80, 120)]
    [0.1, 0.1, 0.01, 0.001]
    """
    steps = {  # those beyond the run could overflow the integers of a step
        milestone * steps_per_epoch: decay_factor**times
        for milestone, times in Counter(milestones).items()
        if milestone < epochs
    }
    return optax.piecewise_constant_schedule(learning_rate, steps)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "cosine": cosine,
    "constant": constant,
    "warmup_cosine": warmup_cosine,
    "multistep": multistep,
}
# The config fields that only one schedule takes.
OPTIONS: dict[str, tuple[str, ...]] = {
    "warmup_cosine": ("warmup_epochs", "final_epochs", "final_learning_rate"),
    "multistep": ("milestones", "decay_factor"),
}


def get_schedule(
    name: str,
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    **options: Any,
) -> optax.Schedule:
    """The schedule of a name in `SCHEDULES`: step (from 0) -> learning rate.

    Args:
      name: a name in `SCHEDULES`.
      learning_rate: eta.
      epochs: in the whole run.
      steps_per_epoch: batches in an epoch.
      options: those of the name in `OPTIONS`.

    Raises:
      ValueError: an unknown name, or no epochs left for a part of the schedule.

    >>> round(float(get_schedule("cosine", 0.2, epochs=10, steps_per_epoch=5)(25)), 6)
    0.1
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; possible: {', '.join(SCHEDULES)}")
    return SCHEDULES[name](
        learning_rate, epochs=epochs, steps_per_epoch=steps_per_epoch, **options
    )
