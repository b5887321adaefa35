"""Whole runs on reviews: several padded shapes, one logit, dropout."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import imdb_lstm
from iterand_jax import load_ticket
from iterand_jax.data import reviews
from iterand_jax.data.sources import Source
from iterand_jax.data.text import VOCABULARY_FILE
from iterand_jax.training import exporting, loop
from iterand_jax.training import run as building
from iterand_jax.training.config import resolve, to_json
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.logs import read_lines
from iterand_jax.training.replica import Replica
from iterand_jax.training.step import train_step

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"train": 120, "test": 30}


def read(split):
    """Reviews of 2 to 14 words of which one says the label."""
    rng = np.random.default_rng(len(split))
    labels = rng.integers(0, 2, SIZES[split]).astype(np.int32)
    texts = []
    for label in labels:
        words = rng.choice(["a", "film", "of", "the"], rng.integers(2, 15))
        words[rng.integers(len(words))] = ("bad", "good")[label]
        texts.append(" ".join(words))
    return texts, labels


@pytest.fixture(autouse=True)
def _short_bounds(monkeypatch):
    monkeypatch.setattr(reviews, "BOUNDS", (6, 15))


def tiny_config(**overrides):
    config = imdb_lstm.get_config()
    config.network.width = 1 / 32
    config.epochs = 2
    config.batch_size = 8
    config.recipe.iterand.k_per = 4
    config.log_every_steps = 5
    config.checkpoint_every_steps = 6
    config.update_from_flattened_dict(overrides)
    return config


def build(config):
    source = Source("tiny", 2, SIZES, "text", "0" * 16, read)
    return building.build(resolve(config), source)


def run(config, workdir):
    workdir.mkdir(exist_ok=True)
    return loop.train_and_evaluate(build(config), workdir)


@pytest.mark.parametrize("method", ["sgd", "edge_popup", "iterand"])
@pytest.mark.parametrize("network", ["lstm", "bilstm"])
def test_a_batch_in_parts_gives_the_update_of_the_whole(network, method):
    """Each review drops the same features, in whichever part it is."""
    states = []
    for parts in (1, 4):
        fields = {"method": method, "network.name": network, "accumulate_steps": parts}
        built = build(tiny_config(**fields))
        built.feed.open(built.root)
        start = jax.jit(built.init_state)(built.root)
        train = jax.jit(
            functools.partial(
                train_step,
                task=built,
                steps_per_epoch=5,
                log_every=5,
                accumulate_steps=parts,
            )
        )
        states.append(train(start, built.feed.batch(0), built.root))
    moved = jax.tree.map(lambda a, b: np.any(a != b), start, states[0])
    assert any(jax.tree.leaves(moved.trainable))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *states
    )


def test_the_ticket_of_a_run_reads_texts(tmp_path):
    """Without the dataset: the words are the run's own."""
    config = tiny_config(**{"epochs": 1, "recipe.iterand.sparsity": 0.3})
    (tmp_path / "config.json").write_text(to_json(resolve(config)))
    outcome = run(config, tmp_path)
    path = tmp_path / "ticket.safetensors"
    exporting.export(tmp_path, "ticket", path)
    ticket = load_ticket(path)
    texts, labels = read("test")
    right = (ticket.apply(*ticket.tokenize(texts))[:, 0] > 0) == labels
    np.testing.assert_allclose(100 * right.mean(), outcome.test_accuracy, rtol=1e-6)
    words = sorted({word for one in read("train")[0] for word in one.split()})
    assert sorted(ticket.words) == words
    (tmp_path / VOCABULARY_FILE).unlink()
    refusal = r"cannot read the vocabulary of the run: .*vocabulary\.txt"
    with pytest.raises(ValueError, match=refusal):
        exporting.export(tmp_path, "ticket", path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "edge_popup", "iterand"])
def test_an_interrupted_run_ends_with_the_same_bits(method, tmp_path, monkeypatch):
    config = tiny_config(method=method)
    whole = run(config, tmp_path / "whole")
    assert whole.state.step == 20

    class Killed(Exception):
        pass

    log_step = Replica.log_step

    def killed_at_15(self, programs, step):
        log_step(self, programs, step)
        if step == 15:
            raise Killed

    monkeypatch.setattr(Replica, "log_step", killed_at_15)
    with pytest.raises(Killed):
        run(config, tmp_path / "killed")
    monkeypatch.setattr(Replica, "log_step", log_step)
    resumed = run(config, tmp_path / "killed")
    assert resumed.state_sha256 == whole.state_sha256
    assert resumed.record.redrawn == whole.record.redrawn
    assert (whole.record.redrawn > 0) == (method == "iterand")


def test_a_step_is_traced_once_for_each_shape(tmp_path):
    built = build(tiny_config())
    traces = []

    def train_inputs(arguments, step, root):
        traces.append(arguments.tokens.shape)
        return built.feed.train_inputs(arguments, step, root)

    counting = dataclasses.replace(built, train_inputs=train_inputs)
    loop.train_and_evaluate(counting, tmp_path)
    assert traces == [(8, 6), (8, 15)]


def test_the_evaluation_counts_every_review_once_whatever_the_batch():
    seen = set()
    for batch_size in (7, 64):
        built = build(tiny_config(eval_batch_size=batch_size))
        state = jax.jit(built.init_state)(built.root)
        test = Evaluator(built)(state, "test")
        seen.add((round(test.loss, 4), test.accuracy))
    assert len(seen) == 1


@pytest.mark.slow
def test_it_learns_the_word_that_tells(tmp_path):
    """In 40 epochs of SGD without dropout's help from a large table."""
    config = tiny_config(method="sgd", epochs=40, checkpoint_every_steps=0)
    config.network.width = 0.125
    assert run(config, tmp_path).test_accuracy > 90


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_devices(tmp_path):
    """Reviews are split over the devices, the batch's mean is the same."""
    program = (
        "import sys, pathlib\n"
        "from iterand_jax.data import reviews\n"
        "from tests.training import test_reviews as here\n"
        "reviews.BOUNDS = (6, 15)\n"
        "here.run(here.tiny_config(epochs=1, k_per=100), pathlib.Path(sys.argv[1]))\n"
    )
    losses = []
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        flag = f"--xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-c", program, str(folder)]
        environment = os.environ | {"XLA_FLAGS": flag}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        losses.append([x["train_loss"] for x in read_lines(folder / "metrics.jsonl")])
    np.testing.assert_allclose(*losses, rtol=1e-4)
