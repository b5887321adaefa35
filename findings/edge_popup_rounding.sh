#!/usr/bin/env bash
# Question: after how many steps do two versions of jax part in the scores, the masks and
#   the loss of edge-popup, from one state and the same batches, on one CPU?
# Guess: all at step 1 in float32, masks by step 10; in bfloat16 all at step 1.
# Seen: (28 November 2026, jax 0.11.1 and 0.12.0.1, digits, batch 128) in float32 the
#   scores part at step 3, but no mask flips and the loss stays the same to the last bit
#   (it was so for 1,000 steps): the network has only the masks of the scores, so their
#   rounding does not reach it. The same network with trained weights parts in its loss at
#   step 3. In bfloat16 the scores part at step 1, the first of 132,496 masks at step 14.
#   Table "Numbers of one network", which has more versions, cores and instructions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > digits.py <<'PYTHON'
import numpy as np
from sklearn.datasets import load_digits
d = load_digits(); g = np.random.default_rng(0); o = g.permutation(1797)
x = (d.images[o, :, :, None] / 16).astype(np.float32); y = d.target[o].astype(np.int32)
def sc(shape, fan): return (g.choice([-1, 1], shape) * np.sqrt(2 / fan)).astype(np.float32)
w = {"conv": sc((3,3,1,16), 9), "dense": sc((1024, 128), 1024), "out": sc((128, 10), 128)}
s = {"scores_" + n: (g.uniform(-1, 1, a.shape) * np.sqrt(6 / a[..., 0].size)).astype(np.float32) for n, a in w.items()}
np.savez("digits.npz", x=x[:1437], y=y[:1437], x_test=x[1437:], y_test=y[1437:], **w, **s)
PYTHON
cat > net.py <<'PYTHON'
"""Edge-popup on the digits: steps of one seed; writes losses, scores, masks, answers."""
import sys

import jax
import jax.numpy as jnp
import numpy as np

file, dtype, steps = sys.argv[1], jnp.dtype(sys.argv[2]), int(sys.argv[3])
dense = sys.argv[4:] == ["dense"]
data = np.load("digits.npz")
x, y, x_test = data["x"], data["y"], data["x_test"]
weights = {name: data[name] for name in ("conv", "dense", "out")}
scores = {name: data["scores_" + name] for name in weights}
rate = 0.01 if dense else 0.1
momentum = {name: np.zeros_like(s) for name, s in scores.items()}


def kept(s):  # the larger half of the absolute values
    flat = jnp.abs(s).ravel()
    return (jnp.abs(s) >= jnp.sort(flat)[flat.size // 2]).astype(s.dtype)


@jax.custom_vjp
def mask(s):
    return kept(s)


mask.defvjp(lambda s: (kept(s), jnp.sign(s)), lambda sign, g: (g * sign,))


def logits(scores, x):
    w = {n: (s if dense else mask(s) * weights[n]).astype(dtype) for n, s in scores.items()}
    h = jax.lax.conv_general_dilated(
        x.astype(dtype), w["conv"], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    h = jax.nn.relu(h).reshape(len(x), -1)
    return (jax.nn.relu(h @ w["dense"]) @ w["out"]).astype(jnp.float32)


def loss(scores, x, y):
    return -jnp.take_along_axis(
        jax.nn.log_softmax(logits(scores, x)), y[:, None], 1
    ).mean()


@jax.jit
def step(scores, momentum, x, y):
    value, g = jax.value_and_grad(loss)(scores, x, y)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, g)
    scores = jax.tree.map(lambda s, m: s - rate * m, scores, momentum)
    return scores, momentum, value


kept_rows = {name: [] for name in scores}
losses, rows = [], []
for i in range(steps):
    batch = np.random.default_rng(i).integers(0, len(x), 128)
    scores, momentum, value = step(scores, momentum, x[batch], y[batch])
    losses.append(np.float32(value))
    for n, s in scores.items():
        kept_rows[n].append(np.packbits(np.asarray(kept(s)) > 0))
    rows.append(np.concatenate([np.asarray(s).ravel() for s in scores.values()]))
    if i + 1 in (100, steps):
        answers = np.asarray(jax.jit(logits)(scores, x_test).argmax(1))
masks = np.stack([np.concatenate([kept_rows[n][i] for n in scores]) for i in range(steps)])
np.savez(file, losses=losses, masks=masks, first=np.stack(rows[:40]), answers=answers)
right = (answers == data["y_test"]).mean()
print(f"jax {jax.__version__}: loss {losses[-1]:.4f}, {right:.1%} of the test digits")
PYTHON
"${PYTHON:-python3.13}" -m venv 0.11.1
0.11.1/bin/pip install --quiet jax==0.11.1 jaxlib==0.11.1 numpy==2.4.6 \
  scikit-learn==1.9.1
"${PYTHON:-python3.13}" -m venv 0.12.0.1
0.12.0.1/bin/pip install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 numpy==2.4.6 \
  scikit-learn==1.9.1
for jax in 0.11.1 0.12.0.1; do
  [ -e digits.npz ] || "$jax/bin/python" digits.py
  "$jax/bin/python" net.py "$jax.float32.npz" float32 40
  "$jax/bin/python" net.py "$jax.bfloat16.npz" bfloat16 40
  "$jax/bin/python" net.py "$jax.dense.npz" float32 40 dense
done
0.12.0.1/bin/python - <<'PYTHON'
import numpy as np

seen = {}
for kind in ("float32", "bfloat16", "dense"):
    one, other = (np.load(f"{jax}.{kind}.npz") for jax in ("0.11.1", "0.12.0.1"))
    for name in ("first", "masks", "losses"):
        parted = one[name].reshape(40, -1) != other[name].reshape(40, -1)
        steps = np.flatnonzero(parted.any(1))
        seen[kind, name] = int(steps[0]) + 1 if len(steps) else None
    print(
        f"{kind}: scores part at step {seen[kind, 'first']}, masks at "
        f"{seen[kind, 'masks']}, losses at {seen[kind, 'losses']}, of 40"
    )
assert seen["float32", "first"] and not seen["float32", "masks"], seen
assert not seen["float32", "losses"], seen
assert seen["dense", "losses"], seen
assert seen["bfloat16", "losses"] == 1 and seen["bfloat16", "masks"], seen
PYTHON
