"""State dicts that PyTorch writes become tickets with the logits of its networks.

Scores and masks lie beside the weights as edge-popup, IteRand, biprop and
torch.nn.utils.prune have them; what they keep is computed here by a sort.
"""

import dataclasses
import re
import warnings
import zipfile
from typing import NamedTuple

import jax
import numpy as np
import pytest

from iterand_jax import convert as command_convert
from iterand_jax import load_ticket
from iterand_jax.tickets import conversion, states
from iterand_jax.tickets.conversion import Pruning
from tests.peers import torchvision

torch = pytest.importorskip(
    "torch", reason="the peers need PyTorch: pip install -e '.[peer]'"
)
from torch.nn.utils import prune  # noqa: E402

from tests.tickets.torch_networks import (  # noqa: E402
    Plain,
    ResNet,
    basic,
    bottleneck,
    wide,
)

CLASSES = 5
IMAGENET = {"stem": 64, "channels": 4, "imagenet": True}


def convs(*stages, bias=False, pixels=32):
    side = pixels // 2 ** len(stages)
    linear = (stages[-1] * side * side, 32, 32, CLASSES)
    return Plain([(c, c) for c in stages], linear, bias=bias)


def vgg(pixels=64):
    stages = ((4,), (8,), (16, 16), (32, 32), (32, 32))
    side = pixels // 32
    return Plain(stages, (32 * side * side, CLASSES), normalized=True)


NETWORKS = {  # network: (PyTorch's, its width, pixels of a side)
    "conv2": (lambda: convs(8, pixels=8), 1 / 8, 8),
    "conv4": (lambda: convs(8, 16), 1 / 8, 32),
    "conv6": (lambda: convs(8, 16, 32, bias=True), 1 / 8, 32),
    "conv8": (lambda: convs(8, 16, 32, 64), 1 / 8, 32),
    "vgg11": (vgg, 1 / 16, 64),
    "resnet18": (
        lambda: ResNet((2, 2, 2, 2), basic, CLASSES, stem=64, channels=4),
        1 / 16,
        32,
    ),
    "resnet20": (
        lambda: ResNet((3, 3, 3), basic, CLASSES, stem=4, channels=4),
        1 / 4,
        32,
    ),
    "imagenet_resnet50": (
        lambda: ResNet((3, 4, 6, 3), bottleneck, CLASSES, **IMAGENET),
        1 / 16,
        64,
    ),
    "imagenet_wide_resnet50_2": (
        lambda: ResNet((3, 4, 6, 3), wide, CLASSES, **IMAGENET),
        1 / 16,
        64,
    ),
}


class Layout(NamedTuple):
    """How a method keeps scores, and what it makes of a weight."""

    pruning: Pruning
    removed: object = None  # of n scores
    effective: object = None  # (weights, mask)
    learned: bool = False  # normalization


def magnitude_of_a_layer(weights, mask):
    return weights.sign() * mask * (weights.abs() * mask).sum() / mask.sum()


LAYOUTS = {
    "edge_popup": Layout(
        Pruning(sparsity=1 - 0.3, ranked_by="magnitude", rank="floor"),
        lambda n: int((1 - 0.3) * n),
    ),
    "iterand": Layout(
        Pruning(sparsity=0.6, ranked_by="score", rank="quantile"),
        lambda n: round(0.6 * (n - 1)),
    ),
    "biprop": Layout(
        Pruning(sparsity=0.8, ranked_by="magnitude", values="binary"),
        lambda n: round(0.8 * n),
        magnitude_of_a_layer,
        learned=True,
    ),
    "scaled": Layout(
        Pruning(sparsity=0.5, ranked_by="magnitude", values="scaled"),
        lambda n: round(0.5 * n),
        lambda weights, mask: weights * mask * (mask.numel() / mask.sum()).sqrt(),
    ),
    "plain": Layout(Pruning(), learned=True),
    "pruned": Layout(Pruning(), learned=True),
}


def kernels(net):
    return [
        m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
    ]


def trained(net, layout):
    """A network as after a training, and its state dict in a layout.

    The network that is returned has the effective weights, in float64.
    """
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if layout.learned:
                torch.nn.init.uniform_(module.weight, 0.5, 2)
                torch.nn.init.normal_(module.bias)
            else:
                module.weight = module.bias = None
    if isinstance(net, ResNet) and not layout.learned:
        net.fc.bias = None
    if layout is LAYOUTS["pruned"]:
        for module in kernels(net):
            prune.random_unstructured(module, "weight", 0.4)
    elif layout.removed is not None:
        for module in kernels(net):
            scores = torch.randn_like(module.weight)
            module.register_parameter("scores", torch.nn.Parameter(scores))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        if layout is LAYOUTS["pruned"]:
            for module in kernels(net):
                prune.remove(module, "weight")
        net.double()
        for module in kernels(net) if layout.removed is not None else ():
            scores, weights = module.scores, module.weight
            ranked = scores.abs() if layout.pruning.ranked_by == "magnitude" else scores
            mask = torch.ones(scores.numel(), dtype=torch.float64)
            mask[ranked.flatten().argsort()[: layout.removed(scores.numel())]] = 0
            mask = mask.reshape(scores.shape)
            effective = layout.effective or (lambda w, m: w * m)
            weights.copy_(effective(weights, mask).float())
    return net.eval(), state


