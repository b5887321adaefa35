"""Networks and their pruning against PyTorch's, in float64.

The peers are written from the paper's tables with PyTorch's own convolutions, batch
normalization, sort, autograd and optimizer. What they share with the library are the
weights and scores of the start, copied by path.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iterand_jax import Subnetwork
from iterand_jax.networks import build_network
from iterand_jax.subnetwork import path_string
from iterand_jax.training.step import sgd_optimizer

torch = pytest.importorskip(
    "torch", reason="the peers need PyTorch: pip install -e '.[peer]'"
)
relu, pool = torch.nn.functional.relu, torch.nn.functional.max_pool2d

SPARSITY = 0.6
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
CLASSES = 5
BATCH = 4
STEPS = 2


class TopK(torch.autograd.Function):
    """1 for the largest scores; the gradient passes as if the mask were the scores."""

    @staticmethod
    def forward(ctx, scores):
        mask = torch.ones_like(scores).flatten()
        mask[scores.flatten().argsort()[: round(SPARSITY * len(mask))]] = 0
        return mask.reshape(scores.shape)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Layers:
    """PyTorch's layers on the leaves of a Flax tree by path."""

    def __init__(self, params, statistics, *, train):
        self.params, self.statistics, self.train = params, statistics, train
        self.averaged = {}  # by normalization: the numbers that a statistic is of

    def conv(self, path, x, stride=1):
        kernel = self.params[f"{path}/kernel"].permute(3, 2, 0, 1)
        padding = kernel.shape[-1] // 2
        return torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding)

    def conv_norm(self, path, x, stride=1):
        x = self.conv(f"{path}/Conv_0", x, stride)
        norm = f"{path}/BatchNorm_0"
        self.averaged[norm] = x.numel() // x.shape[1]
        running = [self.statistics[f"{norm}/{name}"] for name in ("mean", "var")]
        return torch.nn.functional.batch_norm(x, *running, training=self.train)

    def linear(self, path, x):
        return x @ self.params[f"{path}/kernel"]


def conv6(layers, x):
    for index in range(6):
        x = relu(layers.conv(f"Conv_{index}", x))
        if index % 2:
            x = pool(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)  # in Flax the channels are last
    x = relu(layers.linear("Dense_0", x))
    x = relu(layers.linear("Dense_1", x))
    return layers.linear("Dense_2", x)


def vgg11(layers, x):
    plan, index = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512), 0
    for entry in plan:
        if entry == "M":
            x = pool(x, 2)
        else:
            x = relu(layers.conv_norm(f"ConvNorm_{index}", x))
            index += 1
    x = torch.nn.functional.avg_pool2d(x, 2).flatten(1)
    return layers.linear("Dense_0", x)


def residual(layers, path, x, strides):
    """A block of convolutions with these strides, the last without ReLU."""
    y = x
    for index, stride in enumerate(strides):
        y = layers.conv_norm(f"{path}/ConvNorm_{index}", y, stride)
        y = relu(y) if index < len(strides) - 1 else y
    if max(strides) > 1 or x.shape[1] != y.shape[1]:
        x = layers.conv_norm(f"{path}/ConvNorm_{len(strides)}", x, max(strides))
    return relu(x + y)


def blocks(layers, x, name, stages, strides_of):
    starts = [sum(stages[:i]) for i in range(1, len(stages))]
    for index in range(sum(stages)):
        stride = 2 if index in starts else 1
        x = residual(layers, f"{name}_{index}", x, strides_of(stride))
    return layers.linear("Dense_0", x.mean((2, 3)))


def resnet18(layers, x):
    x = relu(layers.conv_norm("ConvNorm_0", x))
    return blocks(layers, x, "BasicBlock", (2, 2, 2, 2), lambda stride: (stride, 1))


def imagenet_resnet50(layers, x):
    x = relu(layers.conv_norm("ConvNorm_0", x, 2))
    x = pool(x, 3, stride=2, padding=1)
    return blocks(layers, x, "Bottleneck", (3, 4, 6, 3), lambda stride: (1, stride, 1))


CASES = [  # network, peer, pixels of a side
    ("conv6", conv6, 32),
    ("vgg11", vgg11, 32),
    ("resnet18", resnet18, 16),
    ("imagenet_resnet50", imagenet_resnet50, 64),
]


