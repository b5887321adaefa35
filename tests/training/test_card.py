"""Model cards: made of what was recorded, and of nothing that was not."""

import dataclasses
import json
import re

import numpy as np
import pytest

from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.training import card, saved
from iterand_jax.training.card import Measured

RESULT = {
    "dataset_official": True,
    "dataset": "digits",
    "test_accuracy": 97.5,
    "seed": 3,
    "steps": 20,
    "epochs": 1,
    "device": "1 x CPU",
    "state_sha256": "a" * 64,
    "commit": "b" * 40,
    "versions": {"jax": "0.10"},
}


def ticket_of(**run):
    run = {
        "dataset": "digits",
        "method": "iterand",
        "distribution": "signed_constant",
        "sparsity": 0.75,
        "step": 20,
        **run,
    }
    described = Description(
        network={"name": "conv2", "num_classes": 10, "width": 0.25},
        inputs=(((1, 8, 8, 1), "float32"),),
        mean=(0.3,),
        std=(0.4,),
        run=run,
    )
    kernel, mask = np.ones((2, 4), np.float32), np.array([[1, 0, 0, 0]] * 2)
    return Ticket.of(described, {"kernel": kernel}, {"kernel": mask}, {})


def fields_of(text):
    """The metadata, as the Hub reads it."""
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_says_what_was_measured():
    text = card.card(ticket_of(), Measured(RESULT, {3: 97.5}, None), 1234, "user/repo")
    fields = fields_of(text)
    assert fields["tags"][-1] == "iterand"
    (index,) = fields["model-index"]
    assert index["results"] == [
        {
            "task": {"type": "image-classification"},
            "dataset": {"type": "digits", "name": "digits", "split": "test"},
            "metrics": [
                {"type": "accuracy", "name": "Test accuracy (%)", "value": 97.5}
            ],
        }
    ]
    for said in (
        "97.50 % on the test set (one seed: 3)",
        "75.00 %: 2 of 8 weights are kept",
        "1,234; its parameters are 32 in float32",
        f"`{'b' * 40}`",
        "jax 0.10",
        "| trained | 1 epoch, 20 steps, on 1 x CPU |",
        'ticket = iterand_jax.load_ticket("hf://user/repo")\n',
        "logits = ticket.apply(images)\n",
    ):
        assert said in text
    assert "official" not in text


def test_seeds_are_shown_with_their_deviation_and_copies_as_copies():
    result = RESULT | {"dataset": "cifar10", "dataset_official": False}
    measured = Measured(result, {3: 97.5, 4: 98.5}, None)
    text = card.card(ticket_of(dataset="cifar10"), measured, 1, None)
    assert "of 2 seeds 98.00 % in the mean, deviation 0.71" in text
    assert "**not official pixels**" in text
    assert 'load_ticket("ticket.safetensors")' in text
    fields = fields_of(text)
    assert fields["datasets"] == ["uoft-cs/cifar10"]
    (one,) = fields["model-index"][0]["results"]
    assert one["metrics"][0]["value"] == 98
    assert one["dataset"]["name"] == "cifar10 (not the official data)"


def test_what_was_not_measured_is_not_stated():
    text = card.card(ticket_of(), Measured({}, {}, None), 1, None)
    assert "model-index" not in fields_of(text)
    assert "| accuracy | not measured at this step |" in text
    assert "commit" not in text
    assert card.config(ticket_of(), Measured({}, {}, None))["result"] == {}


def test_weights_that_were_trained_are_not_called_random():
    found = card.card(ticket_of(), Measured({}, {}, None), 1, None)
    assert "A subnetwork of a randomly initialized conv2 of width 0.25, found" in found
    pruned = card.card(
        ticket_of(), Measured({}, {}, None, trains_weights=True), 1, None
    )
    assert "A subnetwork of a conv2 of width 0.25, found and trained by" in pruned
    dense = dataclasses.replace(
        ticket_of(method="sgd", sparsity=None), masks={"kernel": None}
    )
    text = card.card(dense, Measured({}, {}, None, trains_weights=True), 1, None)
    said = "A conv2 of width 0.25, trained by sgd (signed_constant, step 20), as a"
    assert said in text
    assert "sparsity |" not in text
    assert fields_of(text)["tags"] == ["jax", "flax", "sgd"]


def test_a_result_without_what_a_card_shows_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "read_result", lambda path: json.loads(path.read_text()))
    for field in ("device", "seed", "versions"):
        left = {name: value for name, value in RESULT.items() if name != field}
        (tmp_path / "result.json").write_text(json.dumps(left))
        with pytest.raises(ValueError, match=f"is not a result: it has no {field}$"):
            card.measured(tmp_path, 20)


def test_a_picture_that_is_a_link_is_not_copied(tmp_path):
    """It may point to what is secret, and a folder for the Hub is made to be shown."""
    (tmp_path / "secret").write_text("secret")
    picture = tmp_path / "curves.png"
    picture.symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"curves.png is no regular file: .* link to"):
        card.measured(tmp_path, 20)
    picture.unlink()
    picture.write_bytes(b"png")
    assert card.measured(tmp_path, 20).curves == b"png"


def test_accuracies_are_those_of_the_step_and_of_all_replicas(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "read_result", lambda path: json.loads(path.read_text()))
    folder = tmp_path / "seed_3"
    folder.mkdir()
    assert card.measured(folder, 20) == Measured({}, {}, None)
    (folder / "result.json").write_text(json.dumps(RESULT))
    assert card.measured(folder, 20) == Measured(RESULT, {3: 97.5}, None)
    assert card.measured(folder, 10) == Measured({}, {}, None)
    other = RESULT | {"seed": 4, "test_accuracy": 98.0}
    both = {"replicas": {"seed_3": RESULT, "seed_4": other}}
    (tmp_path / "result.json").write_text(json.dumps(both))
    assert card.measured(folder, 20).accuracies == {3: 97.5, 4: 98.0}


def test_the_hub_library_takes_the_metadata():
    hub = pytest.importorskip("huggingface_hub")
    text = card.card(ticket_of(), Measured(RESULT, {3: 97.5}, None), 1, "user/repo")
    data = hub.ModelCard(text).data
    assert data.library_name == "iterand_jax"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 97.5)
    assert re.search("conv2 on digits, iterand", data.model_name)
