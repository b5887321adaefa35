import dataclasses
import json
import math
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from iterand_jax.data import datasets
from iterand_jax.data.feeds import with_sharding
from iterand_jax.runtime import compilation
from iterand_jax.training import loop, parallel
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.logs import read_lines
from iterand_jax.training.parallel import replicated
from iterand_jax.training.programs import compile_programs
from iterand_jax.training.replica import NonFiniteLossError
from iterand_jax.training.step import sgd_optimizer
from iterand_jax.training.train import train_config
from tests.helpers import build, metrics, train


def test_a_run_logs_each_log_step_and_each_epoch(tiny_config, tmp_path):
    outcome = train(tiny_config(), tmp_path)
    lines = metrics(tmp_path)
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert steps == [10, 20, 30, 40, 50, 60]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert [line["validation_accuracy"] for line in epochs] == (
        outcome.record.validation_accuracy
    )
    rates = [line["learning_rate"] for line in lines if line["kind"] == "step"]
    expected = [0.2 * (1 + math.cos(math.pi * e / 3)) for e in (0, 0, 1, 1, 2, 2)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert lines[-1]["redrawn"] == outcome.record.redrawn > 0
    assert list((tmp_path / "tensorboard").iterdir())
    assert np.isfinite(outcome.test_loss)


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({}, {45, 60}),
        ({"keep_best_checkpoints": 1}, {45, 60, "best"}),
        ({"keep_checkpoint_epochs": (1,)}, {20, 45, 60}),
    ],
)
def test_epochs_that_are_to_be_kept_are_saved_whatever_the_period(
    chosen, kept, tiny_config, tmp_path
):
    config = tiny_config(checkpoint_every_steps=15, **chosen)
    accuracy = train(config, tmp_path).record.validation_accuracy
    best = 20 * max(range(1, 4), key=lambda epoch: (accuracy[epoch - 1], epoch))
    found = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert found == {best if step == "best" else step for step in kept}


def test_the_train_step_is_traced_once(tiny_config, tmp_path):
    built = build(tiny_config())
    traces = []

    def train_inputs(arguments, step, root):
        inputs, labels = built.train_inputs(arguments, step, root)
        traces.append(inputs[0].shape)
        return inputs, labels

    counting = dataclasses.replace(built, train_inputs=train_inputs)
    loop.train_and_evaluate(counting, tmp_path)
    assert traces == [(64, 8, 8, 1)]


@pytest.mark.slow
def test_iterand_without_sampling_is_edge_popup(tiny_config, tmp_path):
    iterand = train(tiny_config(sampling_rate=0.0), tmp_path / "iterand")
    edge_popup = train(tiny_config(method="edge_popup"), tmp_path / "edge_popup")
    assert iterand.record.redrawn == 0
    assert iterand.state_sha256 == edge_popup.state_sha256


@pytest.mark.slow
def test_the_evaluation_counts_every_image_once_whatever_the_batch(tiny_config):
    seen = set()
    for batch_size in (7, 360):
        built = build(tiny_config(eval_batch_size=batch_size))
        state = built.init_state(built.root)
        test = Evaluator(built)(state, "test")
        seen.add((round(test.loss, 4), test.accuracy))
    assert len(seen) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["iterand", "sgd"])
def test_an_evaluation_in_one_dispatch_has_the_sums_of_its_batches(method, tiny_config):
    found = []
    for steps in (1, 20):
        config = tiny_config(
            method=method, eval_batch_size=64, steps_per_dispatch=steps
        )
        built = build(config)
        state = built.init_state(built.root)
        built.feed.open(built.root)
        evaluate = Evaluator(built)
        found.append([evaluate(state, split) for split in ("validation", "test")])
    for one, other in zip(*found, strict=True):
        assert (one.accuracy, one.examples) == (other.accuracy, other.examples)
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)
    assert [one.examples for one in found[0]] == [143, 360]


@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    steps_per_dispatch, tiny_config, tmp_path
):
    fields = {"method": "sgd", "learning_rate": 0.05}
    config = tiny_config(steps_per_dispatch=steps_per_dispatch, **fields)
    built = build(config)

    def poisoned(step):
        return jax.numpy.where(step < 33, 0.05, float("inf"))

    optimizer = sgd_optimizer(poisoned, momentum=0.9, weight_decay=0.0)
    built = dataclasses.replace(built, optimizer=optimizer)
    with pytest.raises(NonFiniteLossError, match="not finite at step 34"):
        loop.train_and_evaluate(built, tmp_path)
    assert max(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == 30


def test_a_log_line_computes_nothing_and_a_refresh_and_a_save_compile_nothing(
    tiny_config, tmp_path, monkeypatch
):
    """Programs may compile during the first steps; later nothing is traced."""
    traced = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: traced.append(name) if "compile" in name else None
    )
    until_event = loop._Trainer._until_event

    def first(self, step, stop):
        after = until_event(self, step, stop)
        if step == 0:
            assert traced  # are seen
            self._programs.wait()
            traced.clear()
        elif after == 30:
            seen.extend(traced)
        return after

    seen = []
    monkeypatch.setattr(loop._Trainer, "_until_event", first)
    train(tiny_config(), tmp_path)
    assert seen == []


