"""Compact tickets: literal cases, the same logits in every family, and refusals."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn
from safetensors import numpy as safetensors

import iterand_jax
from iterand_jax.analysis.liveness import live_weights
from iterand_jax.networks import build_network, register_network
from iterand_jax.networks.conv_norm import EPSILON
from iterand_jax.networks.convs import ConvNet
from iterand_jax.networks.lstm import LSTMClassifier
from iterand_jax.networks.resnet import Bottleneck, ResNet
from iterand_jax.networks.vgg import VGG
from iterand_jax.tickets.compact import channels, folder, removal
from iterand_jax.tickets.compact.wiring import Linear
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of, map_paths
from tests import helpers

TINY = {
    "convs": partial(ConvNet, stages=(96, 128)),
    "vgg": partial(VGG, stages=((96,), (128, 128))),
    "basic": partial(ResNet, stages=(2, 1), channels=96, scaled_stem=True),
    "bottleneck": partial(
        ResNet, stages=(1, 1), channels=64, block=Bottleneck, imagenet_stem=True
    ),
    "lstm": partial(LSTMClassifier, vocabulary_size=20),
    "bilstm": partial(LSTMClassifier, vocabulary_size=20, bidirectional=True),
}
WIDTH = 1 / 16


@pytest.fixture
def tiny():
    """Registers a network of each family as `tiny_NAME`."""
    for name, factory in TINY.items():
        register_network(f"tiny_{name}", factory, takes_texts="lstm" in name)


def described(name, size=8, channels_=3, width=WIDTH, affine=False, classes=3):
    network = {"name": name, "num_classes": classes, "affine": affine}
    network |= {"dtype": "float32", "width": width}
    if "lstm" in name:
        inputs = (((1, 7), "int32"), ((1,), "int32"))
        return Description(network=network, inputs=inputs)
    inputs = (((1, size, size, channels_), "float32"),)
    return Description(network=network, inputs=inputs)


def ticket_of(description, sparsity, seed=0, settled=False):
    """Random weights and masks; statistics too, unless the means are settled at 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        normal = rng.standard_normal(leaf.shape).astype(np.float32)
        if path.endswith(("/var", "/scale")):
            return np.abs(normal) + np.float32(0.5)
        if leaf.ndim > 1:
            return normal / np.float32(np.sqrt(leaf.size / leaf.shape[-1] / 4))
        return normal * np.float32(0 if settled else 0.5)

    variables = map_paths(draw, description.abstract())
    masks = jax.tree.map(
        lambda w: rng.random(w.shape) >= sparsity if w.ndim > 1 else None,
        variables["params"],
    )
    statistics = variables.get("batch_stats", {})
    return Ticket.of(description, variables["params"], masks, statistics)


def inputs_of(ticket, count=5):
    rng = np.random.default_rng(1)
    shape = ticket.description.inputs[0][0][1:]
    if ticket.description.inputs[0][1] == "int32":
        lengths = np.arange(1, count + 1, dtype=np.int32)
        return rng.integers(0, 20, (count, 7), np.int32), lengths
    return (rng.standard_normal((count, *shape), np.float32),)


def assert_same(ticket, found, inputs=None):
    inputs = inputs_of(ticket) if inputs is None else inputs
    before, after = (np.asarray(t.apply(*inputs)) for t in (ticket, found.ticket))
    assert np.abs(after - before).max() <= folder.TOLERANCE * np.abs(before).max()


def two_layers(mean, affine):
    """A convolution whose channel 1 has no weights, normalization, ReLU, a product.

    The images are 2x2 pixels, of which only the center of a kernel reads each.
    """
    register_network("two", partial(VGG, stages=((32,),)))
    description = described("two", size=2, channels_=1, affine=affine, classes=1)
    params = map_paths(
        lambda _, w: np.zeros(w.shape, "f4"), description.abstract()["params"]
    )
    params["ConvNorm_0"]["Conv_0"]["kernel"][1, 1, 0, 0] = 2
    params["Dense_0"]["kernel"][:, 0] = 5, 7
    if affine:
        params["ConvNorm_0"]["BatchNorm_0"]["scale"][:] = 1
    statistics = {"mean": np.float32([0, mean]), "var": np.float32([1, 1])}
    masks = map_paths(lambda _, w: None, params)
    return Ticket.of(
        description, params, masks, {"ConvNorm_0": {"BatchNorm_0": statistics}}
    )


