"""State dicts of Conv2 in PyTorch's layout, for tests without PyTorch."""

import numpy as np

from iterand_jax.tickets import conversion, states
from iterand_jax.tickets.conversion import Pruning

CHANNELS, CLASSES, SIDE = 4, 5, 8
WIDTH = 1 / 16
SHAPES = {  # of Conv2, as PyTorch has it
    "features.0.weight": (CHANNELS, 3, 3, 3),
    "features.2.weight": (CHANNELS, CHANNELS, 3, 3),
    "classifier.0.weight": (16, CHANNELS * 16),
    "classifier.2.weight": (16, 16),
    "classifier.4.weight": (CLASSES, 16),
}


def drawn(shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def scored(suffix="scores"):
    scores = {n.replace("weight", suffix): x for n, x in drawn(seed=1).items()}
    return drawn() | scores


def converted(tensors, pruning=None, name="conv2", width=WIDTH, rename=(), **options):
    state = states.state_of(tensors, rename, options.pop("ignore", ()))
    return conversion.convert(state, name, pruning or Pruning(), width=width, **options)


def kernels(tree):
    return {name: leaf["kernel"] for name, leaf in tree.items()}
