"""The array API: literal layers, and an LSTM against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import layers, topk_mask

jit_mask = jax.jit(topk_mask)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.smoke
def test_a_literal_dense_layer():
    x = jnp.array([[1.0, 10.0], [100.0, 1000.0]])
    weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    scores = jnp.array([[0.1, 0.4], [0.3, -0.9]])
    result = layers.dense(x, scores, weights, sparsity=0.5)
    np.testing.assert_array_equal(result, [[30, 2], [3000, 200]])


@pytest.mark.smoke
def test_a_literal_convolution():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    weights = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    scores = jnp.array([[0.9, -0.1], [0.0, 0.5]]).reshape(2, 2, 1, 1)
    conv = functools.partial(layers.conv, x, scores, weights, sparsity=0.5)
    np.testing.assert_array_equal(
        conv(padding="VALID")[0, :, :, 0], [[4000, 5001], [7003, 8004]]
    )
    np.testing.assert_array_equal(conv(strides=(2, 2))[0, :, :, 0], [[4000, 2], [6, 8]])


def test_the_four_gates_of_an_lstm_are_ranked_together():
    weights = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    scores = jnp.array([[0.1, 0.4, 0.3, 0.2]])  # forget and cell are kept
    nothing = jnp.zeros((1, 4))
    carry = (jnp.array([0.5]), jnp.array([0.0]))
    step = jax.jit(functools.partial(layers.lstm_cell, sparsity=0.5))
    arrays = (scores, weights, nothing, nothing)
    (cell, hidden), output = step(carry, jnp.ones(1), *arrays)
    expected = 0.5 / (1 + np.exp(-2)) + 0.5 * np.tanh(3)  # the other gates are half
    np.testing.assert_allclose(cell, [expected], rtol=1e-6)
    np.testing.assert_allclose(hidden, [0.5 * np.tanh(expected)], rtol=1e-6)
    np.testing.assert_array_equal(output, hidden)


def lstm_arguments(inputs=5, hidden=3):
    shapes = [(inputs, 4 * hidden)] * 2 + [(hidden, 4 * hidden)] * 2
    return [normal(i, *shape) for i, shape in enumerate(shapes)]


def test_an_lstm_agrees_with_numpy():
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    arguments = lstm_arguments()
    xs, carry = normal(5, 7, 2, 5), (normal(6, 2, 3), normal(7, 2, 3))

    @jax.jit
    def outputs(carry, xs):
        step = functools.partial(layers.lstm_cell, sparsity=0.4)
        return jax.lax.scan(lambda c, x: step(c, x, *arguments), carry, xs)

    ws, w, us, u = (np.asarray(a, np.float64) for a in arguments)
    w = w * (ws >= np.sort(ws, axis=None)[24])  # 0.4 of 60
    u = u * (us >= np.sort(us, axis=None)[14])  # 0.4 of 36, rounded
    c, h = (np.asarray(a, np.float64) for a in carry)
    expected = []
    for x in np.asarray(xs, np.float64):
        i, f, g, o = np.split(x @ w + h @ u, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        expected.append(h)
    (cell, hidden), hs = outputs(carry, xs)
    np.testing.assert_allclose(hs, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cell, c, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(hidden, hs[-1])


def pruned_lstm(x, ws, w, us, u):
    carry = (x[:, :3], x[:, 3:])
    (cell, hidden), _ = layers.lstm_cell(carry, x, ws, w, us, u, sparsity=0.5)
    return jnp.sin(cell) + hidden**2


def plain_lstm(x, w, u):
    i, f, g, o = jnp.split(x @ w + x[:, 3:] @ u, 4, axis=1)
    cell = jax.nn.sigmoid(f) * x[:, :3] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jnp.sin(cell) + (jax.nn.sigmoid(o) * jnp.tanh(cell)) ** 2


def plain_conv(x, w):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
    return jnp.sin(y)


CASES = {  # the layer, the same without pruning, and x, scores, weights, ...
    "dense": (
        lambda x, s, w: jnp.sin(layers.dense(x, s, w, sparsity=0.5)),
        lambda x, w: jnp.sin(x @ w),
        [normal(0, 3, 6), normal(1, 6, 5), normal(2, 6, 5)],
    ),
    "conv": (
        lambda x, s, w: jnp.sin(layers.conv(x, s, w, sparsity=0.5)),
        plain_conv,
        [normal(0, 2, 5, 5, 3), normal(1, 3, 3, 3, 4), normal(2, 3, 3, 3, 4)],
    ),
    "lstm_cell": (
        pruned_lstm,
        plain_lstm,
        [normal(5, 2, 6), *lstm_arguments(inputs=6)],
    ),
}


def gradients(layer, arrays):
    positions = tuple(range(len(arrays)))
    return jax.jit(jax.grad(lambda *a: jnp.sum(layer(*a)), positions))(*arrays)


@pytest.mark.parametrize("name", list(CASES))
def test_gradients_reach_the_inputs_and_the_scores_straight_through(name):
    pruned, plain, (x, *arrays) = CASES[name]
    scores, weights = arrays[::2], arrays[1::2]
    effective = [w * jit_mask(s, 0.5) for w, s in zip(weights, scores, strict=True)]
    by_x, *by_arrays = gradients(pruned, [x, *arrays])
    expected_by_x, *by_effective = gradients(plain, [x, *effective])
    np.testing.assert_allclose(by_x, expected_by_x, rtol=1e-4, atol=1e-5)
    for i, by_weight in enumerate(by_effective):
        np.testing.assert_array_equal(by_arrays[2 * i + 1], np.zeros(by_weight.shape))
        expected = np.asarray(by_weight) * weights[i]
        assert (expected != 0).all()
        np.testing.assert_allclose(by_arrays[2 * i], expected, 1e-4, 1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_bfloat16_activations_are_accepted(name):
    layer, _, (x, *arrays) = CASES[name]
    result = jax.jit(layer)(x.astype(jnp.bfloat16), *arrays)
    expected = jax.jit(layer)(x, *arrays)
    np.testing.assert_allclose(np.asarray(result, np.float32), expected, atol=0.1)


def test_weights_and_scores_of_different_shapes_are_named():
    with pytest.raises(
        ValueError, match=r"weights \(2, 3\) and scores \(3, 2\) differ"
    ):
        layers.dense(jnp.ones(2), jnp.ones((3, 2)), jnp.ones((2, 3)), sparsity=0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\); got 1"):
        layers.dense(jnp.ones(2), jnp.ones((2, 3)), jnp.ones((2, 3)), sparsity=1)
