"""The trainer with networks that keep running statistics, on the digits."""

import dataclasses
import os
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

from iterand_jax.data import datasets
from iterand_jax.networks import NETWORKS, Network
from iterand_jax.networks.resnet import ResNet
from iterand_jax.training import loop, setup
from iterand_jax.training.config import resolve
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.replica import Replica

SMALL = "resnet_of_two_blocks"
NETWORKS_AND_METHODS = [
    (SMALL, "iterand"),
    pytest.param("resnet20", "iterand", marks=pytest.mark.slow),
    pytest.param("resnet20", "sgd", marks=pytest.mark.slow),
]


@pytest.fixture
def normalized_config(tiny_config, monkeypatch):
    """A ResNet whose first stage has one channel: 2 epochs of 10 steps."""
    form = partial(ResNet, stages=(1, 1), channels=16, scaled_stem=True)
    monkeypatch.setitem(NETWORKS.table, SMALL, Network(form))

    def make(**overrides):
        fields = {"network.name": SMALL, "epochs": 2, "batch_size": 128}
        return tiny_config(**(fields | overrides))

    return make


def build(config):
    return setup.build(resolve(config), datasets.open_source("digits"))


def run(config, workdir):
    workdir.mkdir(exist_ok=True)
    return loop.train_and_evaluate(build(config), workdir)


@pytest.mark.parametrize(("network", "method"), NETWORKS_AND_METHODS)
def test_an_interrupted_run_ends_with_the_same_bits(
    network, method, normalized_config, tmp_path, monkeypatch, capsys
):
    config = normalized_config(method=method, **{"network.name": network})
    whole = run(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    log_step = Replica.log_step

    def killed_at_20(self, programs, step):
        log_step(self, programs, step)
        if step == 20:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "log_step", killed_at_20)
        with pytest.raises(Killed):
            run(config, tmp_path / "killed")
    capsys.readouterr()
    resumed = run(config, tmp_path / "killed")
    assert "continuing from the checkpoint at step 10" in capsys.readouterr().out
    assert resumed.state_sha256 == whole.state_sha256
    assert resumed.test_loss == whole.test_loss

    statistics = jax.tree.leaves_with_path(whole.state.batch_stats)
    assert len(statistics) == 2 * {SMALL: 6, "resnet20": 21}[network]
    for path, leaf in statistics:
        assert leaf.dtype == np.float32
        assert not np.array_equal(leaf, float(path[-1].key == "var") + 0 * leaf)


def test_evaluation_reads_the_running_statistics(normalized_config):
    """A mean that is moved moves the loss; the batch's own images do not."""
    source = datasets.open_source("digits")
    parts = iter([slice(4), slice(4, 8), slice(8), slice(8)])

    def read(split):
        part = next(parts)
        return [x[part] for x in source.read(split)]

    config = resolve(normalized_config(eval_batch_size=8))
    built = setup.build(config, dataclasses.replace(source, read=read))
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
def test_statistics_are_those_of_the_whole_batch_on_every_device(tmp_path):
    """A step on one device and on four: the same statistics but for rounding."""
    program = """
import sys
from functools import partial
from pathlib import Path
import jax
import numpy as np
from configs import digits
from iterand_jax.data import datasets
from iterand_jax.networks import register_network
from iterand_jax.networks.resnet import ResNet
from iterand_jax.training import loop, setup
from iterand_jax.training.config import resolve
register_network("small", partial(ResNet, stages=(1, 1), channels=4))
config = digits.get_config()
config.network.name = "small"
config.epochs, config.batch_size, config.eval_batch_size = 1, 128, 512
config.dataset.validation_fraction = 0.9
built = setup.build(resolve(config), datasets.open_source("digits"))
state = loop.train_and_evaluate(built, Path(sys.argv[1])).state
assert int(state.step) == 1
np.savez(Path(sys.argv[1]) / "statistics", *jax.tree.leaves(state.batch_stats))
"""
    statistics = []
    for devices in (1, 4):
        folder = tmp_path / str(devices)
        folder.mkdir()
        flags = f"--xla_force_host_platform_device_count={devices}"
        subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            env=os.environ | {"XLA_FLAGS": flags},
            check=True,
        )
        with np.load(folder / "statistics.npz") as arrays:
            statistics.append([arrays[name] for name in arrays])
    for one, four in zip(*statistics, strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-5)
