"""The masks are exact: literal cases, then a sort of Python floats as the oracle."""

import functools
import math
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from iterand_jax.masks import (
    masked,
    num_pruned,
    threshold,
    thresholds,
    topk_mask,
    topk_masks,
)
from iterand_jax.selection import select_all, select_blocked, select_each
from tests import helpers

DTYPES = ("bfloat16", "float16", "float32", "float64")
PAPER_SPARSITIES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 0.95, 0.99)
INF, NAN = math.inf, math.nan

jit_mask = jax.jit(topk_mask)
jit_threshold = jax.jit(threshold)
masks_of_rows = jax.jit(jax.vmap(topk_mask))
masks_of_sparsities = jax.jit(jax.vmap(topk_mask, (None, 0)))
num_removed = jax.jit(num_pruned, static_argnums=0)  # as a traced fraction is rounded
thresholds_of_sparsities = jax.jit(jax.vmap(threshold, (None, 0)))


def select_by_sort(keys, ks):
    return [jnp.sort(x.ravel())[k] for x, k in zip(keys, ks, strict=True)]


def select_unrolled(keys, ks):
    """As on a GPU."""
    return select_blocked(keys, ks, unroll=True)


SELECTIONS = (
    *(select_all, select_each, select_blocked, select_unrolled),
    select_by_sort,
)


def rank(score):
    """The documented order: NaN above infinity, and -0.0 equal to 0.0."""
    return (1, 0.0) if math.isnan(score) else (0, score)


def oracle(scores, k):
    """(mask, smallest kept) when k of the scores are to be removed."""
    values = [float(s) for s in scores.ravel()]
    smallest = sorted(values, key=rank)[k]
    mask = np.array([rank(v) >= rank(smallest) for v in values])
    return mask.reshape(scores.shape), smallest


def same(value, expected):
    value = float(value)
    return value == expected or (math.isnan(value) and math.isnan(expected))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("scores", "sparsity", "mask", "smallest"),
    [
        ([0.3, -2.0, 0.1, 0.7], 0.5, [1, 0, 0, 1], 0.3),
        ([0.3, -2.0, 0.1, 0.7], 0.25, [1, 0, 1, 1], 0.1),
        ([0.3, -2.0, 0.1, 0.7], 0.75, [0, 0, 0, 1], 0.7),
        ([0.3, -2.0, 0.1, 0.7], 0, [1, 1, 1, 1], -2.0),
        ([-3.0, -1.0, -2.0], 0.67, [0, 1, 0], -1.0),  # raw scores, no absolute value
        ([5.0], 0.99, [1], 5.0),  # at least one is kept
        ([1.0, 2.0, 3.0], 0.999999, [0, 0, 1], 3.0),
        ([1.0, 1.0, 1.0, 1.0], 0.75, [1, 1, 1, 1], 1.0),  # ties are kept
        ([0.0, 1.0, 1.0, 2.0], 0.5, [0, 1, 1, 1], 1.0),
        ([-0.0, 0.0, -0.0, 0.0], 0.75, [1, 1, 1, 1], 0.0),
        ([-1e-45, -0.0, 0.0, 1e-45], 0.25, [0, 1, 1, 1], 0.0),  # subnormals
        ([1e-45, 3e-45, 0.0, -1e-45], 0.5, [1, 1, 0, 0], 1e-45),
        ([-INF, INF, 0.0, NAN], 0.5, [0, 1, 0, 1], INF),
        ([-INF, INF, 0.0, NAN], 0.75, [0, 0, 0, 1], NAN),
        ([-NAN, NAN, INF, 1.0], 0.5, [1, 1, 0, 0], NAN),  # every NaN is one NaN
        ([[0.1, 0.4], [0.3, 0.2]], 0.5, [[0, 1], [1, 0]], 0.3),  # over the whole array
    ],
)
def test_literal_scores_give_literal_masks(scores, sparsity, mask, smallest):
    scores = jnp.array(scores, jnp.float32)
    result = jit_mask(scores, sparsity)
    assert result.dtype == scores.dtype
    np.testing.assert_array_equal(result, mask)
    assert same(jit_threshold(scores, sparsity), float(np.float32(smallest)))


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("size", "sparsity", "removed"),
    [
        *[(1, 0, 0), (1, 0.5, 0), (1, 0.99, 0), (4, 0, 0), (4, 0.99, 3)],
        *[(3, 0.5, 2), (5, 0.5, 2), (7, 0.5, 4), (9, 0.5, 4)],  # halves: to even
        *[(2, 0.25, 0), (6, 0.25, 2), (7, 0.3, 2), (10, 0.99, 9), (1000, 0.999, 999)],
    ],
)
def test_the_number_removed_is_rounded_to_even_and_never_all(size, sparsity, removed):
    assert num_pruned(size, sparsity) == removed
    assert jax.jit(lambda p: num_pruned(size, p))(sparsity) == removed


