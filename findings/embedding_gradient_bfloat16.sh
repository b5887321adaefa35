#!/usr/bin/env bash
# Question: which gradient does the row of a token get that occurs 16,000 times in a batch,
#           each time with the gradient 1, when the embedding is in bfloat16?
# Guess:    256 in PyTorch: right. In JAX 16,000, rounded once: wrong.
# Seen:     torch 2.13.0 and jax 0.10.1, CPU, 28 November 2026. 256 in both (2,048 in
#           float16): added one by one in bfloat16, where 256 + 1 is 256. Gradients of
#           both signs are off by up to tens of percent (not shown here). Rows looked up in
#           float32 and then rounded get 16,000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 jax==0.10.1 jaxlib==0.10.1 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'END'
import jax
import jax.numpy as jnp
import numpy as np
import torch

tokens = np.zeros(16_000, int)
seen = {}
for name in ("bfloat16", "float16", "float32"):
    embedding = torch.nn.Embedding(10, 4).to(getattr(torch, name))
    embedding(torch.from_numpy(tokens)).sum().backward()
    seen["torch", name] = float(embedding.weight.grad[0, 0])


def total(table, dtype, late):
    """The table in a dtype, and its rows; or its rows, and they in the dtype."""
    rows = table[tokens].astype(dtype) if late else table.astype(dtype)[tokens]
    return rows.sum(dtype=jnp.float32)


gradient = jax.jit(jax.grad(total), static_argnums=(1, 2))
for late in (False, True):
    row = gradient(jnp.ones((10, 4)), "bfloat16", late)[0, 0]
    seen["jax", "rows rounded" if late else "table rounded"] = float(row)
for name, value in seen.items():
    print(*name, value)
assert seen == {
    ("torch", "bfloat16"): 256,
    ("torch", "float16"): 2048,
    ("torch", "float32"): 16_000,
    ("jax", "table rounded"): 256,
    ("jax", "rows rounded"): 16_000,
}
END
