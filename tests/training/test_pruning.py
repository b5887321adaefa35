"""Runs of every scope, value and schedule: trained, resumed, exported, analyzed."""

import jax
import numpy as np
import pytest

import iterand_jax
from iterand_jax.analysis import report
from iterand_jax.training import exporting, pruning
from iterand_jax.training.config import resolve
from iterand_jax.training.train import train_config
from iterand_jax.training.workdir import restore
from iterand_jax.trees import leaves_of
from tests import helpers

SCHEDULE = {
    "sparsity": 0.8,
    "sparsity_schedule": "cubic",
    "sparsity_from": 0.25,
    "sparsity_end": 2,
}
IN_STEPS = {"sparsity_begin": 7, "sparsity_end": 44, "sparsity_in": "steps"}
RUNS = {
    "global edge-popup that follows a schedule in epochs": {
        "method": "edge_popup",
        "scope": ("*",),
        **SCHEDULE,
    },
    "IteRand that follows a schedule in steps": {
        "method": "iterand",
        **SCHEDULE,
        **IN_STEPS,
        "sparsity_schedule": "gradual",
    },
    "scaled magnitudes in groups": {
        "method": "edge_popup",
        "distribution": "kaiming_uniform",
        "scope": ("Conv_*",),
        "ranked_by": "magnitude",
        "kept_values": "scaled",
    },
    "biprop": {"method": "biprop", "affine": True},
    "random masks by a rule": {"method": "random", "layer_sparsities": "erk"},
    "gradual magnitude over all layers": {
        "method": "magnitude",
        "scope": ("*",),
        **SCHEDULE,
    },
    "coats": {"method": "multicoated", "scope": ("*",), "affine": True},
    "partially frozen by equal edges": {
        "method": "partially_frozen",
        "distribution": "kaiming_uniform",
        "scope": ("*",),
        "sparsity": 0.6,
        "pruned_share": 0.3,
        "locked_share": 0.1,
        "frozen_by": "equal_edges",
        "ranked_by": "magnitude",
        "kept_values": "scaled",
        "affine": True,
    },
    "recycled weights": {
        "method": "recycling",
        "distribution": "kaiming_uniform",
        "k_per": 7,
        "layer_sparsities": "equal_edges",
    },
    "two of every four": {
        "method": "iterand",
        "pattern": "2:4",
        "unpruned": ("Conv_0/kernel",),
    },
    "one magnitude of every four": {
        "method": "magnitude",
        "pattern": "1:4",
        "unpruned": ("Conv_0/kernel",),
    },
    "signed supermasks": {"method": "signed_supermask", "threshold": 0.1},
    "adaptive thresholds": {
        "method": "adaptive_threshold_iterand",
        "k_per": 7,
        "affine": True,
        **SCHEDULE,
    },
    "gems": {
        "method": "gem_miner",
        "distribution": "kaiming_uniform",
        "sparsity": 0.8,
        "k_per": 7,
        "freezings": 6,
        "affine": True,
    },
    "relaxed gates": {
        "method": "relaxed_bernoulli",
        "gate_penalty": 1e-3,
        "affine": True,
    },
    "global biprop with a schedule, biases and resampling": {
        "method": "biprop_iterand",
        "scope": ("*",),
        "affine": True,
        **SCHEDULE,
    },
}


@pytest.mark.compiles
@pytest.mark.parametrize("name", helpers.table(RUNS, [*RUNS][::2].__contains__))
def test_a_run_resumes_and_its_ticket_is_what_the_network_sees(
    name, tiny_config, tmp_path, capsys
):
    fields = RUNS[name]
    config = tiny_config(**fields, checkpoint_every_steps=15)
    whole = train_config(config, str(tmp_path / "whole"))
    with helpers.killed(40):
        train_config(config, str(tmp_path / "parts"))
    again = train_config(config, str(tmp_path / "parts"))
    assert again["state_sha256"] == whole["state_sha256"]
    assert again["test_accuracy"] == whole["test_accuracy"]
    for step in (None, 45):  # 45: its schedule of 40 steps has ended or nearly
        file = tmp_path / f"{step}.safetensors"
        exporting.export(tmp_path / "parts", "ticket", file, step=step)
        run, state, _ = restore(tmp_path / "parts", step)
        ticket, params = iterand_jax.load_ticket(file), leaves_of(run.params(state))
        for path, leaf in leaves_of(ticket.params).items():
            assert (
                leaf.tobytes()
                == np.where(params[path] == 0, 0.0, params[path])
                .astype(leaf.dtype)
                .tobytes()
            )
        check_trained(run, state, fields)
    described = report.report(tmp_path / "parts")
    assert described.layers
    assert report.report(file).layers
    if fields["method"] in ("signed_supermask", "relaxed_bernoulli"):  # it emerges
        assert 0 < whole["sparsity_achieved"] < 1
        return
    if fields["method"] == "gem_miner":  # more than is frozen
        assert achieved(run, 0.8) - 0.001 < whole["sparsity_achieved"] < 1
        return
    assert whole["sparsity_achieved"] == pytest.approx(
        achieved(run, resolve(config).sparsity), abs=0.01
    )


