"""The LSTM's loops against the cell applied token by token, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.networks.lstm import LSTMClassifier
from iterand_jax.networks.recurrence import last_hidden

TIME, FEATURES = 6, 3
LENGTHS = np.array([6, 1, 0, 4, 9], np.int32)  # 9: as 6, all that there is
every_direction = pytest.mark.parametrize("reverse", [False, True])


def of_one_text(projected, kernel, reverse):
    """The last state of a text of (tokens, 4 * features), by the cell's definition."""
    cell = hidden = jnp.zeros(kernel.shape[0], kernel.dtype)
    for sums in projected[::-1] if reverse else projected:
        enter, forget, candidate, leave = jnp.split(sums + hidden @ kernel, 4)
        cell = jax.nn.sigmoid(forget) * cell
        cell += jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
    return hidden


def token_by_token(projected, kernel, reverse):
    texts = [projected[:length, n] for n, length in enumerate(LENGTHS)]
    return jnp.stack([of_one_text(text, kernel, reverse) for text in texts])


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    projected = rng.standard_normal((TIME, len(LENGTHS), 4 * FEATURES))
    kernel = rng.standard_normal((FEATURES, 4 * FEATURES))
    return projected, kernel, rng.standard_normal((len(LENGTHS), FEATURES))


@every_direction
@pytest.mark.parametrize("on", [("cpu", 1), ("gpu", 1), ("cpu", 4)])
def test_values_and_gradients_are_those_of_the_cell(reverse, on, monkeypatch):
    """Each form of the kernel's gradient, on one CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: on[0])
    monkeypatch.setattr(jax, "device_count", lambda: on[1])
    with jax.enable_x64(True):
        projected, kernel, upstream = arrays()

        def ours(projected, kernel):
            return last_hidden(projected, kernel, LENGTHS, reverse=reverse)

        def plain(projected, kernel):
            return token_by_token(projected, kernel, reverse)

        found = [
            jax.jit(lambda *x, f=f: (f(*x), *jax.vjp(f, *x)[1](upstream)))(
                projected, kernel
            )
            for f in (ours, plain)
        ]
        for a, b in zip(*found, strict=True):
            assert a.dtype == b.dtype == np.float64
            assert np.abs(b).max() > 0.01
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        read = np.arange(TIME)[:, None] < LENGTHS
        assert np.array_equal(np.any(found[0][1] != 0, axis=-1), read)


@every_direction
def test_networks_of_several_seeds_are_those_of_each(reverse):
    """`jax.vmap` over kernels and inputs, in gradients, too."""
    stacked = [np.stack(x) for x in zip(arrays(0), arrays(1), strict=True)]

    def gradients(projected, kernel, upstream):
        def total(projected, kernel):
            hidden = last_hidden(projected, kernel, LENGTHS, reverse=reverse)
            return jnp.sum(upstream * hidden)

        return jax.grad(total, argnums=(0, 1))(projected, kernel)

    together = jax.jit(jax.vmap(gradients))(*stacked)
    for n in range(2):
        alone = jax.jit(gradients)(*(x[n] for x in stacked))
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_products_are_rounded_and_the_cell_state_is_not():
    """500 steps that each add 2**-8 of what the cell holds at first: 256 in bfloat16.

    Input and forget gates are open, so that the cell state is a sum.
    """
    sums = np.zeros((500, 1, 4), np.float32)
    sums[..., :2], sums[0, 0, 2], sums[1:, 0, 2], sums[..., 3] = 30, 30, 2**-8, 30
    kernel = jnp.zeros((1, 4))
    hidden = last_hidden(jnp.asarray(sums, jnp.bfloat16), kernel, jnp.array([500]))
    assert hidden.dtype == np.float32
    expected = np.tanh(1 + 499 * np.tanh(2**-8))
    assert hidden.item() == pytest.approx(expected, abs=2**-9)
    assert np.tanh(1) < expected - 0.2  # of a sum that stays at 1


def test_forward_mode_is_refused_with_a_way_out():
    model = LSTMClassifier(2, width=1 / 32, vocabulary_size=9)
    tokens, lengths = np.zeros((2, 3), np.int32), np.array([3, 2], np.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, lengths)

    def logits(variables):
        return model.apply(variables, tokens, lengths)

    with pytest.raises(TypeError, match=r"flax\.linen\.OptimizedLSTMCell"):
        jax.jvp(logits, (variables,), (variables,))
