"""A run has the same bits under all JAX settings, and its result names the PRNG."""

import contextlib
import json

import jax
import pytest

from iterand_jax.runtime import modes
from iterand_jax.training.train import train_config
from tests.helpers import killed

OTHERS = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_random_seed_offset": 7,
}


@contextlib.contextmanager
def other_modes():
    """Sets the JAX settings of another environment, in all threads."""
    before = {name: getattr(jax.config, name) for name in OTHERS}
    for name, value in OTHERS.items():
        jax.config.update(name, value)
    try:
        yield
        assert {name: getattr(jax.config, name) for name in OTHERS} == OTHERS
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_a_root_key_is_that_of_threefry_without_an_offset():
    for seed in (0, 3, 2**31, 2**32 - 1):
        expected = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
        with other_modes():
            found = jax.random.key_data(modes.root_key(seed))
            shifted = jax.random.key_data(jax.random.key(0, impl="threefry2x32"))
        assert found.tolist() == expected.tolist() == [0, seed]
        assert shifted.tolist() == [0, 7]


@pytest.mark.slow
def test_a_run_continued_in_other_modes_has_the_bits_of_one_that_was_not(
    tiny_config, tmp_path
):
    def train(name):
        return train_config(tiny_config(log_every_steps=20), str(tmp_path / name))

    whole = train("whole")
    with killed(20, "continued"):
        train("continued")
    with other_modes():
        train("continued")
        train("other")
    results = {
        name: json.loads((tmp_path / name / "result.json").read_text())
        for name in ("whole", "other", "continued")
    }
    for result in results.values():
        assert result["state_sha256"] == whole["state_sha256"]
        assert result["generator"] == "threefry2x32, partitionable"