def check_trained(run, state, fields):
    """Biases are trained where the config asks for them, and stored raw."""
    trains_weights = fields["method"] in ("random", "magnitude")
    assert run.affine == bool(fields.get("affine", trains_weights))
    biases = {p: x for p, x in leaves_of(state.trainable).items() if "bias" in p}
    assert bool(biases) == run.affine
    assert all(np.any(leaf != 0) for leaf in biases.values())


def achieved(run, sparsity):
    leaves = leaves_of(run.weights(run.abstract))
    pruned = sum(leaves[path].size for path in run.fan_ins)
    return sparsity * pruned / sum(leaf.size for leaf in leaves.values())


@pytest.mark.slow
@pytest.mark.compiles
def test_masks_of_a_checkpoint_are_those_of_its_step(tiny_config, tmp_path):
    config = tiny_config(
        method="edge_popup",
        scope=("*",),
        checkpoint_every_steps=10,
        keep_checkpoints=9,
        **SCHEDULE,
    )
    train_config(config, str(tmp_path))
    kept = []
    for step in (10, 20, 30, 40, 60):
        run, state, record = restore(tmp_path, step)
        assert record["steps_per_epoch"] == 20
        masks = jax.tree.leaves(run.masks(state))
        kept.append(np.mean(np.concatenate([np.ravel(mask) for mask in masks])))
        expected = run.subnetwork.sparsity.value(step)
        np.testing.assert_allclose(kept[-1], 1 - expected, atol=1e-3)
    assert kept[0] > kept[1] > kept[2] > kept[3] == kept[4]


