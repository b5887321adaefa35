"""Sparsities that follow a rule: their formulas, sums and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Rule, Schedule, Subnetwork, rules_of
from iterand_jax.networks import build_network
from iterand_jax.rules.ratios import RATIOS
from iterand_jax.trees import leaves_of

IMAGES = jnp.zeros((1, 32, 32, 3))
SHARED = ("uniform", "equal_edges", "erk", "pyramidal")
SIZES = {"conv6": (1728, 36864, 73728, 147456, 294912, 589824, 1048576, 65536, 2560)}


def of_network(name, sparsity, rule, width=1):
    network = build_network(name, num_classes=10, width=width)
    key = jax.random.key(0)
    params = jax.eval_shape(network.init, key, IMAGES)["params"]
    subnetwork = Subnetwork(sparsity, rules=rules_of(network, IMAGES))
    return subnetwork.spread(params, rule), params


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("name", ["conv2", "conv6", "resnet18", "vgg11"])
@pytest.mark.parametrize("rule", SHARED)
def test_all_layers_together_have_the_sparsity(rule, name, sparsity):
    spread, params = of_network(name, sparsity, rule)
    sizes = {path: x.size for path, x in leaves_of(params).items() if x.ndim > 1}
    kept = sum((1 - spread.sparsity[path]) * size for path, size in sizes.items())
    assert kept == pytest.approx((1 - sparsity) * sum(sizes.values()))
    assert all(0 <= value < 1 for value in spread.sparsity.values())
    total, left = spread.count(params)
    of_layers = sum(sizes.values()) - (total - left)
    assert abs(of_layers - kept) <= len(sizes) / 2 + 1e-6


def test_each_rule_by_hand():
    """Conv6, whose layers have these sizes, at 90 %."""
    sizes = np.array(SIZES["conv6"])
    kept = {}
    for rule in SHARED:
        spread, _ = of_network("conv6", 0.9, rule)
        kept[rule] = (1 - np.array([*spread.sparsity.values()])) * sizes
    np.testing.assert_allclose(kept["uniform"], sizes / 10)
    # Two layers have fewer than the others keep.
    share = (sizes.sum() / 10 - 1728 - 2560) / 7
    expected = np.where(np.isin(sizes, (1728, 2560)), sizes, share)
    np.testing.assert_allclose(kept["equal_edges"], expected)
    densities = kept["pyramidal"] / sizes
    np.testing.assert_allclose(densities, densities[0] ** np.arange(1, 10))
    densities = (kept["erk"] / sizes)[1:3]
    ratio = ((64 + 64 + 6) / (64 * 64 * 9)) / ((64 + 128 + 6) / (64 * 128 * 9))
    np.testing.assert_allclose(densities[0] / densities[1], ratio)


def test_the_first_layer_is_the_one_that_is_called_first():
    """Not the first of the tree: blocks come before the stem in the alphabet."""
    spread, params = of_network("resnet18", 0.9, "pyramidal", width=0.25)
    first, *_, last = spread.sparsity.items()
    assert first[0] == "ConvNorm_0/Conv_0/kernel"
    assert last[0] == "Dense_0/kernel"
    assert next(iter(leaves_of(params))).startswith("BasicBlock_0")
    assert first[1] < last[1]


def test_a_stack_counts_as_its_slices():
    """Three matrices in one leaf keep what three leaves would, by each rule's sizes."""
    rules = [Rule("s", True, stack_axis=0), Rule("*", True)]
    params = {"s": jnp.zeros((3, 30, 20)), "x": jnp.zeros((60, 60))}
    spread = Subnetwork(0.8, rules=rules).spread(params, "erk")
    densities = [1 - value for value in spread.sparsity.values()]
    assert densities[0] / densities[1] == pytest.approx((50 / 600) / (120 / 3600))


def refused(params=None, rule="erk", sparsity=0.5, **fields):
    params = {"a": jnp.zeros((4, 4)), "b": jnp.zeros((2, 2))} if params is None else {}
    rules = [Rule("*", True)]
    return Subnetwork(sparsity, rules=rules, **fields).spread(params, rule)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "er"}, "unknown layer_sparsities 'er'; possible: uniform, equal_ed"),
        (
            {"rule": "balanced"},
            "'b' of 4 weights would keep 5; possible: from 1",
        ),
        ({"sparsity": 0.99}, "'a' of 16 weights would keep 0.13"),
        ({"sparsity": {"a": 0.5, "b": 0.1}}, r"with Sparsities\({'a': 0.5, 'b': 0.1}"),
        ({"sparsity": Schedule(to=0.5)}, "it is not possible with Schedule"),
        ({"scope": ("*",)}, r"it is not possible with scope=\('\*',\)"),
    ],
)
def test_what_cannot_be_is_named(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        refused(**fields)
    assert "\n" not in str(error.value)


def test_the_table_of_rules_is_complete():
    assert {*RATIOS} == {*SHARED, "balanced"}