class Slow:
    """A clock that jumps by 20 seconds when a step is requested."""

    def __init__(self, monkeypatch):
        self.jumps, real = 0, time.perf_counter
        monkeypatch.setattr(
            loop, "time", SimpleNamespace(perf_counter=lambda: real() + self.jumps * 20)
        )


@pytest.mark.parametrize(
    ("fields", "saved"),
    [
        # Every 10 steps there is a log step, where a save can be due.
        ({"checkpoint_every_seconds": 450, "checkpoint_every_steps": 0}, {30, 60}),
        ({"checkpoint_every_seconds": 350, "checkpoint_every_steps": 0}, {20, 40, 60}),
        (
            {"checkpoint_every_seconds": 350, "checkpoint_every_steps": 15},
            {15, 30, 45, 60},
        ),
        ({"checkpoint_every_seconds": 0, "checkpoint_every_steps": 0}, {20, 40, 60}),
        (
            {
                "checkpoint_every_seconds": 9999,
                "checkpoint_every_steps": 0,
                "keep_checkpoint_epochs": (1,),
            },
            {20, 60},
        ),
    ],
)
def test_checkpoints_follow_time(fields, saved, tiny_config, tmp_path, monkeypatch):
    clock = Slow(monkeypatch)
    dispatch = loop._Trainer._dispatch

    def slow(self, *arguments):
        clock.jumps += 1
        return dispatch(self, *arguments)

    monkeypatch.setattr(loop._Trainer, "_dispatch", slow)
    config = tiny_config(method="edge_popup", keep_checkpoints=9, **fields)
    train(config, tmp_path)
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == saved


def test_a_run_saves_by_time_by_default_where_epochs_are_short(monkeypatch):
    assert parallel.checkpoint_seconds(None, 0) == 0
    assert parallel.checkpoint_seconds(30, 0) == 30
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parallel.checkpoint_seconds(None, 0) == 60
    assert parallel.checkpoint_seconds(None, 500) == 0
    assert parallel.checkpoint_seconds(0, 0) == 0


@pytest.mark.slow
def test_bfloat16_computes_activations_only(tiny_config, tmp_path):
    outcome = train(tiny_config(dtype="bfloat16", epochs=1), tmp_path)
    floating = {
        leaf.dtype.name
        for leaf in jax.tree.leaves(outcome.state)
        if leaf.dtype.kind not in "iu"
    }
    assert floating == {"float32"}
    other = train(tiny_config(epochs=1), tmp_path / "float32")
    assert 0 < abs(outcome.test_loss - other.test_loss) < 0.1


def test_a_workdir_older_than_a_field_of_the_config_is_continued(tiny_config, tmp_path):
    first = train_config(tiny_config(epochs=1), str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["matmul_precision"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = train_config(tiny_config(epochs=1), str(tmp_path))
    assert again == first


@pytest.mark.parametrize(
    "program", ["steps", "refresh", "numbers", "log", "copy", "evaluate"]
)
def test_each_program_of_a_run_is_compiled_with_its_options(
    program, tiny_config, monkeypatch
):
    """With one that XLA lacks, none compiles."""
    built = build(tiny_config(deterministic=True))
    state = jax.eval_shape(built.init_state, built.root)
    asked = []

    def options(dtype, *, deterministic):
        asked.append((dtype, deterministic))
        return {"xla_has_no_such_option": True}

    monkeypatch.setattr(compilation, "compiler_options", options)
    programs = compile_programs(built, [with_sharding(state, replicated(built.mesh))])
    with pytest.raises(Exception, match="xla_has_no_such_option"):
        getattr(programs, program)
    assert set(asked) == {("float32", True)}


@pytest.mark.parametrize("chosen", ["default", "highest"])
def test_the_precision_of_products_is_the_configs(chosen, tiny_config):
    """Whatever JAX_DEFAULT_MATMUL_PRECISION is."""
    built = build(tiny_config(matmul_precision=chosen))
    other = "highest" if chosen == "default" else "default"
    with jax.default_matmul_precision(other):
        state = jax.jit(built.init_state)(built.root)
        programs = compile_programs(built, [state])
    (step,) = programs.steps.values()
    (evaluation,) = programs.evaluate.compiled()
    for program in (step, evaluation):
        asked = "operand_precision={highest,highest}" in program.as_text()
        assert asked == (chosen == "highest")


@pytest.mark.slow
def test_the_test_set_is_read_once_after_the_last_step(tiny_config, tmp_path):
    source = datasets.open_source("digits")
    reads = []

    def read(split):
        lines = read_lines(tmp_path / "metrics.jsonl")
        reads.append((split, lines[-1]["step"] if lines else 0))
        return source.read(split)

    watched = dataclasses.replace(source, read=read)
    built = build(tiny_config(), watched)
    loop.train_and_evaluate(built, tmp_path)
    assert reads == [("train", 0), ("test", 60)]


@pytest.mark.slow
def test_the_main_job_finds_an_accurate_subnetwork(tmp_path, capsys):
    from iterand_jax.configs import digits

    result = train_config(digits.get_config(), str(tmp_path))
    assert result["test_accuracy"] >= 95
    assert result["parameters_kept"] / result["parameters"] == pytest.approx(
        0.5, abs=1e-3
    )
    assert result["redrawn"] > 0
    written = json.loads((tmp_path / "result.json").read_text())
    assert written == result
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "183,840 kept" in printed
    assert f"{result['test_accuracy']:.2f} %" in printed
