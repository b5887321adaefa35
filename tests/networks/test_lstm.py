"""LSTM and BiLSTM: padding, directions, dropout, and the joint choice over gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork, layers, rules_of
from iterand_jax.data import text
from iterand_jax.networks import build_network
from iterand_jax.networks.lstm import LSTMClassifier

KEY = jax.random.key(0)
WORDS, TIME = 30, 7
LENGTHS = np.array([7, 1, 4], np.int32)
TOKENS = np.random.default_rng(0).integers(0, WORDS, (3, TIME))
every_direction = pytest.mark.parametrize("bidirectional", [False, True])


def make(**options):
    options = {"num_classes": 1, "width": 1 / 32, "vocabulary_size": WORDS} | options
    return LSTMClassifier(**options)


def normal(model, seed=1, size=0.7):
    """Parameters of a model, all drawn."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, KEY, TOKENS, LENGTHS)["params"]
    return jax.tree.map(
        lambda leaf: size * rng.standard_normal(leaf.shape, np.float32), shapes
    )


def logits_of(model, params, tokens=TOKENS, lengths=LENGTHS):
    return jax.jit(model.apply)({"params": params}, tokens, lengths)


@every_direction
def test_pruned_it_is_the_pruned_cell_of_the_array_door(bidirectional):
    """Token by token, without padding: one top-k over the four gates of a matrix."""
    model, sparsity = make(bidirectional=bidirectional), 0.4
    scores, weights = normal(model, 2), normal(model, 1)
    pruned = Subnetwork(sparsity).prune(scores, weights)

    def pairs(direction):
        matrices = ((direction, "input"), (direction, "recurrent"))
        return [tree[d][m]["kernel"] for d, m in matrices for tree in (scores, weights)]

    cell = jax.jit(layers.lstm_cell, static_argnames="sparsity")
    expected = []
    for tokens, length in zip(TOKENS, LENGTHS, strict=True):
        x = pruned["Embed_0"]["embedding"][tokens[:length]]
        last = []
        for direction, xs in (("Forward", x), ("Backward", x[::-1])):
            carry = (jnp.zeros(8), jnp.zeros(8))
            if direction in weights:
                for one in xs:
                    carry, _ = cell(carry, one, *pairs(direction), sparsity=sparsity)
                last.append(carry[1])
        expected.append(jnp.concatenate(last) @ pruned["Dense_0"]["kernel"])
    logits = logits_of(model, pruned)
    assert np.std(logits) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@every_direction
def test_padding_changes_nothing_and_gets_no_gradient(bidirectional):
    model = make(bidirectional=bidirectional)
    params = normal(model)
    is_token = np.arange(TIME + 3) < LENGTHS[:, None]
    longer = np.pad(TOKENS, ((0, 0), (0, 3)))
    results = []
    for padding in (0, WORDS - 1):
        tokens = np.where(is_token, np.minimum(longer, WORDS - 2), padding)
        results.append(logits_of(model, params, tokens, LENGTHS))
        results.append(logits_of(model, params, tokens[:, :TIME], LENGTHS))
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, rtol=1e-5, atol=1e-6)

    def total(params):
        return jnp.sum(model.apply({"params": params}, tokens, LENGTHS))

    gradient = jax.jit(jax.grad(total))(params)["Embed_0"]["embedding"]
    read = np.zeros(WORDS, bool)
    read[tokens[is_token]] = True
    assert not read[WORDS - 1]
    np.testing.assert_array_equal(np.any(gradient != 0, axis=1), read)


def test_the_second_direction_reads_from_the_last_token_to_the_first():
    """Swapping the directions' weights is reversing the texts within their lengths."""
    model = make(bidirectional=True)
    params = normal(model)
    hidden = params["Forward"]["recurrent"]["kernel"].shape[0]
    kernel = params["Dense_0"]["kernel"]
    swapped = params | {
        "Forward": params["Backward"],
        "Backward": params["Forward"],
        "Dense_0": {"kernel": np.concatenate([kernel[hidden:], kernel[:hidden]])},
    }
    tokens = TOKENS.copy()
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[:length] = row[:length][::-1]
    logits = logits_of(model, params)
    assert np.abs(logits - logits_of(model, params, tokens)).max() > 0.01
    np.testing.assert_allclose(
        logits_of(model, swapped, tokens), logits, rtol=1e-5, atol=1e-6
    )


