"""Accumulated gradients: the mean over a batch, by a loop or a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax.training import gradients
from iterand_jax.training.gradients import accumulated

X = jnp.arange(12.0).reshape(6, 2)
Y = jnp.array([1.0, 0.0, 2.0, 1.0, 5.0, 3.0])


def loss_of(params, seen, inputs, labels):
    """The running statistic is 10 times what it was, and the examples of the part."""
    errors = inputs[0] @ params["w"] - labels
    return jnp.mean(errors**2), (jnp.sum(errors), 10 * seen + len(labels))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_loss_sums_and_gradients_are_those_of_the_batch(backend, parts, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)  # loop or scan
    params = {"w": jnp.array([0.5, -1.0])}
    loss, total, seen, gradients = jax.jit(
        lambda params: accumulated(
            loss_of, params, jnp.float32(0), ((X,), Y), parts=parts
        )
    )(params)
    errors = X @ params["w"] - Y
    np.testing.assert_allclose(loss, jnp.mean(errors**2), rtol=1e-6)
    np.testing.assert_allclose(total, jnp.sum(errors), rtol=1e-6)
    np.testing.assert_allclose(gradients["w"], 2 * X.T @ errors / 6, rtol=1e-6)
    assert seen == sum(10.0**j * (6 // parts) for j in range(parts))


@pytest.mark.parametrize("parts", [16, 32])
def test_many_parts_are_a_loop_on_a_cpu(parts, monkeypatch):
    """Its program has the size of one of two parts, and its sums are those without."""
    x = jax.random.normal(jax.random.key(0), (128, 2))
    y = jnp.arange(128.0) % 5
    params = {"w": jnp.array([0.5, -1.0])}

    def both():
        def found(params):
            batch = (x,), y
            return accumulated(loss_of, params, jnp.float32(0), batch, parts=parts)

        program = jax.make_jaxpr(found)(params)
        return len(program.eqns), jax.jit(found)(params)

    looped, ours = both()
    monkeypatch.setattr(gradients, "MOST_UNROLLED", parts)
    unrolled, expected = both()
    assert looped < 40 < 10 * parts < unrolled
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("most", [0, 8])
def test_part_j_holds_every_parts_th_example_from_j(most, monkeypatch):
    monkeypatch.setattr(gradients, "MOST_UNROLLED", most)  # a loop, or none
    seen = []

    def remember(params, stats, inputs, labels):
        jax.debug.callback(lambda x: seen.append(x.tolist()), labels, ordered=True)
        return loss_of(params, stats, inputs, labels)

    accumulated(remember, {"w": jnp.ones(2)}, jnp.float32(0), ((X,), Y), parts=2)
    jax.effects_barrier()
    assert seen == [[1, 2, 5], [0, 1, 3]]
