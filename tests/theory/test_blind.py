import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import theory
from iterand_jax.theory.blind import _errors, _mask


def run(w=0.5, width=8, **options):
    return theory.blind_redraws(
        w, width, **{"trials": 50, "seed": 0, "k_per": 20, "refreshes": 60, **options}
    )


def test_the_error_by_hand():
    u, v = jnp.array([0.8, -0.5, 0.9]), jnp.array([0.5, -1.0, 1.0])
    mask = _mask(jnp.array([3.0, 2.0, 1.0]), 2)
    assert mask.tolist() == [1.0, 1.0, 0.0]
    errors = _errors(mask, u, v, jnp.float32(0.5))
    np.testing.assert_allclose(errors, [0.5 - 0.4, -0.5 + 0.5], atol=1e-6)


def test_shapes_and_draws():
    result = run()
    assert result.errors.shape == result.draws.shape == (50, 61)
    assert (result.draws[:, 0] == 1.0).all()
    # Half of the neurons are pruned and a tenth of those re-drawn each time.
    assert result.draws[:, -1].mean() == pytest.approx(1 + 60 * 0.05, rel=0.1)


def test_training_and_blind_redraws_help():
    result = run()
    medians = np.median(result.errors, axis=0)
    assert medians[-1] < 0.7 * medians[0]


def test_the_seed_decides():
    first, again, other = run(), run(), run(seed=1)
    assert (first.errors == again.errors).all()
    assert not (first.errors == other.errors).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"entries in \[-1, 1\], got one of size 2"):
        run(w=2.0)
    with pytest.raises(ValueError, match="width must be at least 2, got 1"):
        run(width=1)
    with pytest.raises(ValueError, match=r"rate must lie in \(0, 1\), got 1.5"):
        run(rate=1.5)
    with pytest.raises(TypeError, match=r"k_per must be an integer, got 2\.0"):
        run(k_per=2.0)
