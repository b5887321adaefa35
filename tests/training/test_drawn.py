"""A run keeps the fan-ins that its weights were drawn with, and a record of them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iterand_jax.analysis import report
from iterand_jax.networks import NETWORKS, Network
from iterand_jax.rules import DEFAULT_RULES
from iterand_jax.rules.defaults import UNRECORDED_RULES
from iterand_jax.rules.rule import ModelRule
from iterand_jax.tickets.ticket import load
from iterand_jax.training import building, provenance, workdir
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.exporting import export
from iterand_jax.training.record import record_of
from iterand_jax.training.train import train_config
from iterand_jax.trees import leaves_of
from tests.helpers import killed, replaced

EARLIER = {"query": 16, "key": 16, "value": 16, "out": 8}  # 8 inputs, 2 heads of 4
NOW = dict.fromkeys(EARLIER, 8)


class Attention(nn.Module):
    """Attention over the rows of an image of the digits."""

    num_classes: int
    heads: int = 2

    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(
            num_heads=self.heads, qkv_features=8, use_bias=False, name="attention"
        )
        return nn.Dense(self.num_classes, use_bias=False)(
            attend(x[..., 0]).reshape(len(x), -1)
        )


@pytest.fixture
def attention_config(tiny_config, monkeypatch):
    monkeypatch.setitem(NETWORKS.table, "attention", Network(Attention))

    def make(**overrides):
        fields = {
            "network.name": "attention",
            "network.width": 1.0,
            "recipe.iterand.distribution": "kaiming_uniform",
            "epochs": 2,
        }
        return tiny_config(**fields | overrides)

    return make


def as_before_fan_ins_were_recorded(patch):
    """Rules by the names of leaves, and checkpoints without a record of fan-ins."""
    save = Checkpoints.save

    def save_less(self, step, state, record, *arguments, **options):
        less = {k: v for k, v in record.items() if k not in ("fan_ins", "parts")}
        save(self, step, state, less, *arguments, **options)

    patch.setattr(building, "rules_of", lambda network, *inputs: UNRECORDED_RULES)
    patch.setattr(Checkpoints, "save", save_less)


def of_attention(fan_ins):
    paths = {name: f"attention/{name}/kernel" for name in EARLIER}
    return {name: fan_ins[path] for name, path in paths.items()}


@pytest.mark.slow
def test_an_earlier_run_with_attention_is_read_as_it_was_drawn_and_not_continued(
    attention_config, tmp_path
):
    folder = tmp_path / "old"
    with pytest.MonkeyPatch.context() as patch:
        as_before_fan_ins_were_recorded(patch)
        with killed(20):
            train_config(attention_config(log_every_steps=20), str(folder))
    message = (
        "'attention/key/kernel' were drawn by an earlier version with the fan-in 16, "
        "which is 8: the run can be read and not continued"
    )
    with pytest.raises(ValueError, match=message) as error:
        train_config(attention_config(log_every_steps=20), str(folder))
    assert "\n" not in str(error.value)

    restored = workdir.restore(folder)
    assert of_attention(restored.run.fan_ins) == EARLIER
    steps = int(restored.state.step)
    refreshes = steps // 7
    assert refreshes > 0
    found = report.report(folder)
    for layer in found.layers:
        assert layer.unknown == 0
        assert layer.ages.sum() == layer.kept

    file = tmp_path / "ticket.safetensors"
    export(folder, "ticket", file)
    of_ticket = report.report(file)
    assert [x.ages.tolist() for x in of_ticket.layers] == [
        x.ages.tolist() for x in found.layers
    ]
    draws = load(file).description.draws
    assert of_attention(draws.fan_ins) == EARLIER


@pytest.mark.slow
def test_a_run_records_its_fan_ins_and_continues_with_no_others(
    attention_config, tmp_path
):
    folder = tmp_path / "run"
    with killed(20):
        train_config(attention_config(log_every_steps=20), str(folder))
    restored = workdir.restore(folder)
    assert of_attention(restored.record["fan_ins"]) == NOW
    weights = leaves_of(restored.run.weights(restored.state))
    assert np.abs(weights["attention/query/kernel"]).max() > (6 / 16) ** 0.5

    message = r"'attention/key/kernel' .* with the fan-in 8, and the network has 16"
    with replaced(building, "rules_of", lambda network, *inputs: UNRECORDED_RULES):
        for read in (workdir.restore, restart(attention_config)):
            with pytest.raises(ValueError, match=message):
                read(folder)
    result = train_config(attention_config(log_every_steps=20), str(folder))
    whole = train_config(attention_config(log_every_steps=20), str(tmp_path / "whole"))
    assert result["state_sha256"] == whole["state_sha256"]


class Stack(nn.Module):
    """Two layers of 8 in one kernel, which rules by name took for one map."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.ones, (2, 8, 8))
        x = jnp.tanh(x.mean((1, 3)) @ kernel[0])
        x = jnp.tanh(x @ (3 * kernel[1]))
        return nn.Dense(self.num_classes, use_bias=False)(x)