def flat(tree):
    """{path: NumPy array} of a tree."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path_string(path): np.asarray(leaf) for path, leaf in leaves}


def tensors(arrays, **options):
    return {k: torch.tensor(v, **options) for k, v in arrays.items()}


def assert_close(ours, theirs):
    theirs = {path: tensor.detach().numpy() for path, tensor in theirs.items()}
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        atol = 1e-9 * np.abs(expected).max()
        assert atol > 0, f"{path} is zero: nothing is compared"
        np.testing.assert_allclose(ours[path], expected, 1e-9, atol, err_msg=path)


def draw(model, images):
    """Kaiming normal weights and scores in float64, and fresh running statistics."""
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def kaiming(leaf):
        deviation = math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return deviation * rng.standard_normal(leaf.shape)

    weights, scores = (jax.tree.map(kaiming, variables["params"]) for _ in range(2))
    statistics = jax.tree.map_with_path(
        lambda path, leaf: np.full(leaf.shape, float(path[-1].key == "var")),
        variables.get("batch_stats", {}),
    )
    return weights, scores, statistics


@partial(jax.jit, static_argnames=("model", "subnetwork", "optimizer"))
def train(
    scores,
    statistics,
    opt_state,
    weights,
    images,
    labels,
    *,
    model,
    subnetwork,
    optimizer,
):
    """(scores, statistics, opt_state) after a step, its logits and its gradients."""

    def loss_of(scores):
        params = subnetwork.prune(weights, scores)
        logits, updated = model.apply(
            {"params": params, "batch_stats": statistics},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), (logits, updated.get("batch_stats", {}))

    gradients, (logits, statistics) = jax.grad(loss_of, has_aux=True)(scores)
    updates, opt_state = optimizer.update(gradients, opt_state, scores)
    scores = optax.apply_updates(scores, updates)
    return (scores, statistics, opt_state), logits, gradients


class Peer:
    """edge-popup in PyTorch from the same weights, scores and running statistics."""

    def __init__(self, network, weights, scores, statistics):
        self.network = network
        self.weights = tensors(flat(weights))
        self.scores = tensors(flat(scores), requires_grad=True)
        self.statistics = tensors(flat(statistics))
        self.averaged = {}
        self.optimizer = torch.optim.SGD(
            self.scores.values(), RATE, MOMENTUM, weight_decay=DECAY
        )

    def logits(self, images, *, train):
        pruned = {k: self.weights[k] * TopK.apply(s) for k, s in self.scores.items()}
        layers = Layers(pruned, self.statistics, train=train)
        logits = self.network(layers, torch.tensor(images).permute(0, 3, 1, 2))
        self.averaged = layers.averaged
        return logits

    def train(self, images, labels):
        """Takes a step; its logits and its gradients."""
        logits = self.logits(images, train=True)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return logits, {path: score.grad for path, score in self.scores.items()}

    def average_biased_variances(self, steps):
        """As the library's running variances do; PyTorch's are of unbiased ones."""
        start = 0.9**steps
        for norm, n in self.averaged.items():
            variance = self.statistics[f"{norm}/var"]
            variance.copy_(start + (variance - start) * (n - 1) / n)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "network", "pixels"), CASES)
def test_training_and_evaluation_are_pytorchs(name, network, pixels):
    """Two edge-popup steps, and an evaluation with the statistics that they leave."""
    rng = np.random.default_rng(1)
    batches = rng.standard_normal((STEPS, BATCH, pixels, pixels, 3))
    labels = rng.integers(0, CLASSES, (STEPS, BATCH))
    subnetwork = Subnetwork(sparsity=SPARSITY)
    optimizer = sgd_optimizer(
        optax.constant_schedule(RATE), momentum=MOMENTUM, weight_decay=DECAY
    )
    model = build_network(
        name, num_classes=CLASSES, width=1 / 16, dtype=jnp.dtype("float64")
    )
    static = {"model": model, "subnetwork": subnetwork, "optimizer": optimizer}
    with jax.enable_x64(True):
        weights, scores, statistics = draw(model, batches[0])
        peer = Peer(network, weights, scores, statistics)
        state = scores, statistics, optimizer.init(scores)
        for images, answers in zip(batches, labels, strict=True):
            state, logits, gradients = train(*state, weights, images, answers, **static)
            expected, expected_gradients = peer.train(images, answers)
            assert logits.dtype == jnp.float64
            assert_close({"logits": logits}, {"logits": expected})
            assert_close(flat(gradients), expected_gradients)
            assert_close(flat(state[0]), peer.scores)

        scores, statistics, _ = state
        peer.average_biased_variances(STEPS)
        assert_close(flat(statistics), peer.statistics)
        pruned = jax.jit(subnetwork.prune)(weights, scores)
        variables = {"params": pruned, "batch_stats": statistics}
        logits = jax.jit(model.apply)(variables, batches[0])
        expected = peer.logits(batches[0], train=False)
        assert_close({"logits": logits}, {"logits": expected})