@every_direction
def test_dropout_drops_a_fifth_of_the_words_and_of_the_last_state(bidirectional):
    model = make(bidirectional=bidirectional, width=1.0)
    rng = np.random.default_rng(3)
    tokens, lengths = rng.integers(0, WORDS, (64, 8)), rng.integers(1, 9, 64)
    params = normal(model, size=0.1)

    def dropped(key):
        _, state = model.apply(
            {"params": params},
            tokens,
            lengths,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: "Dropout" in (module.name or ""),
            mutable=["intermediates"],
        )
        layers = state["intermediates"]
        return {name: layers[name]["__call__"][0] == 0 for name in layers}

    dropped = jax.jit(dropped)
    one, other = dropped(KEY), dropped(jax.random.key(1))
    sizes = {"Dropout_0": (8, 64, 100), "Dropout_1": (64, 256 * (1 + bidirectional))}
    for name, size in sizes.items():
        assert one[name].shape == size
        assert np.mean(one[name]) == pytest.approx(0.2, abs=0.01)
        assert not np.array_equal(one[name], other[name])
    assert np.array_equal(logits_of(model, params), logits_of(model, params))


def test_the_biases_of_sgd_start_at_zero():
    model = make(affine=True, bidirectional=True)
    params = jax.jit(model.init)(KEY, TOKENS, LENGTHS)["params"]
    biases = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
        if path[-1].key == "bias"
    }
    paths = {"Forward/input/bias", "Backward/input/bias", "Dense_0/bias"}
    assert biases.keys() == paths
    assert not any(np.any(bias) for bias in biases.values())


@every_direction
def test_its_recurrent_layers_are_known_as_dense_ones(bidirectional):
    rules = rules_of(make(bidirectional=bidirectional), TOKENS, LENGTHS)
    matrices = [rule for rule in rules if "Forward" in rule.pattern]
    matrices += [rule for rule in rules if "Backward" in rule.pattern]
    assert len(matrices) == 2 * (1 + bidirectional)
    assert {(rule.in_axis, rule.out_axis) for rule in matrices} == {((0,), (1,))}


@pytest.mark.parametrize("enabled", [False, True])
def test_its_parameters_are_float32_in_every_mode(enabled):
    with jax.enable_x64(enabled):
        shapes = jax.eval_shape(make().init, KEY, TOKENS, LENGTHS)["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}


@pytest.mark.parametrize(
    ("width", "count"),
    [(0.5, 25_002 * 50 + (50 + 128) * 512 + 128), (2, 25_002 * 200 + 712 * 2048 + 512)],
)
def test_the_width_scales_the_embedding_and_the_hidden_units(width, count):
    model = build_network("lstm", num_classes=1, width=width)
    params = jax.eval_shape(model.init, KEY, TOKENS, LENGTHS)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_embedding_has_a_row_for_each_number_of_a_token():
    words = text.WORDS + max(text.PADDING, text.UNKNOWN) + 1
    assert LSTMClassifier(num_classes=1).vocabulary_size == words == 25_002


def test_a_frequent_token_gets_the_sum_of_its_gradients_in_bfloat16():
    """In bfloat16 a sum of equal gradients ends at 256 times one of them.

    A batch may be rounded otherwise than one example, by a step of bfloat16 (1/128).
    """
    model = make(dtype=jnp.bfloat16)
    params = normal(model)
    tokens = np.full((500, 4), 3)
    lengths = np.full(500, 4, np.int32)

    def embedding_gradient(tokens, lengths):
        def total(params):
            return model.apply({"params": params}, tokens, lengths).sum()

        return jax.jit(jax.grad(total))(params)["Embed_0"]["embedding"]

    once = embedding_gradient(tokens[:1], lengths[:1])[3]
    often = embedding_gradient(tokens, lengths)[3]
    assert np.abs(once).max() > 0.01
    np.testing.assert_allclose(often, 500 * once, rtol=1 / 64)
