"""Training from Python: configs by name, custom networks and arrays."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import iterand_jax
from iterand_jax.tickets import ticket as tickets
from iterand_jax.training.logs import read_lines

TINY = {"network.width": 0.0625, "epochs": 2, "k_per": 7}


class Perceptron(nn.Module):
    """Flattens, and has no argument but its input."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, use_bias=False)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10, use_bias=False)(x)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images = np.float32(images / 16)
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


@pytest.fixture(scope="module")
def by_name(tmp_path_factory):
    """(result, records that the callback had, workdir) of a run of a named config."""
    folder, records = tmp_path_factory.mktemp("run"), []
    result = iterand_jax.train(
        "digits", TINY, workdir=folder, callbacks=[records.append], seed=3
    )
    return result, records, folder


@pytest.mark.smoke
def test_a_config_by_its_name_gives_what_its_workdir_holds(by_name):
    result, records, folder = by_name
    assert result.history == read_lines(folder / "metrics.jsonl")
    assert records == [{"seed": 3, **line} for line in result.history]
    assert {line["kind"] for line in result.history} == {"step", "epoch"}
    assert result.test_accuracy == result.record["test_accuracy"] > 20
    leaves = map(jax.tree.leaves, (result.masks, result.params))
    for mask, leaf in zip(*leaves, strict=True):
        np.testing.assert_array_equal(leaf != 0, mask != 0)
        assert 0.4 < mask.mean() < 0.6


def test_the_ticket_of_a_result_is_written_and_read(by_name, tmp_path):
    result, _, _ = by_name
    tickets.save(result.ticket, tmp_path / "ticket.safetensors")
    loaded = iterand_jax.load_ticket(tmp_path / "ticket.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, result.params)


def test_the_same_call_continues_a_workdir(by_name):
    result, _, folder = by_name
    again = iterand_jax.train("digits", TINY | {"seed": 3}, workdir=folder)
    assert again.record == result.record


@pytest.mark.slow
@pytest.mark.parametrize("method", ["iterand", "edge_popup", "sgd"])
def test_a_network_of_ones_own_is_trained_on_arrays(method, digits, tmp_path):
    data, test = digits
    result = iterand_jax.train(
        Perceptron(),
        data,
        test=test,
        method=method,
        steps=200,
        learning_rate=0.3,
        k_per=20 if method == "iterand" else None,
    )
    assert result.test_accuracy > 60
    assert 200 <= result.record["steps"] < 220
    logits = Perceptron().apply({"params": result.params}, test[0])
    accuracy = 100 * np.mean(np.argmax(logits, axis=1) == test[1])
    assert accuracy == pytest.approx(result.test_accuracy, abs=1e-3)
    assert (result.masks is None) == (method == "sgd")

    path = tmp_path / "ticket.safetensors"
    tickets.save(result.ticket, path)
    loaded = iterand_jax.load_ticket(path, network=Perceptron())
    np.testing.assert_allclose(loaded.apply(test[0]), logits, atol=1e-4)
    with pytest.raises(ValueError, match="unknown network 'Perceptron'"):
        iterand_jax.load_ticket(path).apply(test[0])


def test_what_a_callback_raises_ends_the_run(tmp_path):
    def full(record):
        raise OSError("the tracker is full")

    with pytest.raises(OSError, match="the tracker is full"):
        iterand_jax.train("digits", TINY, workdir=tmp_path, callbacks=[full])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("nope",), {}, "nope.*digits"),
        (("digits", {"epoch": 3}), {}, "epoch"),
        (("digits", {"epochs": "three"}), {}, "invalid field of the config"),
        (("digits",), {"method": "popup"}, "unknown method 'popup'"),
        (("digits",), {"steps": 3}, "steps=3 is not used with a config"),
        (("digits",), {"test_fraction": 0.1}, "test_fraction=0.1 is not used with"),
        (
            ("digits", {"epochs": 1}),
            {"epochs": 2},
            "epochs=1 and epochs=2: pass only one of them",
        ),
        (
            ("digits", {"method": "sgd"}),
            {"method": "iterand"},
            "method='sgd' and method='iterand': pass only one of them",
        ),
        (("digits", ([1], [2])), {}, "a config takes a mapping of fields, not tuple"),
        (("digits", {"replicas": 2}), {}, "replicas=2: train returns one run"),
        ((Perceptron(),), {}, r"a module is trained on \(x, y\)"),
        ((Perceptron(), (np.ones((9, 2)), np.ones(8, int))), {}, "test"),
        (
            (Perceptron(), (np.ones((90, 2)), np.arange(90) % 2)),
            {"test_fraction": 0.2, "steps": 0},
            "steps is the length .* integer of at least 1; got 0",
        ),
        (
            (Perceptron(), (np.ones((90, 2)), np.arange(90) % 2)),
            {"test_fraction": 0.2, "steps": 5, "epochs": 1},
            "steps=5 and epochs=1: pass only one",
        ),
        (
            (Perceptron(), (np.ones((90, 2)), np.arange(90) % 2)),
            {"test_fraction": 0.2, "network.width": 0.25},
            "network.width=0.25: the network is given, .*; possible: 1.0",
        ),
        (
            (Perceptron(), (np.ones((90, 2)), np.arange(90) % 2)),
            {"test_fraction": 0.2, "unbiased_variances": True},
            "unbiased_variances=True: the network is given, .*; possible: False",
        ),
        (
            (Perceptron(), (np.ones((90, 2)), np.arange(90) % 2)),
            {"test_fraction": 0.2, "network.name": "resnet18"},
            "network.name=resnet18 and dataset.name=arrays cannot be set: a module",
        ),
    ],
)
def test_what_is_not_possible_is_one_line(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        iterand_jax.train(*arguments, **options)
    assert "\n" not in str(caught.value)
