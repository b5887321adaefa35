"""Learning rates are those of the paper's epochs, traced or not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.training.schedules import SCHEDULES, get_schedule

every_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


def rates(name, steps, epochs=4, steps_per_epoch=3, learning_rate=0.2):
    schedule = get_schedule(
        name, learning_rate, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    return [float(schedule(step)) for step in steps]


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


@every_schedule
@pytest.mark.parametrize("epochs", [1, 7])
def test_a_traced_step_has_the_rate_of_its_value(name, epochs):
    schedule = get_schedule(name, 0.2, epochs=epochs, steps_per_epoch=5)
    steps = jnp.arange(5 * epochs)
    traced = jax.jit(jax.vmap(schedule))(steps)
    expected = rates(name, range(5 * epochs), epochs, 5)
    np.testing.assert_allclose(traced, expected, rtol=1e-6)
    assert traced[0] == np.float32(0.2)
    assert (np.diff(traced) <= 0).all()
    assert (traced > 0).all()


def test_an_unknown_schedule_is_named():
    with pytest.raises(
        ValueError, match="unknown schedule 'step'; possible: cosine, c"
    ):
        get_schedule("step", 0.1, epochs=1, steps_per_epoch=1)
