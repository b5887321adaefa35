"""Replicas train as they would alone, for any number of steps per dispatch."""

import importlib
from typing import Any

import numpy as np
import pytest
from flax import linen as nn

from iterand_jax.networks import NETWORKS, Network
from iterand_jax.training import loop
from iterand_jax.training import workdir as workdirs
from iterand_jax.training.config import resolve
from iterand_jax.training.logs import read_lines
from iterand_jax.training.train import train_config
from tests.helpers import train_together as train

SEEDS = (3, 4, 5)


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("fields", [{}, {"clip_norm": 0.05}])
def test_each_reproduces_its_own_single_run(fields, tiny_config, tmp_path):
    """To the last bit, here; other compilers or devices might round otherwise."""
    fields = fields | {"epochs": 2}
    together = train(tiny_config(seed=3, replicas=3, **fields), tmp_path / "together")
    for seed, outcome in zip(SEEDS, together, strict=True):
        (alone,) = train(tiny_config(seed=seed, **fields), tmp_path / "alone")
        assert outcome.state_sha256 == alone.state_sha256
        assert outcome.record.redrawn == alone.record.redrawn
        assert outcome.test_loss == alone.test_loss
        own, other = (
            read_lines(tmp_path / folder / str(seed) / "metrics.jsonl")
            for folder in ("together", "alone")
        )
        for a, b in zip(own, other, strict=True):
            assert a["train_loss"] == b["train_loss"]
    assert len({outcome.test_loss for outcome in together}) == 3


@pytest.mark.slow
def test_the_command_writes_a_workdir_for_each_seed_and_their_mean(
    tiny_config, tmp_path, capsys
):
    config = tiny_config(seed=3, replicas=2, epochs=1)
    written = train_config(config, str(tmp_path / "group"))
    printed = capsys.readouterr().out
    assert "3, 4, in one program" in printed
    assert "; first dispatch " in printed
    alone = train_config(tiny_config(seed=4, epochs=1), str(tmp_path / "alone"))
    own = written["replicas"]["seed_4"]
    assert own["seed"] == 4
    assert own["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=1)
    accuracies = [r["test_accuracy"] for r in written["replicas"].values()]
    assert written["test_accuracy_mean"] == pytest.approx(sum(accuracies) / 2)
    difference = abs(accuracies[0] - accuracies[1])
    assert written["test_accuracy_deviation"] == pytest.approx(difference / 2**0.5)
    capsys.readouterr()
    assert train_config(config, str(tmp_path / "group")) == written
    assert "finished already" in capsys.readouterr().out
    # Each folder is the workdir of a single run, which its own config finds finished.
    single = tiny_config(seed=4, epochs=1)
    assert train_config(single, str(tmp_path / "group" / "seed_4")) == own
    assert workdirs.restore(tmp_path / "group" / "seed_3").state.step == 20
    with pytest.raises(ValueError, match=r"its runs are in .*seed_3, .*seed_4"):
        workdirs.restore(tmp_path / "group")


@pytest.mark.slow
def test_what_one_of_them_has_finished_is_not_trained_again(tiny_config, tmp_path):
    folder = tmp_path / "seed_4"
    first = train_config(tiny_config(seed=4, epochs=1), str(folder))
    group = train_config(tiny_config(seed=3, replicas=2, epochs=1), str(tmp_path))
    assert group["replicas"]["seed_4"] == first
    with pytest.raises(ValueError, match="another config"):
        train_config(tiny_config(seed=3, replicas=2, epochs=2), str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"replicas": 0}, "replicas must be an integer from 1 to 64"),
        ({"replicas": 2, "keep_checkpoints": 1}, "keep_checkpoints of at least 2"),
    ],
)
def test_replicas_that_cannot_be_are_refused(overrides, words, tiny_config):
    with pytest.raises(ValueError, match=words):
        resolve(tiny_config(**overrides))


@pytest.mark.parametrize("name", ["imdb_lstm", "imagenet_resnet50"])
def test_only_data_on_the_devices_is_shared(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.replicas = 2
    with pytest.raises(ValueError, match="one seed at a time; possible: digits"):
        resolve(config)


@pytest.mark.slow
def test_many_steps_in_one_dispatch_are_the_same_steps(
    tiny_config, tmp_path, monkeypatch
):
    """Of 60 steps: ends of epochs, log steps, refreshes every 7 cut the dispatches.

    Losses are close only: in a loop XLA leaves the gradients of convolutions as they
    are, and elsewhere it rewrites them for CPUs, which sums in another order.
    """
    calls = []
    dispatch = loop._Trainer._dispatch

    def counting(self, *arguments):
        calls.append(dispatch(self, *arguments))
        return calls[-1]

    monkeypatch.setattr(loop._Trainer, "_dispatch", counting)
    options = {"seed": 3, "replicas": 2}
    ones = train(tiny_config(**options), tmp_path / "ones")
    assert set(calls) == {1}
    calls.clear()
    many = train(tiny_config(steps_per_dispatch=5, **options), tmp_path / "many")
    assert sum(calls) == 60
    assert max(calls) == 5
    for own, other in zip(many, ones, strict=True):
        assert own.record.redrawn == other.record.redrawn
        np.testing.assert_allclose(own.test_loss, other.test_loss, rtol=1e-3)


class Perceptron(nn.Module):
    """Linear layers alone."""

    num_classes: int
    width: float
    affine: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1)
        for features in (64, 32):
            dense = nn.Dense(features, use_bias=self.affine, dtype=self.dtype)
            x = nn.relu(dense(x))
        return nn.Dense(self.num_classes, use_bias=self.affine)(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "dtype"), [(1, "float32"), (2, "float32"), (1, "bfloat16")]
)
def test_many_steps_in_one_dispatch_have_the_same_bits_without_convolutions(
    replicas, dtype, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setitem(NETWORKS.table, "conv2", Network(Perceptron))
    options = {"seed": 3, "replicas": replicas, "dtype": dtype, "epochs": 2}
    ones = train(tiny_config(**options), tmp_path / "ones")
    many = train(tiny_config(steps_per_dispatch=5, **options), tmp_path / "many")
    for own, other in zip(many, ones, strict=True):
        assert own.state_sha256 == other.state_sha256
        assert own.record.redrawn == other.record.redrawn > 0
