"""A run has the same bits in every mode of JAX, and its result names the generator."""

import contextlib
import json

import jax

from iterand_jax.training.train import train_config
from tests.helpers import killed


@contextlib.contextmanager
def other_modes():
    """What the environment of the one who continues a run may ask of JAX."""
    with (
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield
        assert str(jax.random.key_impl(jax.random.key(0))) == "rbg"  # put back


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
