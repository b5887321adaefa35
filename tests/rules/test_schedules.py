"""Schedules of a sparsity, against their formulas in float64."""

import math

import jax
import numpy as np
import pytest

from iterand_jax import Subnetwork
from iterand_jax.rules import Schedule

FORMULAS = {
    "cubic": lambda a, b, t: b + (a - b) * (1 - t) ** 3,
    "cosine": lambda a, b, t: (a + b) / 2 + (a - b) / 2 * math.cos(math.pi * t),
    "gradual": lambda a, b, t: (
        1 - math.exp((1 - t) * math.log1p(-a) + t * math.log1p(-b))
    ),
}


@pytest.mark.parametrize("form", FORMULAS)
@pytest.mark.parametrize(("begin", "end"), [(0, 1), (3, 40), (100, 5100)])
def test_a_schedule_follows_its_formula(form, begin, end):
    schedule = Schedule(to=0.9, start=0.5, begin=begin, end=end, form=form)
    steps = np.arange(0, end + 5)
    found = jax.jit(jax.vmap(schedule.at))(steps)
    stride = max(1, -(-(end - begin) // 1024))
    for step, value in zip(steps, found, strict=True):
        if step >= end:
            expected = 0.9
        else:
            since = max(0, step - begin) // stride * stride
            expected = FORMULAS[form](0.5, 0.9, since / (end - begin))
        assert value == np.float32(expected) or abs(value - expected) < 1e-7
    assert np.all(np.diff(found) >= 0)
    assert found[min(begin, end - 1)] == np.float32(0.5)


def test_every_program_has_the_same_bits():
    schedule = Schedule(to=0.95, start=0.1, begin=7, end=20_000, form="cosine")
    steps = np.random.default_rng(0).integers(0, 30_000, 50)
    together = jax.jit(jax.vmap(schedule.at))(steps)
    assert [schedule.value(int(step)) for step in steps] == [float(x) for x in together]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"to": 0.5, "form": "linear"},
            "unknown form 'linear' of a schedule; possible",
        ),
        ({"to": 0.5, "begin": 5, "end": 5}, "got begin=5, end=5"),
        ({"to": 0.5, "begin": -1}, "got begin=-1, end=1"),
        ({"to": 0.5, "end": 1.5}, "got begin=0, end=1.5"),
        ({"to": 0.5, "end": 2**31}, "got begin=0, end=2147483648"),
    ],
)
def test_what_is_no_schedule_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**fields)


@pytest.mark.parametrize(
    ("start", "to"), [(0.0, 1.0), (-0.1, 0.5), (0.5, 1 - 1e-12), (1.0, 0.5)]
)
def test_a_schedule_that_leaves_its_range_is_named(start, to):
    message = r"sparsity is the fraction of weights removed, a number in \[0, 1\); got"
    with pytest.raises(ValueError, match=message):
        Subnetwork(Schedule(start=start, to=to))
