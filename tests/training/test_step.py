import dataclasses
import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from iterand_jax import Subnetwork, edge_popup, iterand, sgd
from iterand_jax.data.feeds import Images
from iterand_jax.keys import keyed
from iterand_jax.training import step
from iterand_jax.training.schedules import cosine

METHODS = {
    "sgd": lambda: sgd(Subnetwork(distribution="kaiming_uniform")),
    "edge_popup": lambda: edge_popup(Subnetwork()),
    "iterand": lambda: iterand(Subnetwork(), k_per=2, sampling_rate=0.5),
}


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(3, use_bias=False)(x.reshape(x.shape[0], -1))


def make_task(method, learning_rate=0.1):
    return SimpleNamespace(
        network=Linear(),
        method=method,
        optimizer=step.sgd_optimizer(
            cosine(learning_rate, epochs=10, steps_per_epoch=2),
            momentum=0.9,
            weight_decay=0.01,
        ),
        train_inputs=lambda batch, step, root: ((batch.images / 255,), batch.labels),
        eval_inputs=lambda batch: ((batch[0].images / 255,), batch[0].labels, batch[1]),
    )


def init(task, root):
    return step.init_state(
        root,
        network=task.network,
        method=task.method,
        optimizer=task.optimizer,
        inputs=(jax.ShapeDtypeStruct((1, 2, 2, 1), jnp.float32),),
    )


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 2, 2, 1), dtype=np.uint8)
    return Images(jnp.asarray(images), jnp.asarray(rng.integers(0, 3, 10)))


def jitted_step(task):
    return jax.jit(
        functools.partial(step.train_step, task=task, steps_per_epoch=2, log_every=3)
    )


def batch_of(data, indices):
    return Images(data.images[indices], data.labels[indices])


@pytest.mark.parametrize("name", METHODS)
def test_each_donated_leaf_is_the_output_in_its_place(name, data):
    """In another order jax pairs leaves of one shape wrongly, and XLA copies them."""
    task, root = make_task(METHODS[name]()), jax.random.key(0)
    state = init(task, root)
    donating = jax.jit(jitted_step(task), donate_argnums=0)
    text = donating.lower(state, batch_of(data, jnp.arange(4)), root).as_text()
    aliases = re.findall(r"%arg(\d+)[^%]*?tf\.aliasing_output = (\d+)", text)
    assert aliases == [(str(n), str(n)) for n in range(len(jax.tree.leaves(state)))]


@pytest.mark.smoke
def test_sgd_update_is_pytorchs():
    """buffer = 0.9 * buffer + (g + decay * w); w -= eta * buffer, by hand."""
    optimizer = step.sgd_optimizer(
        optax.constant_schedule(0.5), momentum=0.9, weight_decay=0.1
    )
    weights, buffer = 2.0, 0.0
    params = jnp.array(weights)
    state = optimizer.init(params)
    for gradient in (1.0, -3.0, 0.5):
        updates, state = optimizer.update(jnp.array(gradient), state, params)
        params = optax.apply_updates(params, updates)
        buffer = 0.9 * buffer + (gradient + 0.1 * weights)
        weights -= 0.5 * buffer
    np.testing.assert_allclose(params, weights, rtol=1e-6)


