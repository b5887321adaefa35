import pytest

from iterand_jax import theory


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("n", "eps", "covered"), [(8, 0.1, 0.20), (12, 0.1, 0.59), (12, 0.01, 0.35)]
)
def test_subset_sums_cover_the_interval(n, eps, covered):
    failures, trials = theory.mc_subset_sum(n, eps, trials=200, seed=0)
    low, high = theory.wilson(trials - failures, trials)
    # The reference is itself the mean of 200 trials.
    assert low - 0.06 <= covered <= high + 0.06


def test_one_neuron_is_the_single_weight_with_recall():
    count = theory.mc_resampled_subset_sum(1.0, 0.1, 40, 1, trials=4000, seed=0)
    low, high = theory.wilson(*count)
    assert low <= theory.conclusion_fail_d2(0.1, 40)[0] <= high


def test_two_neurons_leave_the_corner():
    one, two = (
        theory.mc_resampled_subset_sum(1.0, 0.1, 12, d_prime, trials=500, seed=0)[0]
        for d_prime in (1, 2)
    )
    assert two < 0.2 * one


def test_a_small_target_needs_nothing():
    assert theory.mc_resampled_subset_sum(0.05, 0.1, 1, 1, trials=9, seed=0) == (0, 9)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="products would be 21, more than the limit"):
        theory.mc_subset_sum(21, 0.1, trials=1, seed=0)
    with pytest.raises(ValueError, match=r"sums would be [0-9]+, more than the limit"):
        theory.mc_resampled_subset_sum(1.0, 0.1, 100, 3, trials=1, seed=0)
    with pytest.raises(ValueError, match=r"entries in \[-1, 1\], got one of size 2"):
        theory.mc_resampled_subset_sum(2.0, 0.1, 3, 1, trials=1, seed=0)
