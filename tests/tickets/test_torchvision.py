"""ResNets with torchvision's names load into PyTorch and give the same logits.

torchvision has the ImageNet forms at width 1 alone; the others are in `torch_networks`.
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

from tests.tickets.torch_networks import ResNet, basic, bottleneck, wide  # noqa: E402

CLASSES = 5

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
@pytest.mark.compiles
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_the_state_loads_strictly_and_the_logits_are_the_same(name, affine, tmp_path):
    stages, block, options = CASES[name]
    with jax.enable_x64(True):
        ticket = ticket_of(name, affine=affine)
    peer = ResNet(stages, block, CLASSES, **options).double().eval()
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
