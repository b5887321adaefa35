"""The Linen API equals the array API and the tree API, bit for bit.

All three multiply the same weights by the same masks and apply the same operation, so
outputs are compared exactly; gradients too, where the summation is one product.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax import Subnetwork, layers, linen

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 6, 6, 3), np.float32)
CARRY = tuple(RNG.standard_normal((2, 2, 4), np.float32))
SPARSITY = 0.3
APIS = {  # the Linen module, its inputs, plain Flax of the tree API, the array API
    "dense": (
        linen.Dense(7, sparsity=SPARSITY),
        (IMAGES,),
        nn.Dense(7, use_bias=False),
        layers.dense,
    ),
    "conv": (
        linen.Conv(7, strides=(2, 1), padding="VALID", sparsity=SPARSITY),
        (IMAGES,),
        nn.Conv(7, (3, 3), strides=(2, 1), padding="VALID", use_bias=False),
        functools.partial(layers.conv, strides=(2, 1), padding="VALID"),
    ),
}


@pytest.mark.parametrize("name", list(APIS))
def test_the_three_apis_give_the_same_outputs_and_gradients(name):
    module, inputs, plain, layer = APIS[name]
    variables = jax.jit(module.init)(KEY, *inputs)
    scores, weights = variables["params"], variables["weights"]
    subnetwork = Subnetwork(SPARSITY)

    def by_linen(scores, x):
        return module.apply({"params": scores, "weights": weights}, x)

    def by_tree(scores, x):
        return plain.apply({"params": subnetwork.prune(scores, weights)}, x)

    def by_array(scores, x):
        return layer(x, scores["kernel"], weights["kernel"], sparsity=SPARSITY)

    def output_and_gradients(apply):
        gradient = jax.grad(lambda s, x: jnp.sum(jnp.sin(apply(s, x))), (0, 1))
        return jax.jit(lambda s, x: (apply(s, x), gradient(s, x)))(scores, *inputs)

    expected = output_and_gradients(by_array)
    assert np.abs(expected[0]).max() > 0.1
    for apply in (by_linen, by_tree):
        jax.tree.map(
            np.testing.assert_array_equal, output_and_gradients(apply), expected
        )


def test_the_three_apis_agree_on_an_lstm():
    module = linen.LSTMCell(4, sparsity=SPARSITY)
    x = IMAGES[:, 0, 0]
    variables = jax.jit(module.init)(KEY, CARRY, x)
    scores, weights = variables["params"], variables["weights"]
    names = ("input/kernel", "recurrent/kernel")
    arrays = [tree[name] for name in names for tree in (scores, weights)]
    expected = jax.jit(functools.partial(layers.lstm_cell, sparsity=SPARSITY))(
        CARRY, x, *arrays
    )
    output = jax.jit(module.apply)(variables, CARRY, x)
    jax.tree.map(np.testing.assert_array_equal, output, expected)

    # Flax has a matrix per gate: its sums may be in another order.
    pruned = jax.jit(Subnetwork(SPARSITY).prune)(scores, weights)
    split = [jnp.split(pruned[name], 4, axis=1) for name in names]
    bias = jnp.zeros(4)
    gates = {f"i{g}": {"kernel": w} for g, w in zip("ifgo", split[0], strict=True)}
    for g, w in zip("ifgo", split[1], strict=True):
        gates[f"h{g}"] = {"kernel": w, "bias": bias}
    by_flax = nn.OptimizedLSTMCell(4).apply({"params": gates}, CARRY, x)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        by_flax,
        expected,
    )


@pytest.mark.smoke
def test_collections_hold_weights_and_scores_of_the_same_paths():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = linen.Conv(4, distribution="kaiming_uniform")(x)
            return linen.Dense(3)(x.reshape(x.shape[0], -1))

    variables = jax.jit(Model().init)(KEY, IMAGES)
    assert variables.keys() == {"params", "weights"}
    scores, weights = variables["params"], variables["weights"]
    assert jax.tree.map(jnp.shape, weights) == jax.tree.map(jnp.shape, scores)
    for layer, fan_in in (("Conv_0", 27), ("Dense_0", 144)):
        s, w = (np.asarray(tree[layer]["kernel"]) for tree in (scores, weights))
        assert np.abs(s).max() <= math.sqrt(6 / fan_in) * (1 + 1e-6)
        assert np.mean(s**2) == pytest.approx(2 / fan_in, rel=0.3)
        assert np.mean(w**2) == pytest.approx(2 / fan_in, rel=0.3)
        assert np.mean(w == s) < 0.05
    np.testing.assert_allclose(
        np.abs(weights["Dense_0"]["kernel"]), math.sqrt(2 / 144), rtol=1e-6
    )
    new = jax.jit(Subnetwork(0.5).rerandomize)(KEY, scores, weights, 1.0)
    apply = jax.jit(Model().apply)
    np.testing.assert_array_equal(
        apply({"params": scores, "weights": new}, IMAGES), apply(variables, IMAGES)
    )
    assert np.mean(new["Dense_0"]["kernel"] != weights["Dense_0"]["kernel"]) > 0.2


def test_a_model_with_other_modules_is_rerandomized():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.LayerNorm()(nn.Dense(30)(x))
            return linen.Dense(30)(x)

    variables = jax.jit(Model().init)(KEY, IMAGES)
    redraw = jax.jit(functools.partial(linen.rerandomize, Subnetwork(0.5)))
    new = redraw(KEY, variables, sampling_rate=1.0)
    assert jax.tree.structure(new) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, new["params"], variables["params"])
    apply = jax.jit(Model().apply)
    np.testing.assert_array_equal(apply(new, IMAGES), apply(variables, IMAGES))
    before, after = (v["weights"]["Dense_1"]["kernel"] for v in (variables, new))
    assert np.mean(before != after) > 0.2


def test_an_lstm_is_scanned_over_time_with_one_set_of_weights():
    scanned = nn.scan(
        linen.LSTMCell,
        variable_broadcast=("params", "weights"),
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )(4)
    xs = IMAGES[:, 0]  # (2, 6, 3)
    variables = jax.jit(scanned.init)(KEY, CARRY, xs)
    assert variables["weights"]["input/kernel"].shape == (3, 16)
    last, hidden = jax.jit(scanned.apply)(variables, CARRY, xs)
    assert hidden.shape == (2, 6, 4)
    carry = CARRY
    step = jax.jit(linen.LSTMCell(4).apply)
    for t in range(6):
        carry, output = step(variables, carry, xs[:, t])
        np.testing.assert_allclose(hidden[:, t], output, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(last[1], hidden[:, -1])


def test_an_unknown_distribution_is_named():
    with pytest.raises(ValueError, match="unknown distribution 'zeros'; possible"):
        linen.Dense(3, distribution="zeros").init(KEY, jnp.ones((1, 2)))
