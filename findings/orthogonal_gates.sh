#!/usr/bin/env bash
# Question: what is orthogonal after torch.nn.init.orthogonal_(lstm.weight_hh_l0), and in
#           the recurrent kernels of Keras, Flax Linen and Flax NNX?
# Guess:    the matrix of each gate in Linen; all gates together, with a quarter of the
#           variance, in Keras and NNX: right. None for PyTorch.
# Seen:     torch 2.13.0, keras 3.15.1, flax 0.12.8, 28 November 2026. Only Linen's. In
#           the others the four (GRU: three) gates share one matrix, whose columns are
#           orthonormal together: each gate has a quarter (a third) of the variance, and
#           singular values from near 0 to below 1 in place of exactly 1. So Linen's and
#           NNX's OptimizedLSTMCell, of one name in one package, start with recurrent
#           weights that differ by a factor of two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 keras==3.15.1 \
  jax==0.10.1 jaxlib==0.10.1 flax==0.12.8 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu KERAS_BACKEND=jax venv/bin/python -W ignore - <<'END'
import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import linen, nnx

UNITS, INPUTS = 256, 128
x, carry = jnp.ones((1, INPUTS)), (jnp.ones((1, UNITS)),) * 2
torch.manual_seed(0)
lstm = torch.nn.LSTM(INPUTS, UNITS)
torch.nn.init.orthogonal_(lstm.weight_hh_l0)
layers = {name: getattr(keras.layers, name)(UNITS) for name in ("LSTM", "GRU")}
for layer in layers.values():
    layer(jnp.ones((1, 3, INPUTS)))
of_nnx = nnx.OptimizedLSTMCell(INPUTS, UNITS, rngs=nnx.Rngs(0))
gru_of_nnx = nnx.GRUCell(INPUTS, UNITS, rngs=nnx.Rngs(0))
cell = linen.OptimizedLSTMCell(UNITS).init(jax.random.key(0), carry, x)["params"]
gru = linen.GRUCell(UNITS).init(jax.random.key(0), carry[0], x)["params"]


def split(kernel, gates):
    return np.split(np.asarray(kernel), gates, axis=1)


gates = {
    "torch LSTM": split(lstm.weight_hh_l0.detach().T, 4),
    "Keras LSTM": split(layers["LSTM"].cell.recurrent_kernel, 4),
    "Keras GRU": split(layers["GRU"].cell.recurrent_kernel, 3),
    "NNX OptimizedLSTMCell": split(of_nnx.dense_h.kernel[...], 4),
    "NNX GRUCell": split(gru_of_nnx.dense_h.kernel[...], 3),
    "Linen OptimizedLSTMCell": [cell[f"h{g}"]["kernel"] for g in "ifgo"],
    "Linen GRUCell": [gru[f"h{g}"]["kernel"] for g in "rzn"],
}
for name, matrices in gates.items():
    number = len(matrices)
    variance = UNITS * np.var(np.concatenate(matrices))
    values = np.concatenate([np.linalg.svd(m, compute_uv=False) for m in matrices])
    low, high = values.min(), values.max()
    print(f"{name}: variance x units {variance:.3f}, singular values {low:.3f} to {high:.3f}")
    if name.startswith("Linen"):
        assert abs(variance - 1) < 1e-3
        assert 0.999 < low and high < 1.001
    else:
        assert abs(variance - 1 / number) < 1e-3
        assert low < 0.05 and high < 0.97
END
