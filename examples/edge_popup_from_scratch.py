"""Edge-popup and IteRand from nothing but jax, on handwritten digits.

    python examples/edge_popup_from_scratch.py

The weights of a random network are never trained. Each weight gets a score instead,
each layer keeps the half of its weights with the largest scores, and gradient descent
trains the scores: edge-popup. IteRand also resamples pruned weights every K_PER steps:
these were of no use, and new ones may be, so a smaller network is enough.

    Chijiwa, Yamaguchi, Ida, Umakoshi, Inoue: "Pruning Randomly Initialized Neural
    Networks with Iterative Randomization", NeurIPS 2021 (arXiv 2106.09269)

Places where implementations silently go wrong are marked TRAP. The library
appears once, at the end: its masks and its redraws are these, bit for bit.
"""

import math
import zlib

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

SHAPES = {"first": (64, 64), "second": (64, 64), "third": (64, 10)}
SPARSITY = 0.5  # TRAP: the fraction *removed*; some code calls the fraction kept so.
K_PER, SAMPLING_RATE = 10, 0.1  # each pruned weight is redrawn with this probability
STEPS, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 400, 2.0, 0.9, 1e-4


def mask_of(scores):
    """1 for the weights of a layer with the largest scores, 0 for the others."""
    # TRAP: the scores are ranked as they are, not by their absolute value.
    smallest_kept = jnp.sort(scores, axis=None)[round(SPARSITY * scores.size)]
    return (scores >= smallest_kept).astype(scores.dtype)


# A step function has no useful derivative. "Straight-through" pretends that the mask
# is the scores themselves: the gradient of the one is given to the other.
# TRAP: the shortcut scores + stop_gradient(mask - scores) is not exactly 0 or 1.
straight_through = jax.custom_vjp(mask_of)
straight_through.defvjp(
    lambda scores: (mask_of(scores), None),
    lambda _, gradient: (gradient,),  # TRAP: also for pruned weights, or none returns
)


def logits_of(scores, weights, x):
    """A network of three layers, without biases."""
    for name in SHAPES:
        x = x @ (weights[name] * straight_through(scores[name]))
        x = x if name == "third" else jax.nn.relu(x)
    return x


def random_words(key, purpose, name):
    """31 random bits for each weight of a layer, whatever else the network has."""
    # TRAP: a key that is split and passed on makes a resumed run differ. One root key,
    # into which purpose and place are folded, gives the same numbers at any time.
    key = jax.random.fold_in(key, zlib.crc32(f"{purpose}:{name}".encode()))
    words = jax.random.bits(key, (math.prod(SHAPES[name]),), jnp.uint32)
    return (words >> 1).reshape(SHAPES[name])


def kaiming_uniform(words, name, bound=1.0):
    """Words below bound * 2**31 to numbers in U[-sqrt(6 / f), sqrt(6 / f)]."""
    uniform = (words.astype(jnp.float32) + 0.5) * (2.0**-31 / jnp.float32(bound))
    fan_in = SHAPES[name][0]
    return (2 * jnp.minimum(uniform, 1 - 2**-24) - 1) * math.sqrt(6 / fan_in)


def draw(key, purpose):
    """Weights or scores of all layers. TRAP: scores start random too, not at zero."""
    return {n: kaiming_uniform(random_words(key, purpose, n), n) for n in SHAPES}


@jax.jit
def rerandomize(key, scores, weights):
    """Resamples a random part of the pruned weights; the network's output stays."""

    def one_layer(name):
        # One word serves twice: below the bound, the weight is resampled, and the
        # position of the word below it determines the new value.
        words = random_words(key, "redraw", name)
        fresh = kaiming_uniform(words, name, SAMPLING_RATE)
        chosen = words < round(SAMPLING_RATE * 2**31)
        # TRAP: chosen, not blended by multiplication: what is kept keeps its bits.
        return jnp.where(chosen & (mask_of(scores[name]) == 0), fresh, weights[name])

    return {name: one_layer(name) for name in SHAPES}


# TRAP: weights is an argument. What a jitted function finds outside is a constant to
# it: the first redraw would change nothing any more.
@jax.jit
def train_step(scores, velocity, weights, x, y):
    """One step of gradient descent with momentum, on the scores alone."""

    def loss(scores):
        chances = jax.nn.log_softmax(logits_of(scores, weights, x))
        return -jnp.mean(jnp.take_along_axis(chances, y[:, None], axis=1))

    def update(speed, score, gradient):
        return MOMENTUM * speed + gradient + WEIGHT_DECAY * score

    velocity = jax.tree.map(update, velocity, scores, jax.grad(loss)(scores))
    scores = jax.tree.map(lambda s, v: s - LEARNING_RATE * v, scores, velocity)
    return scores, velocity


def train(key, x, y, *, redraw):
    """IteRand, or edge-popup without redraws: (scores, weights) after all steps."""
    scores, weights = draw(key, "scores"), draw(key, "weights")
    velocity = jax.tree.map(jnp.zeros_like, scores)
    for step in range(1, STEPS + 1):
        scores, velocity = train_step(scores, velocity, weights, x, y)
        if redraw and step % K_PER == 0:
            weights = rerandomize(jax.random.fold_in(key, step), scores, weights)
    return scores, weights


def check_against_the_library(key, scores, weights):
    """The same draws, masks and redraws as iterand_jax's, bit for bit."""
    from iterand_jax import Rule, Subnetwork

    library = Subnetwork(SPARSITY, "kaiming_uniform", rules=(Rule("*", prune=True),))
    first = draw(key, "scores"), draw(key, "weights")
    new = rerandomize(key, scores, weights)
    for ours, theirs in (
        (first, library.init(key, weights)),
        (jax.tree.map(mask_of, scores), library.masks(scores)),
        (new, library.rerandomize(key, scores, weights, SAMPLING_RATE)),
    ):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, ours, theirs))


if __name__ == "__main__":
    key = jax.random.key(0)
    images, labels = load_digits(return_X_y=True)
    order = jax.random.permutation(key, len(labels))
    images, labels = jnp.float32(images / 16)[order], jnp.array(labels)[order]
    for method, redraw in (("edge-popup", False), ("IteRand", True)):
        scores, weights = train(key, images[:1400], labels[:1400], redraw=redraw)
        guesses = jnp.argmax(logits_of(scores, weights, images[1400:]), axis=1)
        accuracy = jnp.mean(guesses == labels[1400:])
        print(f"{method}: {accuracy:.1%} of the test digits, no weight was trained")
    check_against_the_library(key, scores, weights)
    print("draws, masks and redraws equal the library's, bit for bit")
