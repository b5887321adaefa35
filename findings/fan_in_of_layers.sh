#!/usr/bin/env bash
# Question: by which fan-in do the He (Kaiming) initializers of six libraries divide, layer
#           by layer, and how many inputs does an output really sum?
# Guess:    right: dense, grouped, dilated and stacked layers, Keras's depthwise layer,
#           transposed convolutions (strides ignored by all), Haiku's truncation. Wrong:
#           Keras's attention (20 times too small). None: Einsum, batched layers,
#           ConvLocal, Bilinear.
# Seen:     torch 2.13.0, keras 3.15.1, flax 0.12.8, dm-haiku 0.0.17, equinox 0.13.8, jax
#           0.10.1, 28 November 2026. As the table below prints it: the guess was wrong for
#           Keras's attention (right there) and Flax's Einsum, batched DenseGeneral and
#           ConvLocal (too many inputs), and PyTorch's Bilinear, whose default divides by
#           64 of 4,096. With stride 2 a transposed convolution sums a quarter of its window;
#           no library divides by that, and four count its outputs as its inputs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 keras==3.15.1 dm-haiku==0.0.17 \
  equinox==0.13.8 jax==0.10.1 jaxlib==0.10.1 flax==0.12.8 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu KERAS_BACKEND=jax venv/bin/python -W ignore - <<'END'
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
from flax import linen as nn
from flax import nnx

KEY, C = jax.random.key(0), 256
keras.utils.set_random_seed(0)
torch.manual_seed(0)
image, row, sequence = jnp.ones((1, 8, 8, C)), jnp.ones((1, C)), jnp.ones((1, 4, C))
of_experts, carry = jnp.ones((8, 4, C)), (row, row)
HE = jax.nn.initializers.he_normal()
WINDOW = 9 * C
TRANSPOSED = WINDOW / 4  # at stride 2, on average over the outputs


def matrix(leaves, which=0):
    """The largest arrays, or the one that is asked for by its name."""
    if isinstance(which, str):
        return next(v for k, v in leaves.items() if which in k)
    return max(leaves.values(), key=lambda leaf: np.ndim(leaf) * 10**9 + np.size(leaf))


def named(tree):
    return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(tree)}


def linen(make, *inputs, which=0):
    return [
        matrix(named(make(**given).init(KEY, *inputs)["params"]), which)
        for given in ({}, {"kernel_init": HE})
    ]


def of_nnx(make, which=0):
    return [
        matrix(named(nnx.state(make(rngs=nnx.Rngs(0), **given), nnx.Param)), which)
        for given in ({}, {"kernel_init": HE})
    ]


def of_keras(make, *inputs, init="kernel_initializer", which=0):
    found = []
    for given in ({}, {init: "he_normal"}):
        layer = make(**given)
        layer(*inputs)
        found.append(matrix({w.path: np.asarray(w) for w in layer.weights}, which))
    return found


def haiku(make, *inputs):
    he = hk.initializers.VarianceScaling(2.0, "fan_in", "normal")
    return [
        matrix(named(hk.transform(lambda *x: make(**g)(*x)).init(KEY, *inputs)))
        for g in ({}, {"w_init": he})
    ]


def of_torch(module, which="weight"):
    weight = dict(module.named_parameters())[which]
    before = weight.detach().clone().numpy()
    torch.nn.init.kaiming_normal_(weight)
    return [before, weight.detach().numpy()]


def raw(*weights):
    return [None, np.asarray(weights[0])]


def equinox(module, which=".weight"):
    return [matrix(named(eqx.filter(module, eqx.is_array)), which), None]


