import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterand_jax import theory

DIMS = (784, 300, 10)
SQUARE = (2, 2, 2)

# Independent 40-digit values; (id, call, value).
REFERENCES = [
    ("T01", lambda: theory.paper_width_A4(0.1, 0.05, R=1), 11806),
    ("T02", lambda: theory.paper_width_A4(0.1, 0.05, R=5), 474),
    ("T03", lambda: theory.paper_R_A4(0.1, 0.05), 76.825823305593661),
    ("T04", lambda: theory.paper_width_A5(0.2, 0.1, R=10, d2=4), 142),
    ("T05", lambda: theory.paper_width_A6(0.5, 0.05, R=8, d0=3, d2=2), 594),
    ("T06", lambda: theory.paper_widths_thm((2, 3, 1), 0.5, 0.1, R=40), [172, 168]),
    ("T07", lambda: theory.paper_R_thm(DIMS, 0.1, 0.01), 9309555.4499462998),
    ("T16", lambda: theory.corrected_R_A6(0.1, 0.05, d0=1, d2=1), 175.28106538695526),
    ("T17", lambda: theory.corrected_width_A6(0.1, 0.1, R=20), 36),
    ("T18", lambda: theory.corrected_R_thm(SQUARE, 0.5, 0.1), 496.05080933504779),
    ("T20", lambda: theory.improved_R_thm(DIMS, 0.1, 0.01), 702835.700898521),
    ("T21", lambda: theory.corrected_widths_thm(SQUARE, 0.5, 0.1, R=60), [76, 76]),
    ("T21p", lambda: theory.paper_widths_thm(SQUARE, 0.5, 0.1, R=60), [48, 48]),
    ("T17p", lambda: theory.paper_width_A4(0.1, 0.1, R=20), 24),
]

# (dims, paper R, (A) R, (B) R) for width 2 d at eps = delta = 0.1.
THREE_BOUNDS = [
    (SQUARE, 1019.5, 2480.3, 898.3),
    (DIMS, 8.706e6, 3.489e7, 6.113e5),
]

# A shared machine makes single examples slow at random.
examples = settings(deadline=None, max_examples=50)
open_unit = st.floats(0.01, 0.9)
small = st.integers(1, 6)


@pytest.mark.parametrize(
    ("call", "value"),
    [pytest.param(call, value, id=name) for name, call, value in REFERENCES],
)
def test_reference_values(call, value):
    if isinstance(value, float):
        assert call() == pytest.approx(value, rel=1e-10, abs=0.0)
    else:
        assert call() == value


@pytest.mark.smoke
@pytest.mark.parametrize(("dims", "paper", "corrected", "improved"), THREE_BOUNDS)
def test_three_bounds_side_by_side(dims, paper, corrected, improved):
    assert theory.paper_R_thm(dims, 0.1, 0.1) == pytest.approx(paper, rel=1e-3)
    assert theory.corrected_R_thm(dims, 0.1, 0.1) == pytest.approx(corrected, rel=1e-3)
    assert theory.improved_R_thm(dims, 0.1, 0.1) == pytest.approx(improved, rel=1e-3)


def test_lemma_A2_counts_draws_that_suffice():
    n = theory.paper_n_A2(0.1, 0.05)
    assert n == math.ceil(20 * math.log(20))
    assert (1 - 0.1 / 2) ** n <= 0.05


@examples
@given(eps=open_unit, delta=open_unit, d0=small, d2=small)
def test_R_1_is_the_setting_without_resampling(eps, delta, d0, d2):
    corrected = theory.corrected_width_A6(eps, delta, 1, d0, d2)
    assert corrected <= theory.paper_width_A6(eps, delta, 1, d0, d2)


@examples
@given(eps=open_unit, delta=open_unit, R=st.integers(2, 500), d0=small, d2=small)
def test_the_correction_never_asks_less_than_2_d0(eps, delta, R, d0, d2):
    width = theory.corrected_width_A6(eps, delta, R, d0, d2)
    assert width >= 2 * d0
    assert width % (2 * d0) == 0
    assert theory.corrected_width_A6(eps, delta, R + 1, d0, d2) <= width


@examples
@given(eps=open_unit, delta=open_unit, d0=small, d2=small, d_prime=st.integers(1, 40))
def test_both_directions_agree(eps, delta, d0, d2, d_prime):
    for width, resamplings in (
        (theory.paper_width_A6, theory.paper_R_A6),
        (theory.corrected_width_A6, theory.corrected_R_A6),
    ):
        R = math.ceil(resamplings(eps, delta, d0, d2, d_prime) * (1 + 1e-9))
        assert width(eps, delta, R, d0, d2) <= 2 * d0 * d_prime


@examples
@given(eps=open_unit, delta=open_unit, dims=st.lists(small, min_size=2, max_size=4))
def test_both_directions_agree_for_the_theorem(eps, delta, dims):
    for d_prime in (1, 3):
        for widths, resamplings in (
            (theory.paper_widths_thm, theory.paper_R_thm),
            (theory.corrected_widths_thm, theory.corrected_R_thm),
            (theory.improved_widths_thm, theory.improved_R_thm),
        ):
            R = math.ceil(resamplings(dims, eps, delta, d_prime) * (1 + 1e-9))
            found = widths(dims, eps, delta, R)
            limits = [2 * d_prime * d for d in dims[:-1]]
            assert all(a <= b for a, b in zip(found, limits, strict=True))


