"""Every method has the same properties, and IteRand with r = 0 is edge-popup."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iterand_jax import Rule, Schedule, Subnetwork, apply_masks, methods
from iterand_jax.methods import (
    METHODS,
    build_method,
    edge_popup,
    fixed_mask,
    iterand,
    method_fields,
    register_method,
    sgd,
)
from tests.helpers import assert_trees_equal

KEY = jax.random.key(0)
PARAMS = {
    "a": {
        "kernel": np.zeros((6, 30), np.float32),
        "bias": np.linspace(-1, 1, 30, dtype=np.float32),
    },
    "b": {"kernel": np.zeros((30, 4), np.float32)},
}
RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((20, n), np.float32) for n in (6, 4))
HALF = Subnetwork(0.5, "kaiming_uniform")
MASKS = {
    "a": {"kernel": RNG.random((6, 30)) < 0.5, "bias": None},
    "b": {"kernel": RNG.random((30, 4)) < 0.5},
}
FIELDS = {
    "k_per": 3,
    "sampling_rate": 0.5,
    "coats": (0.75,),
    "pruned_share": 0.25,
    "locked_share": 0.25,
    "recycled_share": 0.25,
    "freezings": 2,
    "gate_penalty": 1e-4,
}
EMERGES = ("signed_supermask", "relaxed_bernoulli")  # their sparsity is no argument


def of_every_name(subnetwork):
    """The methods that have a name."""
    whole = dataclasses.replace(subnetwork, sparsity=0.0)
    return {
        name: build_method(name, whole if name in EMERGES else subnetwork, FIELDS)
        for name in METHODS
    }


ALL = {**of_every_name(HALF), "fixed_mask": fixed_mask(MASKS)}
every_method = pytest.mark.parametrize("name", list(ALL))


def loss(method, trainable, frozen, key=KEY):
    """Of a training step, with its noise and penalty."""
    seen = method.params
    if method.noisy is not None:
        seen = functools.partial(method.noisy, key)
    params = seen(trainable, frozen, 0)
    hidden = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"])
    value = jnp.mean((hidden @ params["b"]["kernel"] - Y) ** 2)
    return value if method.penalty is None else value + method.penalty(trainable)


@functools.cache
def train(method, steps=7, decay=0.1):
    """(trainable, frozen, losses, redrawn) of SGD with momentum and weight decay."""
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1, 0.9))

    @jax.jit
    def step(trainable, frozen, state, key):
        value, gradient = jax.value_and_grad(loss, 1)(method, trainable, frozen, key)
        updates, state = optimizer.update(gradient, state, trainable)
        trainable = method.project(optax.apply_updates(trainable, updates))
        return trainable, state, value

    params = jax.tree.map(lambda leaf: leaf + 0.3, PARAMS)
    trainable, frozen = jax.jit(method.init)(KEY, params)
    state = optimizer.init(trainable)
    refresh = jax.jit(method.refresh)
    losses, redrawn = [], 0
    for i in range(steps):
        key = jax.random.fold_in(KEY, i)
        trainable, state, value = step(trainable, frozen, state, key)
        losses.append(value)
        if method.refresh_every and (i + 1) % method.refresh_every == 0:
            frozen, count = refresh(KEY, i + 1, trainable, frozen)
            redrawn += int(count)
    return trainable, frozen, np.array(losses), redrawn


@pytest.mark.smoke
def test_the_laws_below_cover_every_method():
    public = {
        name
        for name, member in vars(methods).items()
        if callable(member)
        and getattr(member, "__annotations__", {}).get("return") is methods.Method
    }
    assert set(ALL) == {*METHODS, "fixed_mask"}
    named = {"random": "random_pruning", "magnitude": "gradual_magnitude"}
    functions = {named.get(name, name) for name in ALL}
    assert public == {*functions, "unfilled_mask", "build_method"}


@every_method
def test_params_have_the_structure_of_the_network_and_a_gradient(name):
    method = ALL[name]
    trainable, frozen = jax.jit(method.init)(KEY, PARAMS)
    params = jax.eval_shape(method.params, trainable, frozen, 0)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, PARAMS)
    gradient = jax.jit(jax.grad(functools.partial(loss, method)))(trainable, frozen)
    assert jax.tree.structure(gradient) == jax.tree.structure(trainable)
    if name != "fixed_mask":  # whose kernels start as they were given, zero
        assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


@every_method
def test_training_lowers_the_loss(name):
    _, _, losses, _ = train(ALL[name], steps=30)
    assert losses[-1] < 0.9 * losses[0]


@every_method
def test_a_refresh_changes_nothing_but_what_iterand_redraws(name):
    method = ALL[name]
    trainable, frozen = jax.jit(method.init)(KEY, PARAMS)
    refresh, params = jax.jit(method.refresh), jax.jit(method.params)
    new, redrawn = refresh(KEY, 3, trainable, frozen)
    assert redrawn.dtype == jnp.int32
    assert redrawn.shape == ()
    if name == "gem_miner":  # it prunes more
        assert method.refresh_every == 3
        assert redrawn == round((1 - 0.5**0.5) * 300)
        zero = jax.tree.map(lambda leaf: jnp.sum(leaf == 0), new)
        assert zero["a"]["kernel"] + zero["b"]["kernel"] == redrawn
        return
    assert_trees_equal(params(trainable, new, 3), params(trainable, frozen, 3))
    if name == "recycling":
        assert method.refresh_every == 3
        assert redrawn == 45 + 30  # a quarter of each leaf
        copies = new["a"]["kernel"] != frozen["a"]["kernel"]
        assert copies.sum() == 45
        assert jnp.isin(new["a"]["kernel"], frozen["a"]["kernel"]).all()
    elif "iterand" in name:
        assert method.refresh_every == 3
        assert 0 < redrawn < 150  # of 90 + 60 pruned weights
        later, _ = refresh(KEY, 6, trainable, frozen)
        assert jnp.any(later["a"]["kernel"] != new["a"]["kernel"])
    else:
        assert method.refresh_every == redrawn == 0
        assert_trees_equal(new, frozen)


@pytest.mark.smoke
def test_iterand_with_rate_zero_is_edge_popup_bit_for_bit():
    *iterand_run, redrawn = train(iterand(HALF, k_per=2, sampling_rate=0.0))
    *popup_run, _ = train(edge_popup(HALF))
    assert redrawn == 0
    assert_trees_equal(iterand_run, popup_run)


def test_iterand_trains_on_weights_that_change():
    scores, weights, losses, redrawn = train(iterand(HALF, k_per=2, sampling_rate=1.0))
    popup_scores, popup_weights, popup_losses, _ = train(edge_popup(HALF))
    assert redrawn == 3 * (90 + 60)
    np.testing.assert_array_equal(losses[:3], popup_losses[:3])  # refreshed after two
    assert losses[-1] != popup_losses[-1]
    assert jnp.any(scores["b"]["kernel"] != popup_scores["b"]["kernel"])
    assert jnp.mean(weights["b"]["kernel"] != popup_weights["b"]["kernel"]) > 0.4


@pytest.mark.parametrize(
    "make", [edge_popup, functools.partial(iterand, k_per=1, sampling_rate=1.0)]
)
def test_sparsity_zero_is_the_dense_network(make):
    whole = Subnetwork(0.0, "kaiming_uniform")
    method = make(whole)
    scores, weights = jax.jit(method.init)(KEY, PARAMS)
    assert_trees_equal(jax.jit(method.params)(scores, weights, 0), weights)
    refreshed, redrawn = jax.jit(method.refresh)(KEY, 1, scores, weights)
    assert redrawn == 0
    assert_trees_equal(refreshed, weights)
    dense, nothing = jax.jit(sgd(whole).init)(KEY, PARAMS)
    assert_trees_equal(dense, weights)
    value = loss(sgd(whole), dense, nothing)
    assert loss(method, scores, weights) == value


def test_edge_popup_never_trains_weights_or_biases():
    scores, weights, _, _ = train(edge_popup(HALF))
    params = jax.tree.map(lambda leaf: leaf + 0.3, PARAMS)
    first_scores, first_weights = jax.jit(edge_popup(HALF).init)(KEY, params)
    assert_trees_equal(weights, first_weights)
    np.testing.assert_array_equal(weights["a"]["bias"], params["a"]["bias"])
    assert scores["a"]["bias"] is None
    assert jnp.mean(scores["a"]["kernel"] != first_scores["a"]["kernel"]) > 0.99


def test_sgd_draws_kernels_from_the_distribution_and_trains_everything():
    weights, frozen = jax.jit(sgd(Subnetwork(0.9)).init)(KEY, PARAMS)
    assert not jax.tree.leaves(frozen)
    np.testing.assert_allclose(jnp.abs(weights["a"]["kernel"]), (2 / 6) ** 0.5, 1e-6)
    np.testing.assert_array_equal(weights["a"]["bias"], PARAMS["a"]["bias"])
    trained, _, _, _ = train(sgd(HALF))
    start, _ = jax.jit(sgd(HALF).init)(KEY, jax.tree.map(lambda p: p + 0.3, PARAMS))
    changed = jax.tree.map(lambda a, b: float(jnp.mean(a != b)), trained, start)
    assert min(jax.tree.leaves(changed)) > 0.9


def test_a_fixed_mask_keeps_pruned_weights_at_zero():
    trained, masks, _, _ = jax.device_get(train(fixed_mask(MASKS)))
    assert_trees_equal(masks, MASKS)
    for layer in ("a", "b"):
        kernel, mask = trained[layer]["kernel"], MASKS[layer]["kernel"]
        np.testing.assert_array_equal(kernel[~mask], 0)
        assert (kernel[mask] != 0).all()
    assert np.all(trained["a"]["bias"] != PARAMS["a"]["bias"] + 0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sgdm"}, "unknown method 'sgdm'; possible: sgd, edge_popup, iterand"),
        ({"k_per": None}, "the method 'iterand' needs a value for k_per"),
        ({"k_per": 0}, "in steps and must be an integer of at least 1; got 0"),
        ({"k_per": -3}, "at least 1; got -3"),
        ({"sampling_rate": 1.5}, r"\[0, 1\]; got 1.5"),
        ({"sampling_rate": float("nan")}, r"\[0, 1\]; got nan"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"name": "iterand", "k_per": 3, "sampling_rate": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        build_method(arguments.pop("name"), HALF, arguments)


def test_random_masks_are_as_large_as_their_layers_say():
    layered = Subnetwork({"a/*": 0.25, "*": 0.75}, "kaiming_uniform")
    method = build_method("random", layered, {})
    trained, masks, _, _ = train(method)
    assert int(masks["a"]["kernel"].sum()) == 135
    assert int(masks["b"]["kernel"].sum()) == 30
    pruned = masks["a"]["kernel"] == 0
    np.testing.assert_array_equal(trained["a"]["kernel"] == 0, pruned)
    first, _ = jax.jit(method.init)(KEY, PARAMS)
    drawn, _ = jax.jit(sgd(layered).init)(KEY, PARAMS)
    assert_trees_equal(
        first["b"]["kernel"], drawn["b"]["kernel"] * masks["b"]["kernel"]
    )


def test_gradual_magnitude_keeps_the_largest_of_all_leaves():
    schedule = Schedule(to=0.75, start=0.25, begin=0, end=8)
    subnetwork = Subnetwork(schedule, "kaiming_uniform", scope=("*",))
    method = build_method("magnitude", subnetwork, {})
    weights, frozen, _, _ = train(method)
    every = np.concatenate([np.ravel(np.abs(weights[x]["kernel"])) for x in "ab"])
    for step in (0, 4, 8, 20):
        least = np.sort(every)[round(schedule.value(step) * every.size)]
        masks = method.masks(weights, frozen, step)
        params = method.params(weights, frozen, step)
        for name in "ab":
            expected = np.abs(weights[name]["kernel"]) >= least
            np.testing.assert_array_equal(masks[name]["kernel"] != 0, expected)
            kept = np.where(expected, weights[name]["kernel"], 0)
            np.testing.assert_array_equal(params[name]["kernel"], kept)
    gradient = jax.grad(functools.partial(loss, method))(weights, frozen)
    pruned = method.masks(weights, frozen, 0)["a"]["kernel"] == 0
    assert pruned.any()
    assert not np.any(gradient["a"]["kernel"][pruned])


@pytest.mark.parametrize("scope", [(), ("*",)])
@pytest.mark.parametrize("ranked_by", ["score", "magnitude"])
def test_frozen_parts_are_never_decided_by_scores(scope, ranked_by):
    subnetwork = Subnetwork(0.6, scope=scope, ranked_by=ranked_by, values="scaled")
    fields = {"pruned_share": 0.3, "locked_share": 0.2}
    method = build_method("partially_frozen", subnetwork, fields)
    scores, frozen, _, _ = train(method)
    start, again = jax.jit(method.init)(KEY, jax.tree.map(lambda x: x + 0.3, PARAMS))
    assert_trees_equal(frozen, again)  # parts and weights stay as they were drawn
    _, weights = Subnetwork(0.6).init(KEY, jax.tree.map(lambda x: x + 0.3, PARAMS))
    assert_trees_equal(frozen.weights["b"], weights["b"])
    masks, total = method.masks(scores, frozen, 0), 0
    for name, size in (("a", 180), ("b", 120)):
        fixed, mask = frozen.fixed[name]["kernel"], masks[name]["kernel"]
        assert (fixed == -1).sum() == 0.3 * size
        assert (fixed == 1).sum() == 0.2 * size
        assert not mask[fixed == -1].any()
        assert mask[fixed == 1].all()
        total += int(mask.sum())
    assert total == 0.4 * 300
    gradient = jax.grad(functools.partial(loss, method))(scores, frozen)
    fixed = frozen.fixed["a"]["kernel"]
    assert not np.any(gradient["a"]["kernel"][fixed != 0])
    assert np.any(gradient["a"]["kernel"][fixed == 0])
    assert start["a"]["bias"] is None


def test_frozen_parts_of_a_stack_are_shares_of_each_slice():
    stack = Rule("*", True, stack_axis=0, in_axis=1, out_axis=2)
    method = build_method(
        "partially_frozen",
        Subnetwork(0.5, rules=[stack]),
        {"pruned_share": 0.45, "locked_share": 0.1},
    )
    scores, frozen = method.init(KEY, {"w": jnp.zeros((6, 8, 5))})
    fixed, mask = frozen.fixed["w"], method.masks(scores, frozen, 0)["w"]
    assert np.sum(fixed == -1, (1, 2)).tolist() == [18] * 6
    assert np.sum(fixed == 1, (1, 2)).tolist() == [4] * 6
    assert np.sum(mask, (1, 2)).tolist() == [20] * 6
    assert not mask[fixed == -1].any()


def test_more_is_not_pruned_for_ever_than_a_scope_removes():
    three = {name: {"kernel": jnp.zeros((3, 1))} for name in "ab"}
    method = build_method(
        "partially_frozen",
        Subnetwork(0.2, scope=("*",)),
        {"pruned_share": 0.2, "locked_share": 0},
    )
    with pytest.raises(ValueError, match=r"2 are pruned permanently .* removes 1, wh"):
        method.init(KEY, three)  # of each leaf one, of all six one


def test_nothing_pruned_for_ever_follows_no_rule():
    method = build_method(
        "partially_frozen",
        HALF,
        {"pruned_share": 0, "locked_share": 0.2, "frozen_by": "balanced"},
    )
    _, frozen = method.init(KEY, PARAMS)
    assert [int(jnp.sum(frozen.fixed[x]["kernel"] == 1)) for x in "ab"] == [30, 30]


def test_coats_rise_from_a_sparsity_that_is_an_array():
    with pytest.raises(ValueError, match=r"coats rise from the sparsity on"):
        Subnetwork(jnp.float32(0.95), coats=(0.9,))
    jax.jit(lambda p: Subnetwork(p, coats=(0.9,)).sparsity)(0.5)


@pytest.mark.parametrize("scope", [(), ("*",)])
def test_coats_are_the_sum_of_their_masks(scope):
    method = build_method(
        "multicoated", Subnetwork(0.5, scope=scope), {"coats": (0.7, 0.9)}
    )
    scores, weights, _, _ = train(method)
    masks = method.masks(scores, weights, 0)
    alone = [
        Subnetwork(p, scope=scope, ranked_by="magnitude").masks(scores)
        for p in (0.5, 0.7, 0.9)
    ]
    for name in "ab":
        expected = sum(one[name]["kernel"] for one in alone)
        np.testing.assert_array_equal(masks[name]["kernel"], expected)
    assert {*np.unique(masks["a"]["kernel"])} == {0, 1, 2, 3}
    upstream = np.random.default_rng(0).standard_normal((6, 30)).astype(np.float32)

    def loss(scores):
        return jnp.sum(method.params(scores, weights, 0)["a"]["kernel"] * upstream)

    scale = np.sqrt(180 / np.sum(masks["a"]["kernel"] != 0))
    signs = np.sign(scores["a"]["kernel"])
    expected = 3 * scale * upstream * signs * weights["a"]["kernel"]
    found = jax.grad(loss)(scores)["a"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_signed_supermask_keeps_removes_and_turns():
    whole = Subnetwork(0.0, "kaiming_uniform")
    method = build_method("signed_supermask", whole, {"threshold": 0.2})
    m, weights, _, _ = train(method)
    for name in "ab":
        mask, w = m[name]["kernel"], weights[name]["kernel"]
        signs = np.sign(mask) * (np.abs(mask) > 0.2)
        found = method.params(m, weights, 0)[name]["kernel"]
        np.testing.assert_array_equal(found, signs * w)
        assert {*np.unique(signs)} == {-1, 0, 1}
    upstream = np.random.default_rng(0).standard_normal((6, 30)).astype(np.float32)

    def loss(m):
        return jnp.sum(method.params(m, weights, 0)["a"]["kernel"] * upstream)

    expected = upstream * weights["a"]["kernel"]
    np.testing.assert_allclose(jax.grad(loss)(m)["a"]["kernel"], expected, rtol=1e-6)


NOT_POSSIBLE = [
    ("multicoated", {}, {"coats": (0.4,)}, r"coats rise from the sparsity on, .*0.4"),
    ("multicoated", {}, {"coats": (0.7, 0.7)}, r"coats rise .*coats=\(0.7, 0.7\)"),
    ("multicoated", {}, {"coats": (1.0,)}, r"a number in \[0, 1\); got 1$"),
    ("multicoated", {}, {"coats": ()}, "one threshold alone is edge_popup"),
    ("multicoated", {"values": "binary"}, {"coats": (0.7,)}, "values='binary' is no"),
    ("partially_frozen", {}, {"pruned_share": 0.6, "locked_share": 0}, "108 are pr"),
    ("partially_frozen", {}, {"pruned_share": 0, "locked_share": 0.6}, "is not from 0"),
    (
        "partially_frozen",
        {"rank": "quantile", "sparsity": 0.6},
        {"pruned_share": 0.6, "locked_share": 0},
        "108 are pruned permanently and 0 locked in; .* 0.6 removes 107, .* 108 to",
    ),
    ("partially_frozen", {}, {"pruned_share": 1, "locked_share": 0}, "; got 1"),
    (
        "partially_frozen",
        {},
        {"pruned_share": 0.1, "locked_share": 0, "frozen_by": "er"},
        "unknown frozen_by 'er'; possible: uniform, equal_edges",
    ),
    ("signed_supermask", {}, {}, "sparsity=0.5 is not possible: the method signed"),
    ("signed_supermask", {"sparsity": 0.0}, {"threshold": 0}, "above 0; got 0"),
    ("recycling", {}, {"k_per": 1, "recycled_share": 2}, r"\[0, 1\]; got 2"),
    ("gem_miner", {}, {"k_per": 3, "freezings": 0}, "how often .* at least 1; got 0"),
    ("gem_miner", {"values": "binary"}, FIELDS, "'binary' is not .* gem_miner rounds"),
    ("gem_miner", {"sparsity": {"*": 0.5}}, FIELDS, "sparsity=.* gem_miner rounds"),
    ("gem_miner", {"sparsity": Schedule(to=0.5)}, FIELDS, "Schedule.* gem_miner rou"),
    ("adaptive_threshold", {"pattern": "2:4"}, {}, "pattern='2:4' is not possible: an"),
    ("adaptive_threshold", {"ranked_by": "magnitude"}, {}, "possible: an adaptive"),
    ("adaptive_threshold", {}, {"threshold_rate": -1.0}, "of at least 0; got -1.0"),
    ("relaxed_bernoulli", {}, {"gate_penalty": 0}, "the method relaxed_bernoulli rank"),
    ("relaxed_bernoulli", {"sparsity": 0.0}, {"gate_penalty": -1}, "at least 0; got -"),
    (
        "relaxed_bernoulli",
        {"sparsity": 0.0},
        {"gate_penalty": 0, "gate_noise": 0.0},
        "gate_noise is a number above 0; got 0.0",
    ),
    ("random", {"scope": ("*",)}, {}, "scope=.* is not possible: the method random"),
    ("random", {"sparsity": Schedule(to=0.5)}, {}, "sparsity=Schedule.* is not poss"),
    ("magnitude", {"values": "scaled"}, {}, "values='scaled' is not possible: the m"),
    ("random", {"coats": (0.9,)}, {}, "coats=.* is not possible: the method random"),
    ("magnitude", {"coats": (0.9,)}, {}, "coats=.* is not possible: the method magn"),
]


@pytest.mark.parametrize(("name", "subnetwork", "fields", "message"), NOT_POSSIBLE)
def test_what_a_method_does_not_do_is_named(name, subnetwork, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        build_method(name, Subnetwork(**subnetwork), fields).init(KEY, PARAMS)
    assert "\n" not in str(error.value)


@every_method
def test_params_are_the_weights_where_masks_keep_them(name):
    """Export and analysis rely on it: these two are all they use of a method."""
    method = ALL[name]
    trainable, frozen, _, _ = train(method)
    weights, expected = method.weights(trainable, frozen), None
    if method.masks is None:
        expected = weights
    else:
        masks = method.masks(trainable, frozen, 7)
        kept = jax.tree.map(lambda mask: (mask != 0).astype(jnp.float32), masks)
        expected = apply_masks(weights, kept)
    found = method.params(trainable, frozen, 7)
    assert method.rescales == (
        "biprop" in name or name in ("multicoated", "signed_supermask")
    )
    if name == "signed_supermask":  # it turns signs
        expected = jax.tree.map(lambda m, w: w * jnp.sign(m), masks["b"], weights["b"])
        assert_trees_equal(found["b"], expected)
    elif method.rescales:  # its own values, where the masks keep a weight
        signs = jax.tree.map(jnp.sign, (found, expected))
        assert_trees_equal(signs[0]["b"], signs[1]["b"])
    else:
        assert_trees_equal(found, expected)
    trained = ("sgd", "fixed_mask", "random", "magnitude")
    assert method.trains_weights == (name in trained)
    given = method.trains_weights or name == "recycling"
    assert (method.resampling is None) == given


def test_a_method_of_ones_own_is_known_by_its_name():
    def slow_popup(subnetwork, *, warmup, rate=0.5):
        del warmup, rate
        return edge_popup(subnetwork)

    register_method("slow_popup", slow_popup)
    assert method_fields("slow_popup") == {"warmup": True, "rate": False}
    assert build_method("slow_popup", HALF, {"warmup": 3}).refresh_every == 0
    with pytest.raises(ValueError, match="there is another method 'slow_popup'"):
        register_method("slow_popup", edge_popup)
    register_method("vague", lambda subnetwork, **fields: edge_popup(subnetwork))
    with pytest.raises(ValueError, match=r"'vague' takes \*\*fields; each hyperp"):
        build_method("vague", HALF, {})


def test_weights_in_the_place_of_scores_are_refused_by_a_leafs_path():
    scores, weights = HALF.init(KEY, PARAMS)
    for call in (
        lambda: HALF.prune(weights, scores),
        lambda: HALF.rerandomize(KEY, weights, scores, 0.5),
    ):
        with pytest.raises(ValueError, match="'a/bias' has a score and no weight"):
            call()


@pytest.mark.slow
def test_smaller_scores_at_the_same_rate_are_a_larger_rate():
    """Masks depend on the order of scores alone: eight times smaller scores at a rate,
    with momentum and without decay, are these scores at eight times the rate."""
    method = edge_popup(Subnetwork(sparsity=0.5))
    params = {"a": {"kernel": jnp.zeros((6, 8))}, "b": {"kernel": jnp.zeros((8, 3))}}
    start, weights = method.init(jax.random.key(0), params)
    x = jax.random.normal(jax.random.key(1), (5, 6))

    def loss(scores):
        found = method.params(scores, weights, 0)
        hidden = jax.nn.relu(x @ found["a"]["kernel"])
        return jnp.sum((hidden @ found["b"]["kernel"] - 1) ** 2)

    def masks_of(scores, rate):
        optimizer, seen = optax.sgd(rate, momentum=0.9), []
        state = optimizer.init(scores)
        for _ in range(20):
            updates, state = optimizer.update(jax.grad(loss)(scores), state)
            scores = optax.apply_updates(scores, updates)
            seen.append(method.masks(scores, weights, 0))
        return seen

    small = masks_of(jax.tree.map(lambda s: s / 8, start), 0.0625)
    large = masks_of(start, 0.5)
    same = jax.tree.map(np.array_equal, small, large)
    assert all(jax.tree.leaves(same))
    changed = jax.tree.map(lambda a, b: np.any(a != b), small[0], small[-1])
    assert any(jax.tree.leaves(changed))
