"""A run says how long the devices waited for batches of the host."""

import logging
import time

import jax.numpy as jnp
import pytest

from iterand_jax.training import loop, printed, waiting
from iterand_jax.training.logs import Clock, read_lines
from iterand_jax.training.results import write_result
from tests import helpers
from tests.helpers import build, facts, killed, metrics

SLOW = 0.02  # seconds for a batch


def streamed(config, monkeypatch, seconds=SLOW):
    """A run whose batches the host makes, each in so many seconds."""
    built = build(config)
    options = (*built.dataset.options, "workers")
    dataset = built.dataset._replace(feed=lambda: None, options=options)
    object.__setattr__(built, "dataset", dataset)
    made = built.feed.batch

    def batch(step):
        time.sleep(seconds)
        return made(step)

    monkeypatch.setattr(built.feed, "batch", batch)
    return built


def waited(folder, kind="step"):
    lines = read_lines(folder / "metrics.jsonl")
    return [line.get("waiting_seconds") for line in lines if line["kind"] == kind]


@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
def test_a_slow_feed_is_told_by_lines_result_and_a_warning(
    steps_per_dispatch, tiny_config, tmp_path, monkeypatch, caplog, capsys
):
    caplog.set_level(logging.WARNING)
    config = tiny_config(method="edge_popup", steps_per_dispatch=steps_per_dispatch)
    built = streamed(config, monkeypatch)
    monkeypatch.setattr(built.feed, "steps_alike", lambda step: 1)
    outcome = loop.train_and_evaluate(built, tmp_path)
    lines, epochs = waited(tmp_path), waited(tmp_path, "epoch")
    assert len(lines) == 6
    for line in lines:
        assert line >= 0.8 * 10 * SLOW * (steps_per_dispatch == 1)
    result = write_result(built, outcome, tmp_path)
    whole = result["seconds"]["waiting for data"]
    assert whole == pytest.approx(sum(lines), abs=0.1)
    assert whole == pytest.approx(sum(epochs), abs=0.1)
    assert whole <= result["seconds"]["training"]
    assert f", waiting for data {whole:.1f} s" in printed.summary(result, tmp_path)
    if steps_per_dispatch == 1:
        said = [r.getMessage() for r in caplog.records if "waited" in r.getMessage()]
        assert len(said) == 1
        assert "the feed does not keep up; more of dataset.workers help" in said[0]
        assert "the devices waited for data for " in capsys.readouterr().out


def test_the_waits_of_a_run_that_continues_are_added_up(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config(method="edge_popup")
    with killed(40):
        loop.train_and_evaluate(streamed(config, monkeypatch), tmp_path)
    outcome = loop.train_and_evaluate(streamed(config, monkeypatch), tmp_path)
    assert outcome.record.seconds[waiting.PHASE] >= 60 * SLOW
    fast = helpers.train(config, tmp_path / "fast")
    assert facts(fast)["state_sha256"] == facts(outcome)["state_sha256"]
    assert metrics(tmp_path / "fast") == metrics(tmp_path)
    assert waiting.PHASE not in fast.record.seconds
    assert waited(tmp_path / "fast") == [None] * 6


def test_a_batch_that_comes_while_devices_compute_costs_nothing(
    tiny_config, monkeypatch
):
    clock = Clock({})
    counted = waiting.Waiting(streamed(tiny_config(), monkeypatch), clock)
    ends = iter([0.1, 1.0])  # seconds from now until the devices are done

    def done(last):
        time.sleep(next(ends))
        return time.perf_counter()

    monkeypatch.setattr(waiting, "_done", done)
    seen = []
    for last in (None, jnp.zeros(()), jnp.zeros(())):
        before = clock.seconds[waiting.PHASE]
        with counted.measure(last):
            time.sleep(0.4)
        seen.append(clock.seconds[waiting.PHASE] - before)
    counted.close()
    assert seen == [pytest.approx(0.4, abs=0.1), pytest.approx(0.3, abs=0.1), 0]


def test_a_result_without_the_field_is_shown_as_before():
    assert waiting.share({"training": 3.0, "evaluation": 1.0}) == 0