@pytest.mark.parametrize(
    ("mean", "affine", "left", "bias"),
    [
        (0, False, 1, None),  # zero
        (3, False, 1, None),  # below zero before ReLU
        (-3, True, 1, 7 * 3 / np.sqrt(1 + EPSILON)),  # constant, into the bias
        (-3, False, 2, None),  # constant, and there is no bias
    ],
)
def test_a_dead_channel_by_hand(mean, affine, left, bias):
    ticket = two_layers(mean, affine)
    found = removal.compact(ticket)
    assert found.channels == {"ConvNorm_0": (left, 2)}
    assert found.ticket.description.network["sizes"] == {"ConvNorm_0": left}
    params = found.ticket.params
    assert params["ConvNorm_0"]["Conv_0"]["kernel"].shape == (3, 3, 1, left)
    assert params["Dense_0"]["kernel"].ravel().tolist() == [5, 7][:left]
    if affine:
        np.testing.assert_allclose(params["Dense_0"]["bias"], [bias], 1e-6)
    image = np.float32([[1, 2], [3, 6]]).reshape(1, 2, 2, 1)
    constant = max(0, -mean) * 7
    expected = (2 * 3 * 5 + constant) / np.sqrt(1 + EPSILON)
    for one in (ticket, found.ticket):
        np.testing.assert_allclose(one.apply(image), [[expected]], 1e-5)
    before, after = folder.costs(ticket), folder.costs(found.ticket)
    # 9 weights at 4 pixels for each channel, and one product.
    assert before["multiply_adds"] == 2 * 9 * 4 + 2
    assert after["multiply_adds"] == left * 9 * 4 + left
    assert before["parameters"] == 2 * 9 + 2 + (5 if affine else 0)


@pytest.mark.parametrize(("bias", "left"), [(0.5, 2), (-0.5, 1)])
def test_a_constant_stays_where_borders_read_fewer_pixels(bias, left):
    """The next convolution pads with zeros, so a constant is none at the border."""
    register_network("padded", partial(ConvNet, stages=(32,)))
    description = described("padded", size=2, affine=True)
    params = map_paths(
        lambda _, w: np.ones(w.shape, "f4"), description.abstract()["params"]
    )
    params["Conv_0"]["kernel"][..., 1] = 0
    params["Conv_0"]["bias"][1] = bias
    ticket = Ticket.of(description, params, map_paths(lambda _, w: None, params), {})
    found = removal.compact(ticket)
    assert found.channels["Conv_0"] == (left, 2)
    assert found.constant == (0, left - 1)
    assert_same(ticket, found)


def slow(*cell):
    return pytest.param(*cell, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "affine", "sparsity"),
    [
        ("convs", True, 0.9),
        slow("convs", False, 0.9),
        slow("vgg", True, 0.95),
        ("vgg", False, 0.95),
        ("basic", True, 0.9),
        slow("basic", False, 0.9),
        slow("bottleneck", True, 0.9),
        slow("bottleneck", False, 0.9),
        ("lstm", True, 0.9),
        slow("lstm", False, 0.9),
        slow("bilstm", True, 0.97),
        ("bilstm", False, 0.9),
    ],
)
def test_a_compact_network_of_each_family_answers_as_its_ticket(
    name, affine, sparsity, tiny, tmp_path
):
    description = described(f"tiny_{name}", affine=affine)
    ticket = ticket_of(description, sparsity, settled=not affine)
    found = removal.compact(ticket)
    left, there = np.sum(list(found.channels.values()), axis=0)
    assert left < there
    assert_same(ticket, found)
    hash(found.ticket.description.build())  # as a static argument of jit
    assert np.any(ticket.apply(*inputs_of(ticket)) != 0)
    found.ticket.save(tmp_path / "ticket")
    read = iterand_jax.load_ticket(tmp_path / "ticket")
    assert read.description.network["sizes"] == {
        path: left for path, (left, _) in found.channels.items()
    }
    for path, leaf in leaves_of(found.ticket.variables).items():
        np.testing.assert_array_equal(leaf, leaves_of(read.variables)[path])


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("name", list(TINY))
def test_a_family_answers_as_its_ticket_at_any_sparsity(name, sparsity, tiny):
    ticket = ticket_of(described(f"tiny_{name}", affine=True), sparsity)
    assert_same(ticket, removal.compact(ticket))


