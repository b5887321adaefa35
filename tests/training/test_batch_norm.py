"""The trainer with networks that keep running statistics, on the digits."""

import dataclasses

import jax
import numpy as np
import pytest

from iterand_jax.data import datasets
from iterand_jax.training.evaluation import Evaluator
from tests import helpers


@pytest.mark.slow
def test_evaluation_reads_the_running_statistics(normalized_config):
    """The loss depends on the running mean, not on the other images of the batch."""
    source = datasets.open_source("digits")
    parts = iter([slice(4), slice(4, 8), slice(8), slice(8)])

    def read(split):
        part = next(parts)
        return [x[part] for x in source.read(split)]

    config = normalized_config(eval_batch_size=8)
    built = helpers.build(config, dataclasses.replace(source, read=read))
    state = jax.jit(built.init_state)(built.root)
    evaluate = Evaluator(built)
    first, second, both = (evaluate(state, "test").loss for _ in range(3))
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-5)
    moved = jax.tree.map_with_path(
        lambda path, x: x + 0.5 * (path[-1].key == "mean"), state.batch_stats
    )
    other = evaluate(state._replace(batch_stats=moved), "test").loss
    assert abs(other - both) > 1e-3


@pytest.mark.slow
@pytest.mark.compiles
def test_statistics_are_those_of_the_whole_batch_on_every_device(tmp_path):
    """A step on one device and on four: the same statistics but for rounding."""
    program = """
import sys
from functools import partial
from pathlib import Path
import jax
import numpy as np
from iterand_jax.configs import digits
from iterand_jax.networks import register_network
from iterand_jax.networks.resnet import ResNet
from tests import helpers
register_network("small", partial(ResNet, stages=(1, 1), channels=4))
config = digits.get_config()
config.network.name = "small"
config.epochs, config.batch_size, config.eval_batch_size = 1, 128, 512
config.dataset.validation_fraction = 0.9
state = helpers.train(config, Path(sys.argv[1])).state
assert int(state.step) == 1
np.savez(Path(sys.argv[1]) / "statistics", *jax.tree.leaves(state.batch_stats))
"""
    statistics = []
    for devices in (1, 4):
        folder = tmp_path / str(devices)
        folder.mkdir()
        helpers.printed("-c", program, folder, devices=devices)
        with np.load(folder / "statistics.npz") as arrays:
            statistics.append([arrays[name] for name in arrays])
    for one, four in zip(*statistics, strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-5)
