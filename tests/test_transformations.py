"""Pruning under JAX's transformations and settings, against analytic values."""

import functools
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Rule, Subnetwork, edge_popup, iterand, topk_mask
from tests import helpers

KEY = jax.random.key(0)
HALF = Subnetwork(0.5, "kaiming_uniform")
SCORES, WEIGHTS = HALF.init(KEY, {"kernel": jnp.zeros((6, 5)), "bias": jnp.ones(5)})
S, W = SCORES["kernel"], WEIGHTS["kernel"]


def energy(s):
    """Half the sum of (w m(s))^2: its derivatives, straight through, are w^2 m, w^2."""
    return 0.5 * jnp.sum((W * topk_mask(s, 0.5)) ** 2)


def test_the_second_derivative_goes_straight_through_twice():
    ones = jnp.ones_like(S)
    expected = W**2
    by_reverse = jax.grad(lambda s: jnp.sum(jax.grad(energy)(s)))(S)
    _, by_forward = jax.jvp(jax.grad(energy), (S,), (ones,))
    _, twice_forward = jax.jvp(lambda s: jax.jvp(energy, (s,), (ones,))[1], (S,), (S,))
    hessian = jax.hessian(energy)(S).reshape(30, 30)
    np.testing.assert_array_equal(by_reverse, expected)
    np.testing.assert_array_equal(by_forward, expected)
    np.testing.assert_allclose(twice_forward, jnp.sum(expected * S), rtol=1e-6)
    np.testing.assert_array_equal(hessian, jnp.diag(expected.ravel()))

    def as_usual(s):  # the mask by a stop-gradient
        mask = s + jax.lax.stop_gradient(topk_mask(s, 0.5) - s)
        return 0.5 * jnp.sum((W * mask) ** 2)

    np.testing.assert_allclose(jax.hessian(as_usual)(S).reshape(30, 30), hessian)


def test_meta_gradients_reach_the_scores_through_an_inner_step():
    """MAML: d/ds of energy(s - a grad energy(s)) is g2 * (1 - a w^2), by hand."""
    a = 0.1
    inner = S - a * jax.grad(energy)(S)
    expected = jax.grad(energy)(inner) * (1 - a * W**2)
    meta = jax.grad(lambda s: energy(s - a * jax.grad(energy)(s)))(S)
    np.testing.assert_allclose(meta, expected, rtol=1e-6)
    assert np.abs(meta).max() > 0


@pytest.mark.smoke
def test_forward_mode_has_the_tangent_of_the_scores():
    tangent = jax.random.normal(KEY, S.shape)
    mask, out = jax.jvp(lambda s: topk_mask(s, 0.5), (S,), (tangent,))
    np.testing.assert_array_equal(mask, topk_mask(S, 0.5))
    np.testing.assert_array_equal(out, tangent)
    columns = jax.jacfwd(lambda s: HALF.prune({**SCORES, "kernel": s}, WEIGHTS))(S)
    expected = jnp.diag(W.ravel()).reshape(6, 5, 6, 5)
    np.testing.assert_array_equal(columns["kernel"], expected)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def loss(scores, weights):
    return jnp.sum(jnp.sin(HALF.prune(scores, weights)["kernel"]))


def test_scan_remat_and_donation_have_the_bits_of_plain_calls():
    def step(carry, i):
        scores, weights = carry
        gradient = jax.grad(loss)(scores, weights)
        scores = jax.tree.map(lambda s, g: s - 0.5 * g, scores, gradient)
        key = jax.random.fold_in(KEY, i)
        return (scores, HALF.rerandomize(key, scores, weights, 0.3)), None

    compiled = jax.jit(step)
    plain = (SCORES, WEIGHTS)
    for i in range(3):
        plain, _ = compiled(plain, jnp.int32(i))
    scanned, _ = jax.lax.scan(step, (SCORES, WEIGHTS), jnp.arange(3, dtype=jnp.int32))
    assert bits(scanned) == bits(plain)
    for f in (jax.grad(jax.checkpoint(loss)), jax.jit(jax.grad(jax.checkpoint(loss)))):
        assert bits(f(SCORES, WEIGHTS)) == bits(jax.grad(loss)(SCORES, WEIGHTS))
    expected = HALF.rerandomize(KEY, SCORES, WEIGHTS, 0.5)
    redraw = jax.jit(HALF.rerandomize, donate_argnums=2)
    copy = jax.tree.map(jnp.copy, WEIGHTS)
    assert bits(redraw(KEY, SCORES, copy, 0.5)) != bits(WEIGHTS)
    copy = jax.tree.map(jnp.copy, WEIGHTS)
    half = functools.partial(HALF.rerandomize, sampling_rate=0.5)
    assert bits(jax.jit(half, donate_argnums=2)(KEY, SCORES, copy)) == bits(expected)