@pytest.mark.slow
@pytest.mark.parametrize("name", helpers.ONE_OF_A_KIND)
def test_every_network_answers_as_its_ticket(name):
    ticket = ticket_of(described(name, size=32, affine=True), 0.95)
    assert_same(ticket, removal.compact(ticket), inputs_of(ticket, 2))


@pytest.mark.parametrize(("name", "sparsity"), [("convs", 0.85), slow("vgg", 0.95)])
def test_what_is_left_is_what_the_analysis_finds_alive(name, sparsity, tiny):
    """Without biases, and with means of 0, what is dead is zero or is not read."""
    ticket = ticket_of(described(f"tiny_{name}"), sparsity, settled=True)
    found = removal.compact(ticket)
    inputs = [jax.ShapeDtypeStruct(*one) for one in ticket.description.inputs]
    kept = jax.tree.map(lambda w: w != 0, ticket.params)
    live = live_weights(ticket.description.build(), inputs, kept)
    dead = 0
    for path, (left, there) in found.channels.items():
        of = live.get(f"{path}/kernel", live.get(f"{path}/Conv_0/kernel"))
        alive = int(of.reshape(-1, there).any(0).sum())
        assert left == max(1, alive)
        dead += there - alive
    assert dead > 0


@pytest.mark.parametrize("name", ["basic", "bilstm"])
def test_a_network_without_a_weight_keeps_a_channel_of_each_layer(name, tiny):
    """And shortcuts that are convolutions keep showing it by their channels."""
    ticket = ticket_of(described(f"tiny_{name}"), 1.0, settled=True)
    found = removal.compact(ticket)
    grown = {"BasicBlock_2/ConvNorm_1", "BasicBlock_2/ConvNorm_2"}
    assert {path for path, sizes in found.channels.items() if sizes[0] != 1} == (
        grown if name == "basic" else set()
    )
    assert found.ticket.apply(*inputs_of(ticket)).tolist() == [[0.0] * 3] * 5


def test_added_channels_are_removed_only_if_no_branch_writes_them(tiny):
    """Channel 0 of the first stage: the stem writes it, and no block does, or one."""
    ticket = ticket_of(described("tiny_basic"), 0.0, settled=True)
    params = ticket.params
    for number in range(2):
        params[f"BasicBlock_{number}"]["ConvNorm_1"]["Conv_0"]["kernel"][..., 0] = 0
    assert removal.compact(ticket).channels["ConvNorm_0"] == (6, 6)
    params["ConvNorm_0"]["Conv_0"]["kernel"][..., 0] = 0
    found = removal.compact(ticket)
    assert found.channels["ConvNorm_0"] == (5, 6)
    assert found.channels["BasicBlock_1/ConvNorm_1"] == (5, 6)
    assert found.channels["BasicBlock_1/ConvNorm_0"] == (6, 6)
    assert_same(ticket, found)
    params["BasicBlock_1"]["ConvNorm_1"]["Conv_0"]["kernel"][0, 0, 0, 0] = 1
    assert removal.compact(ticket).channels["ConvNorm_0"] == (6, 6)


