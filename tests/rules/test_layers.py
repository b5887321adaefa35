"""Every layer of Linen, NNX and Equinox: its weights are those of a plain matrix.

A linear layer is written as the matrix of its derivatives. The number of inputs that an
output sums is counted there. With signed constants, for inputs of variance 1, the
variance of an output is the sum of the squares of its row, so that He's 2 is met
exactly if the fan-in is right, on average over the outputs.

The tables hold functions, so that a layer which a version lacks is skipped by name, and
so that layers are made as shapes: their own weights are never drawn.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from iterand_jax import Subnetwork, rules_of
from iterand_jax.trees import leaves_of

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 6, 8))


def ones(*shape):
    return jnp.ones(shape)


def fan_ins_of(rules, params):
    """{path: fan-in} of the pruned leaves of a tree of arrays or shapes."""
    subnetwork = Subnetwork(0.0, rules=rules)
    scores, _ = jax.eval_shape(subnetwork.init, KEY, params)
    leaves = leaves_of(params)
    return {path: subnetwork.fan_in(path, leaves[path]) for path in leaves_of(scores)}


def drawn(rules, params, fan_ins):
    """Weights for a tree of shapes, whose second moments are checked."""
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    scores, weights = Subnetwork(0.0, rules=rules).init(KEY, params)
    scores_at, weights_at = leaves_of(scores), leaves_of(weights)
    for path, fan_in in fan_ins.items():
        np.testing.assert_allclose(np.square(weights_at[path]), 2 / fan_in, rtol=1e-5)
        largest = np.abs(scores_at[path]).max()  # of Kaiming uniform ones
        assert largest <= np.sqrt(6 / fan_in) * 1.0001
    return weights


def model_of(make):
    """A model of the table as shapes; skips the test if this version lacks a layer."""
    traced = []
    try:
        jax.eval_shape(lambda: traced.append(make()))
    except AttributeError as error:
        if error.obj not in (nn, nnx, eqx.nn):
            raise
        pytest.skip(f"{error.obj.__name__} of this version has no {error.name}")
    if isinstance(traced[0], nn.Module):
        return traced[0]
    shapes = (
        nnx.eval_shape if isinstance(traced[0], nnx.Module) else eqx.filter_eval_shape
    )
    return shapes(make)


def made(make, inputs=()):
    """A model of the table, its rules and its parameters as shapes."""
    model = model_of(make)
    if isinstance(model, nn.Module):
        params = jax.eval_shape(model.init, KEY, *inputs)["params"]
    elif isinstance(model, nnx.Module):
        params = nnx.state(model, nnx.Param)
    else:
        params = eqx.filter(model, is_shape)
    return model, rules_of(model, *inputs), params


def is_shape(leaf):
    return isinstance(leaf, jax.ShapeDtypeStruct)


def check_matrix(f, x, fan_in):
    """Checks a linear map with drawn weights against its matrix (outputs, inputs)."""
    matrix = np.asarray(jax.jit(jax.jacfwd(f))(x)).reshape(-1, x.size)
    summed = np.count_nonzero(matrix, axis=1)  # by each output
    assert summed.mean() == pytest.approx(fan_in)
    variances = np.square(matrix).sum(axis=1)
    np.testing.assert_allclose(variances, 2 * summed / fan_in, rtol=1e-4)
    assert variances.mean() == pytest.approx(2, rel=1e-4)


CIRCULAR = {"padding": "CIRCULAR"}
VALID = {"padding": "VALID"}
LINEN = {  # the layer, its inputs, its fan-in
    "Dense": (lambda: nn.Dense(5), ones(1, 8), 8),
    "DenseGeneral": (lambda: nn.DenseGeneral((3, 4), axis=(-2, -1)), ones(1, 6, 8), 48),
    "DenseGeneral of one": (lambda: nn.DenseGeneral(3), ones(1, 6, 8), 8),
    "DenseGeneral, batch": (
        lambda: nn.DenseGeneral((5, 3), axis=-1, batch_dims=(0,)),
        ones(4, 2, 8),
        8,
    ),
    "Einsum": (lambda: nn.Einsum((8, 2, 3), "abc,cde->abde"), ones(1, 6, 8), 8),
    "Einsum, two inputs": (
        lambda: nn.Einsum((6, 8, 3), "abc,bcd->ad"),
        ones(1, 6, 8),
        48,
    ),
    "Einsum, heads": (lambda: nn.Einsum((6, 8, 3), "ahi,hio->aho"), ones(1, 6, 8), 8),
    "Einsum, dots": (lambda: nn.Einsum((8, 3), "...i,io->...o"), ones(1, 6, 8), 8),
    "Conv, 1": (lambda: nn.Conv(5, (3,), **CIRCULAR), ones(1, 6, 8), 24),
    "Conv, 2": (lambda: nn.Conv(5, (3, 2), **CIRCULAR), ones(1, 4, 4, 3), 18),
    "Conv, 3": (lambda: nn.Conv(2, (3, 2, 2), **VALID), ones(1, 3, 3, 3, 2), 24),
    "Conv, groups": (
        lambda: nn.Conv(6, (3, 3), feature_group_count=2, **VALID),
        ones(1, 4, 4, 4),
        18,
    ),
    "Conv, depthwise": (
        lambda: nn.Conv(4, (3,), feature_group_count=4, **VALID),
        ones(1, 6, 4),
        3,
    ),
    "Conv, dilation": (
        lambda: nn.Conv(3, (3,), kernel_dilation=2, strides=2, **VALID),
        ones(1, 9, 4),
        12,
    ),
    "Conv, input dilation": (
        lambda: nn.Conv(3, (2, 4), input_dilation=(2, 1), padding=((0, 0), (0, 0))),
        ones(1, 5, 5, 4),
        16,
    ),
    "ConvLocal": (lambda: nn.ConvLocal(3, (2, 2), **VALID), ones(1, 4, 4, 3), 12),
    "ConvLocal, 1": (lambda: nn.ConvLocal(3, (2,), **VALID), ones(1, 5, 3), 6),
    "ConvTranspose": (
        lambda: nn.ConvTranspose(5, (3, 3), **CIRCULAR),
        ones(1, 4, 4, 2),
        18,
    ),
    "ConvTranspose, strides": (
        lambda: nn.ConvTranspose(5, (3,), strides=(2,), **CIRCULAR),
        ones(1, 4, 2),
        3,
    ),
    "ConvTranspose, not whole": (
        lambda: nn.ConvTranspose(5, (3, 3), strides=(2, 2), **CIRCULAR),
        ones(1, 4, 4, 2),
        4.5,
    ),
    "ConvTranspose, transposed kernel": (
        lambda: nn.ConvTranspose(
            5, (3, 3), strides=(3, 1), transpose_kernel=True, padding="CIRCULAR"
        ),
        ones(1, 3, 4, 2),
        6,
    ),
    "WeightNorm": (lambda: nn.WeightNorm(nn.Dense(5)), ones(1, 8), 8),
}


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_layer_is_a_matrix_of_its_fan_in(name):
    make, x, fan_in = LINEN[name]
    module, rules, params = made(make, (x,))
    fan_ins = fan_ins_of(rules, params)
    assert list(fan_ins.values()) == [fan_in]
    weights = drawn(rules, params, fan_ins)
    if name != "WeightNorm":  # which gives a row the length of its scale
        check_matrix(lambda x: module.apply({"params": weights}, x), x, fan_in)


def rngs():
    return nnx.Rngs(0)


NNX = {
    "Linear": (lambda: nnx.Linear(8, 5, rngs=rngs()), ones(1, 8), 8),
    "LinearGeneral": (
        lambda: nnx.LinearGeneral((6, 8), (3, 4), axis=(-2, -1), rngs=rngs()),
        ones(1, 6, 8),
        48,
    ),
    "LinearGeneral, batch": (
        lambda: nnx.LinearGeneral(8, (5, 3), batch_axis={0: 4}, rngs=rngs()),
        ones(4, 2, 8),
        8,
    ),
    "Einsum": (
        lambda: nnx.Einsum("abc,cde->abde", (8, 2, 3), rngs=rngs()),
        ones(1, 6, 8),
        8,
    ),
    "Conv, 1": (
        lambda: nnx.Conv(8, 5, (3,), rngs=rngs(), **CIRCULAR),
        ones(1, 6, 8),
        24,
    ),
    "Einsum, heads": (
        lambda: nnx.Einsum("ahi,hio->aho", (6, 8, 3), rngs=rngs()),
        ones(1, 6, 8),
        8,
    ),
    "Conv, 2": (
        lambda: nnx.Conv(3, 5, (3, 2), rngs=rngs(), **CIRCULAR),
        ones(1, 4, 4, 3),
        18,
    ),
    "Conv, 3": (
        lambda: nnx.Conv(2, 2, (3, 2, 2), rngs=rngs(), **VALID),
        ones(1, 3, 3, 3, 2),
        24,
    ),
    "Conv, dilation": (
        lambda: nnx.Conv(4, 3, (3,), 2, kernel_dilation=2, rngs=rngs(), **VALID),
        ones(1, 9, 4),
        12,
    ),
    "Conv, groups": (
        lambda: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=rngs(), **VALID),
        ones(1, 4, 4, 4),
        18,
    ),
    "Conv, input dilation": (
        lambda: nnx.Conv(
            4, 3, (2, 4), input_dilation=(2, 1), padding=((0, 0), (0, 0)), rngs=rngs()
        ),
        ones(1, 5, 5, 4),
        16,
    ),
    "ConvTranspose": (
        lambda: nnx.ConvTranspose(2, 5, (3, 3), (2, 2), rngs=rngs(), **CIRCULAR),
        ones(1, 4, 4, 2),
        4.5,
    ),
    "ConvTranspose, strides": (
        lambda: nnx.ConvTranspose(2, 5, (3,), (3,), rngs=rngs(), **CIRCULAR),
        ones(1, 4, 2),
        2,
    ),
    "ConvTranspose, transposed kernel": (
        lambda: nnx.ConvTranspose(
            2, 5, (3, 3), (3, 1), transpose_kernel=True, rngs=rngs(), **CIRCULAR
        ),
        ones(1, 3, 4, 2),
        6,
    ),
}


@pytest.mark.parametrize("name", NNX)
def test_an_nnx_layer_is_a_matrix_of_its_fan_in(name):
    make, x, fan_in = NNX[name]
    model, rules, params = made(make)
    fan_ins = fan_ins_of(rules, params)
    assert list(fan_ins.values()) == [fan_in]
    weights = drawn(rules, params, fan_ins)
    graph, _, others = nnx.split(model, nnx.Param, ...)
    merge = functools.partial(nnx.merge, copy=True)
    check_matrix(lambda x: merge(graph, weights, others)(x), x, fan_in)


EQUINOX = {
    "Linear": (lambda: eqx.nn.Linear(8, 5, key=KEY), ones(8), 8),
    "Linear of scalars": (
        lambda: eqx.nn.Linear("scalar", 5, key=KEY),
        ones(),
        1,
    ),
    "Linear to a scalar": (
        lambda: eqx.nn.Linear(8, "scalar", use_bias=False, key=KEY),
        ones(8),
        8,
    ),
    "Conv": (lambda: eqx.nn.Conv(2, 3, 5, (3, 2), key=KEY), ones(3, 4, 4), 18),
    "Conv1d": (
        lambda: eqx.nn.Conv1d(4, 6, 3, groups=2, dilation=2, key=KEY),
        ones(4, 9),
        6,
    ),
    "Conv2d": (lambda: eqx.nn.Conv2d(3, 8, 2, key=KEY), ones(3, 4, 4), 12),
    "Conv3d": (lambda: eqx.nn.Conv3d(2, 3, 2, key=KEY), ones(2, 3, 3, 3), 16),
    "ConvTranspose1d": (
        lambda: eqx.nn.ConvTranspose1d(
            4, 6, 4, 2, padding="SAME", padding_mode="CIRCULAR", groups=2, key=KEY
        ),
        ones(4, 6),
        4,
    ),
    "ConvTranspose2d": (
        lambda: eqx.nn.ConvTranspose2d(
            4, 3, 3, padding="SAME", padding_mode="CIRCULAR", key=KEY
        ),
        ones(4, 4, 4),
        36,
    ),
    "ConvTranspose3d": (
        lambda: eqx.nn.ConvTranspose3d(
            2, 3, 2, 2, padding="SAME", padding_mode="CIRCULAR", key=KEY
        ),
        ones(2, 2, 2, 2),
        2,
    ),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_an_equinox_layer_is_a_matrix_of_its_fan_in(name):
    make, x, fan_in = EQUINOX[name]
    model, rules, params = made(make)
    fan_ins = fan_ins_of(rules, params)
    assert list(fan_ins.values()) == [fan_in]
    weights = drawn(rules, params, fan_ins)
    static = eqx.filter(model, is_shape, inverse=True)
    check_matrix(eqx.combine(weights, static), x, fan_in)


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.zeros, (4, 8, 3))
        return jnp.einsum("ei,eio->eo", x, kernel)


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.SpectralNorm(nn.Dense(5))(x, update_stats=False)


GATES = [f"{a}{b}" for a in "ih" for b in "ifgo"]
ATTENTION = {"query": 32, "key": 32, "value": 32, "out": 24}
C = (ones(2, 5), ones(2, 5))
COMPOSED = {
    "MultiHeadDotProductAttention": (
        lambda: nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=24),
        (ones(1, 7, 32),),
        {f"{name}/kernel": n for name, n in ATTENTION.items()},
    ),
    "MultiHeadAttention": (
        lambda: nn.MultiHeadAttention(num_heads=4, qkv_features=24, normalize_qk=True),
        (ones(1, 7, 32),),
        {f"{name}/kernel": n for name, n in ATTENTION.items()},
    ),
    "Embed": (lambda: nn.Embed(40, 25), (jnp.zeros(3, int),), {"embedding": 25}),
    "LSTMCell": (
        lambda: nn.LSTMCell(5),
        (C, ones(2, 3)),
        {f"{g}/kernel": 3 if g[0] == "i" else 5 for g in GATES},
    ),
    "OptimizedLSTMCell": (
        lambda: nn.OptimizedLSTMCell(5),
        (C, ones(2, 3)),
        {f"{g}/kernel": 3 if g[0] == "i" else 5 for g in GATES},
    ),
    "SimpleCell": (
        lambda: nn.SimpleCell(5),
        (C[0], ones(2, 3)),
        {"i/kernel": 3, "h/kernel": 5},
    ),
    "GRUCell": (
        lambda: nn.GRUCell(5),
        (C[0], ones(2, 3)),
        {f"{a}{g}/kernel": n for a, n in (("i", 3), ("h", 5)) for g in "rzn"},
    ),
    "MGUCell": (
        lambda: nn.MGUCell(5),
        (C[0], ones(2, 3)),
        {f"{a}{g}/kernel": n for a, n in (("i", 3), ("h", 5)) for g in "fn"},
    ),
    "ConvLSTMCell": (
        lambda: nn.ConvLSTMCell(4, (3, 3)),
        ((ones(1, 6, 6, 4), ones(1, 6, 6, 4)), ones(1, 6, 6, 2)),
        {"ih/kernel": 18, "hh/kernel": 36},
    ),
    "RNN": (
        lambda: nn.RNN(nn.SimpleCell(5)),
        (ones(2, 4, 3),),
        {"cell/i/kernel": 3, "cell/h/kernel": 5},
    ),
    "Bidirectional": (
        lambda: nn.Bidirectional(nn.RNN(nn.SimpleCell(5)), nn.RNN(nn.SimpleCell(6))),
        (ones(2, 4, 3),),
        {
            "forward_rnn/cell/i/kernel": 3,
            "forward_rnn/cell/h/kernel": 5,
            "backward_rnn/cell/i/kernel": 3,
            "backward_rnn/cell/h/kernel": 6,
        },
    ),
    "SpectralNorm": (lambda: Spectral(), (ones(2, 4),), {"Dense_0/kernel": 4}),
    "normalizations": (
        lambda: nn.Sequential(
            [
                nn.Dense(3),
                nn.LayerNorm(reduction_axes=(-2, -1), feature_axes=(-2, -1)),
                nn.BatchNorm(use_running_average=True),
                nn.GroupNorm(1),
                nn.InstanceNorm(),
                nn.RMSNorm(),
                nn.PReLU(),
                nn.Dropout(0.1, deterministic=True),
            ]
        ),
        (ones(2, 6, 4),),
        {"layers_0/kernel": 4},
    ),
    "nnx.Embed": (lambda: nnx.Embed(40, 25, rngs=rngs()), (), {"embedding": 25}),
    "nnx.MultiHeadAttention": (
        lambda: nnx.MultiHeadAttention(4, 32, 24, decode=False, rngs=rngs()),
        (),
        {f"{name}/kernel": n for name, n in ATTENTION.items()},
    ),
    "nnx.LSTMCell": (
        lambda: nnx.LSTMCell(3, 5, rngs=rngs()),
        (),
        {
            f"{a}{g}/kernel": n
            for a, n in (("i", 3), ("h", 5))
            for g in ("i", "f" if a == "h" else "f_", "g", "o")
        },
    ),
    "nnx.OptimizedLSTMCell": (
        lambda: nnx.OptimizedLSTMCell(3, 5, rngs=rngs()),
        (),
        {"dense_i/kernel": 3, "dense_h/kernel": 5},
    ),
    "nnx.SimpleCell": (
        lambda: nnx.SimpleCell(3, 5, rngs=rngs()),
        (),
        {"dense_i/kernel": 3, "dense_h/kernel": 5},
    ),
    "nnx.GRUCell": (
        lambda: nnx.GRUCell(3, 5, rngs=rngs()),
        (),
        {"dense_i/kernel": 3, "dense_h/kernel": 5},
    ),
    "nnx.RNN": (
        lambda: nnx.RNN(nnx.SimpleCell(3, 5, rngs=rngs()), rngs=rngs()),
        (),
        {"cell/dense_i/kernel": 3, "cell/dense_h/kernel": 5},
    ),
    "nnx.Bidirectional": (
        lambda: nnx.Bidirectional(
            nnx.RNN(nnx.SimpleCell(3, 5, rngs=rngs()), rngs=rngs()),
            nnx.RNN(nnx.SimpleCell(3, 6, rngs=rngs()), rngs=rngs()),
            rngs=rngs(),
        ),
        (),
        {
            "forward_rnn/cell/dense_i/kernel": 3,
            "forward_rnn/cell/dense_h/kernel": 5,
            "backward_rnn/cell/dense_i/kernel": 3,
            "backward_rnn/cell/dense_h/kernel": 6,
        },
    ),
    "nnx.WeightNorm": (
        lambda: nnx.WeightNorm(nnx.Linear(8, 5, rngs=rngs()), rngs=rngs()),
        (),
        {"layer_instance/kernel": 8},
    ),
    "nnx.SpectralNorm": (
        lambda: nnx.SpectralNorm(nnx.Linear(8, 5, rngs=rngs()), rngs=rngs()),
        (),
        {"layer_instance/kernel": 8},
    ),
    "nnx normalizations": (
        lambda: nnx.Sequential(
            nnx.Linear(4, 8, rngs=rngs()),
            nnx.BatchNorm(8, rngs=rngs()),
            nnx.GroupNorm(8, num_groups=2, rngs=rngs()),
            nnx.InstanceNorm(8, rngs=rngs()),
            nnx.LayerNorm(8, rngs=rngs()),
            nnx.RMSNorm(8, rngs=rngs()),
            nnx.PReLU(),
            nnx.Dropout(0.1, rngs=rngs()),
        ),
        (),
        {"layers/0/kernel": 4},
    ),
    "nnx containers": (
        lambda: nnx.Dict(a=nnx.List([nnx.Linear(4, 8, rngs=rngs())])),
        (),
        {"a/0/kernel": 4},
    ),
    "nnx.LoRA": (
        lambda: nnx.LoRA(8, 2, 5, rngs=rngs()),
        (),
        {"lora_a": 8, "lora_b": 2},
    ),
    "nnx.LoRALinear": (
        lambda: nnx.LoRALinear(8, 5, lora_rank=2, rngs=rngs()),
        (),
        {"kernel": 8, "lora/lora_a": 8, "lora/lora_b": 2},
    ),
    "eqx.Embedding": (lambda: eqx.nn.Embedding(40, 25, key=KEY), (), {"weight": 25}),
    "eqx.LSTMCell": (
        lambda: eqx.nn.LSTMCell(3, 5, key=KEY),
        (),
        {"weight_ih": 3, "weight_hh": 5},
    ),
    "eqx.GRUCell": (
        lambda: eqx.nn.GRUCell(3, 5, key=KEY),
        (),
        {"weight_ih": 3, "weight_hh": 5},
    ),
    "eqx.MultiheadAttention": (
        lambda: eqx.nn.MultiheadAttention(4, 32, qk_size=6, vo_size=6, key=KEY),
        (),
        {
            f"{name}_proj/weight": 24 if name == "output" else 32
            for name in ("query", "key", "value", "output")
        },
    ),
    "eqx normalizations": (
        lambda: eqx.nn.Sequential(
            [
                eqx.nn.LayerNorm((4, 8, 8)),
                eqx.nn.LayerNorm((4, 8)),
                eqx.nn.RMSNorm((4, 8)),
                eqx.nn.GroupNorm(2, 4),
                eqx.nn.PReLU(),
                eqx.nn.Linear(8, 3, key=KEY),
            ]
        ),
        (),
        {"layers/5/weight": 8},
    ),
    "eqx.BatchNorm": (
        lambda: eqx.nn.Sequential(
            [eqx.nn.BatchNorm(8, "b", mode="batch"), eqx.nn.Linear(8, 3, key=KEY)]
        ),
        (),
        {"layers/1/weight": 8},
    ),
    "eqx.WeightNorm": (
        lambda: eqx.nn.WeightNorm(eqx.nn.Linear(8, 3, key=KEY)),
        (),
        {"layer/weight": 8},
    ),
    "eqx.WeightNorm of a convolution": (
        lambda: eqx.nn.WeightNorm(eqx.nn.Conv2d(8, 3, 2, key=KEY)),  # g is (3, 1, 1, 1)
        (),
        {"layer/weight": 32},
    ),
    "eqx.SpectralNorm": (
        lambda: eqx.nn.SpectralNorm(eqx.nn.Linear(8, 3, key=KEY), "weight", key=KEY),
        (),
        {"layer/weight": 8},
    ),
    "eqx.MLP": (
        lambda: eqx.nn.MLP(8, "scalar", 6, 2, key=KEY),
        (),
        {"layers/0/weight": 8, "layers/1/weight": 6, "layers/2/weight": 6},
    ),
    "eqx.Shared": (
        lambda: eqx.nn.Shared(
            (eqx.nn.Embedding(9, 4, key=KEY), eqx.nn.Linear(4, 9, key=KEY)),
            lambda pair: pair[1].weight,
            lambda pair: pair[0].weight,
        ),
        (),
        {"pytree/0/weight": 4},
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_each_map_of_a_layer_has_its_own_fan_in(name):
    make, inputs, expected = COMPOSED[name]
    _, rules, params = made(make, inputs)
    assert fan_ins_of(rules, params) == expected


def stack(cls, **fields):
    keys = jax.random.split(KEY, 6)
    if issubclass(cls, eqx.Module):
        return eqx.filter_vmap(lambda key: cls(**fields, key=key))(keys)
    return nnx.vmap(lambda key: cls(**fields, rngs=nnx.Rngs(key)))(keys)


def lifted(transform, cls, *args, axis=0, **options):
    return transform(
        cls, variable_axes={"params": axis}, split_rngs={"params": True}, **options
    )(*args)


STACKS = {  # the model, its inputs, its kernel's path, stack, fan-in
    "nn.vmap of Dense": (
        lambda: lifted(nn.vmap, nn.Dense, 5),
        (ones(6, 2, 8),),
        (0,),
        8,
    ),
    "nn.vmap, the last axis": (
        lambda: lifted(nn.vmap, nn.Conv, 5, (3,), axis=-1, axis_size=6, in_axes=None),
        (ones(2, 7, 8),),
        (3,),
        24,
    ),
    "nn.vmap of a stack of as many": (
        lambda: lifted(nn.vmap, nn.Dense, 6, axis=1),
        (ones(6, 2, 6),),
        (1,),
        6,
    ),
    "nnx.vmap of Linear": (
        lambda: stack(nnx.Linear, in_features=8, out_features=5),
        (),
        (0,),
        8,
    ),
    "nnx.vmap of Conv": (
        lambda: stack(nnx.Conv, in_features=8, out_features=5, kernel_size=(3,)),
        (),
        (0,),
        24,
    ),
    "nnx.vmap of ConvTranspose": (
        lambda: stack(
            nnx.ConvTranspose, in_features=8, out_features=5, kernel_size=(3,)
        ),
        (),
        (0,),
        24,
    ),
    "filter_vmap of ConvTranspose": (
        lambda: stack(
            eqx.nn.ConvTranspose2d, in_channels=8, out_channels=5, kernel_size=(3, 2)
        ),
        (),
        (0,),
        48,
    ),
    "filter_vmap of Embedding": (
        lambda: stack(eqx.nn.Embedding, num_embeddings=9, embedding_size=5),
        (),
        (0,),
        5,
    ),
    "nnx.vmap of Embed": (
        lambda: stack(nnx.Embed, num_embeddings=9, features=5),
        (),
        (0,),
        5,
    ),
    "nn.vmap of nn.vmap of Dense": (
        lambda: lifted(
            nn.vmap,
            nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}),
            5,
        ),
        (ones(6, 4, 2, 8),),
        (0, 1),
        8,
    ),
    "filter_vmap of Linear": (
        lambda: stack(eqx.nn.Linear, in_features=8, out_features=5),
        (),
        (0,),
        8,
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_has_the_fan_in_of_a_slice_and_its_own_axes(name):
    make, inputs, axes, fan_in = STACKS[name]
    _, rules, params = made(make, inputs)
    assert [*fan_ins_of(rules, params).values()] == [fan_in]
    first = next(rule for rule in rules if rule.prune)
    assert first.stack_axis == axes


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMPOSED, *STACKS])
def test_each_map_of_a_layer_and_each_slice_are_drawn_with_their_fan_in(name):
    make, inputs, *_ = (COMPOSED | STACKS)[name]
    _, rules, params = made(make, inputs)
    drawn(rules, params, fan_ins_of(rules, params))


def test_what_nnx_and_equinox_do_not_say_is_refused():
    _, *alike = made(lambda: stack(nnx.Linear, in_features=6, out_features=6))
    with pytest.raises(ValueError, match=r"'kernel' of shape \(6, 6, 6\).*stack_axis"):
        fan_ins_of(*alike)
    _, *experts = made(Experts, (ones(4, 8),))
    with pytest.raises(ValueError, match=r"'kernel' of shape \(4, 8, 3\).*stack_axis"):
        fan_ins_of(*experts)