@pytest.mark.parametrize(("sparsity", "small"), [(0.5, 0), (0.9, 4), (0.99, 50)])
def test_only_layers_that_would_end_empty_part_from_the_rounded_product(
    sparsity, small
):
    """The first row of docs/measured/sparsity.md."""
    parts = {
        n: round(sparsity * n) - num_pruned(n, sparsity)
        for n in range(1, 1002)
        if num_pruned(n, sparsity) != round(sparsity * n)
    }
    assert parts == dict.fromkeys(range(1, small + 1), 1)


def test_a_nan_of_a_division_ranks_as_any_other_nan():
    """On x86 0 / 0 is a NaN with a sign, which `jax.lax.top_k` ranks below all."""
    divided = np.asarray(jax.jit(lambda zero: zero / zero)(jnp.zeros(3)))
    for sign in (divided, np.copysign(divided, 1), np.copysign(divided, -1)):
        scores = jnp.concatenate([jnp.arange(5.0), jnp.asarray(sign)])
        mask = jit_mask(scores, 0.5)
        np.testing.assert_array_equal(mask, [0, 0, 0, 0, 1, 1, 1, 1])


def bit_patterns(dtype):
    """24 of any bits of the dtype, and often of the few that are special."""
    width = jnp.dtype(dtype).itemsize * 8
    info = jnp.finfo(dtype)
    values = [0.0, info.tiny, info.smallest_subnormal, 1.0, info.max, INF, NAN]
    special = np.array([*values, *(-v for v in map(float, values))], jnp.dtype(dtype))
    bits = special.view(f"uint{width}").tolist()
    elements = st.sampled_from(bits) | st.integers(0, 2**width - 1)
    return arrays(f"uint{width}", 24, elements=elements)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_any_bits_are_ranked_as_a_sort_ranks_them(dtype, data):
    scores = data.draw(bit_patterns(dtype)).view(jnp.dtype(dtype))
    with jax.enable_x64(dtype == "float64"):
        sparsities = (np.arange(24) / 24).astype(np.float32)
        masks = np.asarray(masks_of_sparsities(scores, sparsities))
        thresholds = np.asarray(thresholds_of_sparsities(scores, sparsities))
    assert masks.dtype == thresholds.dtype == scores.dtype
    for k in range(24):
        mask, smallest = oracle(scores, k)
        np.testing.assert_array_equal(masks[k].astype(bool), mask)
        assert same(thresholds[k], smallest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_arrays_agree_with_a_partition(dtype):
    scores = np.random.default_rng(0).standard_normal((3, 3, 50, 90))
    scores = scores.astype(jnp.dtype(dtype))
    for sparsity in (0.0, *PAPER_SPARSITIES, 1 - 1e-9):
        k = min(int(np.rint(np.float64(sparsity) * scores.size)), scores.size - 1)
        expected = np.partition(scores.astype(np.float64).ravel(), k)[k]
        with jax.enable_x64(dtype == "float64"):
            mask = np.asarray(jit_mask(scores, sparsity))
            assert float(jit_threshold(scores, sparsity)) == expected
        np.testing.assert_array_equal(mask.astype(bool), scores >= expected)


SPECIAL = [-INF, -1.5, -1e-45, -0.0, 0.0, 1e-45, 1.5, 1.5, INF, NAN, -NAN]


def leaves():
    """Scores of many sizes and dtypes, with ties and all that is special."""
    keys = jax.random.split(jax.random.key(5), 4)
    return [
        jax.random.normal(keys[0], (3, 3, 50, 8)),
        jnp.array(SPECIAL, jnp.float32),
        jax.random.normal(keys[1], (70, 40)).astype(jnp.bfloat16),
        jnp.array([5.0]),
        jax.random.randint(keys[2], (40, 30), -3, 3).astype(jnp.float32),
        jnp.array(SPECIAL, jnp.bfloat16),
        jax.random.normal(keys[3], (1024,)).astype(jnp.float16),
    ]


@pytest.mark.parametrize("select", SELECTIONS)
def test_the_leaves_of_a_tree_are_ranked_each_alone(select):
    scores = leaves()
    several = jax.jit(functools.partial(topk_masks, select=select))
    smallest = jax.jit(functools.partial(thresholds, select=select))
    for sparsity in (0.0, 0.3, 0.5, 0.99):
        sparsities = [sparsity * 0.9**i for i in range(len(scores))]
        masks, kept = several(scores, sparsities), smallest(scores, sparsities)
        for leaf, p, mask, least in zip(scores, sparsities, masks, kept, strict=True):
            expected = oracle(leaf, int(num_removed(leaf.size, p)))
            assert mask.dtype == least.dtype == leaf.dtype
            np.testing.assert_array_equal(np.asarray(mask, bool), expected[0])
            assert same(least, expected[1])


@pytest.mark.parametrize("select", SELECTIONS)
def test_the_gradients_of_the_masks_of_a_tree_are_those_of_the_scores(select):
    scores = [jnp.arange(6.0), jnp.arange(4, dtype=jnp.bfloat16)]

    def loss(scores):
        first, second = topk_masks(scores, [0.5, 0.25], select=select)
        return (3 * first).sum() + (2 * second).sum().astype(jnp.float32)

    first, second = jax.jit(jax.grad(loss))(scores)
    np.testing.assert_array_equal(first, jnp.full(6, 3.0))
    np.testing.assert_array_equal(second, jnp.full(4, 2, jnp.bfloat16))


def test_weights_and_a_mask_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"weights \(3,\) and scores \(1,\) differ"):
        masked(jnp.ones(3), jnp.ones(1))


