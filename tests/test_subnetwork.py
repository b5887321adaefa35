"""The tree API: which leaves are pruned, what is sampled, where gradients flow."""

import dataclasses
import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from iterand_jax import (
    DEFAULT_RULES,
    DISTRIBUTIONS,
    OUTPUTS_FIRST_RULES,
    Rule,
    Subnetwork,
    apply_masks,
    topk_mask,
)
from iterand_jax.trees import path_string

KEY = jax.random.key(0)


def zeros(*shape):
    return np.zeros(shape, np.float32)


PARAMS = {
    "conv": {"kernel": zeros(3, 3, 4, 20), "bias": np.arange(20, dtype=np.float32)},
    "norm": {"scale": zeros(20) + 1, "kernel": zeros(20) + 2},
    "dense": [{"kernel": zeros(60, 50)}, {"kernel": zeros(50, 8)}],
    "words": {"embedding": zeros(40, 25)},
}
FAN_INS = {
    "conv/kernel": 36,
    "dense/0/kernel": 60,
    "dense/1/kernel": 50,
    "words/embedding": 25,
}
X_KEY = jax.random.key(1)
X = np.random.default_rng(0).standard_normal((64, 12), np.float32)
LABELS = np.argmax(X[:, :4], axis=1)


@functools.cache
def drawn(distribution="signed_constant"):
    """(scores, weights) for PARAMS; sampling does not depend on the sparsity."""
    return jax.jit(Subnetwork(distribution=distribution).init)(KEY, PARAMS)


