"""Whole runs on reviews: several padded shapes, one logit, dropout."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from iterand_jax import load_ticket
from iterand_jax.data.text import VOCABULARY_FILE
from iterand_jax.training import exporting, loop
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from iterand_jax.training.evaluation import Evaluator
from iterand_jax.training.logs import read_lines
from iterand_jax.training.step import train_step
from tests import helpers

SOURCE = helpers.reviews_source()


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize(
    ("network", "method"),
    [
        ("lstm", "sgd"),
        ("lstm", "edge_popup"),
        ("lstm", "iterand"),
        ("bilstm", "iterand"),
    ],
)
def test_a_batch_in_parts_gives_the_update_of_the_whole(
    reviews_config, network, method
):
    """Each review drops the same features, in whichever part it is."""
    states = []
    for parts in (1, 4):
        fields = {"method": method, "network.name": network, "accumulate_steps": parts}
        built = helpers.build(reviews_config(**fields), SOURCE)
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


@pytest.mark.slow
@pytest.mark.compiles
def test_the_ticket_of_a_run_reads_texts(reviews_config, tmp_path):
    """Without the dataset: the words are stored with the run."""
    config = reviews_config(**{"epochs": 1, "recipe.iterand.sparsity": 0.3})
    (tmp_path / "config.json").write_text(to_json(resolve(config)))
    outcome = helpers.train(config, tmp_path, SOURCE)
    path = tmp_path / "ticket.safetensors"
    exporting.export(tmp_path, "ticket", path)
    ticket = load_ticket(path)
    texts, labels = helpers.read_reviews("test")
    right = (ticket.apply(*ticket.tokenize(texts))[:, 0] > 0) == labels
    np.testing.assert_allclose(100 * right.mean(), outcome.test_accuracy, rtol=1e-6)
    words = sorted(
        {word for one in helpers.read_reviews("train")[0] for word in one.split()}
    )
    assert sorted(ticket.words) == words
    (tmp_path / VOCABULARY_FILE).unlink()
    refusal = r"cannot read the vocabulary of the run: .*vocabulary\.txt"
    with pytest.raises(ValueError, match=refusal):
        exporting.export(tmp_path, "ticket", path)


@pytest.mark.slow
def test_a_step_is_traced_once_for_each_shape(reviews_config, tmp_path):
    built = helpers.build(reviews_config(), SOURCE)
    traces = []

    def train_inputs(arguments, step, root):
        traces.append(arguments.tokens.shape)
        return built.feed.train_inputs(arguments, step, root)

    counting = dataclasses.replace(built, train_inputs=train_inputs)
    loop.train_and_evaluate(counting, tmp_path)
    assert traces == [(8, 6), (8, 15)]


@pytest.mark.slow
def test_the_evaluation_counts_every_review_once_whatever_the_batch(reviews_config):
    seen = set()
    for batch_size in (7, 64):
        built = helpers.build(reviews_config(eval_batch_size=batch_size), SOURCE)
        state = jax.jit(built.init_state)(built.root)
        test = Evaluator(built)(state, "test")
        seen.add((round(test.loss, 4), test.accuracy))
    assert len(seen) == 1


@pytest.mark.slow
def test_it_learns_the_word_that_decides(reviews_config, tmp_path):
    """In 40 epochs of SGD without dropout's help from a large table."""
    config = reviews_config(method="sgd", epochs=40, checkpoint_every_steps=0)
    config.network.width = 0.125
    assert helpers.train(config, tmp_path, SOURCE).test_accuracy > 90


@pytest.mark.slow
@pytest.mark.compiles
def test_losses_do_not_depend_on_the_number_of_devices(tmp_path):
    """Reviews are split over the devices, the batch's mean is the same."""
    program = (
        "import sys, pathlib\n"
        "from iterand_jax.data import reviews\n"
        "from tests import helpers\n"
        "reviews.BOUNDS = (6, 15)\n"
        "config = helpers.reviews_config(epochs=1, k_per=100)\n"
        "workdir = pathlib.Path(sys.argv[1])\n"
        "helpers.train(config, workdir, helpers.reviews_source())\n"
    )
    losses = []
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        helpers.printed("-c", program, folder, devices=devices)
        losses.append([x["train_loss"] for x in read_lines(folder / "metrics.jsonl")])
    np.testing.assert_allclose(*losses, rtol=1e-4)
