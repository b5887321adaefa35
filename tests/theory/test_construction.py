import itertools
import math

import jax
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_jax import apply_masks, theory
from iterand_jax.theory.certificate import layer_sup_ball, network

F222 = [[[0.6, -0.3], [0.2, 0.5]], [[0.4, 0.7], [-0.3, 0.2]]]
CHOICES = ("window", "greedy")

examples = settings(deadline=None, max_examples=40)


class MLP(nn.Module):
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.relu(nn.Dense(width, use_bias=False)(x))
        return nn.Dense(self.widths[-1], use_bias=False)(x)


@st.composite
def targets(draw):
    dims = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    layers = []
    for below, above in itertools.pairwise(dims):
        entries = st.sampled_from([0.0, -1.0, 1.0]) | st.floats(-1.0, 1.0)
        size = below * above
        flat = np.array(draw(st.lists(entries, min_size=size, max_size=size)))
        norm = np.linalg.norm(flat)
        layers.append((flat / max(norm, 1.0)).reshape(above, below))
    return layers


@examples
@given(
    F=targets(),
    eps=st.floats(0.2, 0.9),
    seed=st.integers(0, 10**6),
    choice=st.sampled_from(CHOICES),
    analysis=st.sampled_from(["paper", "improved"]),
    one_sided=st.booleans(),
)
def test_success_implies_an_error_of_at_most_eps(
    F, eps, seed, choice, analysis, one_sided
):
    construction = theory.construct(
        F,
        eps,
        0.1,
        100,
        seed=seed,
        choice=choice,
        analysis=analysis,
        one_sided=one_sided,
    )
    certificate = construction.certificate
    assert certificate.lower <= certificate.upper
    if construction.success:
        assert certificate.upper <= eps
        assert certificate.verdict == "proved"


@examples
@given(F=targets(), seed=st.integers(0, 10**6), R=st.integers(1, 60))
def test_ok_is_monotone_in_R_and_greedy_succeeds_where_windows_do(F, seed, R):
    widths = [6 * layer.shape[1] for layer in F]
    less, more = (
        theory.construct(F, 0.9, 0.5, draws, seed=seed, widths=widths)
        for draws in (R, 2 * R)
    )
    greedy = theory.construct(F, 0.9, 0.5, R, seed=seed, widths=widths, choice="greedy")
    for few, many, best in zip(less.ok, more.ok, greedy.ok, strict=True):
        assert (many | ~few).all()
        assert (best | ~few).all()


def test_masks_are_as_the_proof_says():
    F = [np.array([[0.6, 0.0], [0.0, 0.0]])]
    c = theory.construct(F, 0.5, 0.1, 300, seed=0, widths=[11])
    hidden_mask, output_mask = c.M
    # Column of each of the 8 used neurons, then 3 of surplus.
    assert [row.nonzero()[0].tolist() for row in hidden_mask] == [[0]] * 4 + [
        [1]
    ] * 4 + [[]] * 3
    # One neuron per side for the non-zero entry, none for a zero.
    assert output_mask[0, :2].sum() == output_mask[0, 2:4].sum() == 1
    assert output_mask.sum() == 2
    assert c.ok[0].shape == (2, 2, 2)
    assert all(((n >= 1) & (n <= 300)).all() for n in c.n_used)


def test_windows_are_hit_where_ok():
    c = theory.construct(F222, 0.5, 0.1, 497, seed=1)
    assert c.success
    eta = 0.5 / 4 / (2 * 2 * 2**0.5)
    for F, layer in zip(c.target, c.layers, strict=True):
        signs = np.array([1, -1, 1, -1])
        own = layer.hidden[layer.hidden_mask]
        assert (np.abs(own - signs) <= eta).all()
        assert (np.abs(layer.output - signs * F[:, [0, 0, 1, 1]]) <= eta).all()


def test_the_greedy_choice_is_closer_except_in_the_corner():
    window, greedy = (
        theory.construct([[[0.5]]], 0.1, 0.1, 400, seed=5, choice=choice)
        for choice in CHOICES
    )
    assert window.success
    assert greedy.success
    assert greedy.certificate.upper < 0.2 * window.certificate.upper


def test_values_do_not_depend_on_how_many_are_allowed():
    short = theory.construct_layer(np.ones((1, 1)), 0.01, 7, 2, seed=3)
    longer = theory.construct_layer(np.ones((1, 1)), 0.01, 300, 2, seed=3)
    hit_early = longer.hidden_draws <= 7
    assert (short.hidden[hit_early] == longer.hidden[hit_early]).all()
    again = theory.construct_layer(np.ones((1, 1)), 0.01, 300, 2, seed=3)
    assert (again.hidden == longer.hidden).all()
    assert (again.output == longer.output).all()