def test_a_leaf_that_int32_cannot_count_is_named():
    huge = jax.ShapeDtypeStruct((2**16, 2**15), jnp.float32)
    with pytest.raises(ValueError, match="at most 2,147,483,647 scores; got 2,147,483"):
        jax.eval_shape(lambda s: topk_mask(s, 0.5), huge)


def test_nothing_is_sorted():
    scores = jnp.ones((64, 64))
    program = jax.jit(topk_mask, static_argnums=1).lower(scores, 0.5).as_text()
    assert "sort" not in program
    assert "top_k" not in program


def test_a_traced_sparsity_removes_as_many_as_its_value():
    sizes = (*range(1, 20), 45, 95, 101, 175, 375, 1728, 36864, 2_359_296)
    counts = jax.jit(lambda p: jnp.stack([jnp.int32(num_pruned(n, p)) for n in sizes]))
    for sparsity in (0.0, *PAPER_SPARSITIES, 0.9999):
        static = np.array([num_pruned(n, sparsity) for n in sizes])
        product = sparsity * np.array(sizes)
        half_way = np.abs(product % 1 - 0.5) < 1e-6 * product  # too close for float32
        difference = np.abs(np.asarray(counts(sparsity)) - static)
        assert difference[~half_way].max() == 0
        assert difference.max() <= 1
        with jax.enable_x64(True):
            np.testing.assert_array_equal(counts(jnp.float64(sparsity)), static)


@pytest.mark.parametrize("sparsity", [0, 0.3, 0.99])
def test_traced_and_static_masks_are_equal(sparsity):
    scores = jax.random.normal(jax.random.key(1), (2, 2))
    mask = topk_mask(scores, sparsity)
    np.testing.assert_array_equal(jit_mask(scores, float(sparsity)), mask)
    np.testing.assert_array_equal(jit_mask(scores, jnp.float32(sparsity)), mask)
    assert jit_threshold(scores, float(sparsity)) == threshold(scores, sparsity)


def test_masks_work_with_jit_disabled():
    scores = jnp.array([0.3, -2.0, 0.1, 0.7])
    with jax.disable_jit():
        np.testing.assert_array_equal(topk_mask(scores, 0.5), [1, 0, 0, 1])