def test_vmap_draws_and_prunes_for_each_key():
    keys = jax.random.split(KEY, 3)
    params = {"kernel": jnp.zeros((6, 5))}
    scores, weights = jax.vmap(HALF.init, (0, None))(keys, params)
    pruned = jax.vmap(HALF.prune)(scores, weights)
    new = jax.vmap(lambda k, s, w: HALF.rerandomize(k, s, w, 0.5))(
        keys, scores, weights
    )
    for i, key in enumerate(keys):
        own = HALF.init(key, params)
        assert bits(own) == bits(jax.tree.map(lambda x, i=i: x[i], (scores, weights)))
        assert bits(HALF.prune(*own)) == bits(pruned["kernel"][i])
        assert bits(HALF.rerandomize(key, *own, 0.5)) == bits(new["kernel"][i])


MODES = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np
from iterand_jax import Subnetwork, layers, topk_mask
from iterand_jax.methods.magnitude import magnitude_masks
from tests.test_methods import of_every_name

key = jax.random.key(0, impl="threefry2x32")
f32 = jnp.float32
params = {"kernel": jnp.zeros((16, 32), f32), "bias": jnp.zeros(32, f32)}
made = []
for distribution in ("kaiming_uniform", "signed_constant", "kaiming_normal"):
    subnetwork = Subnetwork(0.5, distribution)
    for call in (lambda f: f, jax.jit):
        scores, weights = call(subnetwork.init)(key, params)
        redraw = call(subnetwork.rerandomize_and_count)
        made += [scores, weights, call(subnetwork.prune)(scores, weights)]
        made += [redraw(key, scores, weights, np.float32(0.5))]
        made += [call(jax.grad(lambda s: jnp.sum(
            subnetwork.prune(s, weights)["kernel"] ** 2)))(scores)]
        made += [call(lambda p: topk_mask(scores["kernel"], p))(np.float32(0.3))]
    for method in of_every_name(subnetwork).values():
        state = method.init(key, params)
        made += [state, method.params(*state, 3), method.refresh(key, 3, *state)]
        made += [method.masks(*state, 3)] if method.masks else []
    made += [magnitude_masks(subnetwork, weights, 0.5)]
