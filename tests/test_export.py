"""A run that was trained is taken away, and is what it was."""

import json

import jax
import numpy as np
import pytest

import iterand_jax
from iterand_jax import export, main, tickets
from iterand_jax.data.datasets import open_source
from iterand_jax.description import Description
from iterand_jax.leaves import leaves_of
from iterand_jax.tickets import Ticket
from iterand_jax.training.workdir import restore


def accuracy_of(ticket):
    images, labels = open_source("digits").read("test")
    return 100 * np.mean(np.argmax(ticket.apply(images), axis=-1) == labels)


@pytest.mark.parametrize("distribution", ["kaiming_uniform", "signed_constant"])
def test_a_run_is_packed_replayed_and_evaluated(
    distribution, tiny_config, tmp_path, capsys
):
    """30 refreshes whose masks move, and a ticket that answers as the run did."""
    options = {"k_per": 2, "sampling_rate": 0.5, "network.width": 0.25}
    config = tiny_config(distribution=distribution, **options)
    result = main.train(config, str(tmp_path))
    capsys.readouterr()
    path = tmp_path / "ticket.safetensors"
    export.export(tmp_path, "ticket", path)
    ticket = iterand_jax.load_ticket(path)
    np.testing.assert_allclose(accuracy_of(ticket), result["test_accuracy"], 1e-6)
    assert ticket.description.run["step"] == result["steps"] == 60

    model, state, _ = restore(tmp_path)
    effective = model.method.params(state.trainable, state.frozen)
    for path_, masked in leaves_of(effective).items():
        rebuilt, mask = leaves_of(ticket.params)[path_], leaves_of(ticket.masks)[path_]
        frozen = leaves_of(state.frozen)[path_]
        np.testing.assert_array_equal(rebuilt, masked)
        assert rebuilt[mask].tobytes() == frozen[mask].tobytes()
        assert 0.4 < mask.mean() < 0.6

    printed = capsys.readouterr().out
    dense = sum(4 * leaf.size for leaf in jax.tree.leaves(ticket.params))
    assert f"against {dense / 1e6:.2f} MB in float32" in printed
    assert str(path) in printed
    kinds = {"kaiming_uniform": "gap", "signed_constant": "sign"}
    assert kinds[distribution] in printed
    assert path.stat().st_size < dense / 8


def test_a_run_by_sgd_is_a_dense_ticket(tiny_config, tmp_path):
    result = main.train(tiny_config(epochs=1, method="sgd"), str(tmp_path))
    export.export(tmp_path, "ticket", tmp_path / "out.safetensors")
    ticket = iterand_jax.load_ticket(tmp_path / "out.safetensors")
    np.testing.assert_allclose(accuracy_of(ticket), result["test_accuracy"], 1e-6)
    assert leaves_of(ticket.masks) == {}
    assert ticket.description.draws is None
    trainable = restore(tmp_path).state.trainable
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ticket.params, trainable)))


def test_a_format_that_the_network_cannot_have_is_refused_before_any_work(tmp_path):
    """There is no checkpoint yet, and the format is told first."""
    config = {"network": {"name": "conv2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="for ResNets; the network here is 'conv2'"):
        export.export(tmp_path, "torchvision", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_resnet18_of_signed_constants_is_23_times_smaller(tmp_path):
    """At the sparsity of its runs; the draws are random, the sizes are not."""
    rng = np.random.default_rng(0)
    network = {"name": "resnet18", "num_classes": 10, "width": 1.0, "affine": False}
    description = Description(
        network={**network, "dtype": "float32"}, inputs=(((1, 32, 32, 3), "float32"),)
    )
    abstract = description.abstract()

    def mask(leaf):
        kept = rng.permutation(leaf.size) >= round(0.6 * leaf.size)
        return kept.reshape(leaf.shape)

    def constants(leaf):
        return np.where(rng.random(leaf.shape) < 0.5, np.float32(-0.1), np.float32(0.1))

    params = jax.tree.map(constants, abstract["params"])
    masks = jax.tree.map(mask, abstract["params"])
    statistics = jax.tree.map(constants, abstract["batch_stats"])
    ticket = Ticket.of(description, params, masks, statistics)
    arrays = tickets.save(ticket, tmp_path / "ticket")
    text = export.sizes(ticket, arrays)["parameters"]
    assert text.startswith("1.954 MB (mask 1.396, sign 0.558, ")
    assert text.endswith("against 44.66 MB in float32: 22.9 times smaller")
    assert (tmp_path / "ticket").stat().st_size < 2_010_000