@pytest.mark.slow
@pytest.mark.compiles
def test_learned_normalization_is_trained_beside_scores(normalized_config, tmp_path):
    config = normalized_config(method="biprop", affine=True, epochs=1)
    outcome = helpers.train(config, tmp_path)
    trained = leaves_of(outcome.state.trainable)
    scales = {path: leaf for path, leaf in trained.items() if "scale" in path}
    assert scales
    assert all(np.any(np.asarray(leaf) != 1) for leaf in scales.values())
    assert not [path for path in leaves_of(outcome.state.frozen) if "scale" in path]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"sparsity_schedule": "linear"},
            "unknown sparsity_schedule 'linear'; possible: constant, ",
        ),
        ({"sparsity_from": 0.5}, "sparsity_from=0.5 is of a schedule, and"),
        ({"sparsity_schedule": "cubic"}, "sparsity_schedule=cubic needs a value"),
        ({**SCHEDULE, "sparsity_from": 1.0}, r"must be a number in \[0, 1\)"),
        ({**SCHEDULE, "sparsity_end": 4}, "_end=4, in epochs, and the training has 3"),
        ({**SCHEDULE, "resample": "before"}, "resample=before is before the step"),
        ({**SCHEDULE, "sparsity_begin": 3}, "from sparsity_begin=3 to sparsity_end=2"),
        (
            {**SCHEDULE, "sparsity_in": "days"},
            "unknown sparsity_in 'days'; possible: epo",
        ),
        ({"pattern": "2of4"}, "pattern is 'n:m', .* got '2of4'"),
        (
            {"pattern": "1:4", "sparsity": 0.5},
            "pattern=1:4 removes 0.75 of the weights, and sparsity is 0.5; possible: ",
        ),
        ({"pattern": "2:4", "sparsity": 0.7}, "removes 0.5 .* sparsity is 0.7"),
        ({"pattern": "2:4", **SCHEDULE}, "removes 0.5 .* sparsity is "),
        ({"pattern": "2:4", "scope": ("*",)}, r"scope=\('\*',\) is of a threshold"),
        ({"pattern": "2:4", "rank": "quantile"}, "rank='quantile' is of a threshold"),
        (
            {"pattern": "2:4", "layer_sparsities": "erk"},
            "layer_sparsities=erk .* not possible with pattern=2:4",
        ),
        (
            {"pattern": "2:4", "method": "sgd"},
            "pattern=2:4 is not used by the method s",
        ),
        (
            {"pattern": "2:4", "scope": (), "method": "partially_frozen"},
            "pattern='2:4' is not possible: the method partially_frozen",
        ),
        (
            {"scope": ("*",), "method": "sgd"},
            r"scope=\('\*',\) is not used by the method sgd, which trains weights",
        ),
        (
            {"scope": ("*",), "layer_sparsities": "erk"},
            r"layer_sparsities=erk .* not possible with scope=\('\*',\)",
        ),
        ({"layer_sparsities": "er"}, "unknown layer_sparsities 'er'; possible: uni"),
        (
            {"layer_sparsities": "erk", "method": "sgd"},
            "layer_sparsities=erk is not used by the method sgd",
        ),
        (
            {"coats": (0.9,), "method": "edge_popup"},
            r"coats=\(0.9,\) is not used by the method edge_popup",
        ),
        (
            {**SCHEDULE, "method": "gem_miner"},
            "sparsity=Schedule.* is not possible: the method gem_miner rounds",
        ),
        (
            {"gate_noise": 0.5, "method": "edge_popup"},
            "gate_noise=0.5 is not used by the method edge_popup",
        ),
        (
            {"sparsity": 0.5, "method": "signed_supermask"},
            "sparsity=0.5 is not used by the method signed_supermask",
        ),
        (
            {"sparsity_of": "all"},
            "sparsity_of=all is not used by the method iterand, .*; possible: pruned",
        ),
        (
            {"rank": "quantile", "method": "sgd"},
            "rank=quantile is not used by the method sgd, which ranks no scores",
        ),
        (
            {"resample": "before", "method": "edge_popup"},
            "resample=before is not used by the method edge_popup, which resamples not",
        ),
        ({"kept_values": "ternary"}, "unknown kept_values 'ternary'; possible: mas"),
        ({"ranked_by": "size"}, "unknown ranked_by 'size'"),
        (
            {"kept_values": "binary", "method": "biprop"},
            "values='binary' is not possible: biprop",
        ),
    ],
)
def test_what_is_not_possible_is_one_line(fields, message, tiny_config):
    with pytest.raises(ValueError, match=message) as error:
        resolve(tiny_config(**fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields", [{"rank": "quantile"}, {"resample": "before"}], ids=str
)
def test_magnitude_pruning_ranks_no_scores_and_resamples_nothing(fields, imp_config):
    ((field, value),) = fields.items()
    with pytest.raises(ValueError, match=f"{field}={value} is not used by .* imp, whi"):
        resolve(imp_config(**fields))
    assert resolve(imp_config(sparsity_of="all")).sparsity_of == "all"


def test_a_pattern_sets_the_sparsity_of_a_recipe(tiny_config):
    for method in ("iterand", "biprop", "random", "recycling"):
        resolved = resolve(tiny_config(method=method, pattern="1:4"))
        assert resolved.sparsity == 0.75
        assert pruning.options(resolved)["pattern"] == "1:4"
    assert resolve(tiny_config(pattern="1:4", sparsity=0.75)).sparsity == 0.75
    assert "pattern" not in pruning.options(resolve(tiny_config()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pattern": "2:4"},
            r"'Conv_0/kernel' of shape \(3, 3, 1, 4\): pattern='2:4' keeps 2 of ev",
        ),
        (
            {"layer_sparsities": "balanced", "sparsity": 0.5},
            "layer_sparsities=balanced, sparsity=0.5: 'Conv_0/kernel' of ",
        ),
        (
            {"method": "partially_frozen", "sparsity": 0.3},
            "810 are pruned permanently and 160 locked in; sparsity 0.3 removes 486,",
        ),
        (
            {"method": "multicoated", "sparsity": 0.95},
            r"coats rise from the sparsity on, .*; got sparsity=0.95",
        ),
        (
            {"scope": ("Conv_9/*",)},
            r"'Conv_9/\*' is the first to match none of the pruned leaves Conv_0/",
        ),
        (
            {"method": "gem_miner", "k_per": 21, "freezings": 3},
            "freezings=3, every 21 steps, end at step 63, and the training has 60; "
            "possible: a k_per of at most 20, or fewer",
        ),
        (
            {"method": "gem_miner", "k_per": 1, "freezings": 61},
            "and the training has 60; possible: at most 60 freezings",
        ),
        (
            {**SCHEDULE, **IN_STEPS, "sparsity_end": 61},
            "to sparsity_end=61, in steps, and the training has 60",
        ),
    ],
)
def test_what_only_the_data_shows_is_refused_before_a_folder(
    fields, message, tiny_config, tmp_path
):
    with pytest.raises(ValueError, match=message):
        train_config(tiny_config(**fields), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()
