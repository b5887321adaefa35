"""Mask churn is the fraction of mask entries that differ, wherever it is reported."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork
from iterand_jax.data import datasets
from iterand_jax.training import building, loop
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.churn import mask_churn, packed_masks, record
from iterand_jax.training.config import resolve
from iterand_jax.training.logs import read_lines

SUBNETWORK = Subnetwork(0.4)


def scores(seed):
    keys = jax.random.split(jax.random.key(seed))
    return {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 5, 7)), "bias": None},
        "dense": {"kernel": jax.random.normal(keys[1], (13, 11))},
    }


def test_churn_is_the_share_of_entries_that_differ():
    before, after = (SUBNETWORK.masks(scores(seed)) for seed in (0, 1))
    differ = jax.tree.map(lambda a, b: jnp.sum(a != b), before, after)
    packed, changed = jax.jit(mask_churn)(packed_masks(before), after)
    jax.tree.map(np.testing.assert_array_equal, changed, differ)
    shares = [
        int(differ["conv"]["kernel"]) / 315,
        int(differ["dense"]["kernel"]) / 143,
    ]
    line = record(changed, after)
    assert line["layer_churn"] == pytest.approx(shares, rel=5e-3)
    assert line["mask_churn"] == sum(jax.tree.leaves(differ)) / (315 + 143)
    kernel = np.unpackbits(packed["conv"]["kernel"], count=315).reshape(3, 3, 5, 7)
    np.testing.assert_array_equal(kernel, after["conv"]["kernel"])
    assert packed["conv"]["bias"] is None


def test_masks_that_did_not_change_have_no_churn():
    masks = SUBNETWORK.masks(scores(0))
    assert not any(jax.tree.leaves(mask_churn(packed_masks(masks), masks)[1]))


@pytest.mark.parametrize("method", ["sgd", "edge_popup", "iterand"])
def test_step_lines_have_the_churn_of_methods_that_prune(method, tiny_config, tmp_path):
    config = resolve(tiny_config(method=method, epochs=1))
    built = building.build(config, datasets.open_source("digits"))
    start = jax.jit(built.init_state)(built.root)
    end = loop.train_and_evaluate(built, tmp_path).state
    lines = [r for r in read_lines(tmp_path / "metrics.jsonl") if r["kind"] == "step"]
    assert [line["step"] for line in lines] == [10, 20]
    if method == "sgd":
        assert not any("churn" in name for line in lines for name in line)
        return
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints", keep=2)) as saved:
        middle, _ = saved.restore_step(10, built.abstract)
    masks = [built.subnetwork.masks(s.trainable) for s in (start, middle, end)]
    flat = [
        np.concatenate([m.ravel() for m in jax.tree.leaves(tree)]) for tree in masks
    ]
    for line, before, after in zip(lines, flat[:-1], flat[1:], strict=True):
        np.testing.assert_allclose(line["mask_churn"], np.mean(before != after))
        assert 0 < line["mask_churn"] < 1
        assert len(line["layer_churn"]) == len(jax.tree.leaves(end.trainable))
