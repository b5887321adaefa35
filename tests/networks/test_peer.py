"""Networks and their pruning against PyTorch's, in float64.

The peers are those of `experiments.measurements.peer`. What they share with the library
are the weights and scores of the start, copied by path.
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
from iterand_jax.training.step import sgd_optimizer
from iterand_jax.trees import path_string

torch = pytest.importorskip(
    "torch", reason="the peers need PyTorch: pip install -e '.[peer]'"
)
from experiments.measurements import peer as peers  # noqa: E402
from experiments.measurements.peer import Peer, channels_first  # noqa: E402

SPARSITY = 0.6
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
CLASSES = 5
BATCH = 4
STEPS = 2


def images(pixels):
    def draw(rng):
        return (rng.standard_normal((BATCH, pixels, pixels, 3)),)

    return draw


def texts(rng):
    return rng.integers(0, 25_002, (BATCH, 11)), np.array([11, 1, 4, 7])


CASES = [  # network, peer, inputs
    ("conv6", peers.conv6, images(32)),
    ("vgg11", peers.vgg11, images(32)),
    ("resnet18", peers.resnet18, images(16)),
    ("imagenet_resnet50", peers.imagenet_resnet50, images(64)),
    ("lstm", peers.lstm, texts),
    ("bilstm", peers.lstm, texts),
]


def flat(tree):
    """{path: NumPy array} of a tree."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path_string(path): np.asarray(leaf) for path, leaf in leaves}


def outputs_last(tensor):
    """A kernel of a convolution as Flax has it."""
    array = tensor.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def assert_close(ours, theirs):
    theirs = {path: outputs_last(tensor) for path, tensor in theirs.items()}
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        atol = 1e-9 * np.abs(expected).max()
        assert atol > 0, f"{path} is zero: nothing is compared"
        np.testing.assert_allclose(ours[path], expected, 1e-9, atol, err_msg=path)


def draw(model, *inputs):
    """Normal weights and scores in float64, Kaiming's but for embedded words of size 1,
    and fresh running statistics."""
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

    def normal(path, leaf):
        embedded = path[-1].key == "embedding"
        deviation = 1 if embedded else math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return deviation * rng.standard_normal(leaf.shape)

    params = variables["params"]
    scores, weights = (jax.tree.map_with_path(normal, params) for _ in range(2))
    statistics = jax.tree.map_with_path(
        lambda path, leaf: np.full(leaf.shape, float(path[-1].key == "var")),
        variables.get("batch_stats", {}),
    )
    return scores, weights, statistics


@partial(jax.jit, static_argnames=("model", "subnetwork", "optimizer"))
def train(
    scores,
    statistics,
    opt_state,
    weights,
    inputs,
    labels,
    *,
    model,
    subnetwork,
    optimizer,
):
    """(scores, statistics, opt_state) after a step, its logits and its gradients."""

    def loss_of(scores):
        params = subnetwork.prune(scores, weights)
        logits, updated = model.apply(
            {"params": params, "batch_stats": statistics},
            *inputs,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), (logits, updated.get("batch_stats", {}))

    gradients, (logits, statistics) = jax.grad(loss_of, has_aux=True)(scores)
    updates, opt_state = optimizer.update(gradients, opt_state, scores)
    scores = optax.apply_updates(scores, updates)
    return (scores, statistics, opt_state), logits, gradients


def average_biased_variances(peer, steps):
    """As the library's running variances do; PyTorch's are of unbiased ones."""
    start = 0.9**steps
    for norm, n in peer.averaged.items():
        variance = peer.statistics[f"{norm}/var"]
        variance.copy_(start + (variance - start) * (n - 1) / n)


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize(("name", "network", "inputs"), CASES)
def test_training_and_evaluation_are_pytorchs(name, network, inputs):
    """Two edge-popup steps, and an evaluation with the statistics that they leave."""
    rng = np.random.default_rng(1)
    batches = [inputs(rng) for _ in range(STEPS)]
    labels = rng.integers(0, CLASSES, (STEPS, BATCH))
    subnetwork = Subnetwork(sparsity=SPARSITY)
    optimizer = sgd_optimizer(
        optax.constant_schedule(RATE), momentum=MOMENTUM, weight_decay=DECAY
    )
    model = build_network(
        name, num_classes=CLASSES, width=1 / 16, dtype=jnp.dtype("float64")
    )
    if "lstm" in name:
        model = model.clone(dropout=0.0)  # its draws differ from PyTorch's
    static = {"model": model, "subnetwork": subnetwork, "optimizer": optimizer}
    with jax.enable_x64(True):
        scores, weights, statistics = draw(model, *batches[0])
        peer = Peer(
            network,
            *map(flat, (weights, scores, statistics)),
            sparsity=SPARSITY,
            learning_rate=RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
        )
        state = scores, statistics, optimizer.init(scores)
        for batch, answers in zip(batches, labels, strict=True):
            state, logits, gradients = train(*state, weights, batch, answers, **static)
            theirs = tuple(map(channels_first, batch))
            expected = peer.train(theirs, torch.tensor(answers))
            expected_gradients = {k: s.grad for k, s in peer.trained.items()}
            assert logits.dtype == jnp.float64
            assert_close({"logits": logits}, {"logits": expected})
            assert_close(flat(gradients), expected_gradients)
            assert_close(flat(state[0]), peer.trained)

        scores, statistics, _ = state
        average_biased_variances(peer, STEPS)
        assert_close(flat(statistics), peer.statistics)
        pruned = jax.jit(subnetwork.prune)(scores, weights)
        variables = {"params": pruned, "batch_stats": statistics}
        logits = jax.jit(model.apply)(variables, *batches[0])
        theirs = tuple(map(channels_first, batches[0]))
        expected = peer.logits(theirs, train=False)
        assert_close({"logits": logits}, {"logits": expected})