@examples
@given(eps=open_unit, delta=open_unit, d=small, depth=small)
def test_improved_needs_fewer_resamplings(eps, delta, d, depth):
    dims = [d] * (depth + 1)
    improved = theory.improved_R_thm(dims, eps, delta)
    assert improved < theory.corrected_R_thm(dims, eps, delta)


def test_one_sided_layers_are_half_as_wide_from_the_second_on():
    both = theory.corrected_widths_thm((3, 3, 3), 0.5, 0.1, 100)
    one = theory.corrected_widths_thm((3, 3, 3), 0.5, 0.1, 100, one_sided=True)
    assert one[0] == both[0]
    assert one[1] <= both[1] // 2
    R = math.ceil(theory.improved_R_thm((3, 3, 3), 0.5, 0.1))
    improved = theory.improved_widths_thm((3, 3, 3), 0.5, 0.1, R, one_sided=True)
    assert improved == [6, 3]


@pytest.mark.parametrize(("d", "delta"), [(6, 1e-3), (4, 0.1), (16, 1e-6), (64, 1e-6)])
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5, 0.9])
def test_the_published_statement_is_rescued_for_wide_layers(d, delta, depth, eps):
    dims = [d] * (depth + 1)
    full = theory.paper_R_thm(dims, eps, delta)
    for ratio in np.geomspace(1e-4, 1.0, 12):
        R = max(1, math.ceil(ratio * full))
        assert theory.theorem_rescued(dims, eps, delta, R)


def test_the_narrow_theorem_is_not_rescued():
    R = math.ceil(theory.paper_R_thm((1, 1), 0.01, 1e-22))
    assert not theory.theorem_rescued((1, 1), 0.01, 1e-22, R)


def test_the_corrected_R_of_A4_is_within_a_factor_4_of_necessary():
    eps, delta = 0.01, 1e-20
    necessary = math.log(1 / delta) / (-2 * math.log1p(-eps / 2))
    assert necessary <= theory.corrected_R_A6(eps, delta) <= 4.2 * necessary


@pytest.mark.parametrize("R", [1, 2, 10, 100, 400])
def test_the_published_width_is_right_up_to_a_factor_until_R_reaches_1_over_p(R):
    eps, delta = 0.01, 0.1
    published = 16 / (eps * R) ** 2 * math.log(2 / delta)
    corrected = theory.corrected_width_A6(eps, delta, R) // 2
    assert corrected <= (1 - math.exp(-1)) ** -2 * published + 1


def test_comparison_prints_no_unsure_formula():
    rows = {row.name: row for row in theory.compare_bounds(SQUARE, 0.1, 0.1, 50, C=3.0)}
    assert rows["Malach et al. 2020"].widths is None
    assert rows["Malach et al. 2020"].note.startswith("poly, O(d^4 l^2) factor")
    assert rows["Orseau et al. 2020"].widths is None
    pensia = math.ceil(3.0 * 2 * math.log(2 * 2 * 2 / 0.1))
    assert rows["Pensia et al. 2020"].widths == [pensia, pensia]
    without = theory.paper_widths_thm(SQUARE, 0.1, 0.1, 1)
    assert rows["edge-popup (R = 1)"].widths == without
    assert theory.packing_lower_bound(10, 0.125) == 200.0


LEMMAS = [
    theory.paper_width_A6,
    theory.corrected_width_A6,
    lambda eps, delta, R: theory.paper_widths_thm(SQUARE, eps, delta, R),
    lambda eps, delta, R: theory.corrected_widths_thm(SQUARE, eps, delta, R),
    lambda eps, delta, R: theory.improved_widths_thm(SQUARE, eps, delta, R),
    lambda eps, delta, R: theory.theorem_rescued(SQUARE, eps, delta, R),
    lambda eps, delta, R: theory.compare_bounds(SQUARE, eps, delta, R, 1.0),
]


@pytest.mark.parametrize("bound", LEMMAS)
@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_eps_and_delta_must_lie_in_the_open_unit_interval(bound, bad):
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\), got"):
        bound(bad, 0.1, 5)
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\), got"):
        bound(0.1, bad, 5)


@pytest.mark.parametrize("bound", LEMMAS)
def test_R_must_be_an_integer_of_at_least_one(bound):
    for bad in (0, -3):
        with pytest.raises(ValueError, match=f"R must be at least 1, got {bad}"):
            bound(0.1, 0.1, bad)
    for bad in (2.0, True, "2", np.float64(2)):
        with pytest.raises(TypeError, match="R must be an integer, got"):
            bound(0.1, 0.1, bad)
    assert bound(0.1, 0.1, np.int64(3)) is not None


def test_dims_and_constants_are_checked():
    with pytest.raises(ValueError, match="at least two widths, got"):
        theory.paper_R_thm((3,), 0.1, 0.1)
    with pytest.raises(ValueError, match="every entry of dims must be at least 1"):
        theory.corrected_R_thm((3, 0), 0.1, 0.1)
    with pytest.raises(TypeError, match="every entry of dims must be an integer"):
        theory.improved_R_thm((3, 2.0), 0.1, 0.1)
    with pytest.raises(ValueError, match="d0 must be at least 1, got 0"):
        theory.paper_width_A6(0.1, 0.1, 2, d0=0)
    with pytest.raises(ValueError, match="C must be positive and finite, got -1"):
        theory.compare_bounds(SQUARE, 0.1, 0.1, 2, C=-1)
