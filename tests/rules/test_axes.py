"""The axes of a rule determine thresholds, resampling, counts, analysis, errors."""

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
    OUTPUTS_FIRST_RULES,
    Rule,
    Subnetwork,
    linen,
    rules_of,
    topk_mask,
)
from iterand_jax.analysis.layers import inspect_layers
from iterand_jax.methods.magnitude import magnitude_masks
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


def shifted(scores, axis=0):
    """Scores of six layers apart, so that one threshold keeps 0.13 to 0.62 of each."""
    shifts = jnp.array([-0.226, 0.015, 0.035, 0.045, 0.06, 0.07])
    return scores + jnp.expand_dims(shifts, [a for a in range(3) if a != axis])


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

    scores = jax.tree.map(lambda s: shifted(s, axis), scores)
    others = tuple({0, 1, 2} - {axis})
    of_all = topk_mask(scores["Dense_0"]["kernel"], 0.5).mean(others)
    assert 0.1 < of_all[0] < 0.16
    assert 0.58 < of_all[5] < 0.65
    mask = np.asarray(jax.jit(subnetwork.masks)(scores)["Dense_0"]["kernel"])
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
    params = jax.tree.map(shifted, variables["params"])
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
            {"weight": jnp.ones((4, 8, 8))},
            OUTPUTS_FIRST_RULES,
            r"'weight' of shape \(4, 8, 8\).*in_axis=",
        ),
        (  # Dense layers stacked twice, of four axes like a convolution
            {"kernel": jnp.zeros((6, 4, 8, 5)), "bias": jnp.zeros((6, 4, 5))},
            None,
            r"'kernel' of shape \(6, 4, 8, 5\) has a bias .* \(6, 4, 5\).*rules_of",
        ),
        (  # DenseGeneral of two axes of inputs and two of outputs
            {"kernel": jnp.zeros((6, 8, 3, 4)), "bias": jnp.zeros((3, 4))},
            None,
            r"'kernel' of shape \(6, 8, 3, 4\) has a bias .* \(3, 4\).*stack_axis=",
        ),
        (
            {"weight": jnp.zeros((6, 4, 8, 5)), "bias": jnp.zeros((6, 4, 8))},
            OUTPUTS_FIRST_RULES,
            r"'weight' of shape \(6, 4, 8, 5\) has a bias .* \(6, 4, 8\).*in_axis=",
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


@pytest.mark.slow
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


NORMS = {  # layers of Equinox as they are, and arrays of the same names
    "LayerNorm of three axes": eqx.nn.LayerNorm((4, 8, 8)),
    "LayerNorm": eqx.nn.LayerNorm((4, 8)),
    "LayerNorm without a bias": eqx.nn.LayerNorm((4, 8), use_bias=False),
    "RMSNorm": eqx.nn.RMSNorm((4, 8)),
    "a stack of GroupNorm": jax.tree.map(
        lambda x: jnp.stack([x] * 3) if eqx.is_array(x) else x, eqx.nn.GroupNorm(2, 4)
    ),
    "arrays": {"weight": jnp.ones((4, 8)), "bias": jnp.zeros((4, 8))},
}


@pytest.mark.parametrize("name", NORMS)
def test_a_known_scale_is_left_alone_by_rules_by_name(name):
    norm = eqx.filter(NORMS[name], eqx.is_array)
    tree = [norm, eqx.filter(eqx.nn.Linear(32, 5, key=KEY), eqx.is_array)]
    subnetwork = Subnetwork(0.5, rules=OUTPUTS_FIRST_RULES)
    scores, weights = subnetwork.init(KEY, tree)
    assert jax.tree.leaves(scores[0]) == []
    assert jax.tree.all(jax.tree.map(jnp.array_equal, weights[0], norm))
    new = subnetwork.rerandomize(KEY, scores, weights, 1.0)
    pruned = subnetwork.prune(scores, new)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, pruned[0], norm))
    assert np.count_nonzero(pruned[1].weight) == 80
    total, kept = subnetwork.count(tree)
    assert total - kept == 80
    magnitudes = magnitude_masks(subnetwork, tree, 0.5)
    assert jax.tree.leaves(magnitudes[0]) == []
    assert subnetwork.fan_ins(tree) == {"1/weight": 32}


def test_a_rule_that_states_its_axes_prunes_what_looks_like_a_scale():
    tree = {"weight": jnp.ones((4, 8)), "bias": jnp.zeros((4, 8))}
    rules = [Rule("weight", True, out_axis=0), Rule("*", False)]
    assert Subnetwork(rules=rules).fan_ins(tree) == {"weight": 8}


def test_biases_of_convolutions_do_not_look_like_those_of_stacks():
    for layer in (
        eqx.nn.Conv2d(3, 8, 2, key=KEY),
        eqx.nn.ConvTranspose2d(3, 8, 2, key=KEY),
        eqx.nn.Linear(27, 8, key=KEY),
    ):
        arrays = eqx.filter(layer, eqx.is_array)
        assert len(Subnetwork(rules=OUTPUTS_FIRST_RULES).fan_ins(arrays)) == 1


