"""Laws of every method, on every network, with every distribution and scope.

The networks have 1/16 of their widths, ResNet20 of 16 channels 1/4. What the methods
are compared with is NumPy: a sort of each group for masks, products for gradients.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork, rules_of
from iterand_jax.distributions import DISTRIBUTIONS
from iterand_jax.methods import METHODS, Method, build_method
from iterand_jax.networks import NETWORKS, build_network
from iterand_jax.trees import leaves_of
from tests.helpers import ONE_OF_A_KIND, slow_or_exhaustive

KEY = jax.random.key(0)
SPARSITY, COAT = 0.75, 0.9
FIELDS = {
    "k_per": 3,
    "sampling_rate": 0.5,
    "coats": (COAT,),
    "pruned_share": 0.25,
    "locked_share": 0.125,
    "recycled_share": 0.125,
    "freezings": 2,
    "gate_penalty": 1e-4,
    "gate_noise": 0.25,
    "threshold_rate": 2.0,
}
SCOPES = ((), ("*",), ("[!/D]*",))  # the last: all but the layers at the end
RESAMPLED = ("iterand", "biprop_iterand", "adaptive_threshold_iterand")
EMERGES = ("signed_supermask", "relaxed_bernoulli")  # their sparsity is no argument
WITHOUT_SCOPE = (*EMERGES, "random")


class Case(NamedTuple):
    """A method of a network after `init`: (trainable, frozen), and arrays by path."""

    name: str
    scope: tuple[str, ...]
    distribution: str
    fan_ins: dict[str, float]
    method: Method
    trees: tuple[Any, Any]
    counts: tuple[int, int]
    trained: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray]


@functools.cache
def network(name):
    """(parameters that can be distinguished, rules) of a network."""
    inputs = (jnp.zeros((1, 64, 64, 3)),)
    if NETWORKS.get(name).takes_texts:
        inputs = (jnp.zeros((1, 4), int), jnp.full(1, 4))
    width = 1 / 4 if name == "resnet20" else 1 / 16
    module = build_network(name, num_classes=10, width=width, affine=True)
    shapes = jax.eval_shape(module.init, KEY, *inputs)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes
    )
    return params, rules_of(module, *inputs)


def built(name, of, distribution, scope):
    params, rules = network(of)
    sparsity = 0.0 if name in EMERGES else SPARSITY
    subnetwork = Subnetwork(sparsity, distribution, rules, scope=scope)
    return build_method(name, subnetwork, FIELDS), subnetwork, params


def case(name, of, distribution, scope):
    method, subnetwork, params = built(name, of, distribution, scope)
    trainable, frozen = jax.jit(method.init)(KEY, params)
    if name == "relaxed_bernoulli":  # its gates start all alike
        rng = np.random.default_rng(1)
        trainable = jax.tree.map(
            lambda mu: (mu + 0.3 * rng.standard_normal(mu.shape)).astype(mu.dtype),
            trainable,
        )
    return Case(
        name,
        scope or (("*",) if "adaptive" in name else ()),
        distribution,
        subnetwork.fan_ins(params),
        method,
        (trainable, frozen),
        subnetwork.count(params),
        arrays(trainable),
        arrays(method.weights(trainable, frozen)),
        arrays(frozen.fixed) if name == "partially_frozen" else {},
    )


def arrays(tree):
    return jax.tree.map(np.asarray, leaves_of(tree))


def groups(paths, scope):
    """The leaves that share a threshold, said once more."""
    together = [x for x in paths if not x.startswith("Dense")]
    together = {(): [], ("*",): [*paths]}.get(scope, together)
    return [g for g in (together, *([x] for x in paths if x not in together)) if g]


def largest(ranked, scope, sparsity):
    """Whether a number is among the largest of its group, of which a part remains."""
    kept = {}
    for group in groups(ranked, scope):
        every = np.sort(np.concatenate([np.ravel(ranked[path]) for path in group]))
        least = every[round(sparsity * every.size)]
        kept |= {path: ranked[path] >= least for path in group}
    return kept


def ranked(own):
    """What the masks of a case rank."""
    scores = {path: own.trained[path] for path in own.fan_ins}
    if "biprop" in own.name or own.name in ("multicoated", "magnitude"):
        return {path: np.abs(s) for path, s in scores.items()}
    if "adaptive" in own.name:
        return {
            path: np.float32(math.sqrt(own.fan_ins[path] / 6)) * s
            for path, s in scores.items()
        }
    if own.name == "partially_frozen":
        ends = {path: np.where(f > 0, np.inf, -np.inf) for path, f in own.fixed.items()}
        return {
            path: np.where(own.fixed[path] == 0, s, ends[path])
            for path, s in scores.items()
        }
    return scores


def expected_masks(own):
    """What each method keeps, by the papers: a count of thresholds, a sign, or 1."""
    if own.name == "gem_miner":
        return {path: own.trained[path] > 0.5 for path in own.fan_ins}
    if own.name == "relaxed_bernoulli":
        return {path: own.trained[path] >= 0.5 for path in own.fan_ins}
    if own.name == "signed_supermask":
        m = {path: own.trained[path] for path in own.fan_ins}
        return {path: np.sign(m[path]) * (np.abs(m[path]) > 0.01) for path in m}
    kept = largest(ranked(own), own.scope, SPARSITY)
    if own.name == "multicoated":
        second = largest(ranked(own), own.scope, COAT)
        return {path: kept[path] + 1.0 * second[path] for path in kept}
    return kept


def expected_values(own, path, mask):
    """(effective weights, what the gradient of a mask is multiplied with)."""
    w = own.weights[path].astype(np.float64)
    if "biprop" in own.name:
        size = np.abs(w[mask]).mean() if mask.any() else 0.0
        return np.where(mask, size * np.sign(w), 0), w * np.sign(own.trained[path])
    if own.name == "multicoated":
        scale = 1 / math.sqrt(max((mask > 0).sum(), 1) / mask.size)
        return mask * scale * w, 2 * scale * w * np.sign(own.trained[path])
    return mask * w, w


def expected_gradient(own, path, factor, mask, upstream):
    through = upstream * factor
    if own.name == "partially_frozen":
        return np.where(own.fixed[path] == 0, through, 0)
    if own.name == "relaxed_bernoulli":  # it has one of its noisy gates alone
        return np.zeros(mask.shape)
    if "adaptive" in own.name:
        rate = FIELDS["threshold_rate"] / math.sqrt(mask.size)
        return through + rate * through.sum()
    if own.method.trains_weights:
        return mask * upstream
    return through


def check_what_is_seen(own):
    """Masks, effective weights and gradients; returns the effective weights."""
    rng = np.random.default_rng(2)
    upstream = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), own.weights
    )

    @jax.jit
    def seen(trainable, frozen):
        def loss(trainable):
            params = own.method.params(trainable, frozen, 0)
            of = leaves_of(params)
            return sum(jnp.sum(of[path] * upstream[path]) for path in of), params

        gradient, params = jax.grad(loss, has_aux=True)(trainable)
        masks = own.method.masks and own.method.masks(trainable, frozen, 0)
        return params, gradient, masks

    params, gradient, masks = map(arrays, seen(*own.trees))
    if own.name == "random":  # kept by the key, as many as the sparsity says
        masks = {path: mask != 0 for path, mask in masks.items()}
        for mask in masks.values():
            assert mask.sum() == mask.size - round(SPARSITY * mask.size)
        expected = masks
    elif own.name == "sgd":
        assert not masks
        expected = {path: np.ones(w.shape, bool) for path, w in own.weights.items()}
    else:
        expected = expected_masks(own)
        assert {*masks} == {*expected} == {*own.fan_ins}
        for path, mask in masks.items():
            np.testing.assert_array_equal(mask, expected[path], path)
    for path, found in params.items():
        if path not in own.fan_ins:
            np.testing.assert_array_equal(found, own.weights[path], path)
            assert (path in gradient) == own.method.trains_weights
            continue
        mask = expected[path]
        values, factor = expected_values(own, path, mask)
        exact = 1e-5 if own.method.rescales else 0
        if "biprop" in own.name:  # XLA adds up a kernel to 2.3e-5, on CPU
            exact = 3e-5
        np.testing.assert_allclose(found, values, rtol=exact, err_msg=path)
        through = expected_gradient(own, path, factor, mask, upstream[path])
        np.testing.assert_allclose(
            gradient[path], through, rtol=1e-5, atol=1e-5, err_msg=path
        )
    return params


def check_drawn(own, path, weights):
    """Weights are of the distribution: its bounds, and its variance of 2 / fan-in."""
    unit = weights.astype(np.float64) * math.sqrt(own.fan_ins[path] / 2)
    if own.distribution == "signed_constant":
        np.testing.assert_allclose(np.abs(unit), 1, rtol=1e-6)
        assert abs(unit.mean()) < 5 / math.sqrt(unit.size)
        return
    if own.distribution == "kaiming_uniform":
        assert np.abs(unit).max() <= math.sqrt(3) * (1 + 1e-6)
    kurtosis = {"kaiming_uniform": 9 / 5, "kaiming_normal": 3}[own.distribution]
    deviation = math.sqrt((kurtosis - 1) / unit.size)
    assert abs((unit**2).mean() - 1) < 6 * deviation + 20 / unit.size


def check_refresh(own, seen):
    """What the network sees stays, and what is redrawn is pruned, of the distribution.

    Gem-Miner's refresh is another: it prunes the lowest scores permanently.
    """
    trainable, frozen = own.trees
    new, count = jax.jit(own.method.refresh)(KEY, 3, trainable, frozen)
    weights = arrays(own.method.weights(trainable, new))
    if own.name == "gem_miner":
        first = 1 - math.sqrt(1 - SPARSITY)  # half of the scores that remain, twice
        active = largest(own.trained, own.scope or ("*",), first)
        for path, w in own.weights.items():
            left = np.where(active[path], w, 0) if path in active else w
            np.testing.assert_array_equal(weights[path], left, path)
        assert count == sum(np.sum(~mask) for mask in active.values())
        return
    again = arrays(jax.jit(own.method.params)(trainable, new, 0))
    for path, leaf in seen.items():
        np.testing.assert_array_equal(again[path], leaf, path)
    if own.name not in (*RESAMPLED, "recycling"):
        assert count == own.method.refresh_every == 0
        assert jax.tree.all(jax.tree.map(np.array_equal, frozen, new))
        return
    kept = expected_masks(own)
    changed = {path: weights[path] != own.weights[path] for path in own.fan_ins}
    assert not any(np.any(changed[path] & (kept[path] != 0)) for path in kept)
    differ = sum(int(one.sum()) for one in changed.values())
    if own.name == "recycling":
        copied = 0
        for path, s in own.trained.items():
            order = np.argsort(s.ravel(), kind="stable")
            number = round(FIELDS["recycled_share"] * s.size)
            low, high = order[:number], order[::-1][:number]
            mask, w = kept[path].ravel(), own.weights[path].ravel()
            copy = mask[high] & ~mask[low]
            expected = w.copy()
            expected[low[copy]] = w[high[copy]]
            np.testing.assert_array_equal(weights[path].ravel(), expected, path)
            copied += copy.sum()
        assert count == copied >= differ
        return
    pruned = sum(np.sum(mask == 0) for mask in kept.values())
    assert abs(count - pruned / 2) < 3 * math.sqrt(pruned)
    equal = 2 if own.distribution == "signed_constant" else 1  # every second sign
    assert abs(differ * equal - count) < 6 * math.sqrt(count)
    for path in own.fan_ins:
        if changed[path].any():
            check_drawn(own, path, weights[path])


def check_counts(own):
    """The number of kept weights is known before anything is drawn."""
    if own.name in ("sgd", "gem_miner", *EMERGES) or "adaptive" in own.name:
        return
    if (own.name, own.distribution) == ("magnitude", "signed_constant"):
        return  # all of a leaf tie until they are trained, and what ties is kept
    masks = arrays(own.trees[1]) if own.name == "random" else expected_masks(own)
    pruned = sum(int(np.sum(mask == 0)) for mask in masks.values())
    total, kept = own.counts
    assert total - kept == pruned


def cells():
    """The cells of the table, each marked for the run that it is part of.

    The slow suite has a diagonal of a third of the methods with each network that is
    one of a kind and none of ImageNet's, with scopes and distributions in turn. The
    rest is exhaustive.
    """
    how = [*itertools.product(SCOPES, DISTRIBUTIONS)]
    small = [name for name in ONE_OF_A_KIND if not name.startswith("imagenet")]
    for (i, name), of, (k, (scope, distribution)) in itertools.product(
        enumerate(METHODS), NETWORKS, enumerate(how)
    ):
        slow = False
        if of in small:
            j = small.index(of)
            slow = i % 3 == j % 3 and k == (i + j + j // 3) % len(how)
        mark = slow_or_exhaustive(slow)
        label = "-".join((name, of, *scope, distribution))
        yield pytest.param(name, of, scope, distribution, marks=mark, id=label)


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "of", "scope", "distribution"), [*cells()])
def test_the_laws_hold(name, of, scope, distribution):
    if scope and name in WITHOUT_SCOPE:
        with pytest.raises(
            ValueError, match=r"^scope=\('.*',\) is not possible: the m"
        ):
            built(name, of, distribution, scope)
        return
    own = case(name, of, distribution, scope)
    for path in own.fan_ins:
        if name != "random":  # whose weights have zeros
            check_drawn(own, path, own.weights[path])
    seen = check_what_is_seen(own)
    check_refresh(own, seen)
    check_counts(own)