L, T, E = keras.layers, torch.nn, eqx.nn
V = lambda module, **kw: nn.vmap(  # noqa: E731
    nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}
)(64, **kw)
experts = torch.empty(8, C, 64)
T.init.kaiming_normal_(experts)
ROWS = [  # layer, library, inputs that an output sums, (default, He) weights
    ("dense", "Linen", C, linen(lambda **k: nn.Dense(1024, **k), row)),
    ("dense", "NNX", C, of_nnx(lambda **k: nnx.Linear(C, 1024, **k))),
    ("dense", "Equinox", C, equinox(E.Linear(C, 1024, key=KEY))),
    ("dense", "Haiku", C, haiku(lambda **k: hk.Linear(1024, **k), row)),
    ("dense", "Keras", C, of_keras(lambda **k: L.Dense(1024, **k), row)),
    ("dense", "PyTorch", C, of_torch(T.Linear(C, 1024))),
    ("3x3, 32 groups", "Linen", 72, linen(lambda **k: nn.Conv(C, (3, 3), feature_group_count=32, **k), image)),
    ("3x3, 32 groups", "NNX", 72, of_nnx(lambda **k: nnx.Conv(C, C, (3, 3), feature_group_count=32, **k))),
    ("3x3, 32 groups", "Equinox", 72, equinox(E.Conv2d(C, C, 3, groups=32, key=KEY))),
    ("3x3, 32 groups", "Haiku", 72, haiku(lambda **k: hk.Conv2D(C, 3, feature_group_count=32, **k), image)),
    ("3x3, 32 groups", "Keras", 72, of_keras(lambda **k: L.Conv2D(C, 3, groups=32, **k), image)),
    ("3x3, 32 groups", "PyTorch", 72, of_torch(T.Conv2d(C, C, 3, groups=32))),
    ("3x3, dilated by 2", "Linen", WINDOW, linen(lambda **k: nn.Conv(C, (3, 3), kernel_dilation=2, **k), image)),
    ("3x3, dilated by 2", "Keras", WINDOW, of_keras(lambda **k: L.Conv2D(C, 3, dilation_rate=2, **k), image)),
    ("3x3, dilated by 2", "PyTorch", WINDOW, of_torch(T.Conv2d(C, C, 3, dilation=2))),
    ("3x3, depthwise", "Linen", 9, linen(lambda **k: nn.Conv(C, (3, 3), feature_group_count=C, **k), image)),
    ("3x3, depthwise", "Equinox", 9, equinox(E.Conv2d(C, C, 3, groups=C, key=KEY))),
    ("3x3, depthwise", "Haiku", 9, haiku(lambda **k: hk.DepthwiseConv2D(1, 3, **k), image)),
    ("3x3, depthwise", "Keras", 9, of_keras(lambda **k: L.DepthwiseConv2D(3, **k), image, init="depthwise_initializer")),
    ("3x3, depthwise", "PyTorch", 9, of_torch(T.Conv2d(C, C, 3, groups=C))),
    ("3x3 transposed, stride 2, to 32", "Linen", TRANSPOSED, linen(lambda **k: nn.ConvTranspose(32, (3, 3), strides=(2, 2), **k), image)),
    ("3x3 transposed, stride 2, to 32", "Linen, transpose_kernel", TRANSPOSED, linen(lambda **k: nn.ConvTranspose(32, (3, 3), strides=(2, 2), transpose_kernel=True, **k), image)),
    ("3x3 transposed, stride 2, to 32", "Equinox", TRANSPOSED, equinox(E.ConvTranspose2d(C, 32, 3, stride=2, key=KEY))),
    ("3x3 transposed, stride 2, to 32", "Haiku", TRANSPOSED, haiku(lambda **k: hk.Conv2DTranspose(32, 3, stride=2, **k), image)),
    ("3x3 transposed, stride 2, to 32", "Keras", TRANSPOSED, of_keras(lambda **k: L.Conv2DTranspose(32, 3, strides=2, **k), image)),
    ("3x3 transposed, stride 2, to 32", "PyTorch", TRANSPOSED, of_torch(T.ConvTranspose2d(C, 32, 3, stride=2))),
    ("query of 8 heads", "Linen", C, linen(lambda **k: nn.MultiHeadDotProductAttention(8, **k), sequence, sequence, which="query']['kernel")),
    ("query of 8 heads", "NNX", C, of_nnx(lambda **k: nnx.MultiHeadAttention(8, C, **k), which="query']['kernel")),
    ("query of 8 heads", "Equinox", C, equinox(E.MultiheadAttention(8, C, key=KEY), ".query_proj.weight")),
    ("query of 8 heads", "Keras", C, of_keras(lambda **k: L.MultiHeadAttention(8, 32, **k), sequence, sequence, which="query/kernel")),
    ("query of 8 heads", "PyTorch", C, of_torch(T.MultiheadAttention(C, 8), "in_proj_weight")),
    ("query of 8 heads by Einsum", "Linen", C, linen(lambda **k: nn.Einsum((C, 8, 32), "bti,ihd->bthd", use_bias=False, **k), sequence)),
    ("query of 8 heads by Einsum", "NNX", C, of_nnx(lambda **k: nnx.Einsum("bti,ihd->bthd", (C, 8, 32), **k))),
    ("query of 8 heads by Einsum", "Keras", C, of_keras(lambda **k: L.EinsumDense("bti,ihd->bthd", (None, 8, 32), **k), sequence)),
    ("8 experts", "Linen, vmap", C, linen(lambda **k: V(nn.Dense, **k), of_experts)),
    ("8 experts", "Linen, batch_dims", C, linen(lambda **k: nn.DenseGeneral(64, batch_dims=(0,), **k), of_experts)),
    ("8 experts", "NNX, batch_axis", C, of_nnx(lambda **k: nnx.LinearGeneral(C, 64, batch_axis={0: 8}, **k))),
    ("8 experts", "jax he_normal (8, 256, 64)", C, raw(HE(KEY, (8, C, 64)))),
    ("8 experts", "Keras HeNormal (8, 256, 64)", C, raw(keras.initializers.HeNormal(seed=1)((8, C, 64)))),
    ("8 experts", "PyTorch kaiming (8, 256, 64)", C, raw(experts.numpy())),
    ("LSTM, from 256 inputs", "Linen", C, linen(lambda **k: nn.LSTMCell(C, **k), carry, row, which="ii']['kernel")),
    ("LSTM, from 256 inputs", "NNX", C, of_nnx(lambda **k: nnx.OptimizedLSTMCell(C, C, **k), which="dense_i']['kernel")),
    ("LSTM, from 256 inputs", "Equinox", C, equinox(E.LSTMCell(C, C, key=KEY), ".weight_ih")),
    ("LSTM, from 256 inputs", "Haiku (both)", 2 * C, [matrix(named(hk.transform(lambda x: hk.LSTM(C)(x, hk.LSTMState(row, row))[0]).init(KEY, row))), None]),
    ("LSTM, from 256 inputs", "Keras", C, of_keras(lambda **k: L.LSTM(C, **k), sequence, which="lstm_cell/kernel")),
    ("LSTM, from 256 inputs", "PyTorch", C, of_torch(T.LSTM(C, C), "weight_ih_l0")),
    ("ConvLocal, 32 places", "Linen", 192, linen(lambda **k: nn.ConvLocal(16, (3,), **k), jnp.ones((1, 32, 64)), which="kernel")),
    ("Bilinear, 64 x 64", "PyTorch", 4096, of_torch(T.Bilinear(64, 64, 256))),
]