def test_the_trees_apply_like_any_flax_parameters():
    c = theory.construct(F222, 0.5, 0.1, 497, seed=2)
    assert jax.tree.structure(c.weights) == jax.tree.structure(c.masks)
    params = apply_masks(c.weights, c.masks)
    x = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    found = MLP((4, 2, 4, 2)).apply({"params": params}, x)
    np.testing.assert_allclose(found, c.g(x), rtol=1e-5, atol=1e-6)
    assert c.masks["Dense_0"]["kernel"].dtype == bool
    assert c.weights["Dense_0"]["kernel"].shape == (2, 4)
    exact = network([w * m for w, m in zip(c.G, c.M, strict=True)], x)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_the_network_is_close_to_its_target_pointwise():
    c = theory.construct(F222, 0.5, 0.1, 900, seed=2, analysis="improved")
    assert c.success
    x = np.random.default_rng(0).normal(size=(1000, 2))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    errors = np.linalg.norm(network(c.target, x) - np.asarray(c.g(x)), axis=1)
    assert errors.max() <= c.certificate.upper + 1e-5
    assert errors.max() <= c.eps


def test_one_sided_layers_are_narrower_and_still_certified():
    both = theory.construct(F222, 0.5, 0.1, 497, seed=0)
    one = theory.construct(F222, 0.5, 0.1, 497, seed=0, one_sided=True)
    assert [g.shape for g in both.G] == [(4, 2), (2, 4), (4, 2), (2, 4)]
    assert [g.shape for g in one.G] == [(4, 2), (2, 4), (2, 2), (2, 2)]
    assert one.success
    assert one.certificate.verdict == "proved"


def test_widths_by_name_and_by_list():
    paper = theory.construct(F222, 0.5, 0.1, 60, seed=0, widths="paper")
    corrected = theory.construct(F222, 0.5, 0.1, 60, seed=0, widths="corrected")
    given_widths = theory.construct(F222, 0.5, 0.1, 60, seed=0, widths=[5, 4])
    assert [g.shape[0] for g in paper.G[::2]] == [48, 48]
    assert [g.shape[0] for g in corrected.G[::2]] == [76, 76]
    assert [g.shape[0] for g in given_widths.G[::2]] == [5, 4]


def test_strict_raises_what_was_missed():
    with pytest.raises(theory.ConstructionError, match="of 16 entries missed in R = 1"):
        theory.construct(F222, 0.5, 0.1, 1, seed=0, widths=[4, 4], strict=True)
    assert theory.construct(F222, 0.5, 0.1, 497, seed=2, strict=True).success


def test_layer_errors_by_hand():
    hidden = np.array([[0.9], [-0.8], [0.5]])
    output = np.array([[0.6, -0.7, 0.0]])
    above, below = theory.layer_errors(np.array([[0.5]]), hidden, output)
    assert above == pytest.approx(0.5 - 0.54)
    assert below == pytest.approx(-0.5 + 0.56)
    with pytest.raises(ValueError, match="must read a single input"):
        theory.layer_errors(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 1)))


def test_layer_sup_over_the_box_is_exact():
    rng = np.random.default_rng(0)
    above, below = rng.normal(size=(2, 3, 4))
    x = rng.uniform(-1, 1, size=(20000, 4))
    x[:10000] = np.sign(x[:10000]) * rng.integers(0, 2, size=(10000, 4))
    errors = np.maximum(x, 0) @ above.T + np.maximum(-x, 0) @ below.T
    sampled = np.linalg.norm(errors, axis=1).max()
    exact = theory.layer_sup_box(above, below)
    assert sampled <= exact * (1 + 1e-12)
    assert sampled == pytest.approx(exact, rel=1e-12)
    # Nine inputs: the bound that needs no enumeration.
    wide = np.ones((1, 9))
    assert theory.layer_sup_box(wide, -0.5 * wide) == pytest.approx(9.0)
    ball = layer_sup_ball(above, below)
    inside = errors / np.maximum(np.linalg.norm(x, axis=1), 1.0)[:, None]
    assert np.linalg.norm(inside, axis=1).max() <= ball