@pytest.mark.parametrize(("norm", "factor"), [(None, 1), (10, 1), (5, 1), (1, 0.2)])
def test_a_gradient_longer_than_the_norm_is_scaled_to_it(norm, factor):
    """Over all leaves, (3, 4) has a norm of 5; the decay is added to what remains."""
    optimizer = step.sgd_optimizer(
        optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.1, clip_norm=norm
    )
    params = {"a": jnp.array([2.0]), "b": jnp.array(-1.0)}
    gradient = {"a": jnp.array([3.0]), "b": jnp.array(4.0)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [-(3 * factor + 0.2)], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -(4 * factor - 0.1), rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_one_step_is_the_gradient_of_the_mean_loss_of_its_batch(name, data):
    task = make_task(METHODS[name]())
    root = jax.random.key(0)
    state = init(task, root)
    batch = jnp.array([3, 1, 4, 0])
    after = jitted_step(task)(state, batch_of(data, batch), root)

    images = data.images[batch].reshape(4, 4) / 255

    def loss(trainable):
        kernel = task.method.params(trainable, state.frozen, 0)["Dense_0"]["kernel"]
        log_probability = jax.nn.log_softmax(images @ kernel)
        return -jnp.mean(log_probability[jnp.arange(4), data.labels[batch]])

    gradients = jax.grad(loss)(state.trainable)
    expected = jax.tree.map(
        lambda w, g: w - 0.1 * (g + 0.01 * w), state.trainable, gradients
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        after.trainable,
        expected,
    )
    np.testing.assert_allclose(after.window.loss, 4 * loss(state.trainable), rtol=1e-5)
    assert after.step == 1
    assert after.bad_step == -1
    assert jax.tree.all(jax.tree.map(jnp.array_equal, after.frozen, state.frozen))


@pytest.mark.smoke
def test_a_step_has_the_noise_the_penalty_and_the_projection_of_a_method(data):
    """One step by hand; the noise is of the step, and what is evaluated has none."""

    def noise(key):
        return jax.random.normal(key, (4, 3))

    def noisy(key, weights, frozen, step):
        return jax.tree.map(lambda w: w * noise(key), weights)

    own = dataclasses.replace(
        METHODS["sgd"](),
        noisy=noisy,
        penalty=lambda weights: 0.5 * jnp.sum(weights["Dense_0"]["kernel"] ** 3),
        project=lambda weights: jax.tree.map(lambda w: jnp.clip(w, -0.3, 0.3), weights),
    )
    task, root = make_task(own), jax.random.key(0)
    before, images = init(task, root), data.images[:4].reshape(4, 4) / 255
    state, buffer = before, 0.0
    for count in range(2):
        kernel = state.trainable["Dense_0"]["kernel"]
        factor = noise(keyed(root, "noise", count))

        def loss(kernel, factor=factor):
            log_probability = jax.nn.log_softmax(images @ (kernel * factor))
            return -jnp.mean(log_probability[jnp.arange(4), data.labels[:4]])

        gradient = jax.grad(loss)(kernel) + 1.5 * kernel**2
        after = jitted_step(task)(state, batch_of(data, jnp.arange(4)), root)
        np.testing.assert_allclose(
            after.window.loss, 4 * loss(kernel) + state.window.loss
        )
        buffer = gradient + 0.01 * kernel + 0.9 * buffer
        expected = np.clip(kernel - 0.1 * buffer, -0.3, 0.3)
        found = after.trainable["Dense_0"]["kernel"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        state = after
    assert np.any(np.abs(found) == np.float32(0.3))


def test_totals_restart_with_the_window_and_the_epoch(data):
    task = make_task(METHODS["edge_popup"]())
    root = jax.random.key(0)
    state = init(task, root)
    train = jitted_step(task)
    examples = []
    for _ in range(5):
        state = train(state, batch_of(data, jnp.arange(4)), root)
        examples.append((float(state.window.examples), float(state.epoch.examples)))
    assert examples == [(4, 4), (8, 8), (12, 4), (4, 8), (8, 4)]


def test_the_first_step_with_a_loss_that_is_not_finite_is_remembered(data):
    task = make_task(METHODS["sgd"](), learning_rate=1e38)
    root = jax.random.key(0)
    state = init(task, root)
    train = jitted_step(task)
    losses = []
    for _ in range(6):
        before = float(state.window.loss)
        state = train(state, batch_of(data, jnp.arange(4)), root)
        losses.append(float(state.window.loss) - before)
    first = next(i for i, loss in enumerate(losses) if not np.isfinite(loss))
    assert first > 0
    assert state.bad_step == first


def test_evaluation_ignores_examples_of_weight_zero(data):
    task = make_task(METHODS["edge_popup"]())
    state = init(task, jax.random.key(0))
    params = task.method.params(state.trainable, state.frozen, 0)
    evaluate = functools.partial(step.eval_step, params, {}, task=task)
    padded = evaluate((batch_of(data, np.arange(4)), jnp.array([1.0, 1.0, 1.0, 0.0])))
    three = evaluate((batch_of(data, np.arange(3)), jnp.ones(3)))
    assert padded.examples == three.examples == 3
    assert padded.correct == three.correct
    np.testing.assert_allclose(padded.loss, three.loss, rtol=1e-6)


def test_one_logit_is_the_log_odds_of_the_second_class():
    logits = jnp.array([0.5, -1.0, 3.0, -2.0])
    labels = jnp.array([1, 1, 0, 0])
    losses, correct = step.objective(logits[:, None], labels)
    both = jnp.stack([jnp.zeros(4), logits], axis=1)
    softmax_losses, softmax_correct = step.objective(both, labels)
    np.testing.assert_allclose(losses, softmax_losses, rtol=1e-6)
    assert correct.tolist() == softmax_correct.tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_in_parts_gives_the_update_of_the_whole(name, data):
    task = make_task(METHODS[name]())
    root = jax.random.key(0)
    state = init(task, root)
    batch = batch_of(data, jnp.arange(8))
    one, four = (
        jax.jit(
            functools.partial(
                step.train_step,
                task=task,
                steps_per_epoch=2,
                log_every=3,
                accumulate_steps=parts,
            )
        )(state, batch, root)
        for parts in (1, 4)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, four
    )


def test_the_loss_of_a_gpu_is_that_of_a_cpu(monkeypatch):
    """By comparison with labels instead of an index, and NaN for what is no class."""
    logits = 3 * jax.random.normal(jax.random.key(0), (7, 5))
    labels = jnp.array([0, 4, 2, 2, 1, 3, 0])

    def loss(logits):
        return jnp.sum(step.objective(logits, labels)[0] * jnp.arange(1.0, 8))

    expected = jax.value_and_grad(loss)(logits)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = jax.value_and_grad(loss)(logits)
    for ours, cpu in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, cpu, rtol=1e-6, atol=1e-6)
    losses, correct = step.objective(logits[:3], jnp.array([5, -1, 2]))
    assert jnp.isnan(losses).tolist() == [True, True, False]
    assert correct.tolist()[:2] == [False, False]
