"""Dead channels have no effect: literal cases, path counts, and every network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax import Subnetwork
from iterand_jax.analysis.layers import inspect_layers
from iterand_jax.analysis.liveness import live_weights
from iterand_jax.networks import build_network
from iterand_jax.networks.lstm import gates_of
from iterand_jax.subnetwork import apply_masks
from iterand_jax.trees import leaves_of
from tests import helpers

IMAGE = (jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),)
TEXT = tuple(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, 9), (1,)))


class Chain(nn.Module):
    """Layers of 6, 5 and 4 outputs, or convolutions of as many channels."""

    convolutional: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        if not self.convolutional:
            x = x.reshape(len(x), -1)
        for index, outputs in enumerate((6, 5, 4)):
            layer = nn.Conv(outputs, (3, 3)) if self.convolutional else None
            layer = layer or nn.Dense(outputs)
            x = layer(x) if index == 2 else nn.relu(layer(x))
        return x


def random_masks(model, inputs, share, seed):
    """Masks of kernels and embeddings, each weight kept with this probability."""
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.random(leaf.shape) < share if leaf.ndim > 1 else None, params
    )


def test_a_filter_is_dead_with_the_filters_that_only_it_feeds_or_that_only_feed_it():
    """Hidden unit 1 of the first layer has no reader, unit 2 of the second no input."""
    masks = {f"Dense_{i}": {"bias": None} for i in range(3)}
    masks["Dense_0"]["kernel"] = np.ones((3, 6), int)
    masks["Dense_1"]["kernel"] = np.ones((6, 5), int)
    masks["Dense_2"]["kernel"] = np.ones((5, 4), int)
    masks["Dense_1"]["kernel"][1] = 0
    masks["Dense_1"]["kernel"][:, 2] = 0
    live = live_weights(Chain(), (jax.ShapeDtypeStruct((1, 3, 1, 1), "f4"),), masks)
    layers = inspect_layers(Subnetwork(), masks, masks, live=live)
    dead = [(layer.dead_inputs, layer.dead_outputs) for layer in layers]
    assert dead == [(0, 1), (1, 1), (1, 0)]
    assert [layer.removable for layer in layers] == [3, 5 + 6 - 1, 4]
    # Those that feed the unread unit, and those that read the silent one.
    assert [layer.removable_kept for layer in layers] == [3, 0, 4]


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_live_where_ways_lead_through_them(convolutional, seed):
    model = Chain(convolutional)
    inputs = (jax.ShapeDtypeStruct((1, 6, 6, 2), jnp.float32),)
    share = 0.04 if convolutional else 0.2
    masks = random_masks(model, inputs, share, seed)
    kept = [mask for path, mask in leaves_of(masks).items() if "kernel" in path]
    pairs = [mask.reshape(-1, *mask.shape[-2:]).any(0).astype(int) for mask in kept]
    forward = [np.ones(len(pairs[0]), int)]
    for pair in pairs:
        forward.append((forward[-1] @ pair > 0).astype(int))
    backward = [np.ones(4, int)]
    for pair in reversed(pairs):
        backward.insert(0, (pair @ backward[0] > 0).astype(int))
    live = list(live_weights(model, inputs, masks).values())
    for found, mask, before, after in zip(
        live, kept, forward[:-1], backward[1:], strict=True
    ):
        expected = mask & (before[:, None] * after > 0)
        np.testing.assert_array_equal(found, expected)
    assert any((mask & ~found).any() for mask, found in zip(kept, live, strict=True))


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("conv2", 0.1),
        ("lstm", 0.1),
        *((name, 0.02) for name in helpers.ONE_OF_A_KIND),
    ],
)
def test_the_logits_need_no_dead_channel(name, share):
    """Weights of any sign: zeros in place of all that is dead leave every bit."""
    is_text = "lstm" in name
    inputs = TEXT if is_text else IMAGE
    model = build_network(name, num_classes=10, width=0.0625)
    masks = random_masks(model, inputs, share, seed=1)
    live = live_weights(model, inputs, masks)
    variables = jax.jit(model.init)(jax.random.key(2), *map(zeros, inputs))
    params = apply_masks(variables["params"], masks)

    def alive(key_path, weights):
        path = "/".join(entry.key for entry in key_path)
        groups = weights.reshape(*weights.shape[:-1], gates_of(path), -1)
        of = live[path].reshape(groups.shape)
        spatial = tuple(range(groups.ndim - 3))
        outputs = of.any((*spatial, -3, -2))
        into = of.any((*spatial, -2, -1))
        return (groups * into[:, None, None] * outputs).reshape(weights.shape)

    without = jax.tree_util.tree_map_with_path(alive, params)
    rng = np.random.default_rng(3)
    if is_text:
        tokens = rng.integers(0, 25_002, (4, 30))
        batch = tokens, np.array([30, 3, 17, 1])
    else:
        batch = (rng.standard_normal((4, *inputs[0].shape[1:])).astype(np.float32),)
    logits = jax.jit(
        lambda params: model.apply({**variables, "params": params}, *batch)
    )
    np.testing.assert_array_equal(logits(without), logits(params))
    changed = jax.tree.map(lambda a, b: (a != b).sum(), without, params)
    removed = sum(jax.tree.leaves(changed))
    assert removed > 0 or share > 0.02


def zeros(abstract):
    return jnp.zeros(abstract.shape, abstract.dtype)


def test_feature_vectors_are_no_texts():
    """(N, F) floats, and a network without a dtype: the second unit reads nothing."""

    class Perceptron(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(2)(x))
            return nn.Dense(1)(x)

    masks = {
        "Dense_0": {"kernel": np.array([[1, 0], [1, 0], [0, 0]]), "bias": None},
        "Dense_1": {"kernel": np.array([[1], [1]]), "bias": None},
    }
    inputs = [jax.ShapeDtypeStruct((1, 3), jnp.float32)]
    live = live_weights(Perceptron(), inputs, masks)
    assert live["Dense_0/kernel"].tolist() == [
        [True, False],
        [True, False],
        [False] * 2,
    ]
    assert live["Dense_1/kernel"].tolist() == [[True], [False]]
