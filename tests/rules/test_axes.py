"""The axes of a rule determine thresholds, resampling, counts, analysis, errors."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax import OUTPUTS_FIRST_RULES, Rule, Subnetwork, linen, rules_of
from iterand_jax.analysis.layers import inspect_layers
from iterand_jax.rules.patterns import covers

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (64, 64))


class Layer(nn.Module):
    dense: type = nn.Dense

    @nn.compact
    def __call__(self, x, _):
        return nn.relu(self.dense(64)(x)), None


def six(dense=nn.Dense, axis=0):
    collections = {"params": axis, "weights": axis}
    return nn.scan(
        Layer, variable_axes=collections, split_rngs={"params": True}, length=6
    )(dense)


@functools.cache
def scanned(axis=0):
    model = six(axis=axis)
    params = model.init(KEY, X, None)["params"]
    return model, params, Subnetwork(0.5, rules=rules_of(model, X, None))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.smoke
def test_layers_of_a_scan_are_drawn_and_pruned_each_by_itself(axis):
    model, params, subnetwork = scanned(axis)
    scores, weights = subnetwork.init(KEY, params)
    kernel = weights["Dense_0"]["kernel"]
    np.testing.assert_allclose(np.abs(kernel), math.sqrt(2 / 64), rtol=1e-6)

    sizes = jnp.arange(1.0, 7.0).reshape([6 if a == axis else 1 for a in range(3)])
    scores = jax.tree.map(lambda s: s * sizes**2, scores)
    mask = np.asarray(jax.jit(subnetwork.masks)(scores)["Dense_0"]["kernel"])
    others = tuple({0, 1, 2} - {axis})
    np.testing.assert_array_equal(mask.sum(others), [2048] * 6)
    assert subnetwork.count(params) == (6 * 64 * 65, 6 * 64 * 33)

    dense = Subnetwork(0.0, rules=subnetwork.rules).prune(scores, weights)
    out, _ = model.apply({"params": dense}, X, None)
    x = X
    for n in range(6):
        x = jax.nn.relu(x @ jnp.take(kernel, n, axis))
    np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-5)
    assert 0.3 < float(jnp.mean(out**2)) < 3

    new, count = jax.jit(subnetwork.rerandomize_and_count)(KEY, scores, weights, 1.0)
    assert count == 6 * 2048
    changed = np.asarray(new["Dense_0"]["kernel"] != kernel)
    assert not changed[mask == 1].any()
    assert changed[mask == 0].any()
    gradient = jax.grad(
        lambda s: subnetwork.prune(s, weights)["Dense_0"]["kernel"].sum()
    )
    np.testing.assert_array_equal(gradient(scores)["Dense_0"]["kernel"], kernel)


def test_scanned_layers_that_hold_their_scores_are_rerandomized():
    model = six(linen.Dense)
    variables = model.init(KEY, X, None)
    sizes = jnp.arange(1.0, 7.0).reshape(6, 1, 1)
    params = jax.tree.map(lambda s: s * sizes**2, variables["params"])
    variables = {**variables, "params": params}
    with pytest.raises(ValueError, match=r"Dense_0/kernel.*\(6, 64, 64\).*stack_axis"):
        linen.rerandomize(Subnetwork(0.5), KEY, variables, 1.0)
    subnetwork = Subnetwork(0.5, rules=rules_of(model, X, None))
    new = linen.rerandomize(subnetwork, KEY, variables, 1.0)
    apply = jax.jit(model.apply)
    before, after = (apply(v, X, None)[0] for v in (variables, new))
    np.testing.assert_array_equal(before, after)
    weights, redrawn = (v["weights"]["Dense_0"]["kernel"] for v in (variables, new))
    shares = np.mean(np.asarray(weights != redrawn), axis=(1, 2))
    assert (np.abs(shares - 0.25) < 0.05).all()  # half of the pruned half flips


@pytest.mark.parametrize(
    ("params", "rules", "message"),
    [
        ({"query": {"kernel": jnp.zeros((256, 8, 32))}}, None, r"'query/kernel' of sh"),
        ({"kernel": jnp.zeros((6, 3, 3, 8, 8))}, None, r"\(6, 3, 3, 8, 8\).*rules_of"),
        ({"embedding": jnp.zeros((2, 9, 4))}, None, r"'embedding'.*2 axes.*Rule\('emb"),
        (
            eqx.filter(eqx.nn.LayerNorm((4, 8, 8)), eqx.is_array),
            OUTPUTS_FIRST_RULES,
            r"'weight' of shape \(4, 8, 8\).*in_axis=",
        ),
        (
            eqx.filter(eqx.nn.LayerNorm((4, 8)), eqx.is_array),
            OUTPUTS_FIRST_RULES,
            r"'weight' of shape \(4, 8\) has a bias of the same shape.*rules_of",
        ),
        (
            {"kernel": jnp.zeros((4, 8))},
            [Rule("*", True, out_axis=2)],
            r"'kernel' of shape \(4, 8\): out_axis=2 is not possible with 2 axes",
        ),
        (
            {"kernel": jnp.zeros((4, 8))},
            [Rule("*", True, out_axis=1, stack_axis=-1)],
            r"out_axis=1 and stack_axis=-1 are both axis 1",
        ),
    ],
)
def test_what_the_rules_do_not_know_is_refused_in_one_line(params, rules, message):
    subnetwork = Subnetwork(rules=rules) if rules else Subnetwork()
    with pytest.raises(ValueError, match=message) as error:
        subnetwork.init(KEY, params)
    assert "\n" not in str(error.value)


def test_cells_of_equinox_are_pruned_by_the_default_rules():
    for cell in (eqx.nn.LSTMCell(3, 5, key=KEY), eqx.nn.GRUCell(3, 5, key=KEY)):
        subnetwork = Subnetwork(rules=OUTPUTS_FIRST_RULES)
        scores, weights = subnetwork.init(KEY, eqx.filter(cell, eqx.is_array))
        np.testing.assert_allclose(np.abs(weights.weight_ih), math.sqrt(2 / 3))
        np.testing.assert_allclose(np.abs(weights.weight_hh), math.sqrt(2 / 5))
        assert scores.bias is None


def test_a_normalization_of_equinox_is_left_alone_by_the_models_rules():
    model = [eqx.nn.LayerNorm((4, 8, 8)), eqx.nn.Linear(8, 3, key=KEY)]
    model = eqx.nn.Sequential(model)
    arrays = eqx.filter(model, eqx.is_array)
    scores, weights = Subnetwork(rules=rules_of(model)).init(KEY, arrays)
    assert scores.layers[0].weight is None
    np.testing.assert_array_equal(weights.layers[0].weight, jnp.ones((4, 8, 8)))


def test_a_rule_of_ones_own_goes_before_those_of_a_model_and_is_not_shadowed():
    model = nn.Sequential([nn.Dense(5), nn.Dense(3)])
    rules = (Rule("layers_0/*", prune=False), *rules_of(model, X))
    scores, _ = Subnetwork(rules=rules).init(KEY, model.init(KEY, X)["params"])
    assert scores["layers_0"]["kernel"] is None
    assert scores["layers_1"]["kernel"] is not None
    with pytest.raises(ValueError, match=r"rule for 'a/k\*' is never used: '\*' befo"):
        Subnetwork(rules=[Rule("*", True), Rule("a/k*", False)])


def test_a_subnetwork_keeps_the_order_of_its_patterns_wherever_it_passes():
    params = {
        "conv": {"kernel": jnp.zeros((10, 10))},
        "d": {"kernel": jnp.zeros((10, 10))},
    }
    subnetwork = Subnetwork({"conv/*": 0.2, "*": 0.9})
    scores, _ = subnetwork.init(KEY, params)

    def kept(subnetwork):
        masks = subnetwork.masks(scores)
        return [int(masks[name]["kernel"].sum()) for name in ("conv", "d")]

    def counted(subnetwork):
        masks = subnetwork.masks(scores)
        return jax.tree.map(jnp.sum, masks)

    assert kept(subnetwork) == [80, 10]
    assert kept(jax.tree.map(lambda p: p / 2, subnetwork)) == [90, 55]
    passed = jax.jit(counted)(subnetwork)
    assert (passed["conv"]["kernel"], passed["d"]["kernel"]) == (80, 10)
    _, found = jax.lax.scan(
        lambda c, _: (c, counted(c)), jax.tree.map(jnp.float32, subnetwork), length=2
    )
    assert found["conv"]["kernel"].tolist() == [80, 80]
    assert found["d"]["kernel"].tolist() == [10, 10]
    static = jax.jit(counted, static_argnums=0)(subnetwork)
    assert (static["conv"]["kernel"], static["d"]["kernel"]) == (80, 10)


def test_channels_of_a_stack_are_counted_in_each_slice():
    mask = np.ones((2, 3, 4), int)
    mask[0, 1] = 0
    mask[1, :, 2] = 0
    rules = [Rule("kernel", True, stack_axis=0)]
    (layer,) = inspect_layers(
        Subnetwork(rules=rules), {"kernel": mask * 1.0}, {"kernel": mask}
    )
    assert (layer.inputs, layer.dead_inputs) == (6, 1)
    assert (layer.outputs, layer.dead_outputs) == (8, 1)
    assert (layer.removable, layer.removable_kept) == (4 + 3, 0)


@pytest.mark.parametrize("stack", [0, (0,), [-3], np.int64(0)])
def test_the_axis_of_a_stack_may_be_said_in_each_form(stack):
    slices = jnp.array([1.0, 3.0, 9.0])[:, None, None]
    scores = {"kernel": jax.random.normal(KEY, (3, 8, 4)) * slices}
    subnetwork = Subnetwork(0.5, rules=[Rule("kernel", True, stack_axis=stack)])
    masks = subnetwork.masks(scores)
    assert masks["kernel"].sum((1, 2)).tolist() == [16, 16, 16]
    assert subnetwork.count({"kernel": jnp.zeros((3, 5, 3))}) == (45, 21)


@pytest.mark.parametrize(
    ("field", "value"),
    [("stack_axis", 0.0), ("in_axis", 1.5), ("fan_in", "3"), ("fan_in", 0)],
)
def test_a_field_of_a_rule_that_is_not_a_number_is_refused(field, value):
    with pytest.raises(ValueError, match=f"'kernel': {field} .* got {value!r}$"):
        Rule("kernel", True, **{field: value})


def test_sets_of_characters_are_not_taken_for_covered():
    assert not covers("[!a]x", "?x")
    assert covers("[!a]x", "[!a]x")
    assert covers("*", "[!a]x")
