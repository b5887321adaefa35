"""Every distribution follows its formula, at initialization and when resampled."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from iterand_jax import distributions
from iterand_jax.distributions import DISTRIBUTIONS, Distribution, get_distribution

FAN_IN = 18
CDFS = {  # of weights x with fan-in f, and the bound of their size
    "signed_constant": (
        lambda x, f: np.where(x < 0, 0.5, 1.0),
        lambda f: math.sqrt(2 / f),
    ),
    "kaiming_uniform": (
        lambda x, f: (x / math.sqrt(6 / f) + 1) / 2,
        lambda f: math.sqrt(6 / f),
    ),
    "kaiming_normal": (
        lambda x, f: special.ndtr(x / math.sqrt(2 / f)),
        lambda f: math.inf,
    ),
}
RATES = (0.0, 0.001, 0.1, 1.0)
every_distribution = pytest.mark.parametrize("name", list(DISTRIBUTIONS))


@functools.partial(jax.jit, static_argnums=0)
def jit_redraw(name, key, rate):
    return DISTRIBUTIONS[name].redraw(key, jnp.zeros(1_000_000), FAN_IN, rate)


@functools.cache
def redrawn(name, rate, seed=7):
    """(fresh, chosen) of one redraw of a million weights."""
    return jax.device_get(jit_redraw(name, jax.random.key(seed), rate))


def check_law(name, values, fan_in):
    """Kolmogorov-Smirnov, moments, signs and support; chance of a false alarm 1e-4."""
    cdf, bound = CDFS[name]
    n = values.size
    assert n > 500
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= bound(fan_in) * (1 + 1e-6)
    if name == "signed_constant":
        np.testing.assert_allclose(np.abs(values), bound(fan_in), rtol=1e-6)
    else:
        expected = cdf(np.sort(values), fan_in)
        steps = np.arange(n + 1) / n
        distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
        assert distance < 2.23 / math.sqrt(n)
    normal = values * math.sqrt(fan_in / 2)
    assert abs(normal.mean()) < 4 / math.sqrt(n)
    assert abs((normal**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((values > 0).mean() - 0.5) < 4 * 0.5 / math.sqrt(n)
    half = values[: n // 2] > 0  # neighbours are independent: their signs agree half
    agree = np.mean(half[1:] == half[:-1])
    assert abs(agree - 0.5) < 4 * 0.5 / math.sqrt(half.size - 1)


def test_the_laws_below_cover_every_distribution():
    assert CDFS.keys() == DISTRIBUTIONS.keys()
    assert all(DISTRIBUTIONS[name].name == name for name in DISTRIBUTIONS)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("signed_constant", [-0.5, -0.5, 0.5, 0.5]),
        ("kaiming_uniform", [-math.sqrt(0.75) / 2, -0.0, 0.0, math.sqrt(0.75) / 2]),
        ("kaiming_normal", [-0.337245, -0.0, 0.0, 0.337245]),
    ],
)
def test_quarters_of_the_unit_interval_give_the_literal_quantiles(name, weights):
    uniform = jnp.array([0.25, 0.5 - 1e-7, 0.5, 0.75], jnp.float32)
    result = DISTRIBUTIONS[name].from_uniform(uniform, 8)
    np.testing.assert_allclose(result, weights, rtol=1e-5, atol=1e-6)


@every_distribution
def test_from_uniform_is_the_inverse_of_the_cdf(name):
    uniform = np.linspace(0.001, 0.999, 998)
    weights = DISTRIBUTIONS[name].from_uniform(jnp.asarray(uniform, jnp.float32), 50)
    weights = np.asarray(weights, np.float64)
    assert (np.diff(weights) >= 0).all()
    if name != "signed_constant":
        np.testing.assert_allclose(CDFS[name][0](weights, 50), uniform, atol=1e-5)


@every_distribution
@pytest.mark.parametrize("fan_in", [1, 27, 4608])
def test_samples_follow_the_law_of_their_fan_in(name, fan_in):
    sample = DISTRIBUTIONS[name].sample(jax.random.key(fan_in), (200_000,), fan_in)
    check_law(name, np.asarray(sample, np.float64), fan_in)


@every_distribution
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_shapes_and_dtypes_are_those_asked_for(name, dtype):
    distribution = DISTRIBUTIONS[name]
    with jax.enable_x64(dtype == "float64"):
        sample = distribution.sample(jax.random.key(0), (3, 1, 4), 9, dtype)
        fresh, chosen = distribution.redraw(jax.random.key(1), sample, 9, 0.5)
    assert sample.shape == fresh.shape == chosen.shape == (3, 1, 4)
    assert sample.dtype == fresh.dtype == dtype
    assert chosen.dtype == bool


@every_distribution
def test_a_draw_depends_on_its_key_alone(name):
    distribution = DISTRIBUTIONS[name]
    first = distribution.sample(jax.random.key(0), (30, 20), 9)
    again = distribution.sample(jax.random.key(0), (30, 20), 9)
    other = distribution.sample(jax.random.key(1), (30, 20), 9)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.4


@every_distribution
@pytest.mark.parametrize("rate", RATES)
def test_the_chosen_fraction_is_binomial(name, rate):
    _, chosen = redrawn(name, rate)
    n = chosen.size
    assert abs(chosen.sum() - n * rate) <= 4 * math.sqrt(n * rate * (1 - rate))


@every_distribution
@pytest.mark.parametrize("rate", RATES[1:])
def test_given_the_choice_the_new_value_follows_the_law(name, rate):
    fresh, chosen = redrawn(name, rate)
    check_law(name, fresh[chosen].astype(np.float64), FAN_IN)


@every_distribution
@pytest.mark.parametrize("rate", [0.001, 0.1, 1.0])
def test_values_and_choices_of_different_keys_are_independent(name, rate):
    (a, chosen_a), (b, chosen_b) = redrawn(name, rate), redrawn(name, rate, seed=8)
    both, size = chosen_a & chosen_b, chosen_a.size
    deviation = math.sqrt(size * rate**2 * (1 - rate**2))
    assert abs(both.sum() - size * rate**2) <= 4 * deviation + 4
    if rate > 0.05:
        same = (np.sign(a) == np.sign(b))[both].mean()
        assert abs(same - 0.5) < 4 * 0.5 / math.sqrt(both.sum())


@every_distribution
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_traced_rate_redraws_as_its_value_does(name, rate):
    key, weights = jax.random.key(7), jnp.zeros(1_000_000)
    static = jax.jit(lambda key: DISTRIBUTIONS[name].redraw(key, weights, FAN_IN, rate))
    fresh, chosen = jax.device_get(static(key))
    traced_fresh, traced_chosen = redrawn(name, rate)
    np.testing.assert_array_equal(traced_chosen, chosen)
    np.testing.assert_allclose(
        traced_fresh[chosen], fresh[chosen], rtol=1e-4, atol=1e-6
    )


@every_distribution
@pytest.mark.parametrize("bits", [0, 1, 63, 2**31 - 1, 2**31, 2**32 - 1])
def test_the_extreme_random_words_give_finite_weights(name, bits, monkeypatch):
    words = lambda key, size, start: jnp.full(size, bits, jnp.uint32)  # noqa: E731
    monkeypatch.setattr(distributions, "random_bits", words)
    draw = DISTRIBUTIONS[name]
    limit = min(CDFS[name][1](2), 7)  # 32 random bits reach 6.2 deviations
    assert abs(draw.sample(None, (), 2)) <= limit * (1 + 1e-6)
    for rate in RATES:
        fresh, _ = draw.redraw(None, jnp.zeros(()), 2, rate)
        assert abs(fresh) <= limit * (1 + 1e-6)


@pytest.mark.slow
@every_distribution
def test_a_hundred_million_draws_are_finite(name):
    draw = jax.jit(lambda key: DISTRIBUTIONS[name].sample(key, (10_000_000,), 2))
    extreme = [jnp.abs(draw(jax.random.key(seed))).max() for seed in range(10)]
    assert np.max(extreme) < 7


def test_a_distribution_is_found_by_name_or_given():
    mine = Distribution("mine", lambda uniform, fan_in: uniform)
    assert get_distribution(mine) is mine
    assert get_distribution("kaiming_normal") is DISTRIBUTIONS["kaiming_normal"]
    message = "unknown distribution 'laplace'; possible: signed_constant, kaiming_uni"
    with pytest.raises(ValueError, match=message):
        get_distribution("laplace")
