"""The draws found are those that happened, and reproduce the weights."""

import jax
import numpy as np
import pytest

from iterand_jax import DISTRIBUTIONS, Subnetwork, edge_popup, iterand
from iterand_jax.tickets import replay
from iterand_jax.tickets.replay import NO_DRAW, draw_numbers, drawn, last_redraws

INIT_KEY, KEY = jax.random.key(1), jax.random.key(3)
PARAMS = {
    "conv": {"kernel": np.zeros((3, 3, 4, 20), np.float32)},
    "dense": {
        "kernel": np.zeros((80, 7), np.float32),
        "bias": np.zeros(7, np.float32),
    },
}


def run(subnetwork, steps, **options):
    """(weights, the refresh that changed each of them last), masks changing all along.

    The record of biases, which nothing redraws, is -1 everywhere.
    """
    method = iterand(subnetwork, **options)
    _, weights = jax.jit(method.init)(INIT_KEY, PARAMS)
    refresh, draw = jax.jit(method.refresh), jax.jit(method.init)
    last = jax.tree.map(lambda w: np.full(w.shape, -1), weights)
    for number in range(1, steps // options["k_per"] + 1):
        scores, _ = draw(jax.random.key(number), PARAMS)
        before, step = weights, number * options["k_per"]
        weights, _ = refresh(KEY, step, scores, before)
        last = jax.tree.map(
            lambda n, old, new, now=number: np.where(old == new, n, now),
            last,
            before,
            weights,
        )
    return weights, last


@pytest.mark.parametrize("distribution", ["kaiming_uniform", "kaiming_normal"])
@pytest.mark.parametrize("sampling_rate", [0.0, 0.1, 1.0])
def test_each_weight_is_traced_to_the_refresh_that_drew_it(distribution, sampling_rate):
    subnetwork = Subnetwork(0.4, distribution)
    options = {"k_per": 3, "sampling_rate": sampling_rate}
    weights, last = run(subnetwork, 20, **options)
    found = last_redraws(KEY, 20, weights, subnetwork, **options)
    assert found["dense"]["bias"] is None
    for leaf in ("conv", "dense"):
        np.testing.assert_array_equal(found[leaf]["kernel"], last[leaf]["kernel"])
        assert found[leaf]["kernel"].dtype == np.int32
    from_first = last_redraws(
        KEY, 20, weights, subnetwork, init_key=INIT_KEY, **options
    )
    of_another = last_redraws(KEY, 20, weights, subnetwork, init_key=KEY, **options)
    for leaf in ("conv", "dense"):
        expected = np.maximum(last[leaf]["kernel"], 0)
        np.testing.assert_array_equal(from_first[leaf]["kernel"], expected)
        np.testing.assert_array_equal(of_another[leaf]["kernel"], last[leaf]["kernel"])
    numbers = set(np.unique(last["conv"]["kernel"]).tolist())
    assert numbers == ({-1} if sampling_rate == 0 else {-1, 1, 2, 3, 4, 5, 6})


def test_before_the_first_refresh_nothing_was_redrawn():
    subnetwork = Subnetwork(0.4, "kaiming_uniform")
    options = {"k_per": 3, "sampling_rate": 1.0}
    weights, _ = run(subnetwork, 2, **options)
    found = last_redraws(KEY, 2, weights, subnetwork, **options)
    assert np.all(found["dense"]["kernel"] == -1)


def test_signed_constants_are_refused():
    with pytest.raises(ValueError, match="from its value; possible: kaiming_uniform"):
        last_redraws(KEY, 9, PARAMS, Subnetwork(), k_per=3, sampling_rate=0.1)


@pytest.mark.parametrize("distribution", list(DISTRIBUTIONS))
@pytest.mark.parametrize("sampling_rate", [0.1, 1.0])
def test_numbers_make_the_weights_again_bit_for_bit(distribution, sampling_rate):
    subnetwork = Subnetwork(0.4, distribution)
    options = {"k_per": 3, "sampling_rate": sampling_rate}
    weights, last = run(subnetwork, 20, **options)
    numbers = draw_numbers(INIT_KEY, KEY, 20, weights, subnetwork, **options)
    again = drawn(INIT_KEY, KEY, 20, numbers, subnetwork, **options)
    assert numbers["dense"]["bias"] is again["dense"]["bias"] is None
    for leaf in ("conv", "dense"):
        number, refresh = np.asarray(numbers[leaf]["kernel"]), last[leaf]["kernel"]
        assert number.dtype == np.int32
        assert again[leaf]["kernel"].tobytes() == weights[leaf]["kernel"].tobytes()
        assert np.all(number >= 0)
        if distribution != "signed_constant":  # whose draws cannot be distinguished
            assert np.array_equal(number > 0, refresh > 0)
            assert np.all(number <= np.maximum(refresh, 0))
            if sampling_rate == 1:
                np.testing.assert_array_equal(number, np.maximum(refresh, 0))
            else:
                assert number.max() < refresh.max() == 6


def test_without_refreshes_every_weight_is_of_the_first_draw():
    subnetwork = Subnetwork(0.4, "kaiming_uniform")
    _, weights = jax.jit(edge_popup(subnetwork).init)(INIT_KEY, PARAMS)
    options = {"k_per": 0, "sampling_rate": 0.0}
    weights["conv"]["kernel"] = weights["conv"]["kernel"].at[0, 0, 0, 0].set(0.5)
    numbers = draw_numbers(INIT_KEY, KEY, 100, weights, subnetwork, **options)
    assert np.all(numbers["dense"]["kernel"] == 0)
    assert np.flatnonzero(numbers["conv"]["kernel"]).tolist() == [0]
    assert numbers["conv"]["kernel"][0, 0, 0, 0] == NO_DRAW
    again = drawn(INIT_KEY, KEY, 100, numbers, subnetwork, **options)
    assert again["dense"]["kernel"].tobytes() == weights["dense"]["kernel"].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generator", "distribution"),
    [*(("threefry2x32", name) for name in DISTRIBUTIONS), ("rbg", "kaiming_uniform")],
)
def test_weights_are_the_same_in_parts_of_any_size(
    generator, distribution, monkeypatch
):
    """Of every size from one weight to three large parts, and of all three kinds."""
    subnetwork = Subnetwork(0.5, distribution)
    key = jax.random.key(5, impl=generator)
    options = {"k_per": 3, "sampling_rate": 0.3}
    sizes = (1, 3, 4, 5, 15, 16, 17, 20, 21, 33, 49)
    params = {f"n{n}": {"kernel": np.zeros((n, 1), np.float32)} for n in sizes}
    numbers = jax.tree.map(lambda w: np.arange(w.size).reshape(w.shape) % 4 - 1, params)

    def made():
        return drawn(key, key, 10, numbers, subnetwork, **options)

    whole = made()
    monkeypatch.setattr(replay, "SMALL", 4)
    monkeypatch.setattr(replay, "LARGE", 12)
    parts = [size for _, size in replay._parts(key, 49)]
    assert parts == ([12] * 4 + [4] if generator == "threefry2x32" else [49])
    jax.tree.map(np.testing.assert_array_equal, made(), whole)
    method = iterand(subnetwork, **options)
    _, first = method.init(key, params)
    never = drawn(key, key, 0, numbers, subnetwork, **options)
    jax.tree.map(np.testing.assert_array_equal, never, first)


def test_two_programs_rebuild_all_tickets(monkeypatch):
    """So a ticket's memory is that of its weights and not of their compilation."""
    traced = []
    inside = replay.redrawn_uniform

    def counted(key, size, *given):
        traced.append(size)
        return inside(key, size, *given)

    replay._last_uniform.clear_cache()
    monkeypatch.setattr(replay, "redrawn_uniform", counted)
    sizes = (3, 50, 4095, 9000, 40_000, 530_000)
    numbers = {f"n{n}": {"kernel": np.zeros((n, 1), np.int32)} for n in sizes}
    for step, k_per, rate in ((7, 1, 0.123), (0, 0, 0.0), (40, 20, 1.0)):
        for distribution in ("kaiming_normal", "kaiming_uniform"):
            options = {"k_per": k_per, "sampling_rate": rate}
            drawn(KEY, KEY, step, numbers, Subnetwork(0.5, distribution), **options)
    assert sorted(traced) == [replay.SMALL, replay.LARGE]