def by_path(tree):
    """{path: leaf}, as NumPy arrays where the leaves are arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_string(path): leaf for path, leaf in leaves}


@pytest.mark.smoke
def test_a_literal_tree_is_pruned():
    subnetwork = Subnetwork(sparsity=0.5)
    weights = {"kernel": jnp.array([[1.0, -2.0], [3.0, -4.0]]), "bias": jnp.ones(2)}
    scores = {"kernel": jnp.array([[0.1, 0.4], [-0.5, 0.2]]), "bias": None}
    pruned = subnetwork.prune(scores, weights)
    np.testing.assert_array_equal(pruned["kernel"], [[0, -2], [0, -4]])
    np.testing.assert_array_equal(pruned["bias"], [1, 1])
    masks = subnetwork.masks(scores)
    np.testing.assert_array_equal(masks["kernel"], [[0, 1], [0, 1]])
    assert masks["bias"] is None
    np.testing.assert_array_equal(
        apply_masks(weights, masks)["kernel"], [[0, -2], [0, -4]]
    )
    assert subnetwork.count(weights) == (6, 4)


@pytest.mark.smoke
def test_kernels_and_embeddings_are_scored_and_nothing_else():
    scores, weights = drawn()
    assert jax.tree.structure(weights) == jax.tree.structure(PARAMS)
    assert by_path(scores).keys() == FAN_INS.keys()
    assert scores["conv"]["bias"] is None
    assert scores["norm"] == {"scale": None, "kernel": None}  # one dimension: no kernel
    for path, leaf in by_path(weights).items():
        assert leaf.shape == by_path(PARAMS)[path].shape
        if path in FAN_INS:
            assert by_path(scores)[path].shape == leaf.shape
        else:
            np.testing.assert_array_equal(leaf, by_path(PARAMS)[path])


@pytest.mark.parametrize("name", list(DISTRIBUTIONS))
def test_every_leaf_has_the_spread_of_its_own_fan_in(name):
    scores, weights = drawn(name)
    for path, fan_in in FAN_INS.items():
        weight, score = by_path(weights)[path], by_path(scores)[path]
        relative = 5 / math.sqrt(weight.size)
        assert np.mean(weight**2) == pytest.approx(2 / fan_in, rel=relative)
        assert np.mean(score**2) == pytest.approx(2 / fan_in, rel=relative)
        assert np.abs(score).max() <= math.sqrt(6 / fan_in) * (1 + 1e-6)
        assert np.abs(score).max() > math.sqrt(6 / fan_in) * 0.95
        assert np.abs(np.mean(score > 0) - 0.5) < 2 / math.sqrt(score.size)
        agreement = np.mean((score > 0) == (weight > 0))
        assert abs(agreement - 0.5) < 2.5 / math.sqrt(score.size)


def test_an_init_with_dtypes_keeps_them():
    params = {"kernel": jnp.zeros((4, 4), jnp.bfloat16), "bias": jnp.zeros(4)}
    scores, weights = Subnetwork().init(KEY, params)
    assert weights["kernel"].dtype == jnp.bfloat16
    assert scores["kernel"].dtype == jnp.float32
    abstract = jax.eval_shape(lambda: params)
    _, weights_again = Subnetwork().init(KEY, {"kernel": abstract["kernel"]})
    np.testing.assert_array_equal(weights_again["kernel"], weights["kernel"])


def test_a_draw_is_keyed_by_its_path_whatever_else_the_tree_holds():
    few = {"b": {"kernel": zeros(30, 20)}}
    many = {"a": {"kernel": zeros(30, 20)}, **few, "c": jnp.zeros(3)}
    subnetwork = Subnetwork(distribution="kaiming_uniform")

    @jax.jit
    def draws(key, params):
        scores, weights = subnetwork.init(key, params)
        redrawn = subnetwork.rerandomize(key, scores, weights, 0.5)
        return scores, weights, redrawn

    of_few, of_many, other = (
        [by_path(tree) for tree in draws(key, params)]
        for key, params in ((KEY, few), (KEY, many), (X_KEY, few))
    )
    for alone, among, otherwise in zip(of_few, of_many, other, strict=True):
        np.testing.assert_array_equal(alone["b/kernel"], among["b/kernel"])
        assert np.mean(among["a/kernel"] == among["b/kernel"]) < 0.01
        assert np.mean(alone["b/kernel"] == otherwise["b/kernel"]) < 0.01
    assert np.mean(of_few[0]["b/kernel"] == of_few[1]["b/kernel"]) < 0.01


@pytest.mark.parametrize(
    ("rules", "scored"),
    [
        ((Rule("a/*", False), Rule("*/kernel", True), Rule("*", False)), {"b/kernel"}),
        ((Rule("*/kernel", True), Rule("a/*", False), Rule("*", False)), None),
        ((Rule("b/kernel", True), Rule("*", False)), {"b/kernel"}),
        ((Rule("kernel", True), Rule("?/kernel", True), Rule("*", False)), None),
        ((Rule("*/*", True, min_ndim=2), Rule("*", False)), None),
    ],
)
def test_the_first_rule_that_matches_claims_the_leaf(rules, scored):
    leaf = {"kernel": zeros(4, 2), "bias": jnp.zeros(2)}
    params = {"a": leaf, "b": leaf}
    scores, _ = jax.eval_shape(Subnetwork(rules=rules).init, KEY, params)
    assert by_path(scores).keys() == (scored or {"a/kernel", "b/kernel"})


@pytest.mark.parametrize("names", [("query", "key", "value"), ("value",)])
def test_a_leaf_of_a_dict_may_be_called_value(names):
    rules = (*(Rule(f"*/{name}", True) for name in names), Rule("*", False))
    params = {"attention": {name: zeros(4, 4) for name in names}}
    scores, _ = jax.eval_shape(Subnetwork(rules=rules).init, KEY, params)
    assert {path.split("/")[-1] for path in by_path(scores)} == set(names)


@pytest.mark.parametrize(("out_axis", "fan_in"), [(-1, 24), (0, 60), (1, 40)])
def test_the_fan_in_is_the_product_of_the_other_axes(out_axis, fan_in):
    subnetwork = Subnetwork(rules=(Rule("*", True, out_axis=out_axis),))
    leaf = zeros(2, 3, 4, 5)
    assert subnetwork.fan_in("", leaf) == fan_in

    @jax.jit
    def draws(key):
        scores, weights = subnetwork.init(key, leaf)
        return weights, subnetwork.rerandomize(key, scores, weights, 1.0)

    for weights in draws(KEY):
        np.testing.assert_allclose(np.abs(weights), math.sqrt(2 / fan_in), rtol=1e-6)


def test_a_mapping_gives_each_leaf_the_sparsity_of_its_first_pattern():
    sparsity = {"conv/*": 0.2, "dense/0/*": 0.0, "*": 0.9}
    subnetwork = Subnetwork(sparsity)
    scores, weights = drawn()
    masks = by_path(jax.jit(subnetwork.masks)(scores))
    kept = {path: int(mask.sum()) for path, mask in masks.items()}
    expected = {
        "conv/kernel": 720 - 144,
        "dense/0/kernel": 3000,
        "dense/1/kernel": 40,
        "words/embedding": 100,
    }
    assert kept == expected
    assert subnetwork.count(PARAMS) == (5180, sum(expected.values()) + 60)
    for path, leaf in by_path(jax.jit(subnetwork.prune)(scores, weights)).items():
        assert int((leaf != 0).sum()) == expected.get(
            path, 19 if "bias" in path else 20
        )
    _, redrawn = jax.jit(subnetwork.rerandomize_and_count)(KEY, scores, weights, 1.0)
    assert redrawn == 5120 - sum(expected.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subnetwork(1.0), r"\[0, 1\); got 1"),
        (lambda: Subnetwork({"*": -0.5}), r"\[0, 1\); got -0.5"),
        (lambda: Subnetwork(distribution="cauchy"), "unknown distribution 'cauchy'"),
        (
            lambda: Subnetwork({"conv/*": 0.5}).init(KEY, PARAMS),
            "no sparsity for the leaf 'dense/0/kernel'; patterns: conv/",
        ),
        (
            lambda: Subnetwork({"lost/*": 0.5, "*": 0.5}).init(KEY, PARAMS),
            r"pattern 'lost/\*' matches none of the pruned leaves conv/kernel",
        ),
        (
            lambda: Subnetwork({"*/bias": 0.5, "*": 0.5}).init(KEY, PARAMS),
            r"pattern '\*/bias' matches none of the pruned leaves",
        ),
        (
            lambda: Subnetwork(rules=DEFAULT_RULES[:2]).init(KEY, PARAMS),
            r"no rule claims the leaf 'conv/bias'; rules: \*/kernel, \*/embedding",
        ),
        (
            lambda: Subnetwork().init(KEY, {"a": {"bias": jnp.ones(3)}}),
            "the rules prune none of the leaves a/bias",
        ),
        (lambda: Subnetwork().init(KEY, {}), r"none of the leaves \(no leaves\)"),
        (
            lambda: Subnetwork().init(KEY, {"kernel": zeros(0, 3)}),
            r"kernel.*\(0, 3\)",
        ),
        (
            lambda: Subnetwork().init(KEY, {"kernel": zeros(3, 0)}),
            r"kernel.*\(3, 0\)",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_drawn(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_sampling_rate_outside_its_range_is_named(rate):
    weights = scores = {"kernel": zeros(2, 2)}
    with pytest.raises(ValueError, match=rf"sampling_rate.*\[0, 1\]; got {rate:g}"):
        Subnetwork().rerandomize(KEY, scores, weights, rate)


def test_the_gradient_of_a_score_is_that_of_its_effective_weight_times_the_weight():
    with jax.enable_x64(True):
        keys = jax.random.split(KEY, 3)
        x = jax.random.normal(keys[0], (5, 6), jnp.float64)
        params = {"kernel": jnp.zeros((6, 4), jnp.float64), "bias": jnp.ones(4)}
        subnetwork = Subnetwork(0.5, "kaiming_normal")
        scores, weights = jax.jit(subnetwork.init)(keys[1], params)
        assert scores["kernel"].dtype == jnp.float64

        def network_loss(params):
            hidden = jnp.tanh(x @ params["kernel"] + params["bias"])
            return jnp.sum(jnp.sin(hidden) ** 2 * jnp.exp(hidden))

        def loss(scores, weights):
            return network_loss(subnetwork.prune(scores, weights))

        by_scores, by_weights = jax.jit(jax.grad(loss, (0, 1)))(scores, weights)
        pruned = jax.jit(subnetwork.prune)(scores, weights)
        effective = jax.jit(jax.grad(network_loss))(pruned)
        expected = effective["kernel"] * weights["kernel"]
        assert (expected != 0).all()  # pruned weights too: straight through
        np.testing.assert_allclose(by_scores["kernel"], expected, rtol=1e-13)
        assert by_scores["bias"] is None
        for leaf in jax.tree.leaves(by_weights):
            np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))


UNIFORM = Subnetwork(0.6, "kaiming_uniform")
redraw_uniform = jax.jit(UNIFORM.rerandomize_and_count)
masks_uniform = jax.jit(UNIFORM.masks)


@jax.jit
def output(scores, weights):
    """The outputs of a network of the dense leaves for fixed inputs."""
    x = jax.random.normal(KEY, (3, 60))
    for layer in UNIFORM.prune(scores, weights)["dense"]:
        x = jnp.tanh(x @ layer["kernel"])
    return x


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 1.0])
def test_a_rerandomization_leaves_the_kept_weights_and_the_output_as_they_were(rate):
    scores, weights = drawn("kaiming_uniform")
    new, count = redraw_uniform(jax.random.key(5), scores, weights, rate)
    masks = by_path(masks_uniform(scores))
    changed = 0
    for path, old in by_path(weights).items():
        fresh = by_path(new)[path]
        assert fresh.dtype == old.dtype
        if path not in FAN_INS:
            np.testing.assert_array_equal(fresh, old)
            continue
        pruned = masks[path] == 0
        different = np.asarray(fresh != old)
        assert not different[~pruned].any()
        n, changes = int(pruned.sum()), int(different.sum())
        assert abs(changes - rate * n) <= 4 * math.sqrt(n * rate * (1 - rate))
        changed += changes
        bound = math.sqrt(6 / FAN_INS[path])
        if rate == 1.0:
            values = np.asarray(fresh[pruned])
            assert np.abs(values).max() <= bound * (1 + 1e-6)
            assert np.mean(values**2) == pytest.approx(bound**2 / 3, rel=0.3)
    assert count == changed
    np.testing.assert_array_equal(output(scores, weights), output(scores, new))


def test_a_redraw_of_signed_constants_flips_half_of_what_it_redraws():
    subnetwork = Subnetwork(0.5)
    scores, weights = jax.jit(subnetwork.init)(KEY, {"kernel": zeros(400, 500)})
    redraw = jax.jit(subnetwork.rerandomize_and_count)
    new, count = redraw(KEY, scores, weights, 0.1)
    kept = np.asarray(jax.jit(subnetwork.masks)(scores)["kernel"] != 0)
    new, weights = jax.device_get((new["kernel"], weights["kernel"]))
    flipped = new == -weights
    assert abs(count - 10_000) < 4 * math.sqrt(100_000 * 0.09)
    assert abs(flipped.sum() - 5_000) < 4 * math.sqrt(100_000 * 0.05 * 0.95)
    assert not flipped[kept].any()
    np.testing.assert_array_equal(np.abs(new), np.abs(weights))


def test_rerandomizations_of_different_keys_differ_and_of_the_same_key_do_not():
    scores, weights = drawn("kaiming_uniform")
    keys = (KEY, KEY, jax.random.key(9))
    first, again, other = (redraw_uniform(k, scores, weights, 1.0)[0] for k in keys)
    for path, mask in by_path(masks_uniform(scores)).items():
        a, b, c, old = (
            by_path(t)[path][mask == 0] for t in (first, again, other, weights)
        )
        np.testing.assert_array_equal(a, b)
        assert np.mean(a == c) < 0.01
        assert np.mean(a == old) < 0.01


def test_a_traced_sparsity_follows_a_schedule_without_a_retrace():
    subnetwork = Subnetwork()
    scores, weights = drawn()
    traces = []

    @jax.jit
    def prune_and_redraw(scores, weights, sparsity, rate):
        traces.append(1)
        now = dataclasses.replace(subnetwork, sparsity=sparsity)
        new, count = now.rerandomize_and_count(KEY, scores, weights, rate)
        return now.prune(scores, new), count

    for sparsity in (0.0, 0.25, 0.5, 0.9):
        pruned, count = prune_and_redraw(scores, weights, sparsity, 1.0)
        fixed = dataclasses.replace(subnetwork, sparsity=sparsity)
        total, kept = fixed.count(PARAMS)
        nonzero = sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(pruned))
        assert nonzero == kept - 1  # one bias is zero
        assert count == total - kept
    assert len(traces) == 1
    mapped = jax.jit(lambda p: Subnetwork({"conv/*": p, "*": 0.5}).masks(scores))
    expected = jax.jit(topk_mask)(scores["conv"]["kernel"], 0.25)
    np.testing.assert_array_equal(mapped(0.25)["conv"]["kernel"], expected)


def check_that_it_learns(params, rules, logits_of, scored):
    """Trains the scores of a classifier: the loss falls, the weights stay."""
    subnetwork = Subnetwork(0.5, "signed_constant", rules)
    scores, weights = jax.jit(subnetwork.init)(KEY, params)
    assert by_path(scores).keys() == set(scored)

    def loss(scores, weights):
        log_p = jax.nn.log_softmax(logits_of(subnetwork.prune(scores, weights)))
        return -jnp.mean(jnp.take_along_axis(log_p, LABELS[:, None], axis=1))

    @jax.jit
    def step(scores, weights, i):
        value, gradient = jax.value_and_grad(loss)(scores, weights)
        scores = jax.tree.map(lambda s, g: s - 0.5 * g, scores, gradient)
        key = jax.random.fold_in(KEY, i)
        return value, scores, subnetwork.rerandomize(key, scores, weights, 0.01)

    values = []
    for i in range(40):
        value, scores, weights = step(scores, weights, i)
        values.append(value)
    assert values[-1] < 0.8 * values[0]
    assert jax.tree.structure(weights) == jax.tree.structure(params)


def test_raw_arrays_in_tuples_learn():
    params = (zeros(12, 64), zeros(64, 4))
    rules = (Rule("*", prune=True),)
    check_that_it_learns(
        params, rules, lambda p: jax.nn.relu(X @ p[0]) @ p[1], ("0", "1")
    )


def test_a_linen_model_learns():
    model = nn.Sequential([nn.Dense(64), nn.relu, nn.LayerNorm(), nn.Dense(4)])
    check_that_it_learns(
        jax.jit(model.init)(KEY, X)["params"],
        DEFAULT_RULES,
        lambda p: model.apply({"params": p}, X),
        ("layers_0/kernel", "layers_3/kernel"),
    )


def test_an_nnx_model_learns():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(12, 64, rngs=rngs)
            self.norm = nnx.LayerNorm(64, rngs=rngs)
            self.out = nnx.Linear(64, 4, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.norm(self.hidden(x))))

    graph, state = nnx.split(Model(nnx.Rngs(0)))
    check_that_it_learns(
        state,
        DEFAULT_RULES,
        lambda p: nnx.merge(graph, p)(X),
        ("hidden/kernel", "out/kernel"),
    )


def test_an_equinox_mlp_learns():
    params, static = eqx.partition(eqx.nn.MLP(12, 4, 64, 1, key=KEY), eqx.is_array)
    check_that_it_learns(
        params,
        OUTPUTS_FIRST_RULES,
        lambda p: jax.vmap(eqx.combine(p, static))(X),
        ("layers/0/weight", "layers/1/weight"),
    )


def test_an_equinox_convolution_has_its_outputs_first():
    params = eqx.filter(eqx.nn.Conv2d(3, 8, 5, key=KEY), eqx.is_array)
    subnetwork = Subnetwork(rules=OUTPUTS_FIRST_RULES)
    scores, weights = jax.jit(subnetwork.init)(KEY, params)
    size = math.sqrt(2 / (3 * 5 * 5))
    np.testing.assert_allclose(np.abs(weights.weight), size, rtol=1e-6)
    assert scores.bias is None
    pruned = jax.jit(subnetwork.prune)(scores, weights)
    assert np.count_nonzero(pruned.weight) == 300
    assert jax.eval_shape(pruned, jnp.ones((3, 9, 9))).shape == (8, 5, 5)