def test_a_network_of_unknown_layers_is_refused_in_one_line(tmp_path):
    class Mine(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.num_classes)(x.reshape(len(x), -1))

    register_network("mine", Mine)
    with pytest.raises(ValueError, match=r"^the layers of Mine are not known, so none"):
        removal.check("mine")
    with pytest.raises(ValueError, match=r"^the network mine takes no sizes of layers"):
        build_network("mine", num_classes=2, sizes={"Dense_0": 1})


def test_groups_are_refused_by_the_path_of_their_kernel():
    layers = [Linear("Conv_0", ("inputs",), "logits")]
    arrays = {"Conv_0/kernel": np.ones((3, 3, 2, 4), np.float32)}
    with pytest.raises(ValueError, match=r"^Conv_0/kernel reads 2 of 4 channels; poss"):
        channels.constants(layers, arrays, inputs=4)


def test_other_logits_are_refused(tiny, monkeypatch):
    ticket = ticket_of(described("tiny_convs"), 0.8)
    found = removal.compact(ticket)
    monkeypatch.setattr(folder, "ROUNDS", 1)
    report = folder.compare(ticket, found, inputs_of(ticket))
    assert report["after"]["multiply_adds"] < report["before"]["multiply_adds"]
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert report["examples"] == 5
    found.ticket.params["Dense_2"]["kernel"][:] *= np.float32(1 + 1e-4)
    del found.ticket.__dict__["_on_device"]
    with pytest.raises(ValueError, match="does not answer as the ticket does: a logit"):
        folder.compare(ticket, found, inputs_of(ticket))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"Conv_9": 3}, "no layer 'Conv_9' of 3 channels"),
        ({"Dense_2": 2}, "no layer 'Dense_2' of 2 channels"),  # the last one
        ({"Conv_0": 0}, "the size of its layer 'Conv_0' is 0"),
        ({"Conv_0": "many"}, "its field 'Conv_0' is 'many'"),
        ([3], "its field 'sizes' is"),
    ],
)
def test_sizes_of_a_file_are_checked(sizes, said, tiny):
    fields = described("tiny_convs").to_json()
    fields["network"] = {**fields["network"], "sizes": sizes}
    fields = json.loads(json.dumps(fields))
    with pytest.raises(ValueError, match=said):
        Description.from_json(fields).abstract()


READER = """
import json, sys
import jax, numpy as np, safetensors.numpy
from pathlib import Path
folder = Path(sys.argv[1])
program = jax.export.deserialize(bytearray((folder / "program.jax").read_bytes()))
weights = safetensors.numpy.load_file(folder / "weights.safetensors")
np.save(folder / "logits.npy", program.call(weights, np.load(folder / "inputs.npy")))
sizes = json.loads((folder / "compact.json").read_text())["description"]["network"]
for path, size in sizes["sizes"].items():
    assert weights[f"params/{path}/Conv_0/kernel"].shape[-1] == size
assert not {"flax", "iterand_jax"} & set(sys.modules)
"""


@pytest.mark.slow
def test_the_files_are_read_by_a_process_without_this_library(tmp_path, monkeypatch):
    ticket = ticket_of(described("resnet20", size=16), 0.9)
    found = removal.compact(ticket)
    monkeypatch.setattr(folder, "ROUNDS", 1)
    report = folder.compare(ticket, found, inputs_of(ticket))
    folder.save(found.ticket, report, tmp_path)
    np.save(tmp_path / "inputs.npy", *inputs_of(ticket))
    helpers.printed("-W", "error", "-c", READER, tmp_path, cwd=tmp_path)
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), ticket.apply(*inputs_of(ticket)), 1e-4, 1e-5
    )
    arrays = safetensors.load_file(tmp_path / folder.TORCHVISION)
    for name, path in {
        "conv1": "ConvNorm_0",
        "layer2.0.conv2": "BasicBlock_3/ConvNorm_1",
        "layer2.0.downsample.0": "BasicBlock_3/ConvNorm_2",
    }.items():
        assert len(arrays[f"{name}.weight"]) == found.channels[path][0]
