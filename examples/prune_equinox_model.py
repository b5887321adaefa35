"""Edge-popup for an Equinox model: `python examples/prune_equinox_model.py`.

Equinox (`pip install equinox`) stores weights as (outputs, inputs), which the rules
have to state, and a model is arrays and functions in one tree: `partition` takes the
arrays out, `combine` puts the pruned ones back. For Flax NNX, `nnx.split` and
`nnx.merge` are these two.
"""

import equinox as eqx
import jax
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from iterand_jax import OUTPUTS_FIRST_RULES, Subnetwork

pixels, labels = load_digits(return_X_y=True)
x, test_x, y, test_y = train_test_split(pixels / 16, labels, random_state=0)
key = jax.random.key(0)
model = eqx.nn.MLP(64, 10, width_size=256, depth=2, use_bias=False, key=key)
arrays, functions = eqx.partition(model, eqx.is_array)
subnetwork = Subnetwork(sparsity=0.5, rules=OUTPUTS_FIRST_RULES)
scores, weights = subnetwork.init(key, arrays)
optimizer = optax.sgd(1.0, momentum=0.9)
state = optimizer.init(scores)


def logits_of(scores, weights, x):
    """The logits of the pruned model for inputs (N, 64)."""
    return jax.vmap(eqx.combine(subnetwork.prune(scores, weights), functions))(x)


@jax.jit
def train_step(scores, state, weights):
    """One step on the scores."""

    def loss(scores):
        logits = logits_of(scores, weights, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state


for _ in range(200):
    scores, state = train_step(scores, state, weights)

accuracy = (logits_of(scores, weights, test_x).argmax(1) == test_y).mean()
total, kept = subnetwork.count(arrays)
print(f"{accuracy:.1%} of the test digits with {kept:,} of {total:,} random weights")