def test_vmap_ranks_each_row_with_its_own_sparsity():
    scores = jax.random.normal(jax.random.key(2), (4, 4, 6))
    sparsities = jnp.array([0.0, 0.25, 0.5, 0.99])
    both = masks_of_rows(scores, sparsities)
    only_scores = jax.vmap(lambda s: topk_mask(s, 0.25))(scores)
    only_sparsity = masks_of_sparsities(scores[0], sparsities)
    for i, sparsity in enumerate(sparsities):
        np.testing.assert_array_equal(both[i], jit_mask(scores[i], sparsity))
        np.testing.assert_array_equal(only_scores[i], jit_mask(scores[i], 0.25))
        np.testing.assert_array_equal(only_sparsity[i], jit_mask(scores[0], sparsity))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_gradient_of_the_mask_is_that_of_the_scores(dtype):
    scores, weights = jax.random.normal(jax.random.key(3), (2, 7, 9)).astype(dtype)
    gradient = jax.grad(lambda s: jnp.sum(topk_mask(s, 0.5) * weights))(scores)
    assert gradient.dtype == scores.dtype
    np.testing.assert_array_equal(gradient, weights)


def test_the_gradient_goes_through_vmap_and_not_into_the_sparsity():
    scores, weights = jax.random.normal(jax.random.key(4), (2, 3, 8))

    def loss(scores, sparsities):
        return jnp.sum(masks_of_rows(scores, sparsities) * weights)

    by_scores, by_sparsity = jax.grad(loss, (0, 1))(scores, jnp.full(3, 0.5))
    np.testing.assert_array_equal(by_scores, weights)
    np.testing.assert_array_equal(by_sparsity, jnp.zeros(3))


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, INF, NAN, np.float32(1), -1])
@pytest.mark.parametrize("function", [topk_mask, threshold])
def test_a_sparsity_outside_its_range_is_named(function, sparsity):
    message = rf"fraction of weights removed.*\[0, 1\); got {float(sparsity):g}"
    with pytest.raises(ValueError, match=message):
        function(jnp.ones(3), sparsity)


@pytest.mark.parametrize("function", [topk_mask, threshold])
def test_scores_that_cannot_be_ranked_are_named(function):
    with pytest.raises(ValueError, match="floating point, got int32"):
        function(jnp.arange(3), 0.5)
    with pytest.raises(ValueError, match="without elements"):
        function(jnp.ones((0, 3)), 0.5)


def test_shard_map_ranks_each_shard_alone():
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import PartitionSpec as P
        from iterand_jax import topk_mask
        assert jax.device_count() == 8
        auto = jax.sharding.AxisType.Auto
        mesh = jax.make_mesh((8,), ("d",), axis_types=(auto,))
        scores, weights = jax.random.normal(jax.random.key(0), (2, 8, 5, 6))
        rows = jax.jit(jax.vmap(lambda s: topk_mask(s, 0.5)))(scores)
        whole = jax.jit(topk_mask)(scores, 0.5)

        def check(expected, f, *args, in_specs, out_specs=P("d"), grad=False):
            f = jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
            f = jax.jit(jax.grad(f)) if grad else jax.jit(f)
            np.testing.assert_array_equal(f(*args), expected)

        half = lambda s: topk_mask(s, 0.5)
        loss = lambda s, w: jax.lax.psum(jnp.sum(half(s) * w), "d")
        halves = jnp.full(8, 0.5)
        check(rows, half, scores, in_specs=P("d"))
        check(whole, half, scores, in_specs=P(), out_specs=P())
        check(rows, topk_mask, scores, 0.5, in_specs=(P("d"), P()))
        own = lambda s, p: topk_mask(s, p[0])
        check(rows, own, scores, halves, in_specs=P("d"))
        check(jnp.tile(whole, (8, 1, 1)), own, scores, halves, in_specs=(P(), P("d")))
        check(weights, loss, scores, weights, in_specs=P("d"), out_specs=P(), grad=True)
        split = jax.device_put(scores, jax.NamedSharding(mesh, P("d")))
        np.testing.assert_array_equal(jax.jit(topk_mask)(split, 0.5), whole)
        print("all equal")
    """
    run = helpers.python(
        *("-W", "error", "-c", textwrap.dedent(script)),
        devices=8,
        env={"JAX_PLATFORMS": "cpu"},
        timeout=120,
    )
    assert run.stdout == "all equal\n", run.stderr[-3000:]
