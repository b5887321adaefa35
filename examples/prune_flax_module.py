"""IteRand for a custom Flax module: `python examples/prune_flax_module.py`.

The module knows nothing of it. Its parameters give the shapes; a method makes of them
scores, which train, and random weights, which do not.
"""

import flax.linen as nn
import jax
import optax
from sklearn import datasets, model_selection

from iterand_jax import Subnetwork, iterand


class Classifier(nn.Module):
    """Two convolutions and a linear layer."""

    @nn.compact
    def __call__(self, pixels):
        """(N, 64) pixels to (N, 10) logits."""
        x = nn.Conv(32, (3, 3), strides=2)(pixels.reshape(-1, 8, 8, 1) / 16)
        x = nn.Conv(64, (3, 3), strides=2)(nn.relu(x))
        return nn.Dense(10)(nn.relu(x).reshape(len(x), -1))


digits = datasets.load_digits(return_X_y=True)
x, test_x, y, test_y = model_selection.train_test_split(*digits, random_state=0)
model, optimizer, key = Classifier(), optax.sgd(1.0, momentum=0.9), jax.random.key(0)
method = iterand(Subnetwork(0.5, "signed_constant"), k_per=10, sampling_rate=0.1)
scores, weights = method.init(key, model.init(key, x)["params"])
state = optimizer.init(scores)


@jax.jit
def train_step(scores, state, weights, step):
    """One step on the scores."""

    def loss(scores):
        logits = model.apply({"params": method.params(scores, weights, step)}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state


for step in range(1, 201):
    scores, state = train_step(scores, state, weights, step)
    if step % method.refresh_every == 0:
        weights, _ = method.refresh(key, step, scores, weights)

answers = model.apply({"params": method.params(scores, weights, 200)}, test_x).argmax(1)
print(f"{(answers == test_y).mean():.1%} of the test digits, no weight was trained")
