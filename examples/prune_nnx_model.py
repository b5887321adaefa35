"""Edge-popup in NNX with BatchNorm and Dropout: `python examples/prune_nnx_model.py`.

`nnx.split` separates parameters, running statistics and streams of random numbers.
Inside a jitted function a model is merged with copy=True, so that it has its own
variables; it may update them there, and the updated state is split off and returned.
"""

import jax
import optax
from flax import nnx
from sklearn import datasets, model_selection

from iterand_jax import Subnetwork, load_ticket, save_ticket


class Classifier(nnx.Module):
    """A hidden layer with normalization and dropout."""

    def __init__(self, rngs):
        """Makes the layers."""
        self.first = nnx.Linear(64, 256, rngs=rngs)
        self.norm = nnx.BatchNorm(256, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        """(N, 64) pixels to (N, 10) logits."""
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


digits = datasets.load_digits(return_X_y=True)
x, test_x, y, test_y = model_selection.train_test_split(*digits, random_state=0)
graph, params, rest = nnx.split(Classifier(nnx.Rngs(0)), nnx.Param, ...)
key, subnetwork = jax.random.key(0), Subnetwork(sparsity=0.5)
scores, weights = subnetwork.init(key, params)
optimizer = optax.sgd(0.5, momentum=0.9)
state = optimizer.init(scores)


@jax.jit
def train_step(scores, state, weights, rest):
    """One step on the scores, and the statistics and streams after it."""

    def loss(scores):
        pruned = subnetwork.prune(scores, weights)
        model = nnx.merge(graph, pruned, rest, copy=True)
        logits = model(x)
        new_rest = nnx.state(model, nnx.Not(nnx.Param))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), new_rest

    gradients, rest = jax.grad(loss, has_aux=True)(scores)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(scores, updates), state, rest


for _ in range(200):
    scores, state, rest = train_step(scores, state, weights, rest)

statistics, streams = nnx.split_state(rest, nnx.BatchStat, ...)
drawn, masks = {"subnetwork": subnetwork, "key": key}, subnetwork.masks(scores)
save_ticket("nnx.safetensors", weights, masks, statistics, **drawn)
ticket = load_ticket("nnx.safetensors", like=params, batch_stats=statistics)
model = nnx.merge(graph, ticket.params, ticket.batch_stats, streams, copy=True)
model.eval()
accuracy = (model(test_x).argmax(1) == test_y).mean()
print(f"{accuracy:.1%} of the test digits, no weight was trained")
