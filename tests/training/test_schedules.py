"""Learning rates are those of the paper's epochs, traced or not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.training.schedules import SCHEDULES, get_schedule

WARMUP = {"warmup_epochs": 2, "final_epochs": 1, "final_learning_rate": 0.001}
MILESTONES = {"milestones": (2, 3), "decay_factor": 0.1}
OF_THE_SCHEDULE = {"warmup_cosine": WARMUP, "multistep": MILESTONES}
every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


def rates(name, steps, epochs=4, steps_per_epoch=3, learning_rate=0.2, **options):
    schedule = get_schedule(
        name,
        learning_rate,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        **(OF_THE_SCHEDULE.get(name, {}) | options),
    )
    return [float(schedule(step)) for step in steps]


@pytest.mark.smoke
def test_the_cosine_is_stepped_once_per_epoch():
    of_epochs = [0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5)), 0]
    expected = np.repeat(of_epochs, 3)
    np.testing.assert_allclose(rates("cosine", range(15)), expected, atol=1e-7)
    np.testing.assert_allclose(rates("cosine", [10**6]), [0], atol=1e-7)


def test_the_cosine_has_the_numbers_of_the_paper():
    steps = [0, 350, 351, 50 * 351 - 1, 50 * 351, 99 * 351, 100 * 351 - 1]
    epochs = np.array([0, 0, 1, 49, 50, 99, 99])
    result = rates("cosine", steps, epochs=100, steps_per_epoch=351)
    expected = 0.1 * (1 + np.cos(np.pi * epochs / 100))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


def test_the_constant_is_constant():
    np.testing.assert_allclose(rates("constant", range(20)), 0.2, rtol=1e-6)


def test_warmup_cosine_rises_falls_and_ends_low():
    """Two epochs of 3 steps up, four of a cosine, one at the end."""
    down = [0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5))]
    expected = np.repeat([0.1, 0.2, *down, 0.001], 3)
    np.testing.assert_allclose(
        rates("warmup_cosine", range(21), epochs=7), expected, rtol=1e-6
    )
    assert rates("warmup_cosine", [10**6], epochs=7) == [np.float32(0.001)]


def test_warmup_cosine_has_the_numbers_of_the_paper():
    """ImageNet: 5 epochs of 10,009 steps, 95, and 5."""
    epochs = [1, 2, 5, 6, 7, 53, 100, 101, 105]
    expected = [0.02, 0.04, 0.1, 0.1]
    for e in (1, 47, 94):
        expected.append(0.05 * (1 + math.cos(math.pi * e / 95)))
    expected += [1e-5, 1e-5]
    options = {"warmup_epochs": 5, "final_epochs": 5, "final_learning_rate": 1e-5}
    for place in (0, 10_008):  # the first and the last step of the epoch
        steps = [10_009 * (epoch - 1) + place for epoch in epochs]
        found = rates("warmup_cosine", steps, 105, 10_009, 0.1, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_without_warmup_and_end_it_is_the_cosine():
    options = {"warmup_epochs": 0, "final_epochs": 0}
    found = rates("warmup_cosine", range(12), **options)
    np.testing.assert_allclose(found, rates("cosine", range(12)), rtol=1e-6)


def test_milestones_are_the_first_epochs_of_a_lower_rate():
    """OpenLTH's default for CIFAR-10: a tenth after 80 and after 120 of 160 epochs."""
    options = {"milestones": (80, 120), "decay_factor": 0.1}
    steps = [0, 80 * 351 - 1, 80 * 351, 120 * 351 - 1, 120 * 351, 160 * 351 - 1]
    found = rates("multistep", steps, 160, 351, 0.1, **options)
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3], rtol=1e-6)
    beyond = rates("multistep", range(12), milestones=(9,), decay_factor=0.1)
    assert beyond == pytest.approx([0.2] * 12)
    twice = rates("multistep", range(12), milestones=(2, 2), decay_factor=0.1)
    assert twice == pytest.approx([0.2] * 6 + [0.002] * 6)


@pytest.mark.parametrize(("warmup", "final"), [(4, 0), (2, 2), (0, 9)])
def test_a_cosine_of_no_epochs_is_refused(warmup, final):
    options = {"warmup_epochs": warmup, "final_epochs": final}
    with pytest.raises(ValueError, match=f"warmup_epochs={warmup} .* none of 4 epochs"):
        rates("warmup_cosine", [0], **options)


@every_schedule
@pytest.mark.parametrize("epochs", [4, 7])
def test_a_traced_step_has_the_rate_of_its_value(name, epochs):
    schedule = get_schedule(
        name, 0.2, epochs=epochs, steps_per_epoch=5, **OF_THE_SCHEDULE.get(name, {})
    )
    steps = jnp.arange(5 * epochs)
    traced = jax.jit(jax.vmap(schedule))(steps)
    expected = rates(name, range(5 * epochs), epochs, 5)
    np.testing.assert_allclose(traced, expected, rtol=1e-6)
    assert traced.max() == np.float32(0.2)
    assert (traced > 0).all()
    highest = int(np.argmax(traced))
    assert (np.diff(traced[highest:]) <= 0).all()
    assert (np.diff(traced[: highest + 1]) >= 0).all()


def test_an_unknown_schedule_is_named():
    with pytest.raises(
        ValueError, match="unknown schedule 'step'; possible: cosine, c"
    ):
        get_schedule("step", 0.1, epochs=1, steps_per_epoch=1)
