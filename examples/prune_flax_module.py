"""IteRand for a Flax module of one's own: `python examples/prune_flax_module.py`.

The module knows nothing of it. Its parameters give the shapes; a method makes of them
scores, which train, and random weights, which do not.
"""

import flax.linen as nn
import jax
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from iterand_jax import Subnetwork, iterand


class Classifier(nn.Module):
    """Two convolutions and a linear layer."""

    @nn.compact
    def __call__(self, pixels):
        """(N, 64) pixels to (N, 10) logits."""
        x = pixels.reshape(-1, 8, 8, 1) / 16
        for channels in (32, 64):
            x = nn.relu(nn.Conv(channels, (3, 3), strides=2, use_bias=False)(x))
        return nn.Dense(10, use_bias=False)(x.reshape(len(x), -1))


x, test_x, y, test_y = train_test_split(*load_digits(return_X_y=True), random_state=0)
model, key = Classifier(), jax.random.key(0)
subnetwork = Subnetwork(sparsity=0.5, distribution="signed_constant")
method = iterand(subnetwork, k_per=10, sampling_rate=0.1)
scores, weights = method.init(key, model.init(key, x)["params"])
optimizer = optax.sgd(1.0, momentum=0.9)
state = optimizer.init(scores)


@jax.jit
def train_step(scores, state, weights):
    """One step on the scores."""

    def loss(scores):
        logits = model.apply({"params": method.params(scores, weights)}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state


for step in range(1, 201):
    scores, state = train_step(scores, state, weights)
    if step % method.refresh_every == 0:
        weights, _ = method.refresh(key, step, scores, weights)

params = method.params(scores, weights)
accuracy = (model.apply({"params": params}, test_x).argmax(1) == test_y).mean()
total, kept = subnetwork.count(params)
print(f"{accuracy:.1%} of the test digits with {kept:,} of {total:,} random weights")
