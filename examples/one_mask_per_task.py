"""Ten tasks for one random network: `python examples/one_mask_per_task.py`.

Five tasks are the ten digits with permuted pixels, five are pairs of digits (0 or 1, 2
or 3, ...). The weights are random and stay what they are; each task has a mask of its
own, so what is learned later changes nothing of what was learned before. One file has
all masks, at most one bit for a weight and task; the weights follow from the seed.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets, model_selection

from iterand_jax import Subnetwork, load_ticket, save_ticket

digits = datasets.load_digits(return_X_y=True)
x, test_x, y, test_y = model_selection.train_test_split(*digits, random_state=0)
shapes = {"first": (64, 256), "last": (256, 10)}
params = {name: {"kernel": jnp.zeros(shape)} for name, shape in shapes.items()}
subnetwork, optimizer = Subnetwork(0.7, "signed_constant"), optax.sgd(1.0, momentum=0.9)
scores, weights = subnetwork.init(jax.random.key(0), params)


def task(number, x, y):
    """Pixels, labels, and which examples are asked for."""
    if number < 5:
        order = np.random.default_rng(number).permutation(64)
        return x[:, order] / 16, y, np.ones(len(y))
    first = 2 * (number - 5)
    return x / 16, np.clip(y - first, 0, 1), (y // 2 == number - 5).astype(float)


@jax.jit
def answer(masks, x):
    """The logits of the network under the masks of a task."""
    first, last = (weights[name]["kernel"] * masks[name]["kernel"] for name in shapes)
    return jax.nn.relu(x @ first) @ last


@jax.jit
def train_step(scores, state, x, y, asked):
    """One step on the scores of a task."""

    def loss(scores):
        first, last = (p["kernel"] for p in subnetwork.prune(scores, weights).values())
        logits = jax.nn.relu(x @ first) @ last
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return (losses * asked).sum() / asked.sum()

    updates, state = optimizer.update(jax.grad(loss)(scores), state)
    return optax.apply_updates(scores, updates), state


found, first_answers = [], []
for number in range(10):
    learned, state = scores, optimizer.init(scores)
    for _ in range(200):
        learned, state = train_step(learned, state, *task(number, x, y))
    found.append(subnetwork.masks(learned))
    inputs, labels, asked = task(number, test_x, test_y)
    first_answers.append(answer(found[-1], inputs))
    right = ((first_answers[-1].argmax(1) == labels) * asked).sum() / asked.sum()
    print(f"task {number}: {right:.1%} of the test digits")

masks = jax.tree.map(lambda *of_tasks: jnp.stack(of_tasks), *found)
save_ticket("tasks.safetensors", jax.tree.map(jnp.ones_like, masks), masks)
masks = load_ticket("tasks.safetensors", like=masks).params  # 1 kept, 0 pruned
size = 8 * Path("tasks.safetensors").stat().st_size
print(
    f"{size / sum(m.size for m in jax.tree.leaves(masks)):.3f} bits a weight and task"
)
for number, before in enumerate(first_answers):
    of_task = {name: {"kernel": masks[name]["kernel"][number]} for name in shapes}
    now = answer(of_task, task(number, test_x, test_y)[0])
    print(f"task {number}: {int((now != before).sum())} logits have changed")
