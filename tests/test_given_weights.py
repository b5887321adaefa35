"""Masks over given weights: edge-popup keeps them, and fine-tuning keeps the mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iterand_jax import DISTRIBUTIONS, Subnetwork, edge_popup, fixed_mask, iterand, sgd
from iterand_jax.methods import unfilled_mask
from tests.helpers import assert_trees_equal

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
GIVEN = {
    "a": {
        "kernel": RNG.standard_normal((6, 30)).astype(np.float32),
        "bias": RNG.standard_normal(30).astype(np.float32),
    },
    "b": {"kernel": RNG.standard_normal((30, 4)).astype(np.float32)},
}
X, Y = (RNG.standard_normal((20, n), np.float32) for n in (6, 4))
KEEPING = Subnetwork(0.5, distribution=None)


def output(params):
    hidden = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"])
    return hidden @ params["b"]["kernel"]


def loss(params):
    return jnp.mean((output(params) - Y) ** 2)


@pytest.mark.smoke
def test_given_weights_are_kept_and_scores_are_those_of_drawn_ones():
    for init in (KEEPING.init, jax.jit(KEEPING.init)):
        scores, weights = init(KEY, GIVEN)
        assert_trees_equal(weights, GIVEN)
        assert_trees_equal(scores, Subnetwork(0.5).init(KEY, GIVEN)[0])
    pruned = KEEPING.prune(scores, weights)
    for name in "ab":
        kept = np.asarray(pruned[name]["kernel"]) != 0
        assert kept.sum() == kept.size / 2
        assert_trees_equal(pruned[name]["kernel"][kept], GIVEN[name]["kernel"][kept])


def test_edge_popup_finds_a_mask_of_given_weights_without_training_them():
    method = edge_popup(KEEPING)
    scores, weights = method.init(KEY, GIVEN)
    first = loss(method.params(scores, weights, 0))
    step = jax.jit(jax.grad(lambda s, w: loss(method.params(s, w, 0))))
    for _ in range(50):
        scores = jax.tree.map(lambda s, g: s - 0.05 * g, scores, step(scores, weights))
    assert loss(method.params(scores, weights, 0)) < 0.6 * first
    assert_trees_equal(weights, GIVEN)
    assert method.resampling is None  # so that no ticket stores a seed instead of them


def test_dense_fine_tuning_starts_from_given_weights():
    assert_trees_equal(sgd(KEEPING).init(KEY, GIVEN)[0], GIVEN)
    assert_trees_equal(unfilled_mask(KEEPING).init(KEY, GIVEN)[0], GIVEN)


@pytest.mark.parametrize(
    "resample",
    [
        lambda: KEEPING.rerandomize(KEY, *KEEPING.init(KEY, GIVEN), 0.1),
        lambda: KEEPING.rerandomize_and_count(KEY, *KEEPING.init(KEY, GIVEN), 0.0),
        lambda: iterand(KEEPING, k_per=3, sampling_rate=0.1),
        lambda: KEEPING.drawn_from,
    ],
)
def test_given_weights_are_not_resampled(resample):
    with pytest.raises(ValueError, match="distribution=None keeps the given") as error:
        resample()
    assert "\n" not in str(error.value)
    assert all(name in str(error.value) for name in ("edge_popup", *DISTRIBUTIONS))


def test_shapes_without_values_are_refused_as_given_weights():
    shapes = {"kernel": jax.ShapeDtypeStruct((4, 2), np.float32)}
    assert Subnetwork().init(KEY, shapes)[1]["kernel"].shape == (4, 2)
    with pytest.raises(ValueError, match="leaf 'kernel' has a shape and no values"):
        KEEPING.init(KEY, shapes)
    _, weights = jax.eval_shape(KEEPING.init, KEY, shapes)  # shapes are valid here
    assert weights["kernel"].shape == (4, 2)


OPTIMIZERS = {
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "weight decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "amsgrad": optax.amsgrad(0.01),
    "lamb": optax.lamb(0.01),
    "lion": optax.lion(0.01),
    "rmsprop": optax.rmsprop(0.01, momentum=0.9, centered=True),
    "adagrad": optax.adagrad(0.1),
    "adafactor": optax.adafactor(0.01),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01)),
    "accumulated": optax.MultiSteps(optax.adam(0.01), 2),
    "centered gradients": optax.chain(optax.centralize(), optax.sgd(0.1)),
    "noise": optax.noisy_sgd(0.1, key=0),
}
MOVES_PRUNED_WEIGHTS = {"centered gradients", "noise"}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("state_of", ["masked", "dense"])
def test_a_fixed_mask_holds_whatever_the_optimizer_does(name, state_of):
    optimizer = OPTIMIZERS[name]
    masks = KEEPING.masks(KEEPING.init(KEY, GIVEN)[0])
    method = fixed_mask(masks)

    @functools.partial(jax.jit, static_argnums=0)
    def step(loss_of, weights, state):
        gradients = jax.grad(loss_of)(weights)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    def loss_of(weights):
        return loss(method.params(weights, masks, 0))

    state = optimizer.init(GIVEN)
    if state_of == "dense":  # an optimizer state continued from dense pretraining
        _, state = step(loss, GIVEN, state)
    weights, _ = method.init(KEY, GIVEN)
    first = loss_of(weights)
    for _ in range(8):
        weights, state = step(loss_of, weights, state)
        params = method.params(weights, masks, 0)
        for layer in "ab":
            pruned = np.asarray(masks[layer]["kernel"]) == 0
            assert not np.any(params[layer]["kernel"][pruned])
            if state_of == "masked" and name not in MOVES_PRUNED_WEIGHTS:
                assert not np.any(weights[layer]["kernel"][pruned])
    for layer in "ab":
        moved = np.asarray(weights[layer]["kernel"] != GIVEN[layer]["kernel"])
        assert moved[np.asarray(masks[layer]["kernel"]) == 1].mean() > 0.9
    assert np.any(weights["a"]["bias"] != GIVEN["a"]["bias"])
    if name != "noise":
        assert loss_of(weights) < first
