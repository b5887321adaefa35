"""Patterns n:m: exactly n of every m along the inputs, the first of equal ones."""

import dataclasses
import math
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Rule, Schedule, Subnetwork, edge_popup, iterand
from iterand_jax.distributions import DISTRIBUTIONS
from iterand_jax.masks import nm_mask, pattern_of, values_of
from iterand_jax.methods import build_method
from iterand_jax.methods.magnitude import magnitude_masks, magnitudes
from iterand_jax.rules.ratios import RATIOS
from tests import helpers

KEY = jax.random.key(0)
INF, NAN = math.inf, math.nan
PATTERNS = ("2:4", "1:4", "1:2", "4:8", "3:6", "1:16")
SHAPES = {"a": (3, 3, 48, 6), "b": (96, 10), "c": (48, 5)}
PARAMS = {
    **{name: {"kernel": jnp.zeros(shape)} for name, shape in SHAPES.items()},
    "norm": {"scale": jnp.ones(6)},
}
FIELDS = {"k_per": 3, "sampling_rate": 0.5, "recycled_share": 0.25}


def grouped(array, of, axis):
    """(any, m): the groups of an array as rows."""
    return np.moveaxis(np.asarray(array), axis, -1).reshape(-1, of)


def oracle(scores, pattern, axis):
    """By a stable sort of Python floats: NaN above infinity, -0.0 equal to 0.0."""
    kept, of = map(int, pattern.split(":"))
    rows = grouped(np.asarray(scores, np.float64), of, axis)
    rank = np.where(np.isnan(rows), np.inf, rows)
    order = np.lexsort((-rank, ~np.isnan(rows)), axis=1)  # both sorts are stable
    mask = np.zeros(rows.shape)
    np.put_along_axis(mask, order[:, :kept], 1, axis=1)
    moved = np.moveaxis(np.empty(scores.shape), axis, -1).shape
    return np.moveaxis(mask.reshape(moved), -1, axis)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("scores", "pattern", "mask"),
    [
        ([0.3, -2.0, 0.1, 0.7], "2:4", [1, 0, 0, 1]),
        ([0.3, -2.0, 0.1, 0.7], "1:4", [0, 0, 0, 1]),
        ([0.3, -2.0, 0.1, 0.7], "1:2", [1, 0, 0, 1]),
        ([0.3, -2.0, 0.1, 0.7], "3:4", [1, 0, 1, 1]),
        ([-3.0, -1.0, -2.0, -4.0], "2:4", [0, 1, 1, 0]),  # no absolute value
        ([1.0, 1.0, 1.0, 1.0], "2:4", [1, 1, 0, 0]),  # ties: exactly two, the first
        ([0.0, 1.0, 1.0, 1.0], "2:4", [0, 1, 1, 0]),
        ([-0.0, 0.0, -0.0, 0.0], "1:2", [1, 0, 1, 0]),
        ([-1e-45, 1e-45, 0.0, -0.0], "2:4", [0, 1, 1, 0]),  # subnormals
        ([-INF, INF, 0.0, NAN], "2:4", [0, 1, 0, 1]),
        ([-INF, -NAN, NAN, INF], "1:4", [0, 1, 0, 0]),  # every NaN is one NaN
        ([-INF, -INF, -INF, -INF], "2:4", [1, 1, 0, 0]),
    ],
)
def test_literal_scores_give_literal_masks(scores, pattern, mask):
    found = nm_mask(jnp.array(scores, jnp.float32), pattern, axis=0)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((48,), 0), ((48, 5), 0), ((5, 48), -1), ((2, 3, 48, 4), 2)]
)
def test_masks_are_those_of_a_stable_sort(shape, axis, dtype):
    """With many ties and what is special among them."""
    rng = np.random.default_rng(len(shape))
    special = rng.choice([NAN, -NAN, INF, -INF, 0.0, -0.0], shape)
    scores = np.where(rng.random(shape) < 0.3, special, rng.integers(-3, 3, shape) / 2)
    scores = scores.astype(jnp.dtype(dtype))
    with jax.enable_x64(dtype == "float64"):
        for pattern in PATTERNS:
            found = jax.jit(nm_mask, static_argnums=(1, 2))(scores, pattern, axis)
            assert found.dtype == scores.dtype
            np.testing.assert_array_equal(
                np.asarray(found, np.float64),
                oracle(scores, pattern, axis % len(shape)),
            )