@pytest.mark.slow
def test_an_earlier_run_of_a_stack_is_evaluated_with_its_one_threshold(
    attention_config, tmp_path, monkeypatch
):
    monkeypatch.setitem(NETWORKS.table, "stack", Network(Stack))
    monkeypatch.setattr(
        building,
        "rules_of",
        lambda *_: (ModelRule("kernel", True, stack_axis=0), *DEFAULT_RULES),
    )
    config = attention_config(**{"network.name": "stack", "epochs": 1, "seed": 1})
    folder = tmp_path / "old"
    with pytest.MonkeyPatch.context() as patch:
        as_before_fan_ins_were_recorded(patch)
        trained = train_config(config, str(folder))
    run, state = workdir.restore_with_data(folder)
    assert run.subnetwork.axes("kernel", state.frozen["kernel"]).stack == ()
    slices = run.masks(state)["kernel"].sum((1, 2))
    assert slices[0] != slices[1]
    assert Evaluator(run)(state, "test").accuracy == trained["test_accuracy"]


def restart(make):
    return lambda folder: train_config(make(log_every_steps=20), str(folder))


@pytest.mark.slow
def test_what_computed_each_part_of_a_run_is_kept(tiny_config, tmp_path):
    config, folder = tiny_config(epochs=2, log_every_steps=20), tmp_path / "run"
    with (
        replaced(provenance, "device", lambda: "1 x A"),
        replaced(provenance, "precision", lambda *_: "tensorfloat32"),
        killed(20),
    ):
        train_config(config, str(folder))
    for _ in range(2):  # on one machine twice
        with replaced(provenance, "device", lambda: "2 x B"), killed(20):
            train_config(config, str(folder))
    with replaced(provenance, "device", lambda: "2 x B"):
        result = train_config(config, str(folder))
    assert result == json.loads((folder / "result.json").read_text())
    assert result["device"] == "1 x A, then 2 x B"
    assert result["precision"] == "tensorfloat32, then float32"
    assert [part["step"] for part in result["parts"]] == [0, 10]
    assert [part["device"] for part in result["parts"]] == ["1 x A", "2 x B"]
    assert result["parts"][0]["versions"] == result["versions"]
    alone = train_config(config, str(tmp_path / "alone"))
    assert "parts" not in alone
    assert (alone["device"], alone["precision"]) == (provenance.device(), "float32")
    assert alone["state_sha256"] == result["state_sha256"]


@pytest.mark.slow
def test_what_computed_an_earlier_part_is_unknown_if_its_checkpoint_does_not_say_it(
    tiny_config, tmp_path
):
    config, save = tiny_config(epochs=1, checkpoint_every_steps=10), Checkpoints.save

    def save_less(self, step, state, record, *arguments, **options):
        less = {name: value for name, value in record.items() if name != "parts"}
        save(self, step, state, less, *arguments, **options)

    with replaced(Checkpoints, "save", save_less), killed(20):
        train_config(config, str(tmp_path))
    result = train_config(config, str(tmp_path))
    assert result["device"] == f"unknown device, then {provenance.device()}"
    assert result["precision"] == "float32"
    steps = [(part["step"], part["commit"]) for part in result["parts"]]
    assert steps == [(0, "unknown"), (10, provenance.commit())]


@pytest.mark.parametrize(
    "fields",
    [
        {"parts": "A"},
        {"parts": ["A"]},
        {"parts": [{"device": "A"}]},
        {"parts": [{"device": "A", "precision": 1}]},
        {"fan_ins": ["A"]},
        {"fan_ins": {"kernel": "A"}},
        {"other": 1},
    ],
    ids=str,
)
def test_a_record_that_no_run_wrote_is_refused_in_one_line(fields):
    with pytest.raises(ValueError, match="the record of a checkpoint has") as no:
        record_of(fields)
    assert "\n" not in str(no.value)