def test_one_input_is_certified_exactly():
    c = theory.construct([[[0.6], [-0.8]], [[0.5, 0.5]]], 0.5, 0.1, 300, seed=0)
    f, g = (lambda x: network(c.target, x)), (lambda x: np.asarray(c.g(x)))
    ends = np.array([[1.0], [-1.0]])
    expected = np.abs(f(ends) - g(ends)).max()
    assert c.certificate.lower == c.certificate.upper
    assert c.certificate.upper == pytest.approx(expected, abs=1e-6)


def test_the_attack_finds_the_largest_singular_direction():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(5, 30))
    found, x = theory.adversarial([F], [np.zeros((5, 30))])
    assert found == pytest.approx(np.linalg.norm(F, 2), rel=1e-3)
    assert np.linalg.norm(x) == pytest.approx(1.0)


def test_verdicts():
    verdicts = [
        theory.Certificate(lower, upper, 0.5).verdict
        for lower, upper in ((0.1, 0.5), (0.6, 0.7), (0.4, 0.6))
    ]
    assert verdicts == ["proved", "refuted", "undecided"]


def test_an_unlucky_network_is_refuted():
    c = theory.construct([[[1.0]]], 0.05, 0.1, 1, seed=0, widths=[2])
    assert not c.success
    assert c.certificate.verdict == "refuted"


def build(F=F222, eps=0.5, delta=0.1, R=10, **options):
    return theory.construct(F, eps, delta, R, **{"seed": 0, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0.0}, r"eps must lie in \(0, 1\), got 0"),
        ({"eps": math.nan}, r"eps must lie in \(0, 1\), got nan"),
        ({"delta": 1.0}, r"delta must lie in \(0, 1\), got 1"),
        ({"R": 0}, "R must be at least 1, got 0"),
        ({"F": []}, "a target needs at least one layer, got none"),
        ({"F": [[0.5, 0.5]]}, r"F_1 must be a non-empty matrix, got shape \(2,\)"),
        ({"F": [np.zeros((1, 0))]}, "F_1 must be a non-empty matrix, got shape"),
        ({"F": [[[math.nan]]]}, "F_1 must be finite, got nan"),
        ({"F": [[[0.5]], [[0.5, 0.5]]]}, "F_2 must have 1 columns to follow F_1"),
        ({"F": [[[1.1]]]}, "F_1 must have fro norm at most 1, got 1.1"),
        ({"norm": "max"}, "norm must be one of fro, op, got 'max'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"analysis": "new"}, "analysis must be one of paper, improved, got 'new'"),
        ({"choice": "best"}, "choice must be one of window, greedy, got 'best'"),
        ({"widths": "wide"}, "widths must be one of paper, corrected, got 'wide'"),
        ({"widths": [4, 3]}, "the width of layer 2 must be at least 4, got 3"),
        ({"widths": [4]}, "widths must have 2 entries, got 1"),
        ({"max_draws": 100}, "draws would be [0-9]+, more than the limit of 100"),
        (
            {"eps": 1e-6, "R": 1},
            "draws would be [0-9]{12,}, more than the limit of 100000000",
        ),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"R": 2.0}, r"R must be an integer, got 2\.0"),
        ({"R": True}, "R must be an integer, got True"),
        ({"seed": 0.5}, r"seed must be an integer, got 0\.5"),
        ({"widths": [4.0, 4]}, "the width of layer 1 must be an integer"),
    ],
)
def test_non_integers_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        build(**options)


def test_the_spectral_norm_is_accepted_when_asked_for():
    assert build([np.eye(2)], norm="op", R=500).success


def test_a_layer_is_checked_like_a_network():
    with pytest.raises(ValueError, match=r"entries in \[-1, 1\], got one of size 2"):
        theory.construct_layer([[2.0]], 0.1, 3, 2, seed=0)
    with pytest.raises(ValueError, match="the width of layer 1 must be at least 4"):
        theory.construct_layer(np.ones((1, 2)), 0.1, 3, 3, seed=0)
    with pytest.raises(ValueError, match=r"tol must lie in \(0, 1\], got 1.5"):
        theory.construct_layer([[1.0]], 1.5, 3, 2, seed=0)
    with pytest.raises(ValueError, match="draws would be 404, more than the limit"):
        theory.construct_layer([[1.0]], 0.5, 101, 2, seed=0, max_draws=403)


def test_adversarial_needs_enough_points():
    with pytest.raises(ValueError, match="points must be at least 256, got 8"):
        theory.adversarial([np.eye(2)], [np.eye(2)], points=8)


def test_all_public_names_are_there():
    assert all(hasattr(theory, name) for name in theory.__all__)
    assert dir(theory) == theory.__all__
    with pytest.raises(AttributeError, match="no attribute 'theorem'"):
        _ = theory.theorem
