import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_jax import theory
from iterand_jax.theory.bounds import log_miss, log_pair_fail

F222 = [[[0.6, -0.3], [0.2, 0.5]], [[0.4, 0.7], [-0.3, 0.2]]]
ONE = [[1.0]]

# Independent 40-digit values; (id, call, value).
REFERENCES = [
    ("T08", lambda: theory.layer_window_fail(ONE, 0.1, 70, 1), 0.52530414994269486),
    ("T09", lambda: theory.layer_window_fail([[0.5]], 0.1, 70, 1), 0.34850335119652034),
    ("T10", lambda: theory.layer_window_fail(ONE, 0.2, 2, 300), 0.1106636523760734),
    (
        "T11",
        lambda: theory.layer_window_fail(np.ones((4, 1)), 0.2, 40, 5),
        0.39198952826032471,
    ),
    (
        "T12",
        lambda: theory.layer_window_fail(np.ones((3, 2)), 0.5, 60, 2),
        0.33997428843779147,
    ),
    (
        "T13",
        lambda: theory.thm_window_fail(F222, 0.5, 204, [1, 1]),
        0.64803194120463508,
    ),
    ("T14", lambda: theory.conclusion_fail_d2(0.1, 111)[2], 0.0017312607326898206),
    ("T15", lambda: theory.conclusion_fail_d2(0.01, 5733)[2], 3.5771545179122558e-22),
    ("T19", lambda: theory.sharp_R_thm((2, 2, 2), 0.5, 0.1), 489),
    ("T22", lambda: theory.rho(1.0), 0.51011987435525002),
    ("T23", lambda: theory.sharp_R(p=0.2 / 8, m=10, delta=0.1), 181),
    ("T17x", lambda: 2 * theory.min_dprime(ONE, 0.1, 20, 0.1), 36),
]

# Counterexamples: the published bound is satisfied, the truth exceeds delta.
COUNTEREXAMPLES = [
    ("A.4", [[1.0]], 0.1, 70, 2, 0.525304),
    ("A.4 mild", [[1.0]], 0.2, 2, 600, 0.110664),
    ("A.5", np.ones((4, 1)), 0.2, 40, 10, 0.391990),
    ("A.6", np.ones((3, 2)), 0.5, 60, 8, 0.339974),
]

