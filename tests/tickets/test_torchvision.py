"""ResNets with torchvision's names load into PyTorch and give the same logits.

torchvision has the ImageNet forms at width 1 alone, so the others are written here from
the paper's tables with PyTorch's modules and torchvision's names for them.
"""

import jax
import numpy as np
import pytest

from iterand_jax.tickets import formats
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from tests.peers import torchvision

torch = pytest.importorskip(
    "torch", reason="the peers need PyTorch: pip install -e '.[peer]'"
)
from safetensors import torch as safetensors  # noqa: E402

nn = torch.nn
CLASSES = 5


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Convolutions of (kernel, outputs, stride), each normalized, and a shortcut."""

    def __init__(self, inputs, convs):
        super().__init__()
        before, stride = inputs, max(s for _, _, s in convs)
        for index, (kernel, outputs, own_stride) in enumerate(convs, 1):
            setattr(self, f"conv{index}", conv(before, outputs, kernel, own_stride))
            setattr(self, f"bn{index}", nn.BatchNorm2d(outputs))
            before = outputs
        self.convs, self.outputs, self.downsample = len(convs), before, None
        if stride != 1 or inputs != before:
            self.downsample = nn.Sequential(
                conv(inputs, before, 1, stride), nn.BatchNorm2d(before)
            )

    def forward(self, x):
        y = x
        for index in range(1, self.convs + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = torch.relu(y) if index < self.convs else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def basic(channels, stride):
    return (3, channels, stride), (3, channels, 1)


def bottleneck(channels, stride, inner=1):
    middle = inner * channels
    return (1, middle, 1), (3, middle, stride), (1, 4 * channels, 1)


def wide(channels, stride):
    return bottleneck(channels, stride, inner=2)


class ResNet(nn.Module):
    def __init__(self, stages, block, *, stem, channels, imagenet=False):
        super().__init__()
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv1, self.bn1 = conv(3, stem, kernel, stride), nn.BatchNorm2d(stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        before, self.stages = stem, len(stages)
        for stage, count in enumerate(stages):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(before, block(channels * 2**stage, stride)))
                before = blocks[-1].outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, CLASSES)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


IMAGENET = {"stem": 64, "channels": 4, "imagenet": True}
CASES = {  # at width 1/16, which scales all but the stem; all but OpenLTH's ResNet20
    "resnet18": ((2, 2, 2, 2), basic, {"stem": 64, "channels": 4}),
    "resnet34": ((3, 4, 6, 3), basic, {"stem": 64, "channels": 4}),
    "resnet20": ((3, 3, 3), basic, {"stem": 1, "channels": 1}),
    "imagenet_resnet18": ((2, 2, 2, 2), basic, IMAGENET),
    "imagenet_resnet50": ((3, 4, 6, 3), bottleneck, IMAGENET),
    "imagenet_wide_resnet50_2": ((3, 4, 6, 3), wide, IMAGENET),
}


def ticket_of(name, *, affine, width=1 / 16, classes=CLASSES):
    network = {"name": name, "num_classes": classes, "width": width}
    description = Description(
        network={**network, "affine": affine, "dtype": "float64"},
        inputs=(((1, 64, 64, 3), "float64"),),
    )
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2, leaf.shape)
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return deviation * rng.standard_normal(leaf.shape)

    variables = jax.tree_util.tree_map_with_path(draw, description.abstract())
    masks = jax.tree.map(
        lambda w: rng.random(w.shape) < 0.6 if w.ndim > 1 else None, variables["params"]
    )
    return Ticket.of(description, variables["params"], masks, variables["batch_stats"])


def assert_answers_as(ticket, peer, path):
    """A network of PyTorch's loads the file of a ticket and has its logits."""
    images = np.random.default_rng(1).standard_normal((3, 64, 64, 3))
    with jax.enable_x64(True):
        logits = np.asarray(ticket.apply(images))
    assert logits.dtype == np.float64
    formats.save_arrays(formats.torchvision_arrays(ticket), ticket.description, path)
    state, own = safetensors.load_file(path), peer.state_dict()
    assert {k: x.shape for k, x in state.items()} == {
        k: x.shape for k, x in own.items()
    }
    peer.load_state_dict(state, strict=True)
    with torch.no_grad():
        expected = peer(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    atol = 1e-9 * np.abs(expected).max()
    assert atol > 0
    np.testing.assert_allclose(logits, expected, 1e-9, atol)


@pytest.mark.slow
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_the_state_loads_strictly_and_the_logits_are_the_same(name, affine, tmp_path):
    stages, block, options = CASES[name]
    with jax.enable_x64(True):
        ticket = ticket_of(name, affine=affine)
    peer = ResNet(stages, block, **options).double().eval()
    assert_answers_as(ticket, peer, tmp_path / "weights")


NETWORKS = {
    "imagenet_resnet18": "resnet18",
    "imagenet_resnet34": "resnet34",
    "imagenet_resnet50": "resnet50",
    "imagenet_resnet101": "resnet101",
    "imagenet_wide_resnet50_2": "wide_resnet50_2",
}


@pytest.fixture(scope="module")
def models():
    """torchvision's networks."""
    return torchvision().models


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS))
def test_at_width_1_the_state_loads_into_torchvisions_own(name, models):
    network = {"name": name, "num_classes": 1000, "width": 1.0, "affine": False}
    description = Description(
        network={**network, "dtype": "float32"}, inputs=(((1, 64, 64, 3), "float32"),)
    )
    variables = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), description.abstract()
    )
    nothing = jax.tree.map(lambda _: None, variables["params"])
    ticket = Ticket.of(
        description, variables["params"], nothing, variables["batch_stats"]
    )
    arrays = formats.torchvision_arrays(ticket)
    state = {key: torch.tensor(array) for key, array in arrays.items()}
    peer = getattr(models, NETWORKS[name])()
    own = peer.state_dict()
    assert own["conv1.weight"].any()
    assert {k: (x.shape, x.dtype) for k, x in state.items()} == {
        k: (x.shape, x.dtype) for k, x in own.items()
    }
    peer.load_state_dict(state, strict=True)
    assert all(torch.equal(x, state[key]) for key, x in peer.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet_resnet18", "imagenet_resnet50"])
def test_torchvisions_own_network_gives_the_same_logits(name, models, tmp_path):
    with jax.enable_x64(True):
        ticket = ticket_of(name, affine=True, width=1.0, classes=1000)
    peer = getattr(models, NETWORKS[name])().double().eval()
    assert_answers_as(ticket, peer, tmp_path / "weights")
