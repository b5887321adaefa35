import dataclasses

import jax
import numpy as np
import pytest

from iterand_jax import Subnetwork, iterand
from iterand_jax.training import parallel
from iterand_jax.training.logs import read_lines
from iterand_jax.training.workdir import restore
from tests.helpers import build, command, printed

DEVICES = ("-m", "tests.devices")


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_that_devices_cannot_share_is_refused(size):
    with pytest.raises(ValueError, match=f"a batch of {size} cannot be split over 1"):
        parallel.check_batch_size(size, parallel.device_mesh())


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [parallel.compile_refresh, parallel.compile_refresh_without_pmap]
)
def test_the_refresh_of_all_devices_is_the_methods_own(tiny_config, make):
    built = build(tiny_config())
    method = iterand(Subnetwork(), k_per=1, sampling_rate=0.5)
    state = dataclasses.replace(built, method=method).init_state(built.root)
    state = jax.device_put(state, parallel.replicated(built.mesh))
    refresh = make(method, built.mesh, built.root, state)
    for step in (0, 1):
        frozen, redrawn = refresh(built.root, step, state.trainable, state.frozen)
        expected = method.refresh(built.root, step, state.trainable, state.frozen)
        jax.tree.map(np.testing.assert_array_equal, (frozen, redrawn), expected)
        for leaf in jax.tree.leaves(frozen):
            assert leaf.sharding == parallel.replicated(built.mesh)


def train_on(devices, folder, **overrides):
    flags = [f"--config.{name}={value}" for name, value in overrides.items()]
    run = command("main", f"--workdir={folder}", *flags)
    said = printed(*run, devices=devices)
    assert f"{devices} x " in said
    return read_lines(folder / "metrics.jsonl")


@pytest.mark.slow
def test_the_order_of_the_data_does_not_depend_on_the_number_of_devices(tmp_path):
    batches = []
    for devices in (1, 2, 8):
        file = tmp_path / f"{devices}.npz"
        printed(*DEVICES, file, devices=devices)
        batches.append(np.load(file))
    one = batches[0]["indices"]
    assert one.shape == (5, 32)
    assert len(np.unique(one[:2])) == len(np.unique(one[2:4])) == 64  # epochs
    assert not np.array_equal(one[:2], one[2:4])
    for many in batches[1:]:
        np.testing.assert_array_equal(many["indices"], one)
        np.testing.assert_array_equal(many["images"], batches[0]["images"])


@pytest.mark.slow
def test_arrays_stay_where_they_are_and_are_the_same_on_all_devices():
    printed(*DEVICES, devices=4)


@pytest.mark.slow
@pytest.mark.compiles
def test_scores_and_redraws_do_not_depend_on_the_number_of_devices(tmp_path):
    """With a learning rate too small to move a score, they are equal bit for bit."""
    overrides = {
        "learning_rate": 1e-30,
        "network.width": 0.0625,
        "epochs": 2,
        "k_per": 7,
        "eval_batch_size": 512,
    }
    states = []
    for devices in (1, 2, 8):
        folder = tmp_path / str(devices)
        train_on(devices, folder, **overrides)
        states.append(restore(folder))
    for _, state, record in states[1:]:
        assert record["redrawn"] == states[0].record["redrawn"] > 0
        for part in ("trainable", "frozen"):
            one, many = getattr(states[0].state, part), getattr(state, part)
            jax.tree.map(np.testing.assert_array_equal, one, many)


@pytest.mark.slow
@pytest.mark.compiles
def test_losses_do_not_depend_on_the_number_of_devices(tmp_path):
    overrides = {"network.width": 0.0625, "epochs": 1, "log_every_steps": 2}
    one, *others = (train_on(n, tmp_path / str(n), **overrides) for n in (1, 2, 8))
    assert len(one) == 11
    for many in others:
        for a, b in zip(one, many, strict=True):
            np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=1e-3)