def shown(number):
    return "-" if number is None else f"{number:.3g}"


table = {}
print("| layer | library | inputs of an output | variance by default | He's fan-in / inputs |")
print("|---|---|---|---|---|")
for layer, library, inputs, (default, he) in ROWS:
    variance = None if default is None else inputs * float(np.var(np.asarray(default)))
    fan = None if he is None else 2 / float(np.var(np.asarray(he))) / inputs
    table[layer, library] = variance, fan
    print(f"| {layer} | {library} | {inputs:g} | {shown(variance)} | {shown(fan)} |")
for layer, library, fan in (
    *(("dense", library, 1) for library in ("Linen", "NNX", "Haiku", "Keras", "PyTorch")),
    *(("3x3, 32 groups", library, 1) for library in ("Linen", "NNX", "Haiku", "Keras", "PyTorch")),
    ("3x3, depthwise", "Keras", C),
    ("3x3, depthwise", "Haiku", 1),
    ("3x3 transposed, stride 2, to 32", "Linen", 4),
    ("3x3 transposed, stride 2, to 32", "Linen, transpose_kernel", 0.5),
    ("3x3 transposed, stride 2, to 32", "Keras", 0.5),
    ("3x3 transposed, stride 2, to 32", "PyTorch", 0.5),
    ("query of 8 heads", "Linen", 1),
    ("query of 8 heads", "Keras", 1),
    ("query of 8 heads by Einsum", "Linen", 8),
    ("8 experts", "Linen, vmap", 1),
    ("8 experts", "Linen, batch_dims", 8),
    ("8 experts", "jax he_normal (8, 256, 64)", 8),
    ("8 experts", "PyTorch kaiming (8, 256, 64)", 64),
    ("ConvLocal, 32 places", "Linen", 32),
    ("Bilinear, 64 x 64", "PyTorch", 1),
):
    assert abs(table[layer, library][1] / fan - 1) < 0.15, (layer, library)
assert abs(table["dense", "Haiku"][0] - 0.774) < 0.01
assert abs(table["dense", "PyTorch"][0] - 1 / 3) < 0.01
assert abs(table["Bilinear, 64 x 64", "PyTorch"][0] / 21.3 - 1) < 0.05
END