# A shared machine makes single examples slow at random.
examples = settings(deadline=None, max_examples=50)
probability = st.floats(1e-6, 0.999)
matrices = st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: st.lists(
        st.lists(st.floats(-1.0, 1.0), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@pytest.mark.parametrize(
    ("call", "value"),
    [pytest.param(call, value, id=name) for name, call, value in REFERENCES],
)
def test_reference_values(call, value):
    if isinstance(value, float):
        assert call() == pytest.approx(value, rel=1e-10, abs=0.0)
    else:
        assert call() == value


@pytest.mark.parametrize(
    ("W", "eps", "R", "width", "exact"),
    [pytest.param(*row[1:], id=row[0]) for row in COUNTEREXAMPLES],
)
def test_published_widths_fail_more_often_than_delta(W, eps, R, width, exact):
    d2, d0 = np.shape(W)
    assert width >= theory.paper_width_A6(eps, 0.1, R, d0, d2)
    d_prime = width // (2 * d0)
    fail = theory.layer_window_fail(W, eps, R, d_prime)
    assert fail == pytest.approx(exact, abs=5e-7)
    assert fail > 0.1


def test_the_published_conclusion_is_refuted_in_the_corner():
    for eps, delta in ((0.1, 1e-3), (0.01, 1e-22)):
        # At eps = 0.01 this is the theorem itself with l = d_0 = d_1 = 1.
        scale = 1.0 if eps == 0.1 else 2.0
        R = math.ceil(scale * theory.paper_R_A4(eps, delta))
        assert theory.conclusion_fail_d2(eps, R)[2] > delta


def test_the_papers_product_at_T08_claims_less_than_delta():
    half = theory.paper_product(0.025, 0.025, 70)
    assert 1 - (1 - half) ** 2 == pytest.approx(0.09127, abs=5e-6)


@examples
@given(p_u=probability, p_v=probability, R=st.integers(2, 200))
def test_the_product_bound_points_the_wrong_way(p_u, p_v, R):
    truth = 1 - theory.hit(p_u, R) * theory.hit(p_v, R)
    assert truth >= theory.paper_product(p_u, p_v, R) - 1e-15


@examples
@given(p_u=probability, p_v=probability)
def test_the_product_bound_is_exact_without_resampling(p_u, p_v):
    truth = 1 - theory.hit(p_u, 1) * theory.hit(p_v, 1)
    assert truth == pytest.approx(theory.paper_product(p_u, p_v, 1), rel=1e-12)


def test_the_half_block_claim_is_false_for_every_R_from_2_on():
    for p, R in itertools.product((1e-5, 1e-3, 0.01, 0.1, 0.25), (2, 3, 10, 100)):
        log_true = math.log1p(-(theory.hit(p, R) ** 2))
        assert log_true > R**2 * math.log1p(-(p**2))


@pytest.mark.parametrize(
    ("x", "corner", "interior"),
    [
        (0.1, 0.910, 1.740),
        (0.5, 0.673, 1.144),
        (1.0, 0.510, 0.791),
        (3.0, 0.259, 0.328),
    ],
)
def test_rho_table(x, corner, interior):
    assert theory.rho(x) == pytest.approx(corner, abs=6e-4)
    assert theory.rho(x, interior=True) == pytest.approx(interior, abs=6e-4)


def test_rho_is_the_limit_of_the_exact_half_block():
    p, x, delta = 1e-5, 0.8, 0.1
    R = round(x / p)
    d_prime = math.log(2 / delta) / (p * R) ** 2
    true_log = d_prime * math.log1p(-(theory.hit(p, R) ** 2))
    assert true_log / math.log(delta / 2) == pytest.approx(theory.rho(x), rel=1e-4)


def test_rho_thresholds():
    assert theory.rho_star(0.1) == pytest.approx(0.99132, abs=5e-6)
    assert theory.rho_star(0.01) == pytest.approx(0.99953, abs=5e-6)
    assert theory.rho(0.664397697337, interior=True) == pytest.approx(1.0, abs=1e-10)
    assert theory.rho(0.67573, interior=True) == pytest.approx(0.99132, abs=2e-5)
    assert theory.rho(0.00876) == pytest.approx(0.99132, abs=2e-5)


@examples
@given(W=matrices, R=st.integers(1, 60), d_prime=st.integers(1, 12))
def test_failures_decrease_in_R_and_in_width(W, R, d_prime):
    fail = theory.layer_window_fail(W, 0.5, R, d_prime)
    assert 0.0 <= fail <= 1.0
    assert theory.layer_window_fail(W, 0.5, R + 1, d_prime) <= fail + 1e-12
    assert theory.layer_window_fail(W, 0.5, R, d_prime + 1) <= fail + 1e-12


@examples
@given(W=matrices, R=st.integers(1, 60), d_prime=st.integers(1, 12))
def test_failures_do_not_depend_on_signs(W, R, d_prime):
    fail = theory.layer_window_fail(W, 0.5, R, d_prime)
    assert theory.layer_window_fail(-np.array(W), 0.5, R, d_prime) == fail


@examples
@given(W=matrices, R=st.integers(3, 300), eps=st.floats(0.2, 0.9))
def test_corrected_widths_fail_at_most_delta(W, R, eps):
    d2, d0 = np.shape(W)
    delta = 0.1
    width = theory.corrected_width_A6(eps, delta, R, d0, d2)
    d_prime = width // (2 * d0)
    assert theory.layer_window_fail(W, eps, R, d_prime) <= delta * (1 + 1e-12)
    assert theory.min_dprime(W, eps, R, delta) <= d_prime


@examples
@given(W=matrices, R=st.integers(1, 40), d_prime=st.integers(1, 6))
def test_column_fail_equals_inclusion_exclusion(W, R, d_prime):
    column = np.array(W)[:, 0]
    eta = 0.2
    hits = [theory.hit(theory.window_prob(w, eta), R) for w in column if w != 0]
    h_u = theory.hit(eta / 2, R)
    expected = sum(
        (-1) ** (size + 1)
        * (1 - h_u + h_u * math.prod(1 - h for h in chosen)) ** d_prime
        for size in range(1, len(hits) + 1)
        for chosen in itertools.combinations(hits, size)
    )
    fail = theory.column_fail(column, eta, R, d_prime)
    assert fail == pytest.approx(expected, rel=1e-9, abs=1e-12)


@examples
@given(p=st.floats(1e-4, 0.25), R=st.integers(1, 2000))
def test_closed_form_relaxation_of_the_corrected_rate(p, R):
    x = p * R
    rate = -log_pair_fail(log_miss(p, R), log_miss(p, R))
    assert rate >= max(math.expm1(-x) ** 2, x - math.log(2)) * (1 - 1e-12)


def test_zero_weights_never_fail():
    assert theory.column_fail([0.0, 0.0], 0.1, 1, 1) == 0.0
    assert theory.layer_window_fail(np.zeros((2, 3)), 0.1, 1, 1) == 0.0
    assert theory.thm_window_fail([np.zeros((2, 2))], 0.1, 1, [1]) == 0.0


def test_tiny_failures_keep_their_precision():
    p = 0.025
    single = theory.column_fail([1.0], 2 * p, 4000, 1)
    assert single == pytest.approx(2 * math.exp(4000 * math.log1p(-p)), rel=1e-12)
    double = theory.column_fail([1.0, 1.0], 2 * p, 4000, 1)
    assert double == pytest.approx(1.5 * single, rel=1e-12)


def test_thm_window_fail_multiplies_its_layers():
    eps, R = 0.5, 100
    for improved in (False, True):
        tol = theory.improved_tol(eps, 2) * 2**0.5 if improved else eps / 4
        fails = [theory.layer_window_fail(F, tol, R, 2) for F in F222]
        expected = 1 - (1 - fails[0]) * (1 - fails[1])
        found = theory.thm_window_fail(F222, eps, R, [2, 2], improved=improved)
        assert found == pytest.approx(expected, rel=1e-12)
    one = theory.thm_window_fail(F222, eps, R, [2, 2], one_sided=True)
    assert one < theory.thm_window_fail(F222, eps, R, [2, 2])


@pytest.mark.parametrize("improved", [False, True])
def test_bounds_for_the_theorem_fail_at_most_delta(improved):
    widths_of = theory.improved_widths_thm if improved else theory.corrected_widths_thm
    for R in (1, 20, 100, 300, 900):
        widths = widths_of((2, 2, 2), 0.5, 0.1, R)
        d_prime = [width // 4 for width in widths]
        fail = theory.thm_window_fail(F222, 0.5, R, d_prime, improved=improved)
        assert fail <= 0.1


def test_sharp_R_is_the_least_one():
    R = theory.sharp_R(0.025, 10, 0.1)
    assert theory.hit(0.025, R) ** 10 >= 0.9 > theory.hit(0.025, R - 1) ** 10
    assert theory.sharp_R(0.99, 1, 0.5) == 1
    for improved, bound in (
        (False, theory.corrected_R_thm),
        (True, theory.improved_R_thm),
    ):
        sharp = theory.sharp_R_thm((3, 2, 4), 0.3, 0.1, improved=improved)
        assert sharp <= math.ceil(bound((3, 2, 4), 0.3, 0.1))


def test_recall_beats_no_recall_beats_fixed_windows():
    with_recall = theory.conclusion_fail_d2(0.1, 111)[0]
    without = theory.seq_side_fail(0.1, 111)
    fixed = theory.column_fail([1.0], 0.05, 111, 1)
    assert with_recall == pytest.approx(0.0215872, abs=5e-8)
    assert without == pytest.approx(0.04818, abs=5e-6)
    assert fixed == pytest.approx(0.116754, abs=5e-7)


@pytest.mark.parametrize(
    ("scale", "threshold"), [(1.0, 0.0181363250723), (2.0, 2.738089531730e-21)]
)
def test_where_the_published_conclusion_turns_false(scale, threshold):
    """Lemma A.4 at width 2 and, with twice its R, the theorem for l = d0 = d1 = 1."""
    eps = 1e-4

    def claimed_and_true(delta):
        s = scale * math.sqrt(math.log(2 / delta))
        q = (1 + 2 * s) * math.exp(-2 * s)
        R = round(scale * theory.paper_R_A4(eps, delta))
        limit = (2 * q - q**2) ** 2
        fail = theory.conclusion_fail_d2(eps, R)[2]
        assert fail == pytest.approx(limit, rel=0.02)
        return limit / delta

    assert claimed_and_true(threshold) == pytest.approx(1.0, rel=1e-9)
    assert claimed_and_true(0.5 * threshold) > 1.0
    assert claimed_and_true(2.0 * threshold) < 1.0


def test_one_draw_leaves_no_choice():
    q, _, fail = theory.conclusion_fail_d2(0.1, 1)
    c = 0.9
    # P(u v >= c, both positive) = int_c^1 (1 - c / u) / 2 du / 2
    success = (1 - c + c * math.log(c)) / 4
    assert q == pytest.approx(1 - success, rel=1e-12)
    assert theory.seq_side_fail(0.1, 1) == pytest.approx(q, rel=1e-12)
    assert fail == pytest.approx(1 - 2 * success**2, rel=1e-12)


def test_bad_probabilities_are_refused():
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got"):
            theory.hit(p, 1)
        with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got"):
            theory.paper_product(0.5, p, 1)
    with pytest.raises(ValueError, match=r"entries in \[-1, 1\], got one of size 1.5"):
        theory.window_prob(1.5, 0.1)
    with pytest.raises(ValueError, match=r"p must lie in \(0, 1\), got 1"):
        theory.sharp_R(1, 2, 0.1)
    with pytest.raises(ValueError, match="x must be positive and finite, got 0"):
        theory.rho(0.0)


def test_bad_layers_are_refused():
    with pytest.raises(ValueError, match=r"entries in \[-1, 1\], got one of size 1.2"):
        theory.layer_window_fail([[1.2]], 0.1, 1, 1)
    with pytest.raises(ValueError, match="W must be a non-empty matrix, got shape"):
        theory.layer_window_fail([1.0], 0.1, 1, 1)
    with pytest.raises(ValueError, match="W must be finite, got nan"):
        theory.layer_window_fail([[math.nan]], 0.1, 1, 1)
    for tol in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"tol must lie in \(0, 1\], got"):
            theory.layer_window_fail(ONE, tol, 1, 1)
    with pytest.raises(ValueError, match="R must be at least 1, got 0"):
        theory.layer_window_fail(ONE, 0.1, 0, 1)
    with pytest.raises(TypeError, match=r"R must be an integer, got 2\.0"):
        theory.layer_window_fail(ONE, 0.1, 2.0, 1)
    with pytest.raises(ValueError, match="d_prime must be at least 1, got 0"):
        theory.layer_window_fail(ONE, 0.1, 1, 0)
    with pytest.raises(ValueError, match="d_prime must have 2 entries, got 1"):
        theory.thm_window_fail(F222, 0.5, 1, [1])
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\), got 1"):
        theory.conclusion_fail_d2(1.0, 3)
    with pytest.raises(TypeError, match="R must be an integer, got True"):
        theory.seq_side_fail(0.1, True)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "at least one layer, got none"),
        ([[1.0]], r"F_1 must be a non-empty matrix, got shape \(1,\)"),
        ([np.zeros((0, 2))], r"F_1 must be a non-empty matrix, got shape \(0, 2\)"),
        ([[[math.inf]]], "F_1 must be finite, got inf"),
        ([np.zeros((2, 3)), np.zeros((2, 3))], "F_2 must have 2 columns to follow F_1"),
        ([[[0.9, 0.9]]], "F_1 must have fro norm at most 1, got 1.27"),
    ],
)
def test_bad_targets_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        theory.thm_window_fail(layers, 0.5, 1, [1])


def test_the_spectral_norm_is_enough_when_asked_for():
    identity = [np.eye(2)]
    with pytest.raises(ValueError, match="F_1 must have fro norm at most 1"):
        theory.thm_window_fail(identity, 0.5, 10, [1])
    assert 0.0 < theory.thm_window_fail(identity, 0.5, 10, [1], norm="op") < 1.0
    with pytest.raises(ValueError, match="norm must be one of fro, op, got 'nuc'"):
        theory.thm_window_fail(identity, 0.5, 10, [1], norm="nuc")
