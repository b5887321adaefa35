"""The networks of `iterand_jax.networks` as lists of layers over named channels.

`analysis.liveness` needs no list: it follows gradients through any network. But a
channel is removed from all that write and read it, and with a constant its effect on
borders matters, so here the layers are known. A list has the layers in the order in
which they are computed. Between them are max-pools, average pools, ReLU and reshaping
to rows, none of which mixes channels or makes a constant channel vary.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from iterand_jax.networks.convs import ConvNet
from iterand_jax.networks.lstm import LSTMClassifier
from iterand_jax.networks.resnet import BasicBlock, Bottleneck, ResNet
from iterand_jax.networks.vgg import VGG

INPUTS, LOGITS = "inputs", "logits"


class Linear(NamedTuple):
    """A convolution or matrix product, with all that follows it.

    Attributes:
      path: of the module, as `sizes` of a network names it.
      sources: the channels that it reads, concatenated.
      target: the channels that it writes.
      inner: of a `ConvNorm`, whose kernel and normalization have paths of their own.
      relu: whether ReLU follows.
    """

    path: str
    sources: tuple[str, ...]
    target: str
    inner: bool = False
    relu: bool = True

    @property
    def kernel(self) -> str:
        """The path of its kernel."""
        return f"{self.path}/Conv_0/kernel" if self.inner else f"{self.path}/kernel"

    @property
    def bias(self) -> str:
        """The path of what is added last: its bias, or its normalization's."""
        return f"{self.path}/BatchNorm_0/bias" if self.inner else f"{self.path}/bias"

    @property
    def norm(self) -> str | None:
        """The path of its batch normalization."""
        return f"{self.path}/BatchNorm_0" if self.inner else None


class Sum(NamedTuple):
    """ReLU of the sum of a block and its shortcut, channel by channel."""

    terms: tuple[str, str]
    target: str


class Table(NamedTuple):
    """An embedding: of each word its features."""

    path: str
    target: str


class Recurrent(NamedTuple):
    """A direction of an LSTM, which reads a source and its own last state."""

    path: str
    source: str
    target: str


Layer = Linear | Sum | Table | Recurrent


def layers_of(network: Any, paths: Collection[str]) -> list[Layer]:
    """The layers of a network in the order in which they are computed.

    Args:
      network: the module.
      paths: of its parameters.

    Raises:
      ValueError: a network of another family, whose layers are not known.

    >>> network = ConvNet(stages=(4,), num_classes=2)
    >>> [layer.path for layer in layers_of(network, [])]
    ['Conv_0', 'Conv_1', 'Dense_0', 'Dense_1', 'Dense_2']
    """
    kind = type(network)
    if kind is ConvNet:
        convs = [f"Conv_{i}" for i in range(2 * len(network.stages))]
        return list(_chain([*convs, "Dense_0", "Dense_1", "Dense_2"]))
    if kind is VGG:
        count = sum(map(len, network.stages))
        return list(_chain([*(f"ConvNorm_{i}" for i in range(count)), "Dense_0"]))
    if kind is LSTMClassifier:
        return _lstm(network.bidirectional)
    block = getattr(network, "block", None)
    block = getattr(block, "func", block)
    if kind is ResNet and block in (BasicBlock, Bottleneck):
        return list(_resnet(network, block, paths))
    raise ValueError(
        f"the layers of {kind.__name__} are not known, so none can be made smaller; "
        f"possible: ConvNet, VGG, ResNet, LSTMClassifier of iterand_jax.networks"
    )


def _chain(names: list[str]) -> Iterable[Linear]:
    source = INPUTS
    for name in names:
        is_last = name == names[-1]
        target = LOGITS if is_last else name
        inner = name.startswith("ConvNorm")
        yield Linear(name, (source,), target, inner, relu=not is_last)
        source = target


def _resnet(network: ResNet, block: Any, paths: Collection[str]) -> Iterable[Layer]:
    yield Linear("ConvNorm_0", (INPUTS,), "ConvNorm_0", inner=True)
    trunk, depth = "ConvNorm_0", 2 if block is BasicBlock else 3
    for index in range(sum(network.stages)):
        name = f"{block.__name__}_{index}"
        source = trunk
        for number in range(depth):
            path = f"{name}/ConvNorm_{number}"
            is_last = number == depth - 1  # its ReLU is that of the sum
            yield Linear(path, (source,), path, inner=True, relu=not is_last)
            source = path
        shortcut = f"{name}/ConvNorm_{depth}"
        if f"{shortcut}/Conv_0/kernel" in paths:
            yield Linear(shortcut, (trunk,), shortcut, inner=True, relu=False)
            trunk = shortcut
        yield Sum((trunk, source), name)
        trunk = name
    yield Linear("Dense_0", (trunk,), LOGITS, relu=False)


def _lstm(bidirectional: bool) -> list[Layer]:
    names = ("Forward", "Backward") if bidirectional else ("Forward",)
    return [
        Table("Embed_0", "Embed_0"),
        *(Recurrent(name, "Embed_0", name) for name in names),
        Linear("Dense_0", names, LOGITS, relu=False),
    ]
