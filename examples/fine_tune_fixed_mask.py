"""Fine-tuning under a fixed mask with AdamW: `python examples/fine_tune_fixed_mask.py`.

Four fifths of a network's weights are removed by magnitude; those that are kept go
on training. `fixed_mask` masks the parameters in each step, so that the mask holds
whatever the optimizer does: momentum, weight decay, or noise.
"""

import flax.linen as nn
import jax
import optax
from sklearn import datasets, model_selection

from iterand_jax import Subnetwork, fixed_mask, save_ticket, sgd
from iterand_jax.methods.magnitude import magnitude_masks

digits = datasets.load_digits(return_X_y=True)
x, test_x, y, test_y = model_selection.train_test_split(*digits, random_state=0)
model = nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(10)])
optimizer = optax.adamw(0.003, weight_decay=0.01)


def fit(method, params, steps):
    """Trains the weights by a method, and returns the parameters it ends with."""
    weights, frozen = method.init(jax.random.key(0), params)
    state = optimizer.init(weights)

    @jax.jit
    def train_step(weights, state, frozen):
        def loss(weights):
            logits = model.apply({"params": method.params(weights, frozen, 0)}, x / 16)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(steps):
        weights, state = train_step(weights, state, frozen)
    params = method.params(weights, frozen, 0)
    guesses = model.apply({"params": params}, test_x / 16).argmax(1)
    print(f"{(guesses == test_y).mean():.1%} of the test digits")
    return params


given = Subnetwork(distribution=None)  # starts from the weights that it is given
params = fit(sgd(given), model.init(jax.random.key(0), x)["params"], 200)
masks = magnitude_masks(given, params, sparsity=0.8)
params = fit(fixed_mask(masks), params, 300)
save_ticket("fine_tuned.safetensors", params, masks)
kept = sum(int((layer["kernel"] != 0).sum()) for layer in params.values())
print(f"{kept:,} of {given.count(params)[0]:,} weights are kept")