def logits_of(ticket, images):
    """The logits of a ticket in float64."""
    about = ticket.description
    about = dataclasses.replace(
        about,
        network={**about.network, "dtype": "float64"},
        inputs=tuple((shape, "float64") for shape, _ in about.inputs),
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda w: w.astype(np.float64), ticket.variables)
        ticket = dataclasses.replace(
            ticket,
            description=about,
            params=wide["params"],
            batch_stats=wide.get("batch_stats", {}),
        )
        return np.asarray(ticket.apply(images))


def assert_answers_as(ticket, net, pixels, rtol=1e-9):
    images = np.random.default_rng(1).standard_normal((3, pixels, pixels, 3))
    logits = logits_of(ticket, images)
    assert logits.dtype == np.float64
    with torch.no_grad():
        expected = net(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(logits, expected, rtol, rtol * np.abs(expected).max())


FAST = [("conv2", "edge_popup"), ("conv2", "iterand"), ("conv2", "pruned")]
CASES = [
    pytest.param(
        name, layout, marks=[] if (name, layout) in FAST else [pytest.mark.slow]
    )
    for name in NETWORKS
    for layout in LAYOUTS
    if name in ("conv2", "vgg11", "resnet20") or layout in ("iterand", "biprop")
]


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_state_dict_has_the_logits_of_its_network(name, layout, tmp_path):
    build, width, pixels = NETWORKS[name]
    layout = LAYOUTS[layout]
    torch.manual_seed(0)
    net, state = trained(build(), layout)
    checkpoint = {
        "epoch": 3,
        "state_dict": {f"module.{n}": x for n, x in state.items()},
    }
    torch.save(checkpoint, tmp_path / "state.pt")
    read = states.state_of(states.read(tmp_path / "state.pt"))
    size = pixels if "imagenet" in name else None
    ticket, notes = conversion.convert(
        read, name, layout.pruning, width=width, image_size=size
    )
    assert notes == []
    ticket.save(tmp_path / "ticket")
    ticket = load_ticket(tmp_path / "ticket")
    # The factor of "scaled" is a float32.
    rtol = 1e-6 if layout.pruning.values == "scaled" else 1e-9
    assert_answers_as(ticket, net, pixels, rtol)
    learned = layout.learned and "conv" not in name  # Conv2 to 8 have nothing to learn
    assert ticket.description.network["affine"] is (learned or name == "conv6")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("imagenet_resnet18", "resnet18"),
        ("imagenet_wide_resnet50_2", "wide_resnet50_2"),
    ],
)
def test_torchvisions_own_networks_are_read(name, theirs):
    net = getattr(torchvision().models, theirs)()
    net, state = trained(net, LAYOUTS["plain"])
    arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
    ticket, notes = conversion.convert(
        states.state_of(arrays), name, Pruning(), image_size=64
    )
    assert notes == []
    assert_answers_as(ticket, net, 64)


def test_other_precisions_and_forms_of_files_are_read(tmp_path):
    _, state = trained(convs(4, pixels=8), LAYOUTS["iterand"])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = {name: x.to(dtype) for name, x in state.items()}
        torch.save(narrow, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        for name, array in states.read(tmp_path / "old.pt").items():
            wide = np.asarray(array, np.float64)
            np.testing.assert_array_equal(wide, narrow[name].double().numpy())
    torch.save({"model": state, "optimizer": {"state": {}}}, tmp_path / "part.pt")
    assert states.read(tmp_path / "part.pt").keys() == state.keys()


class Executed:
    def __reduce__(self):
        return open, ("executed", "w")


def test_nothing_of_a_file_is_executed(tmp_path, monkeypatch, command, capfd):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": Executed()}, "state.pt")
    given = ["state.pt", "--network=conv2", "--output=ticket"]
    assert command(command_convert, *given) == 2
    said = capfd.readouterr().err
    assert re.fullmatch(r"error: state.pt: it holds \w+\.open, and .*\n", said), said
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "ticket").exists()


def refused(tmp_path, content, words):
    path = tmp_path / "state.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sparse tensors
        torch.save(content, path)
    with pytest.raises(ValueError, match=words) as error:
        states.read(path)
    assert "\n" not in str(error.value)


def test_what_is_no_state_dict_is_refused(tmp_path):
    zeros = torch.zeros(2, 2)
    refused(tmp_path, {"a": zeros.to_sparse()}, "a is no dense tensor with values")
    refused(tmp_path, {"a": torch.zeros(1).expand(9)}, "more values than are stored")
    refused(tmp_path, [zeros], "it holds list; possible: one state dict of tensors")
    refused(tmp_path, {"epoch": 3}, "it holds epoch; possible: one state dict")
    two = {"model": {"a": zeros}, "ema": {"a": zeros}}
    refused(tmp_path, two, "it holds model, ema; possible: one state dict")
    refused(tmp_path, torch.nn.Linear(2, 2), "it holds torch.nn.modules.linear.Linear")


def test_damaged_and_inflated_files_are_refused(tmp_path):
    path, other = tmp_path / "state.pt", tmp_path / "inflated.pt"
    torch.save({"a": torch.zeros(10_000)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"its entries have .* more than the file"):
        states.read(other)
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(ValueError, match=r"state\.pt is no whole state dict: "):
        states.read(path)
