"""Masks over pretrained weights: `python examples/mask_pretrained_mlp.py`.

scikit-learn trains a network. With `distribution=None` its weights are kept as they
are, and edge-popup trains scores that choose half of them.
"""

import jax
import numpy as np
import optax
from sklearn import datasets, model_selection, neural_network

from iterand_jax import Subnetwork, load_ticket, save_ticket

digits = datasets.load_digits(return_X_y=True)
x, test_x, y, test_y = model_selection.train_test_split(*digits, random_state=0)
dense = neural_network.MLPClassifier((128, 64), random_state=0).fit(x / 16, y)
pretrained = {
    f"layer_{i}": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    for i, (kernel, bias) in enumerate(
        zip(dense.coefs_, dense.intercepts_, strict=True)
    )
}


def logits_of(params, x):
    """(N, 64) pixels to (N, 10) logits."""
    *hidden, last = params.values()
    x = x / 16
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


subnetwork = Subnetwork(sparsity=0.5, distribution=None)  # keeps what it is given
scores, weights = subnetwork.init(jax.random.key(0), pretrained)
optimizer = optax.adam(0.003)
state = optimizer.init(scores)


@jax.jit
def train_step(scores, state, weights):
    """One step on the scores."""

    def loss(scores):
        logits = logits_of(subnetwork.prune(scores, weights), x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state


for _ in range(200):
    scores, state = train_step(scores, state, weights)

save_ticket("mlp.safetensors", weights, subnetwork.masks(scores))
params = load_ticket("mlp.safetensors", like=pretrained).params
for name, found in (("dense", pretrained), ("masked", params)):
    accuracy = (logits_of(found, test_x).argmax(1) == test_y).mean()
    print(f"{name}: {accuracy:.1%} of the test digits")