def test_masks_of_a_part_of_the_tree_are_those_of_the_whole():
    params = {
        name: {"kernel": jnp.zeros((10, 10))} for name in ("conv", "dense", "head")
    }
    subnetwork = Subnetwork({"conv/*": 0.2, "head/*": 0.3, "*": 0.9})
    scores, _ = subnetwork.init(KEY, params)
    whole = subnetwork.masks(scores)
    for names in (["conv"], ["head", "conv"], ["dense"]):
        part = subnetwork.masks({name: scores[name] for name in names})
        for name in names:
            np.testing.assert_array_equal(part[name]["kernel"], whole[name]["kernel"])
    with pytest.raises(ValueError, match=r"'\*' is never used: 'conv/\*' comes before"):
        Subnetwork({"conv/*": 0.2, "*": 0.9}).init(KEY, {"conv": params["conv"]})


def test_a_pattern_that_no_tree_uses_is_refused_where_it_is_written():
    message = "pattern 'conv/a' is never used: 'conv/\\*' before it matches all that"
    with pytest.raises(ValueError, match=message):
        Subnetwork({"conv/*": 0.2, "conv/a": 0.3, "*": 0.9})


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


def test_slices_of_a_stack_have_the_threshold_of_the_rank():
    scores = {"kernel": jax.random.normal(KEY, (3, 10, 10))}
    rules = [Rule("kernel", True, stack_axis=0)]
    for rank, kept in (("count", 40), ("quantile", 41)):
        subnetwork = Subnetwork(0.6, rules=rules, rank=rank)
        masks = subnetwork.masks(scores)
        assert masks["kernel"].sum((1, 2)).tolist() == [kept] * 3
        assert subnetwork.count(scores) == (300, 3 * kept)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("stack_axis", 0.0), ("in_axis", 1.5), ("fan_in", "3"), ("fan_in", 0)),
        *(("fan_in", float("inf")), ("out_axis", "0"), ("ndims", (2.0,))),
    ],
)
def test_a_field_of_a_rule_that_is_not_a_number_is_refused(field, value):
    with pytest.raises(ValueError, match=f"'kernel': {field} .* got ") as error:
        Rule("kernel", True, **{field: value})
    assert str(error.value).endswith(repr(value))


def test_sets_of_characters_are_not_taken_for_covered():
    assert not covers("[!a]x", "?x")
    assert covers("[!a]x", "[!a]x")
    assert covers("*", "[!a]x")


class Transposed(nn.Module):
    """A Dense layer whose kernel is stored as (outputs, inputs)."""

    @nn.compact
    def __call__(self, x):
        def transposed(variables):
            return jax.tree.map(jnp.transpose, variables)

        first = self.is_initializing()
        dense = nn.map_variables(
            nn.Dense, "params", transposed, transposed, mutable=first, init=first
        )
        return dense(6, use_bias=False)(x)


def test_a_kernel_that_its_layer_sees_transposed_is_refused():
    x = jnp.ones((2, 16))
    params = Transposed().init(KEY, x)["params"]
    assert jax.tree.leaves(params)[0].shape == (6, 16)  # fan-in 16, not 6
    with pytest.raises(ValueError, match=r"shape \(6, 16\): which axes are inputs"):
        Subnetwork(rules=rules_of(Transposed(), x)).init(KEY, params)


class Tied(nnx.Module):
    """Its state has the kernel of `z` as `a`, the first of its two paths."""

    def __init__(self, rngs):
        self.z = nnx.Einsum("ab,bcd->acd", (6, 3, 4), rngs=rngs)
        self.a = self.z.kernel


def test_a_tied_variable_is_what_one_of_its_layers_knows():
    model = Tied(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    assert Subnetwork(rules=rules_of(model)).fan_ins(state) == {"a": 6}


class Attention(eqx.Module):
    query: jax.Array
    value: jax.Array


class Net(eqx.Module):
    attention: Attention
    head: eqx.nn.Linear


def test_a_leaf_named_value_has_this_name():
    """Only in a variable of NNX or a box of Linen is it left out of the path."""
    attention = Attention(jnp.zeros((3, 8, 6)), jnp.zeros((3, 8, 6)))
    model = Net(attention, eqx.nn.Linear(6, 2, use_bias=False, key=KEY))
    rules = (Rule("attention/value", True, out_axis=(0, 1)), *OUTPUTS_FIRST_RULES)
    subnetwork = Subnetwork({"*/value": 0.25, "*": 0.5}, rules=rules)
    assert subnetwork.fan_ins(model) == {"attention/value": 6, "head/weight": 6}
    with pytest.warns(UserWarning, match=r"frozen: attention/query \(3, 8, 6\);"):
        scores, weights = subnetwork.init(KEY, model)
    assert scores.attention.query is None
    pruned = subnetwork.prune(scores, weights)
    assert int((pruned.attention.value != 0).sum()) == 3 * 8 * 6 * 3 // 4
    boxed = {"a": {"kernel": nn.Partitioned(jnp.zeros((4, 3)), ("in", "out"))}}
    assert Subnetwork().fan_ins(boxed) == {"a/kernel": 4}
