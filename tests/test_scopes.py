"""Laws of methods that train scores: every scope, rank, value, schedule, distribution.

What they are compared with is NumPy's sort and float64.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork, masks
from iterand_jax.distributions import DISTRIBUTIONS
from iterand_jax.methods import build_method
from iterand_jax.rules import Schedule
from iterand_jax.trees import leaves_of

KEY = jax.random.key(0)
SHAPES = {"a": (3, 3, 4, 6), "b": (20, 30), "c": (30, 5)}
PARAMS = {
    **{name: {"kernel": jnp.zeros(shape)} for name, shape in SHAPES.items()},
    "norm": {"scale": jnp.ones(6)},
}
SCOPES = ((), ("*",), ("a/*", "c/*"), ("[bc]/*",))
FIELDS = {"k_per": 3, "sampling_rate": 0.5}
SPARSITIES = (0.75, Schedule(to=0.75, start=0.25, begin=2, end=10))
OPTIONS = [
    ("edge_popup", {}),
    ("iterand", {"ranked_by": "magnitude", "values": "scaled"}),
    ("biprop", {}),
    ("biprop_iterand", {}),
]
every_law = pytest.mark.parametrize(
    ("name", "options", "scope", "distribution"),
    [
        (*option, scope, distribution)
        for option, scope, distribution in itertools.product(
            OPTIONS, SCOPES, DISTRIBUTIONS
        )
    ],
)


def groups(scope):
    """The leaves that share a threshold, said once more."""
    together = {(): [], ("*",): ["abc"], ("[bc]/*",): ["bc"]}.get(scope, [])
    return [*together, *(x for x in "abc" if not any(x in g for g in together))]


def built(name, options, scope, distribution, sparsity=0.75):
    subnetwork = Subnetwork(sparsity, distribution, scope=scope, **options)
    return build_method(name, subnetwork, FIELDS), subnetwork


def start(method):
    return jax.jit(method.init)(KEY, PARAMS)


@every_law
def test_a_method_of_scores_obeys_its_laws(name, options, scope, distribution):
    method, _ = built(name, options, scope, distribution)
    scores, weights = start(method)
    kept = {
        p: np.asarray(m) != 0
        for p, m in leaves_of(method.masks(scores, weights, 0)).items()
    }
    ranked = leaves_of(method.ranked(scores))
    for group in groups(scope):
        paths = [f"{x}/kernel" for x in group]
        every = np.sort(np.concatenate([np.ravel(ranked[path]) for path in paths]))
        least = every[round(0.75 * every.size)]
        for path in paths:
            np.testing.assert_array_equal(kept[path], np.asarray(ranked[path]) >= least)
    params = leaves_of(jax.jit(method.params)(scores, weights, 0))
    for path, mask in kept.items():
        expected, factor = law(name, options, weights, path, mask)
        np.testing.assert_allclose(params[path], expected, rtol=1e-5)
        check_gradient(method, scores, weights, path, factor)
    np.testing.assert_array_equal(params["norm/scale"], PARAMS["norm"]["scale"])
    new, _ = jax.jit(method.refresh)(KEY, 3, scores, weights)
    for path, leaf in leaves_of(method.params(scores, new, 3)).items():
        np.testing.assert_array_equal(
            leaf, method_params(method, scores, weights)[path]
        )


def method_params(method, scores, weights):
    return leaves_of(method.params(scores, weights, 3))


def law(name, options, weights, path, mask):
    """(the effective weights, what the gradient of a mask is multiplied with)."""
    w = np.asarray(leaves_of(weights)[path], np.float64)
    if "biprop" in name:
        magnitude = np.abs(w[mask]).mean() if mask.any() else 0.0
        return np.where(mask, magnitude * np.sign(w), 0), w
    factor = 1.0
    if options.get("values") == "scaled":
        factor = 1 / np.sqrt(max(mask.sum(), 1) / mask.size)
    return np.where(mask, factor * w, 0), factor * w


def check_gradient(method, scores, weights, path, factor):
    """The gradient of a score is that of its effective weight, passed through."""
    upstream = np.random.default_rng(1).standard_normal(factor.shape)

    def loss(scores):
        params = leaves_of(method.params(scores, weights, 0))
        return jnp.sum(params[path] * upstream)

    s = np.asarray(leaves_of(scores)[path])
    magnitudes = np.any(np.asarray(leaves_of(method.ranked(scores))[path]) != s)
    signs = np.sign(s) if magnitudes else 1.0
    found = leaves_of(jax.grad(loss)(scores))[path]
    np.testing.assert_allclose(found, upstream * signs * factor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_count_is_what_the_masks_of_the_end_keep(name, options, sparsity, scope):
    method, subnetwork = built(name, options, scope, "kaiming_normal", sparsity)
    scores, weights = start(method)
    found = leaves_of(method.masks(scores, weights, 100))
    pruned = sum(int((np.asarray(m) == 0).sum()) for m in found.values())
    total, kept = subnetwork.count(PARAMS)
    assert kept == total - pruned


def test_the_masks_of_a_step_are_those_of_its_sparsity():
    method, _ = built("iterand", {}, ("*",), "signed_constant", SPARSITIES[1])
    scores, weights = start(method)
    for step in (0, 2, 5, 9, 10, 50):
        sparsity = SPARSITIES[1].value(step)
        alone, _ = built("iterand", {}, ("*",), "signed_constant", sparsity)
        expected = leaves_of(alone.masks(scores, weights, 0))
        for path, mask in leaves_of(
            jax.jit(method.masks)(scores, weights, step)
        ).items():
            np.testing.assert_array_equal(mask, expected[path])
        if step in (0, 50):
            kept = sum(int(mask.sum()) for mask in expected.values())
            assert kept == round((1 - (0.25, 0.75)[step > 0]) * (216 + 600 + 150))


def test_a_schedule_without_a_step_is_refused():
    subnetwork = Subnetwork(SPARSITIES[1])
    scores, weights = subnetwork.init(KEY, PARAMS)
    with pytest.raises(ValueError, match=r"are those of a step: subnetwork.at\(step\)"):
        subnetwork.prune(scores, weights)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_groups_of_several_dtypes_are_ranked_together(promotion):
    rng = np.random.default_rng(0)
    leaves = [
        jnp.asarray(rng.standard_normal(n), dtype)
        for n, dtype in ((50, "float32"), (70, "bfloat16"), (9, "float16"))
    ]
    with jax.numpy_dtype_promotion(promotion):
        found = masks.topk_masks(leaves, [0.5], groups=[(0, 1, 2)])
    every = np.concatenate([np.asarray(leaf, np.float32) for leaf in leaves])
    least = np.sort(every)[round(0.5 * 129)]
    for leaf, mask in zip(leaves, found, strict=True):
        assert mask.dtype == leaf.dtype
        np.testing.assert_array_equal(
            np.asarray(mask, np.float32), np.asarray(leaf, np.float32) >= least
        )


@pytest.mark.parametrize("groups", [[(0,)], [(0, 1), (1,)], [(0, 2)]])
def test_groups_that_are_no_partition_are_refused(groups):
    with pytest.raises(ValueError, match="groups of the indices of 2 leaves, each on"):
        masks.topk_masks([jnp.ones(3), jnp.ones(2)], [0.5] * len(groups), groups=groups)


def test_a_scope_is_one_threshold_for_a_stack_and_a_value_is_of_a_slice():
    from iterand_jax import Rule

    rules = [Rule("*", prune=True, stack_axis=0, in_axis=1, out_axis=2)]
    apart = Subnetwork(0.5, "kaiming_normal", rules, values="binary")
    scores = {"x": jnp.arange(24.0).reshape(2, 3, 4)}
    _, weights = apart.init(KEY, {"x": jnp.zeros((2, 3, 4))})
    together = dataclasses.replace(apart, scope=("*",))
    for subnetwork, kept in ((apart, [6, 6]), (together, [0, 12])):
        found = np.asarray(subnetwork.prune(scores, weights)["x"])
        assert [(slice_ != 0).sum() for slice_ in found] == kept
        for slice_, w in zip(found, np.asarray(weights["x"]), strict=True):
            if slice_.any():
                expected = np.abs(w[slice_ != 0]).mean()
                np.testing.assert_allclose(np.abs(slice_[slice_ != 0]), expected, 1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scope": "*"}, r"scope is a tuple of patterns, .* together; got '\*'"),
        ({"scope": ("*", "*")}, "scope is a tuple of patterns"),
        (
            {"scope": ("x/*",)},
            "'x/\\*' is the first to match none of the pruned leaves",
        ),
        ({"scope": ("*", "a/*")}, "'a/\\*' is the first to match none of the pruned"),
        (
            {"scope": ("*",), "sparsity": {"a/*": 0.5, "*": 0.7}},
            r"the scope '\*' has one threshold, and the sparsity of 'a/kernel' is 0.5",
        ),
        ({"ranked_by": "size"}, "unknown ranked_by 'size'; possible: score, magnitude"),
        ({"values": "ternary"}, "unknown values 'ternary'; possible: masked, binary, "),
        ({"values": 3}, "unknown values 3; possible: masked, binary, scaled"),
    ],
)
def test_what_cannot_be_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Subnetwork(**fields).init(KEY, PARAMS)


@pytest.mark.parametrize("field", ["ranked_by", "values"])
def test_biprop_has_its_own_rank_and_values(field):
    value = {"ranked_by": "magnitude", "values": "scaled"}[field]
    with pytest.raises(ValueError, match=f"{field}='{value}' is not possible: biprop"):
        build_method("biprop", Subnetwork(**{field: value}), {})


def test_a_sparsity_of_a_scope_is_one_in_every_function():
    """Of trees that `init` did not make, and of traced numbers, too."""
    together = Subnetwork({"a/*": 0.5, "*": 0.7}, scope=("*",))
    scores, _ = Subnetwork().init(KEY, PARAMS)
    message = r"the scope '\*' has one threshold, and the sparsity of 'a/kernel' is "
    for ask in (lambda: together.masks(scores), lambda: together.count(PARAMS)):
        with pytest.raises(ValueError, match=message):
            ask()

    def traced(first, second):
        sparsity = {"a/*": first, "*": second}
        return Subnetwork(sparsity, scope=("*",)).init(KEY, PARAMS)

    with pytest.raises(ValueError, match=message):
        jax.jit(traced)(0.5, 0.5)


def test_a_subnetwork_with_a_schedule_is_an_argument_of_jit():
    subnetwork = Subnetwork(SPARSITIES[1])
    scores, _ = subnetwork.init(KEY, PARAMS)
    masks_at = jax.jit(lambda own, scores, step: own.at(step).masks(scores))
    for step in (0, 5, 20):
        found = masks_at(subnetwork, scores, step)
        expected = subnetwork.at(step).masks(scores)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_magnitude_of_narrow_weights_is_their_mean(dtype):
    """Their sum is beyond float16's largest number, 65,504."""
    weights = jnp.full((600, 600), -0.25, dtype)
    mask = jnp.ones(weights.shape)
    with jax.numpy_dtype_promotion("strict"):
        found = masks.values_of("binary")(weights, mask, ())
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, weights)


def test_a_value_may_be_a_function():
    def halved(weights, mask, stack):
        del stack
        return masks.masked(weights, mask) / 2

    plain, half = (Subnetwork(values=values) for values in ("masked", halved))
    scores, weights = plain.init(KEY, PARAMS)
    for path, leaf in leaves_of(half.prune(scores, weights)).items():
        factor = 1.0 if path == "norm/scale" else 2.0
        np.testing.assert_array_equal(
            factor * leaf, leaves_of(plain.prune(scores, weights))[path]
        )
    method = build_method("edge_popup", half, {})
    assert method.rescales
