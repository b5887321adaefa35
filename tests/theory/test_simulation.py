import numpy as np
import pytest

from iterand_jax import theory

F222 = [[[0.6, -0.3], [0.2, 0.5]], [[0.4, 0.7], [-0.3, 0.2]]]
ONE = [[1.0]]


def assert_consistent(count, exact):
    low, high = theory.wilson(*count)
    assert low <= exact <= high


def test_wilson_by_hand():
    low, high = theory.wilson(0, 100, confidence=0.95)
    assert low == 0.0
    assert high == pytest.approx(0.0369935, abs=1e-6)
    low, high = theory.wilson(50, 100, confidence=0.95)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(0.19233, abs=1e-5)


def test_M1_window_event_of_A4():
    count = theory.mc_window_layer(ONE, 0.1, 70, 1, trials=200_000, seed=1)
    assert count[1] == 200_000
    assert_consistent(count, theory.layer_window_fail(ONE, 0.1, 70, 1))


def test_M2_conclusion_of_A4():
    count = theory.mc_conclusion_ones_d2_fast(0.1, 111, trials=10**7, seed=2)
    assert_consistent(count, theory.conclusion_fail_d2(0.1, 111)[2])
    # More than the delta for which Lemma A.4 is satisfied.
    assert theory.wilson(*count)[0] > 0.001


@pytest.mark.slow
def test_M3_conclusion_of_A5():
    count = theory.mc_conclusion_ones_d2_fast(
        0.02, 921, trials=12 * 10**6, seed=3, outputs=2
    )
    low, high = theory.wilson(*count)
    assert low <= 0.000192311
    assert high >= 0.000172242
    assert low > 1e-4


@pytest.mark.parametrize(
    ("name", "R", "seeds"),
    [
        ("M4", 204, range(4000)),
        pytest.param("M5", 497, range(4000), marks=pytest.mark.slow),
    ],
)
def test_M4_M5_theorem_through_construct(name, R, seeds):
    results = (
        theory.construct(F222, 0.5, 0.1, R, seed=s, widths=[4, 4]) for s in seeds
    )
    count = sum(not result.success for result in results), len(seeds)
    assert_consistent(count, theory.thm_window_fail(F222, 0.5, R, [1, 1]))
    if name == "M5":
        assert theory.wilson(*count)[1] < 0.1


@pytest.mark.slow
def test_M6_window_event_at_the_corrected_width():
    count = theory.mc_window_layer(ONE, 0.1, 20, 18, trials=600_000, seed=6)
    assert_consistent(count, theory.layer_window_fail(ONE, 0.1, 20, 18))
    assert theory.wilson(*count)[1] < 0.1


@pytest.mark.parametrize(
    ("W", "eps", "R", "d_prime"),
    [
        pytest.param(np.ones((4, 1)), 0.2, 40, 5, marks=pytest.mark.slow),
        pytest.param(np.ones((3, 2)), 0.5, 60, 2, marks=pytest.mark.slow),
        ([[0.5, 0.0], [-0.9, 0.3]], 0.5, 30, 2),
        pytest.param([[0.5]], 0.1, 70, 1, marks=pytest.mark.slow),
    ],
)
def test_window_events_match_their_exact_probability(W, eps, R, d_prime):
    count = theory.mc_window_layer(W, eps, R, d_prime, trials=4000, seed=0)
    assert_consistent(count, theory.layer_window_fail(W, eps, R, d_prime))


@pytest.mark.slow
@pytest.mark.parametrize("improved", [False, True])
def test_network_window_event(improved):
    options = {"improved": improved}
    count = theory.mc_window_thm(F222, 0.5, 80, [2, 1], trials=2000, seed=0, **options)
    assert_consistent(count, theory.thm_window_fail(F222, 0.5, 80, [2, 1], **options))


@pytest.mark.slow
def test_literal_and_fast_draws_of_the_conclusion_agree():
    exact = theory.conclusion_fail_d2(0.3, 12)[2]
    for estimate in (
        theory.mc_conclusion_ones_d2,
        theory.mc_conclusion_ones_d2_fast,
        lambda *args, **kwargs: theory.mc_conclusion_d2(1.0, *args, **kwargs),
    ):
        assert_consistent(estimate(0.3, 12, trials=20_000, seed=4), exact)


def test_one_draw_and_one_trial():
    exact = theory.conclusion_fail_d2(0.5, 1)[2]
    count = theory.mc_conclusion_ones_d2_fast(0.5, 1, trials=50_000, seed=4)
    assert_consistent(count, exact)
    assert theory.mc_window_layer(ONE, 0.5, 1, 1, trials=1, seed=0)[1] == 1


def test_interior_weights_are_easy():
    count = theory.mc_conclusion_d2(0.5, 0.01, 40, trials=3000, seed=5)
    low, high = theory.wilson(*count)
    assert low <= 0.0039
    assert high >= 0.0003
    assert theory.mc_conclusion_d2(0.05, 0.1, 1, trials=10, seed=0) == (0, 10)


def test_the_seed_decides():
    first, again, other = (
        theory.mc_window_layer(ONE, 0.1, 70, 1, trials=5000, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_progress_sees_every_chunk():
    seen = []

    def watch(chunks):
        for chunk in chunks:
            seen.append(chunk)
            yield chunk

    theory.mc_conclusion_ones_d2_fast(0.1, 9, trials=10**6, seed=0, progress=watch)
    assert seen == list(range(len(seen)))
    assert len(seen) > 1


def test_bad_input_is_refused():
    def window(W=ONE, eps=0.1, R=3, d_prime=1, trials=10, seed=0):
        return theory.mc_window_layer(W, eps, R, d_prime, trials=trials, seed=seed)

    with pytest.raises(ValueError, match=r"entries in \[-1, 1\], got one of size 2"):
        window(W=[[2.0]])
    with pytest.raises(ValueError, match="float32 draws need windows of probability"):
        window(eps=1e-4)
    with pytest.raises(ValueError, match="R must be at least 1, got 0"):
        window(R=0)
    with pytest.raises(TypeError, match=r"R must be an integer, got 2\.0"):
        window(R=2.0)
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        window(trials=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        window(seed=-1)
    with pytest.raises(ValueError, match="draws per trial would be 4000000000"):
        window(R=10**9)
    with pytest.raises(ValueError, match="d_prime must have 2 entries, got 1"):
        theory.mc_window_thm(F222, 0.5, 3, [1], trials=1, seed=0)
    with pytest.raises(ValueError, match="failures would be 3, more than the limit"):
        theory.wilson(3, 2)
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\), got 1"):
        theory.mc_conclusion_ones_d2(1.0, 3, trials=1, seed=0)