s, w, x = scores["kernel"], weights["kernel"], jnp.ones((2, 16), f32)
made += [layers.dense(x, s, w, sparsity=0.5)]
carry = jnp.zeros((2, 8), f32), jnp.zeros((2, 8), f32)
made += [layers.lstm_cell(carry, x, s, w, s[:8], w[:8], sparsity=0.5)]
narrow = {"kernel": jnp.zeros((9, 9), "bfloat16")}
made += [subnetwork.init(key, narrow), subnetwork.prune(*subnetwork.init(key, narrow))]
digest = hashlib.sha256()
for leaf in jax.tree.leaves(made):
    digest.update(f"{leaf.dtype}".encode() + np.asarray(leaf).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.compiles
def test_every_mode_of_jax_gives_the_same_bits():
    """Also in combination; x64 and strict promotion break the most code."""
    modes = (
        {},
        {"JAX_ENABLE_X64": "1", "JAX_NUMPY_DTYPE_PROMOTION": "strict"},
        {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_THREEFRY_PARTITIONABLE": "0"},
    )
    found = {helpers.printed("-W", "error", "-c", MODES, env=mode) for mode in modes}
    assert len(found) == 1


@pytest.mark.parametrize("method", ["edge_popup", "iterand"])
def test_a_subnetwork_may_be_a_static_argument(method):
    make = {"edge_popup": edge_popup, "iterand": iterand}[method]
    options = {} if method == "edge_popup" else {"k_per": 2, "sampling_rate": 0.5}

    @functools.partial(jax.jit, static_argnums=0)
    def pruned(subnetwork, scores, weights):
        return make(subnetwork, **options).params(scores, weights, 0)

    rules = [Rule("*/kernel", True, min_ndim=2), Rule("*", False)]
    params = {"a": {"kernel": jnp.zeros((10, 10))}, "b": {"kernel": jnp.zeros((9, 10))}}
    for sparsity, kept in (
        ({"a/*": 0.2, "*": 0.9}, (80, 9)),
        ({"b/*": 0.2, "a/*": 0.9}, (10, 72)),
        ({"a/*": 0.9, "b/*": 0.2}, (10, 72)),
    ):
        subnetwork = Subnetwork(sparsity, rules=rules)
        found = pruned(subnetwork, *subnetwork.init(KEY, params))
        assert tuple(int((found[n]["kernel"] != 0).sum()) for n in "ab") == kept
    one, other = {"a/*": 0.2, "b/*": 0.9}, {"b/*": 0.9, "a/*": 0.2}
    assert Subnetwork(one) == Subnetwork(dict(one)) != Subnetwork(other)


def test_the_order_of_patterns_stays_wherever_they_pass():
    sparsity = Subnetwork({"conv/*": 0.2, "*": 0.9}).sparsity
    scores = {"conv": {"kernel": S}, "dense": {"kernel": S}}

    def kept(sparsity):
        found = Subnetwork(sparsity).masks(scores)
        return [int(m.sum()) for m in jax.tree.leaves(found)]

    assert kept(sparsity) == kept(jax.tree.map(lambda p: p, sparsity)) == [24, 3]
    assert kept(jax.tree.map(jnp.float32, sparsity)) == [24, 3]
    found = jax.jit(lambda p: Subnetwork(p).masks(scores))(sparsity)
    assert [int(m.sum()) for m in jax.tree.leaves(found)] == [24, 3]
    with pytest.raises(ValueError, match=r"'conv/\*' is never used: '\*' before it"):
        jax.jit(lambda p: Subnetwork(p).masks(scores))({"conv/*": 0.2, "*": 0.9})
    with pytest.raises(ValueError, match=r"'conv/\*' is never used"):
        Subnetwork({"*": 0.9, "conv/*": 0.2}).init(KEY, scores)


@pytest.mark.parametrize("sparsity", [0.99, 0.999])
def test_masks_of_narrow_weights_keep_what_count_says(sparsity):
    params = {"kernel": jax.ShapeDtypeStruct((1000, 1000), jnp.bfloat16)}
    subnetwork = Subnetwork(sparsity)
    scores, weights = jax.jit(subnetwork.init)(
        KEY, jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params)
    )
    assert (scores["kernel"].dtype, weights["kernel"].dtype) == ("float32", "bfloat16")
    total, kept = subnetwork.count(params)
    assert (total, kept) == (10**6, round((1 - sparsity) * 10**6))
    assert kept <= subnetwork.count(params, scores)[1] <= 1.001 * kept
    pruned = jax.jit(subnetwork.prune)(scores, weights)["kernel"]
    assert pruned.dtype == jnp.bfloat16
    assert np.count_nonzero(pruned) == subnetwork.count(params, scores)[1]
    narrow = Subnetwork(sparsity, scores_dtype=jnp.bfloat16)
    scores, _ = jax.jit(narrow.init)(KEY, weights)
    assert scores["kernel"].dtype == jnp.bfloat16  # requested, and counted as it is
    mask = jax.jit(narrow.masks)(scores)["kernel"]
    assert narrow.count(params, scores)[1] == np.count_nonzero(mask) > 1.2 * kept


def test_a_traced_sparsity_is_exact_for_leaves_of_any_size():
    from fractions import Fraction

    from iterand_jax.masks import num_pruned

    rng = np.random.default_rng(0)
    fractions = np.concatenate(
        [
            rng.random(500, np.float32),
            np.float32([0, 0.5, 0.9, 0.99, 0.999, 1e-3, 1e-9, 1e-40, 1 - 2**-24]),
            (rng.integers(0, 64, 50) / 64).astype(np.float32),
        ]
    )
    for size in (1, 7, 1000, 2_359_296, 10**8, 2**31 - 1):
        count = jax.jit(jax.vmap(lambda p, size=size: num_pruned(size, p)))
        expected = [min(round(Fraction(float(p)) * size), size - 1) for p in fractions]
        np.testing.assert_array_equal(count(fractions), expected)


def test_the_generator_of_raw_keys_is_that_of_typed_ones():
    script = """
        import jax, jax.numpy as jnp, numpy as np
        from iterand_jax import Subnetwork
        params = {"kernel": jnp.zeros((20, 10))}
        typed = Subnetwork().init(jax.random.key(3, impl="threefry2x32"), params)
        raw = Subnetwork().init(np.array([0, 3], np.uint32), params)
        jax.tree.map(np.testing.assert_array_equal, typed, raw)
        print("equal")
    """
    assert helpers.printed("-c", textwrap.dedent(script)) == "equal\n"
