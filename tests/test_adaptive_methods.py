"""Laws of the methods whose sparsity or threshold adapts while they train."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iterand_jax import Subnetwork
from iterand_jax.methods import build_method, edge_popup
from tests.helpers import assert_trees_equal
from tests.test_methods import ALL, HALF, KEY, PARAMS, X, Y, train


def test_gem_miner_rounds_scores_and_freezes_the_lowest_of_all():
    method = build_method("gem_miner", Subnetwork(0.75), {"k_per": 5, "freezings": 2})
    scores = {"a": jnp.array([0.9, 0.2, 0.6, 0.55]), "b": jnp.array([0.8, 0.7, 0.4, 0])}
    weights = {"a": jnp.array([1.0, 2, 3, 4]), "b": jnp.array([5.0, 6, 7, 8])}
    assert method.params(scores, weights, 0)["a"].tolist() == [1, 0, 3, 4]
    assert method.masks(scores, weights, 0)["b"].tolist() == [1, 1, 0, 0]
    half, frozen = method.refresh(KEY, 5, scores, weights)
    assert frozen == 4
    assert half["a"].tolist() == [1, 0, 3, 0]
    assert half["b"].tolist() == [5, 6, 0, 0]
    back = {"a": scores["a"].at[3].set(1.0), "b": scores["b"]}  # it stays frozen
    assert method.params(back, half, 5)["a"].tolist() == [1, 0, 3, 0]
    assert method.masks(back, half, 5)["a"].tolist() == [1, 0, 1, 0]
    last, frozen = method.refresh(KEY, 10, back, half)
    assert frozen == 2
    assert jax.tree.leaves(jax.tree.map(jnp.sum, last)) == [1, 5]
    again, frozen = method.refresh(KEY, 15, back, last)  # after the last freezing
    assert frozen == 0
    assert_trees_equal(again, last)

    def loss(scores):
        seen = method.params(scores, half, 5)
        return jnp.sum(seen["a"] * jnp.array([1.0, 2, 3, 4])) + jnp.sum(seen["b"]) ** 2

    found = jax.grad(loss)(back)
    assert found["a"].tolist() == [1, 0, 9, 0]  # straight-through, none where frozen
    assert found["b"].tolist() == [2 * 11 * 5, 2 * 11 * 6, 0, 0]


def test_gem_miners_scores_start_uniform_and_stay_between_0_and_1():
    method = ALL["gem_miner"]
    scores, weights = method.init(KEY, PARAMS)
    for name in "ab":
        start = np.sort(np.ravel(scores[name]["kernel"]))
        even = (np.arange(start.size) + 0.5) / start.size
        assert np.abs(start - even).max() < 1.63 / start.size**0.5  # of 99 in 100
    assert_trees_equal(weights, HALF.init(KEY, PARAMS)[1])
    trained, frozen, losses, redrawn = train(method, steps=30, decay=0.0)
    assert losses[-1] < 0.9 * losses[0]
    every = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(trained)])
    assert ((every >= 0) & (every <= 1)).all()
    assert redrawn == 150  # half of the scores in two freezings
    kept = jax.tree.map(jnp.count_nonzero, method.masks(trained, frozen, 30))
    assert 0 < sum(jax.tree.leaves(kept)) <= 150


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_adaptive_threshold_is_one_that_is_trained_beside_the_scores(momentum):
    """Adding the threshold's gradient to the scores' is SGD of both, with decay."""
    with jax.enable_x64(True):
        subnetwork = Subnetwork(0.6, "kaiming_uniform", scores_dtype="float64")
        method = build_method("adaptive_threshold", subnetwork, {"threshold_rate": 2.0})
        params = jax.tree.map(lambda leaf: np.float64(leaf), PARAMS)
        scores, weights = method.init(KEY, params)
        together = dataclasses.replace(subnetwork, scope=("*",))
        rates = {"a": 2 / 180**0.5, "b": 2 / 120**0.5}

        def apart(trained):
            return {
                x: jax.tree.map(lambda s, x=x: s - trained[1][x], trained[0][x])
                for x in "ab"
            }

        def ranked(scores):  # in units of where they start, with its gradient straight
            factors = {"a": 1.0, "b": 5**0.5}
            return {
                x: jax.tree.map(
                    lambda s, x=x: s + jax.lax.stop_gradient(factors[x] * s - s),
                    scores[x],
                )
                for x in "ab"
            }

        def loss_of(seen):
            hidden = jnp.tanh(X @ seen["a"]["kernel"] + seen["a"]["bias"])
            return jnp.mean((hidden @ seen["b"]["kernel"] - Y) ** 2)

        optimizer = optax.chain(
            optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum)
        )
        both = scores, {"a": jnp.float64(0), "b": jnp.float64(0)}
        states = optimizer.init(scores), optimizer.init(both)
        for _ in range(12):
            one = jax.grad(lambda s: loss_of(method.params(s, weights, 0)))(scores)
            updates, own = optimizer.update(one, states[0], scores)
            scores = optax.apply_updates(scores, updates)
            two = jax.grad(
                lambda t: loss_of(together.prune(ranked(apart(t)), weights))
            )(both)
            two = two[0], {x: rates[x] * two[1][x] for x in "ab"}
            updates, other = optimizer.update(two, states[1], both)
            both = optax.apply_updates(both, updates)
            states = own, other
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12),
                apart(both),
                scores,
            )
        assert abs(both[1]["a"]) > 1e-3
        expected = together.masks(ranked(apart(both)))
        assert_trees_equal(method.masks(scores, weights, 0), expected)


def test_adaptive_thresholds_start_with_equal_shares_and_keep_the_sum():
    few = Subnetwork(0.9)
    common = edge_popup(dataclasses.replace(few, scope=("*",)))
    start, weights = common.init(KEY, PARAMS)  # b has the smaller scores
    assert jnp.mean(common.masks(start, weights, 0)["b"]["kernel"]) == 0
    method = build_method("adaptive_threshold", few, {"threshold_rate": 1.0})
    masks = method.masks(start, weights, 0)
    assert 0.05 < jnp.mean(masks["b"]["kernel"]) < 0.2
    assert sum(int(jnp.sum(leaf)) for leaf in jax.tree.leaves(masks)) == 30
    method = ALL["adaptive_threshold"]
    masks = method.masks(start, weights, 0)
    scores, _, _, _ = train(method)
    after = method.masks(scores, weights, 0)
    for kept in (masks, after):
        assert sum(int(jnp.sum(leaf)) for leaf in jax.tree.leaves(kept)) == 150
    assert jnp.sum(after["b"]["kernel"]) != jnp.sum(masks["b"]["kernel"])
    assert_trees_equal(
        method.ranked(start)["a"], start["a"]
    )  # of 6 inputs: as they are
    of_iterand = build_method(
        "adaptive_threshold_iterand", HALF, {"k_per": 2, "sampling_rate": 0.0}
    )
    assert_trees_equal(train(of_iterand)[:2], train(method)[:2])
    still = build_method("adaptive_threshold", HALF, {"threshold_rate": 0.0})
    assert jnp.any(train(still)[0]["b"]["kernel"] != scores["b"]["kernel"])


def test_relaxed_gates_have_the_gradient_of_a_clipped_sum_and_of_their_number():
    fields = {"gate_penalty": 0.25, "gate_noise": 0.5}
    method = build_method("relaxed_bernoulli", Subnetwork(0.0), fields)
    gates = {"w": jnp.array([2.0, 0.6, 0.5, 0.1, -3.0])}
    weights = {"w": jnp.array([1.0, -2.0, 3.0, 4.0, 5.0])}
    assert method.params(gates, weights, 0)["w"].tolist() == [1, -2, 3, 0, 0]
    many = {"w": jnp.full(20_000, 0.3)}
    ones = jax.tree.map(jnp.ones_like, many)
    seen = np.asarray(method.noisy(KEY, many, ones, 0)["w"])
    share = jax.scipy.stats.norm.cdf
    np.testing.assert_allclose(np.mean(seen == 0), share(-0.6), atol=0.02)
    np.testing.assert_allclose(np.mean(seen == 1), share(-1.4), atol=0.02)
    between = (seen > 0) & (seen < 1)
    slopes = jax.grad(lambda g: jnp.sum(method.noisy(KEY, g, ones, 0)["w"]))(many)
    np.testing.assert_array_equal(slopes["w"], between)  # no straight-through
    assert np.any(seen != method.noisy(jax.random.key(1), many, ones, 0)["w"])
    with jax.enable_x64(True):
        wide = {"w": jnp.array([2.0, 0.6, 0.5, 0.1, -3.0], jnp.float64)}
        density = jnp.exp(-2 * wide["w"] ** 2) / (0.5 * (2 * np.pi) ** 0.5)
        found = jax.grad(method.penalty)(wide)["w"]
        np.testing.assert_allclose(found, 0.25 * density, rtol=1e-12)
        expected = 0.25 * np.sum(share(2 * wide["w"]))
        np.testing.assert_allclose(method.penalty(wide), expected, rtol=1e-12)


def test_a_penalty_removes_gates():
    kept = []
    for penalty in (0.0, 0.1):
        method = build_method(
            "relaxed_bernoulli",
            dataclasses.replace(HALF, sparsity=0.0),
            {"gate_penalty": penalty},
        )
        gates, weights, _, _ = train(method, steps=30, decay=0.0)
        masks = method.masks(gates, weights, 0)
        kept.append(sum(int(jnp.sum(leaf)) for leaf in jax.tree.leaves(masks)))
    assert kept[1] < 0.8 * kept[0]
