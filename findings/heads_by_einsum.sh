#!/usr/bin/env bash
# Question: do the three ways of Flax to write the projection to 8 heads (256 -> 8 x 32)
#           start with the same variance? And 8 experts as one batched layer?
# Guess:    attention and vmap: 1: right. None for the others, which were found on the way.
# Seen:     flax 0.12.8, jax 0.10.1, 28 November 2026. MultiHeadDotProductAttention and
#           DenseGeneral give 1; Einsum with the same kernel (256, 8, 32) gives 1 / 8, in
#           Linen and NNX, since the initializer takes the head axis for the window of a
#           convolution. DenseGeneral with batch_dims and NNX's LinearGeneral with
#           batch_axis count the experts as inputs: 1 / 8, too. ConvLocal divides by all of
#           its positions. nn.vmap over Dense, which initializes slice by slice, gives 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.1 jaxlib==0.10.1 flax==0.12.8 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python -W ignore - <<'END'
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

KEY, WIDTH, HEADS, EACH, rngs = jax.random.key(0), 256, 8, 32, nnx.Rngs(0)
tokens, of_experts = jnp.ones((1, 4, WIDTH)), jnp.ones((HEADS, 4, WIDTH))


def linen(module, *inputs):
    return module.init(KEY, *inputs)["params"]


def stacked(features):
    return nn.vmap(
        nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}
    )(features)


attention = linen(nn.MultiHeadDotProductAttention(HEADS), tokens, tokens)
shape, equation = (WIDTH, HEADS, EACH), "bti,ihd->bthd"
kernels = {
    "attention": attention["query"]["kernel"],
    "DenseGeneral": linen(nn.DenseGeneral((HEADS, EACH)), tokens)["kernel"],
    "Einsum": linen(nn.Einsum(shape, equation, use_bias=False), tokens)["kernel"],
    "Einsum, NNX": nnx.Einsum(equation, shape, rngs=rngs).kernel[...],
    "experts, vmap": linen(stacked(64), of_experts)["kernel"],
    "experts, batch_dims": linen(nn.DenseGeneral(64, batch_dims=(0,)), of_experts)["kernel"],
    "experts, batch_axis, NNX": nnx.LinearGeneral(
        WIDTH, 64, batch_axis={0: HEADS}, rngs=rngs
    ).kernel[...],
}
for name, kernel in kernels.items():
    variance = WIDTH * float(np.var(np.asarray(kernel)))
    print(f"{name} {kernel.shape}: variance x inputs {variance:.3f}")
    wrong = "Einsum" in name or "batch" in name
    assert abs(variance / (1 / HEADS if wrong else 1) - 1) < 0.03
local = linen(nn.ConvLocal(16, (3,)), jnp.ones((1, 32, 64)))["kernel"]
variance = 3 * 64 * float(np.var(np.asarray(local)))
print(f"ConvLocal {local.shape}: variance x inputs {variance:.4f}")
assert abs(variance * 32 - 1) < 0.05
END