def test_gradients_go_straight_through_in_every_mode():
    """As of the scores themselves: reverse, forward, twice, and under vmap."""
    scores = jax.random.normal(KEY, (3, 8))
    factors = jax.random.normal(jax.random.key(1), (3, 8))

    def energy(s):
        return jnp.sum((nm_mask(s, "2:4", 1) * factors) ** 2)

    mask = nm_mask(scores, "2:4", 1)
    np.testing.assert_allclose(jax.grad(energy)(scores), 2 * mask * factors**2, 1e-6)
    out, tangent = jax.jvp(lambda s: nm_mask(s, "2:4", 1), (scores,), (factors,))
    np.testing.assert_array_equal(out, mask)
    np.testing.assert_array_equal(tangent, factors)
    hessian = jax.hessian(energy)(scores).reshape(24, 24)
    np.testing.assert_allclose(hessian, np.diag(2 * factors.ravel() ** 2), 1e-6)
    rows = jax.vmap(lambda s: nm_mask(s, "2:4", 0))(scores)
    np.testing.assert_array_equal(rows, mask)
    of_rows = jax.vmap(jax.grad(lambda s, f: jnp.sum(nm_mask(s, "2:4", 0) * f)))
    np.testing.assert_allclose(of_rows(scores, factors), factors)


METHODS = [
    ("edge_popup", {}),
    ("iterand", {"ranked_by": "magnitude", "values": "scaled"}),
    ("biprop_iterand", {}),
    ("recycling", {}),
    ("random", {}),
    ("magnitude", {}),
]
CASES = [
    pytest.param(*case, marks=[] if number % 14 == 0 else [pytest.mark.slow])
    for number, case in enumerate(
        (name, options, distribution, pattern)
        for name, options in METHODS
        for distribution in DISTRIBUTIONS
        for pattern in ("2:4", "1:16")
    )
]
"""Every fourteenth, which is fast, is of another method and distribution."""


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize(("name", "options", "distribution", "pattern"), CASES)
def test_every_method_keeps_exactly_n_of_m(name, options, distribution, pattern):
    subnetwork = Subnetwork(distribution=distribution, pattern=pattern, **options)
    kept, of = pattern_of(pattern)
    method = build_method(name, subnetwork, FIELDS)
    trainable, frozen = jax.jit(method.init)(KEY, PARAMS)
    found = jax.jit(method.masks)(trainable, frozen, 0)
    ranked = method.ranked(trainable)
    if name == "magnitude":
        ranked = magnitudes(subnetwork, trainable)
    for leaf, shape in SHAPES.items():
        mask = np.asarray(found[leaf]["kernel"])
        axis = len(shape) - 2
        assert {*grouped(mask, of, axis).sum(1).tolist()} == {kept}
        if name != "random":
            expected = oracle(ranked[leaf]["kernel"], pattern, axis)
            np.testing.assert_array_equal(mask, expected)
    assert found["norm"]["scale"] is None
    params = method.params(trainable, frozen, 0)
    weights = method.weights(trainable, frozen)
    values = values_of("binary" if "biprop" in name else subnetwork.values)
    for leaf in SHAPES:
        expected = values(weights[leaf]["kernel"], found[leaf]["kernel"], ())
        np.testing.assert_allclose(params[leaf]["kernel"], expected, 1e-6)
    if method.refresh_every:
        new, redrawn = method.refresh(KEY, 3, trainable, frozen)
        assert redrawn > 0
        after = method.params(trainable, new, 0)
        jax.tree.map(np.testing.assert_array_equal, params, after)


def test_a_sparsity_follows_from_the_pattern():
    assert Subnetwork(pattern="1:4").sparsity == 0.75
    assert Subnetwork(1 - 1 / 3, pattern="1:3") == Subnetwork(pattern="1:3")
    subnetwork = Subnetwork(pattern="3:4")
    assert subnetwork.at(7) is subnetwork
    assert jax.tree.leaves(subnetwork) == []
    assert jax.tree.map(lambda p: p / 2, subnetwork) == subnetwork
    assert {subnetwork: 1}[Subnetwork(0.25, pattern="3:4")] == 1
    scores, weights = subnetwork.init(KEY, PARAMS)
    prune = jax.jit(lambda s, *trees: s.prune(*trees))
    as_argument = prune(subnetwork, scores, weights)
    static = jax.jit(Subnetwork.prune, static_argnums=0)(subnetwork, scores, weights)
    jax.tree.map(np.testing.assert_array_equal, as_argument, static)
    replaced = jax.jit(lambda s: dataclasses.replace(s, ranked_by="magnitude"))
    assert replaced(subnetwork).ranked_by == "magnitude"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_count_is_that_of_the_masks_with_ties_too(pattern):
    subnetwork = Subnetwork(pattern=pattern, scores_dtype="bfloat16")
    scores, weights = subnetwork.init(KEY, PARAMS)
    equal = jax.tree.map(jnp.zeros_like, scores)
    assert subnetwork.count(weights) == subnetwork.count(weights, scores)
    assert subnetwork.count(weights) == subnetwork.count(weights, equal)


