"""What has no forward-mode derivative says so, and what to do works."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from iterand_jax.networks import build_network
from iterand_jax.networks.batch_norm import BatchNorm
from iterand_jax.networks.cpu.convolution import Conv
from iterand_jax.networks.recurrence import last_hidden
from iterand_jax.networks.reverse_mode import reverse_mode_only

KEY = jax.random.key(0)
X = jnp.arange(3.0)


def ways_out(layer):
    return (
        rf"^{layer} has no forward-mode derivative .*: take jax\.grad, jax\.vjp, .* or "
        rf"replace it by flax\.linen\.{layer}(\n|$)"  # JAX appends a note
    )


@jax.custom_vjp
def custom_sin(x):
    return jnp.sin(x)


custom_sin.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


def sin(x):
    return custom_sin(reverse_mode_only(x, "Conv"))


def along(f):
    return jax.jvp(f, (X,), (X,))


def repeated(f):
    return lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, length=3)[0]


FORWARD = {
    "jvp": lambda: along(sin),
    "jvp of jit": lambda: along(jax.jit(sin)),
    "jit of jvp": lambda: jax.jit(lambda x: jax.jvp(sin, (x,), (x,)))(X),
    "jvp of vmap": lambda: along(jax.vmap(sin)),
    "vmap of jvp": lambda: jax.vmap(lambda x: jax.jvp(sin, (x,), (x,)))(X),
    "jvp of remat": lambda: along(jax.checkpoint(sin)),
    "jvp of scan": lambda: along(repeated(sin)),
    "grad of jvp": lambda: jax.grad(lambda x: jax.jvp(sin, (x,), (x,))[1].sum())(X),
    "jacfwd": lambda: jax.jacfwd(sin)(X),
    "linearize": lambda: jax.linearize(sin, X)[1](X),
}


@pytest.mark.parametrize("mode", FORWARD)
def test_forward_mode_is_refused_in_one_line(mode):
    with pytest.raises(TypeError, match=ways_out("Conv")) as error:
        FORWARD[mode]()
    assert "\n" not in error.value.args[0]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_reverse_mode_is_untouched(transform):
    def total(x):
        return transform(sin)(x).sum()

    np.testing.assert_allclose(jax.grad(total)(X), jnp.cos(X))
    hessian = -jnp.sin(X)
    np.testing.assert_allclose(jax.jvp(jax.grad(total), (X,), (X,))[1], hessian * X)
    np.testing.assert_allclose(jax.grad(lambda x: jax.grad(total)(x).sum())(X), hessian)
    np.testing.assert_allclose(jax.hessian(total)(X), jnp.diag(hessian))


def test_reverse_mode_passes_loops_shards_and_replicas():
    expected = jax.grad(lambda x: repeated(jnp.sin)(x).sum())(X)
    np.testing.assert_allclose(jax.grad(lambda x: repeated(sin)(x).sum())(X), expected)
    mesh = jax.make_mesh((1,), ("x",), (jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(sin, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    np.testing.assert_allclose(jax.grad(lambda x: sharded(x).sum())(X), jnp.cos(X))
    of_each = jax.pmap(jax.grad(lambda x: sin(x).sum()))
    np.testing.assert_allclose(of_each(X[None])[0], jnp.cos(X))


def test_a_program_of_training_has_no_trace_of_it():
    program = jax.jit(jax.grad(lambda x: sin(x).sum())).lower(X).as_text()
    plain = jax.jit(jax.grad(lambda x: custom_sin(x).sum())).lower(X).as_text()
    names = re.compile(r"@\w+")
    assert names.sub("@", program) == names.sub("@", plain)
    assert "reverse_mode" not in program


def of_conv(layer):
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    model = layer(5, (3, 3))
    variables = model.init(KEY, images)
    return lambda x: model.apply(variables, x), images


def of_norm(layer):
    images = jax.random.normal(KEY, (4, 8, 8, 3))
    model = layer()
    variables = model.init(KEY, images)
    return lambda x: model.apply(variables, x, mutable=["batch_stats"])[0], images


def of_lstm(loop):
    kernel = jax.random.normal(KEY, (3, 12))
    return lambda x: loop(x, kernel), jax.random.normal(KEY, (5, 2, 12))


def scanned(projected, kernel):
    """The last hidden state of an LSTM by a scan that JAX differentiates."""

    def step(state, sums):
        cell, hidden = state
        enter, forget, candidate, leave = jnp.split(sums + hidden @ kernel, 4, axis=-1)
        cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(candidate)
        return (cell, nn.sigmoid(leave) * jnp.tanh(cell)), None

    nothing = jnp.zeros((projected.shape[1], len(kernel)))
    return jax.lax.scan(step, (nothing, nothing), projected)[0][1]


LAYERS = {
    "Conv": lambda: (of_conv(Conv), of_conv(nn.Conv)),
    "BatchNorm": lambda: (
        of_norm(BatchNorm),
        of_norm(lambda: nn.BatchNorm(use_running_average=False)),
    ),
    "OptimizedLSTMCell": lambda: (
        of_lstm(lambda x, kernel: last_hidden(x, kernel, jnp.full(x.shape[1], len(x)))),
        of_lstm(scanned),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_vjp_of_a_vjp_is_the_forward_derivative(layer, monkeypatch):
    """As the error says; its other ways out have tests of their own."""
    platform = "cpu" if layer == "Conv" else "gpu"
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    (ours, images), (flaxs, _) = LAYERS[layer]()
    direction = jax.random.normal(jax.random.fold_in(KEY, 1), images.shape)
    with pytest.raises(TypeError, match=ways_out(layer)):
        jax.jvp(ours, (images,), (direction,))
    outputs, transposed = jax.vjp(ours, images)
    _, of_direction = jax.vjp(transposed, jnp.zeros_like(outputs))
    expected = jax.jvp(flaxs, (images,), (direction,))[1]
    np.testing.assert_allclose(
        of_direction((direction,))[0], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ["conv2", "vgg11", "resnet20", "lstm"])
def test_every_network_has_forward_mode_or_says_what_to_do(name, platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    texts = jnp.ones((2, 5), jnp.int32), jnp.full(2, 5)
    inputs = texts if name == "lstm" else (jnp.zeros((2, 32, 32, 3)),)
    model = build_network(name, num_classes=10, width=0.1)
    variables = jax.eval_shape(lambda: model.init(KEY, *inputs))

    def forward(variables):
        def apply(params):
            given = variables | {"params": params}
            rngs = {"dropout": KEY}
            return model.apply(
                given, *inputs, train=True, mutable=["batch_stats"], rngs=rngs
            )[0]

        return jax.jvp(apply, (variables["params"],), (variables["params"],))[1]

    layers = "Conv", "BatchNorm", "OptimizedLSTMCell"
    if (name, platform) == ("conv2", "gpu"):
        assert jax.jit(forward).lower(variables).out_info.shape == (2, 10)
    else:
        with pytest.raises(TypeError, match=ways_out(f"({'|'.join(layers)})")):
            jax.jit(forward).lower(variables)
