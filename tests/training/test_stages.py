"""Iterative magnitude pruning: masks, rewinding, and interrupted stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iterand_jax import Subnetwork
from iterand_jax.data import datasets
from iterand_jax.methods import magnitude
from iterand_jax.rules import DEFAULT_RULES, Rule
from iterand_jax.training import building, exporting, procedures, stages
from iterand_jax.training.config import resolve
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import read_result, restore
from tests import helpers

SPARSITIES = (0.0, 0.3, 0.5, 0.9)


def weights():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 2, 5), "b": (7, 4), "c": (4, 3)}
    tree = {
        name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}
        for name, shape in shapes.items()
    }
    return tree | {"bias": jnp.ones(3)}


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_largest_magnitudes_of_all_layers_are_kept(sparsity):
    tree = weights()
    found = magnitude.magnitude_masks(Subnetwork(), tree, sparsity)
    assert found["bias"] is None
    sizes, kept = (
        np.concatenate([np.ravel(t[name]["kernel"]) for name in "abc"])
        for t in (jax.tree.map(jnp.abs, tree), found)
    )
    assert set(kept) <= {0.0, 1.0}
    assert np.sum(kept == 0) == round(sparsity * len(sizes))
    assert sizes[kept == 1].min() > max(sizes[kept == 0], default=-1)


def test_layers_that_are_not_pruned_are_kept_whole():
    subnetwork = Subnetwork(rules=(Rule("c/*", prune=False), *DEFAULT_RULES))
    found = magnitude.magnitude_masks(subnetwork, weights(), 0.5)
    assert found["c"]["kernel"] is None
    removed = sum(int((found[name]["kernel"] == 0).sum()) for name in "ab")
    assert removed == (90 + 28) / 2


def test_what_is_pruned_stays_pruned():
    tree, before = weights(), None
    for sparsity in SPARSITIES:
        found = magnitude.magnitude_masks(Subnetwork(), tree, sparsity)
        tree = jax.tree.map(
            lambda w, m: w if m is None else w * m,
            tree,
            found,
            is_leaf=lambda leaf: leaf is None,
        )
        masks = np.concatenate([m.ravel() for m in jax.tree.leaves(found)])
        assert before is None or np.all(masks <= before)
        before = masks


@pytest.mark.parametrize("retrainings", [1, 3, 7])
def test_each_retraining_removes_the_same_fraction(retrainings):
    kept = 1 - np.array([0.0, *magnitude.sparsities(0.9, retrainings)])
    assert len(kept) == retrainings + 1
    np.testing.assert_allclose(kept[1:] / kept[:-1], kept[1] / kept[0])
    np.testing.assert_allclose(kept[-1], 0.1)


@pytest.mark.parametrize(
    ("rewind_epochs", "asked", "kept"),
    [(0, (), ()), (2, (), (2,)), (2, (1, 3), (1, 2, 3)), (0, (1,), (1,))],
)
def test_the_dense_training_keeps_what_is_asked_for_and_what_is_rewound_to(
    rewind_epochs, asked, kept, imp_config
):
    fields = {"keep_checkpoint_epochs": asked, "rewind_epochs": rewind_epochs}
    config = resolve(imp_config(epochs=3, retrainings=1, **fields))
    dense, retraining = procedures.PROCEDURES["imp"].stages(config)
    assert dense.keep_checkpoint_epochs == kept
    assert retraining.keep_checkpoint_epochs == asked


def leaves(tree):
    return {
        "/".join(k.key for k in path): x for path, x in jax.tree.leaves_with_path(tree)
    }


@pytest.mark.slow
def test_stages_prune_what_is_small_and_rewind_what_is_left(
    imp_config, tmp_path, capsys
):
    result = train_config(imp_config(), str(tmp_path))
    stages = [restore(tmp_path / f"stage_{index}") for index in range(3)]
    assert [stage.run.config.method for stage in stages] == [
        "sgd",
        *["fixed_mask"] * 2,
    ]
    early = restore(tmp_path / "stage_0", 20).state.trainable
    trained = leaves(stages[0].state.trainable)
    for index, sparsity in ((1, 0.5), (2, 0.75)):
        masks = leaves(stages[index].state.frozen)
        assert "Dense_2/kernel" not in masks
        total = sum(mask.size for mask in masks.values())
        removed = sum(int((mask == 0).sum()) for mask in masks.values())
        assert removed == round(sparsity * total)
        kept = [np.abs(trained[path])[mask == 1].min() for path, mask in masks.items()]
        gone = [np.abs(trained[path])[mask == 0].max() for path, mask in masks.items()]
        assert min(kept) > max(gone)
        # Where it begins: the early weights; where it ends: what is pruned is zero.
        trained = leaves(stages[index].state.trainable)
        for path, mask in masks.items():
            assert not np.any(trained[path][mask == 0])
            assert np.all(trained[path][mask == 1] != leaves(early)[path][mask == 1])
        stage = result["stages"][index]
        everything = sum(leaf.size for leaf in trained.values())
        assert stage["parameters_kept"] == everything - removed
    assert (result["steps"], result["method"]) == (120, "imp")
    assert result["startup"] == stages_startup(tmp_path, 0)
    assert {"imports", "device", "dataset", "program step"} <= result["startup"].keys()
    assert "imports" not in stages_startup(tmp_path, 2)
    assert result["test_accuracy"] == result["stages"][-1]["test_accuracy"]
    assert f"{result['test_accuracy']:.2f} % at sparsity" in capsys.readouterr().out
    assert train_config(imp_config(), str(tmp_path)) == result
    with pytest.raises(ValueError, match=r"its runs are in .*stage_0, .*stage_2"):
        restore(tmp_path)
    ticket = exporting.ticket_of(stages[2].run, stages[2].state)
    assert ticket.description.network["affine"]


def stages_startup(workdir, index):
    return read_result(workdir / f"stage_{index}")["startup"]


@pytest.mark.slow
@pytest.mark.parametrize("rewind_epochs", [0, 1])
def test_a_retraining_begins_with_early_weights(rewind_epochs, imp_config, tmp_path):
    config = imp_config(**{"recipe.imp.rewind_epochs": rewind_epochs})
    config.keep_checkpoints = 9
    train_config(config, str(tmp_path))
    first = restore(tmp_path / "stage_1", 0).state
    assert int(first.step) == 0
    if rewind_epochs:
        early = restore(tmp_path / "stage_0", 20).state
    else:
        stage = procedures.stages(resolve(config))[0]
        dense = building.build(stage, datasets.open_source("digits"))
        early = jax.jit(dense.init_state)(dense.root)
    for found, expected in (
        (first.batch_stats, early.batch_stats),
        (first.opt_state, jax.tree.map(np.zeros_like, first.opt_state)),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    masks = leaves(first.frozen)
    for path, weight in leaves(early.trainable).items():
        np.testing.assert_array_equal(
            leaves(first.trainable)[path], weight * masks.get(path, 1)
        )


@pytest.mark.slow
def test_masks_are_those_of_the_last_step_or_none(imp_config, tmp_path, monkeypatch):
    def killed(*arguments):
        raise helpers.Killed

    monkeypatch.setattr(stages, "_begin", killed)
    with pytest.raises(helpers.Killed):
        train_config(imp_config(), str(tmp_path))
    monkeypatch.undo()
    checkpoint = tmp_path / "stage_0" / "checkpoints" / "40"
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ValueError, match=r"the checkpoint of step 40 in .*stage_0"):
        train_config(imp_config(), str(tmp_path))
    assert not (tmp_path / "stage_1" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rewind_epochs": 2}, "rewind_epochs=2 is not before the end"),
        ({"retrainings": 0}, "retrainings must be an integer from 1 .*; got 0"),
        ({"checkpoint_every_steps": 10}, "checkpoint_every_steps must be 0; got 10"),
        ({"replicas": 2}, "replicas must be 1; got 2"),
        (
            {"method": "iterand"},
            "no recipe for the method 'iterand'; possible: imp; configs",
        ),
        ({"k_per": 300}, "k_per=300 is not used by the method imp"),
    ],
)
def test_what_cannot_be_is_refused(overrides, words, imp_config):
    with pytest.raises(ValueError, match=words):
        resolve(imp_config(**overrides))