@pytest.mark.parametrize(
    ("rule", "shape", "axis"),
    [
        (Rule("w", True), (3, 3, 8, 6), 2),
        (Rule("w", True, out_axis=0), (6, 8, 3, 3), 1),  # Equinox, PyTorch
        (Rule("w", True, stack_axis=0), (5, 8, 6), 1),
        (Rule("w", True, in_axis=0, out_axis=(1, 2)), (8, 2, 3), 0),  # a query
        (Rule("w", True, in_axis=(0, 1), out_axis=2), (3, 8, 6), 1),  # heads' outputs
        (
            Rule("w", True, in_axis=-1, out_axis=-2),
            (3, 3, 6, 8),
            3,
        ),  # transposed convolution
    ],
)
def test_groups_lie_along_the_last_input_axis(rule, shape, axis):
    subnetwork = Subnetwork(pattern="2:4", rules=(rule,))
    scores, _ = subnetwork.init(KEY, {"w": jnp.zeros(shape)})
    mask = subnetwork.masks(scores)["w"]
    np.testing.assert_array_equal(mask, oracle(scores["w"], "2:4", axis))
    assert subnetwork.group_axis("w", scores["w"]) == axis


def ratio(name):
    return lambda: Subnetwork(pattern="2:4").spread(PARAMS, name)


