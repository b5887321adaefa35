"""Numbers per layer, on masks small enough to count by hand."""

import math

import numpy as np
import pytest

from iterand_jax import OUTPUTS_FIRST_RULES, Subnetwork
from iterand_jax.analysis.layers import check_same_layers, inspect_layers, overlap
from iterand_jax.tickets.replay import NO_DRAW

# A dense layer of 3 inputs and 4 outputs: input 1 and outputs 2 and 3 are dead.
MASK = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
WEIGHTS = np.array([[1.0, -2, 1, 1], [1, 1, 1, 1], [1, 3, 1, 1]], np.float32)


def inspect(weights, mask, subnetwork=None, **options):
    (layer,) = inspect_layers(
        subnetwork or Subnetwork(), {"kernel": weights}, {"kernel": mask}, **options
    )
    return layer


@pytest.mark.smoke
def test_a_dense_layer_counted_by_hand():
    scores = {"kernel": np.arange(12.0).reshape(3, 4)}
    layer = inspect(WEIGHTS, MASK, scores=scores)
    assert (layer.path, layer.shape, layer.size) == ("kernel", (3, 4), 12)
    assert layer.kept == 3
    assert layer.threshold == 0
    assert layer.positive == pytest.approx(2 / 3)
    assert layer.magnitude == pytest.approx(2)  # (1 + 2 + 3) / 3 over 1
    assert (layer.outputs, layer.dead_outputs) == (4, 2)
    assert (layer.inputs, layer.dead_inputs) == (3, 1)
    assert layer.removable == 12 - 2 * 2
    assert layer.ages is None


def test_removing_the_dead_channels_leaves_the_result():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3))
    whole = x @ (WEIGHTS * MASK)
    inputs, outputs = [0, 2], [0, 1]
    small = x[:, inputs] @ (WEIGHTS * MASK)[np.ix_(inputs, outputs)]
    np.testing.assert_allclose(whole[:, outputs], small)
    assert not whole[:, [2, 3]].any()


def test_a_filter_is_dead_when_its_whole_window_is():
    mask = np.ones((3, 3, 2, 4), int)
    mask[..., 1] = 0
    mask[1:, :, 0, :] = 0
    layer = inspect(mask.astype(np.float32), mask)
    assert (layer.dead_outputs, layer.dead_inputs) == (1, 0)
    assert layer.removable == 9 * 2


def test_weights_with_outputs_first_are_counted_alike():
    (turned,) = inspect_layers(
        Subnetwork(rules=OUTPUTS_FIRST_RULES),
        {"weight": WEIGHTS.T},
        {"weight": MASK.T},
    )
    layer = inspect(WEIGHTS, MASK)
    assert turned._replace(path="kernel", shape=(3, 4)) == layer


def test_ages_count_the_kept_weights_by_refresh():
    last = np.array([[0, 2, 3, 3], [1, 1, 1, 1], [3, 2, 3, 3]])
    layer = inspect(WEIGHTS, MASK, last_redraws={"kernel": last}, refreshes=4)
    assert layer.ages.tolist() == [1, 0, 2, 0, 0]
    assert layer.unknown == 0


def test_a_weight_of_no_draw_is_not_one_of_the_first():
    last = np.array([[NO_DRAW, 0, 3, 3], [1, 1, 1, 1], [3, NO_DRAW, 3, 3]])
    layer = inspect(WEIGHTS, MASK, last_redraws={"kernel": last}, refreshes=4)
    assert layer.ages.tolist() == [1, 0, 0, 0, 0]
    assert layer.unknown == 2


def test_a_layer_that_keeps_all_compares_with_nothing():
    assert math.isnan(inspect(WEIGHTS, np.ones((3, 4))).magnitude)


def test_leaves_without_a_mask_are_left_out():
    weights = {"kernel": WEIGHTS, "bias": np.zeros(4)}
    layers = inspect_layers(Subnetwork(), weights, {"kernel": MASK, "bias": None})
    assert [layer.path for layer in layers] == ["kernel"]


def test_layers_are_in_the_order_of_their_numbers():
    names = [f"Block_{number}" for number in (1, 2, 10)]
    weights = {name: {"kernel": WEIGHTS} for name in reversed(names)}
    masks = {name: {"kernel": MASK} for name in names}
    layers = inspect_layers(Subnetwork(), weights, masks)
    assert [layer.path for layer in layers] == [f"{name}/kernel" for name in names]


def test_the_overlap_of_unrelated_masks_is_that_of_chance():
    rng = np.random.default_rng(0)
    mask, other = rng.random((2, 100_000)) < np.array([[0.5], [0.3]])
    share, chance = overlap(mask, other)
    assert chance == pytest.approx(0.3, abs=0.01)
    assert share == pytest.approx(chance, abs=0.01)
    assert overlap(mask, mask)[0] == 1


def test_masks_of_different_networks_are_not_compared():
    with pytest.raises(ValueError, match=r"b is absent in one and \(3, 4\) in the oth"):
        check_same_layers({"a": MASK}, {"a": MASK, "b": MASK})
    with pytest.raises(ValueError, match=r"a is \(3, 4\) in one and \(4, 3\) in the o"):
        check_same_layers({"a": MASK}, {"a": MASK.T})
    check_same_layers({"a": MASK}, {"a": MASK})
