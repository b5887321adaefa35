"""Edge-popup for a small vision transformer in Flax Linen, on handwritten digits.

    python examples/prune_linen_vit.py

Its attention has kernels of three axes, of which one or two are inputs. `rules_of`
reads from the modules which, so that each weight is drawn for what its layer sums over.
"""

import flax.linen as nn
import jax
import optax
from sklearn import datasets, model_selection

from iterand_jax import Subnetwork, load_ticket, rules_of, save_ticket


class Block(nn.Module):
    """Attention of four heads and a layer of features, each with its residual."""

    @nn.compact
    def __call__(self, x):
        """(N, patches, features), as it returns."""
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
        return x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))


class ViT(nn.Module):
    """Two blocks over 16 patches of 2 x 2 pixels."""

    @nn.compact
    def __call__(self, pixels):
        """(N, 64) pixels to (N, 10) logits."""
        x = nn.Conv(64, (2, 2), strides=2)(pixels.reshape(-1, 8, 8, 1) / 16)
        x = x.reshape(len(x), 16, 64) + jax.random.normal(jax.random.key(0), (16, 64))
        for _ in range(2):
            x = Block()(x)
        return nn.Dense(10)(nn.LayerNorm()(x).mean(axis=1))


digits = datasets.load_digits(return_X_y=True)
x, test_x, y, test_y = model_selection.train_test_split(*digits, random_state=0)
model, key = ViT(), jax.random.key(1)
subnetwork = Subnetwork(sparsity=0.5, rules=rules_of(model, x[:1]))
params = model.init(key, x[:1])["params"]
scores, weights = subnetwork.init(key, params)
optimizer = optax.adam(optax.cosine_decay_schedule(0.01, 150))
state = optimizer.init(scores)


@jax.jit
def train_step(scores, state, weights):
    """One step on the scores."""

    def loss(scores):
        logits = model.apply({"params": subnetwork.prune(scores, weights)}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state


for _ in range(150):
    scores, state = train_step(scores, state, weights)

drawn, masks = {"subnetwork": subnetwork, "key": key}, subnetwork.masks(scores)
save_ticket("vit.safetensors", weights, masks, **drawn)  # masks and the seed
params = load_ticket("vit.safetensors", like=params).params
accuracy = (model.apply({"params": params}, test_x).argmax(1) == test_y).mean()
print(f"{accuracy:.1%} of the test digits, no weight was trained")