TWO_OF_FOUR = Subnetwork(pattern="2:4")
REFUSED = {
    "a word": (lambda: Subnetwork(pattern="half"), "'2:4' say; got 'half'"),
    "numbers": (lambda: Subnetwork(pattern=(2, 4)), r"'2:4' say; got \(2, 4\)"),
    "all": (lambda: Subnetwork(pattern="4:4"), "1 <= n < m <= 32, .*; got '4:4'"),
    "none": (lambda: Subnetwork(pattern="0:4"), "got '0:4'"),
    "large": (lambda: Subnetwork(pattern="1:64"), "got '1:64'"),
    "digits of others": (lambda: Subnetwork(pattern="\u0662:4"), "got"),
    "another sparsity": (
        lambda: Subnetwork(0.7, pattern="2:4"),
        "pattern='2:4' removes 0.5 of the weights, and sparsity is 0.7; possible: 0.5",
    ),
    "sparsities": (lambda: Subnetwork({"*": 0.5}, pattern="2:4"), "is Sparsities"),
    "a schedule": (
        lambda: Subnetwork(Schedule(to=0.5), pattern="2:4"),
        "and sparsity is .*Schedule",
    ),
    "a traced sparsity": (
        lambda: jax.jit(
            lambda p: dataclasses.replace(TWO_OF_FOUR, sparsity=p) and None
        )(0.5),
        "pattern='2:4' removes 0.5 of the weights, and sparsity is",
    ),
    "a scope": (lambda: Subnetwork(pattern="2:4", scope=("*",)), r"scope=\('\*',\) is"),
    "coats": (lambda: Subnetwork(pattern="2:4", coats=(0.9,)), r"coats=\(0.9,\) is of"),
    "a rank": (
        lambda: Subnetwork(pattern="2:4", rank="quantile"),
        "rank='quantile' is",
    ),
    **{
        name: (ratio(name), f"layer_sparsities={name} .* not possible with pattern=2:4")
        for name in RATIOS
    },
    "one channel": (
        lambda: TWO_OF_FOUR.init(KEY, {"Conv_0": {"kernel": jnp.zeros((3, 3, 1, 8))}}),
        r"'Conv_0/kernel' of shape \(3, 3, 1, 8\): .* along its input axis 2; possible:"
        r" a multiple of 4, or .* Rule\('Conv_0/kernel', False\) .*unpruned=",
    ),
    "scores of three": (
        lambda: TWO_OF_FOUR.masks({"kernel": jnp.zeros((3, 8))}),
        "'kernel' of shape \\(3, 8\\): .* axis 0",
    ),
    "an array of six": (
        lambda: nm_mask(jnp.zeros((6, 2)), "2:4", 0),
        r"is of an axis whose size is a multiple of 4; got axis 0 of \(6, 2\)",
    ),
    "no such axis": (lambda: nm_mask(jnp.zeros(4), "2:4", 1), r"got axis 1 of \(4,\)"),
    "integers": (lambda: nm_mask(jnp.zeros(4, int), "2:4", 0), "scores must be float"),
    "frozen parts": (
        lambda: build_method(
            "partially_frozen",
            TWO_OF_FOUR,
            {"pruned_share": 0.2, "locked_share": 0.1},
        ),
        "pattern='2:4' is not possible: the method partially_frozen",
    ),
    "signs": (
        lambda: build_method("signed_supermask", TWO_OF_FOUR, {}),
        "pattern='2:4' is not possible: the method signed_supermask",
    ),
    "coats of a method": (
        lambda: build_method("multicoated", TWO_OF_FOUR, {"coats": (0.9,)}),
        r"coats=\(0.9,\) is of a threshold",
    ),
    "magnitudes of all": (
        lambda: magnitude_masks(TWO_OF_FOUR, PARAMS, 0.5),
        "pattern='2:4' is not possible: magnitude_masks",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_without_a_pattern_a_subnetwork_is_what_it_was():
    """Its leaf is the sparsity, and a program of it has no group."""
    plain = Subnetwork(0.5)
    assert jax.tree.leaves(plain) == [0.5]
    scores, weights = plain.init(KEY, PARAMS)
    same, weights_too = TWO_OF_FOUR.init(KEY, PARAMS)  # a pattern draws nothing else
    jax.tree.map(np.testing.assert_array_equal, (scores, weights), (same, weights_too))
    methods = [iterand(s, k_per=2, sampling_rate=0.5) for s in (plain, TWO_OF_FOUR)]
    assert methods[0].resampling == methods[1].resampling
    assert edge_popup(TWO_OF_FOUR).rescales is False


MODES = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from iterand_jax import Subnetwork
key, f32 = jax.random.key(0, impl="threefry2x32"), jnp.float32
params = {"kernel": jnp.zeros((16, 32), f32), "bias": jnp.zeros(32, f32)}
digest = hashlib.sha256()
for pattern in ("2:4", "1:8"):
    subnetwork = Subnetwork(pattern=pattern, values="scaled")
    for call in (lambda f: f, jax.jit):
        scores, weights = call(subnetwork.init)(key, params)
        made = [call(subnetwork.masks)(scores), call(subnetwork.prune)(scores, weights)]
        made += [call(subnetwork.rerandomize)(key, scores, weights, np.float32(0.5))]
        made += [call(jax.grad(lambda s: jnp.sum(
            subnetwork.prune(s, weights)["kernel"] ** 2)))(scores)]
        for leaf in jax.tree.leaves(made):
            digest.update(f"{leaf.dtype}".encode() + np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.compiles
def test_every_mode_of_jax_gives_the_same_bits():
    strict = {
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    modes = ({}, {"JAX_ENABLE_X64": "1", **strict})
    found = {helpers.printed("-W", "error", "-c", MODES, env=mode) for mode in modes}
    assert len(found) == 1


SHARDS = """
import contextlib
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from iterand_jax import Subnetwork
from iterand_jax.masks import nm_mask

KEY, PARAMS = jax.random.key(0), {"kernel": jnp.zeros((48, 44))}
SPECS = (P(), P("x"), P(None, "x"), P("x", "y"), P(("x", "y"),), P("y", "x"))
for pattern in ("2:4", "1:16"):  # of 1:16 groups are cut by four shards
    subnetwork = Subnetwork(pattern=pattern, distribution="kaiming_uniform")
    trees = subnetwork.init(KEY, PARAMS)
    functions = (
        lambda s, w: subnetwork.masks(s),
        lambda s, w: subnetwork.prune(s, w),
        lambda s, w: subnetwork.rerandomize(KEY, s, w, 0.5),
        jax.grad(lambda s, w: (subnetwork.prune(s, w)["kernel"] ** 2).sum()),
    )
    expected = [f(*trees) for f in functions]
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
        for spec in SPECS:
            place = NamedSharding(mesh, spec)
            parts = jax.tree.map(lambda x: jax.device_put(x, place), trees)
            for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
                with context:
                    for f, whole in zip(functions, expected, strict=True):
                        for call in (f, jax.jit(f)):
                            found = call(*parts)["kernel"]
                            np.testing.assert_array_equal(found, whole["kernel"])
                            if kind == AxisType.Explicit:
                                assert found.sharding.is_equivalent_to(place, 2)
                    mask = subnetwork.masks(parts[0])["kernel"]
                    assert mask.sharding.is_equivalent_to(place, 2), mask.sharding
    mesh = jax.make_mesh((4,), ("n",), axis_types=(AxisType.Explicit,))
    scores = jax.random.normal(KEY, (8, 48, 6))
    put = jax.device_put(scores, NamedSharding(mesh, P("n")))
    masks = jax.vmap(lambda s: nm_mask(s, pattern, 0))
    np.testing.assert_array_equal(masks(put), masks(scores))
print("all equal")
"""


@pytest.mark.slow
@pytest.mark.compiles
def test_shards_have_the_bits_and_the_place_of_whole_arrays():
    run = helpers.python(
        *("-W", "error", "-c", textwrap.dedent(SHARDS)),
        devices=4,
        env={"JAX_PLATFORMS": "cpu"},
        timeout=400,
    )
    assert run.stdout == "all equal\n", run.stderr[-3000:]
