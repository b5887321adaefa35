"""Leaves that no rule names: init warns of those that may be linear maps."""

import warnings

import equinox
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from iterand_jax import (
    DEFAULT_RULES,
    OUTPUTS_FIRST_RULES,
    Rule,
    Subnetwork,
    rules_of,
)

KEY = jax.random.key(0)
KERNEL = {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(8)}


def warned(tree, rules=DEFAULT_RULES) -> list[str]:
    """The warnings of an initialization, as text."""
    with warnings.catch_warnings(action="always", record=True) as caught:
        Subnetwork(rules=rules).init(KEY, tree)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("w", (4, 8)), ("lora_a", (8, 2)), ("pos", (1, 7, 8)), ("filters", (3, 3, 4, 8))],
)
def test_a_leaf_of_several_axes_that_no_rule_names_is_reported(name, shape):
    (message,) = warned({"dense": KERNEL, "mine": {name: jnp.zeros(shape)}})
    assert f"unpruned and frozen: mine/{name} {shape};" in message
    assert f"Rule('mine/{name}', False)" in message
    assert "\n" not in message


def test_many_are_one_warning():
    tree = {"dense": KERNEL} | {f"w{n}": jnp.zeros((2, 3)) for n in range(7)}
    (message,) = warned(tree)
    assert "w0 (2, 3), w1 (2, 3)" in message
    assert "w4 (2, 3) and 2 more;" in message


@pytest.mark.parametrize(
    "tree",
    [
        {"gain": jnp.ones(8)},
        {"gain": jnp.ones((1, 8, 1))},
        {"norm": {"scale": jnp.ones((7, 8)), "bias": jnp.ones((7, 8))}},
        {"norm": {"scale": jnp.ones((7, 8))}},
        {"norm": {"gamma": jnp.ones((7, 8)), "bias": jnp.ones((7, 8))}},
        {"other": {"bias": jnp.ones((7, 8))}},
    ],
)
def test_scales_and_biases_are_not(tree):
    assert not warned({"dense": KERNEL} | tree)


@pytest.mark.parametrize("rule", [Rule("w", False), Rule("w", True)])
def test_a_rule_for_the_leaf_answers_the_warning(rule):
    tree = {"dense": KERNEL, "w": jnp.zeros((4, 8))}
    assert warned(tree)
    assert not warned(tree, (rule, *DEFAULT_RULES))


def test_rules_of_ones_own_have_said_what_they_leave():
    tree = {"dense": KERNEL, "w": jnp.zeros((4, 8))}
    assert not warned(tree, (Rule("*/kernel", True), Rule("*", False)))


class Scaled(nn.Module):
    """A dense layer with a scale of its own."""

    @nn.compact
    def __call__(self, x, _):
        gain = self.param("gain", nn.initializers.ones, (8,))
        return nn.LayerNorm()(nn.Dense(8)(x)) * gain, None


class Network(nn.Module):
    """Layers with scales and biases of several axes, and two leaves of its own."""

    @nn.compact
    def __call__(self, x):
        x = x + self.param("pos", nn.initializers.normal(0.02), (1, 7, 8))
        x = nn.MultiHeadDotProductAttention(num_heads=2)(x)
        x = nn.LayerNorm(feature_axes=(-2, -1), reduction_axes=(-2, -1))(x)
        axes, keys = {"params": 0}, {"params": True}
        scan = nn.scan(Scaled, variable_axes=axes, split_rngs=keys, length=3)
        x, _ = scan()(x, None)
        return x @ self.param("w", nn.initializers.lecun_normal(), (8, 5))


@pytest.mark.slow
def test_of_a_linen_module_only_its_own_leaves_are_reported():
    x = jnp.ones((1, 7, 8))
    params = Network().init(KEY, x)["params"]
    (message,) = warned(params, rules_of(Network(), x))
    assert "frozen: pos (1, 7, 8), w (8, 5);" in message
    named = (Rule("pos", False), Rule("w", True), *rules_of(Network(), x))
    assert not warned(params, named)


class Adapted(equinox.Module):
    """A linear layer of Equinox with a low-rank change."""

    linear: equinox.nn.Linear
    norm: equinox.nn.LayerNorm
    down: jax.Array
    up: jax.Array


@pytest.mark.parametrize("read", [True, False])
def test_of_an_equinox_model_too(read):
    model = Adapted(
        equinox.nn.Linear(4, 8, key=KEY),
        equinox.nn.LayerNorm((4, 8, 8)),
        jnp.zeros((2, 4)),
        jnp.zeros((8, 2)),
    )
    arrays = equinox.filter(model, equinox.is_array)
    (message,) = warned(arrays, rules_of(model) if read else OUTPUTS_FIRST_RULES)
    assert "frozen: down (2, 4), up (8, 2);" in message


class Attentive(nnx.Module):
    """Attention of NNX, with biases of several axes, and two leaves of its own."""

    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.w = nnx.Param(jnp.ones((8, 3)))
        self.down = nnx.LoRAParam(jnp.ones((8, 2)))


def test_of_an_nnx_model_too():
    model = Attentive(nnx.Rngs(0))
    params, rules = nnx.state(model, nnx.Param), rules_of(model)
    (message,) = warned(params, rules)
    assert "frozen: down (8, 2), w (8, 3);" in message
    assert not warned(params, (Rule("down", False), Rule("w", True), *rules))
