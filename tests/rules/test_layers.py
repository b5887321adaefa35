"""Every layer of Linen, NNX and Equinox: its weights are those of a plain matrix.

A linear layer is written as the matrix of its derivatives. With signed constants, for
inputs of variance 1, the variance of an output is the sum of the squares of its row, so
that He's 2 is met exactly if the fan-in is right, on average over the outputs.
"""

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


def weights_of(rules, params):
    """Weights drawn with nothing removed, and what each pruned leaf's fan-in is."""
    subnetwork = Subnetwork(0.0, rules=rules)
    scores, weights = subnetwork.init(KEY, params)
    leaves = leaves_of(weights)
    fan_ins = {
        path: subnetwork.fan_in(path, leaves[path]) for path in leaves_of(scores)
    }
    for path, fan_in in fan_ins.items():  # scores too, which are Kaiming uniform
        np.testing.assert_allclose(np.square(leaves[path]), 2 / fan_in, rtol=1e-5)
        assert np.abs(leaves_of(scores)[path]).max() <= np.sqrt(6 / fan_in) * 1.0001
    return weights, fan_ins


def variance(f, x):
    """Of the outputs of a linear map, over them all, for inputs of variance 1."""
    matrix = jax.jacobian(lambda x: f(x) - f(jnp.zeros_like(x)))(x)
    return float(jnp.sum(matrix**2) / f(x).size)


CIRCULAR = {"padding": "CIRCULAR"}
VALID = {"padding": "VALID"}
LINEN = {  # the layer, its inputs, its fan-in
    "Dense": (nn.Dense(5), ones(1, 8), 8),
    "DenseGeneral": (nn.DenseGeneral((3, 4), axis=(-2, -1)), ones(1, 6, 8), 48),
    "DenseGeneral of one": (nn.DenseGeneral(3), ones(1, 6, 8), 8),
    "DenseGeneral, batch": (
        nn.DenseGeneral((5, 3), axis=-1, batch_dims=(0,)),
        ones(4, 2, 8),
        8,
    ),
    "Einsum": (nn.Einsum((8, 2, 3), "abc,cde->abde"), ones(1, 6, 8), 8),
    "Einsum, two inputs": (nn.Einsum((6, 8, 3), "abc,bcd->ad"), ones(1, 6, 8), 48),
    "Einsum, heads": (nn.Einsum((6, 8, 3), "ahi,hio->aho"), ones(1, 6, 8), 8),
    "Einsum, dots": (nn.Einsum((8, 3), "...i,io->...o"), ones(1, 6, 8), 8),
    "Conv, 1": (nn.Conv(5, (3,), **CIRCULAR), ones(1, 6, 8), 24),
    "Conv, 2": (nn.Conv(5, (3, 2), **CIRCULAR), ones(1, 4, 4, 3), 18),
    "Conv, 3": (nn.Conv(2, (3, 2, 2), **VALID), ones(1, 3, 3, 3, 2), 24),
    "Conv, groups": (
        nn.Conv(6, (3, 3), feature_group_count=2, **VALID),
        ones(1, 4, 4, 4),
        18,
    ),
    "Conv, depthwise": (
        nn.Conv(4, (3,), feature_group_count=4, **VALID),
        ones(1, 6, 4),
        3,
    ),
    "Conv, dilation": (
        nn.Conv(3, (3,), kernel_dilation=2, strides=2, **VALID),
        ones(1, 9, 4),
        12,
    ),
    "Conv, input dilation": (
        nn.Conv(3, (2, 4), input_dilation=(2, 1), padding=((0, 0), (0, 0))),
        ones(1, 5, 5, 4),
        16,
    ),
    "ConvLocal": (nn.ConvLocal(3, (2, 2), **VALID), ones(1, 4, 4, 3), 12),
    "ConvLocal, 1": (nn.ConvLocal(3, (2,), **VALID), ones(1, 5, 3), 6),
    "ConvTranspose": (nn.ConvTranspose(5, (3, 3), **CIRCULAR), ones(1, 4, 4, 2), 18),
    "ConvTranspose, strides": (
        nn.ConvTranspose(5, (3,), strides=(2,), **CIRCULAR),
        ones(1, 4, 2),
        3,
    ),
    "ConvTranspose, not whole": (
        nn.ConvTranspose(5, (3, 3), strides=(2, 2), **CIRCULAR),
        ones(1, 4, 4, 2),
        4.5,
    ),
    "ConvTranspose, transposed kernel": (
        nn.ConvTranspose(
            5, (3, 3), strides=(3, 1), transpose_kernel=True, padding="CIRCULAR"
        ),
        ones(1, 3, 4, 2),
        6,
    ),
    "WeightNorm": (nn.WeightNorm(nn.Dense(5)), ones(1, 8), 8),
}


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_layer_is_a_matrix_of_its_fan_in(name):
    module, x, fan_in = LINEN[name]
    params = module.init(KEY, x)["params"]
    weights, fan_ins = weights_of(rules_of(module, x), params)
    assert list(fan_ins.values()) == [fan_in]
    if name != "WeightNorm":  # which gives a row the length of its scale
        found = variance(lambda x: module.apply({"params": weights}, x), x)
        assert found == pytest.approx(2, rel=1e-4)


RNGS = nnx.Rngs(0)
NNX = {
    "Linear": (lambda: nnx.Linear(8, 5, rngs=RNGS), ones(1, 8), 8),
    "LinearGeneral": (
        lambda: nnx.LinearGeneral((6, 8), (3, 4), axis=(-2, -1), rngs=RNGS),
        ones(1, 6, 8),
        48,
    ),
    "LinearGeneral, batch": (
        lambda: nnx.LinearGeneral(8, (5, 3), batch_axis={0: 4}, rngs=RNGS),
        ones(4, 2, 8),
        8,
    ),
    "Einsum": (
        lambda: nnx.Einsum("abc,cde->abde", (8, 2, 3), rngs=RNGS),
        ones(1, 6, 8),
        8,
    ),
    "Conv, 1": (
        lambda: nnx.Conv(8, 5, (3,), rngs=RNGS, **CIRCULAR),
        ones(1, 6, 8),
        24,
    ),
    "Conv, groups": (
        lambda: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=RNGS, **VALID),
        ones(1, 4, 4, 4),
        18,
    ),
    "Conv, input dilation": (
        lambda: nnx.Conv(
            4, 3, (2, 4), input_dilation=(2, 1), padding=((0, 0), (0, 0)), rngs=RNGS
        ),
        ones(1, 5, 5, 4),
        16,
    ),
    "ConvTranspose": (
        lambda: nnx.ConvTranspose(2, 5, (3, 3), (2, 2), rngs=RNGS, **CIRCULAR),
        ones(1, 4, 4, 2),
        4.5,
    ),
    "ConvTranspose, transposed kernel": (
        lambda: nnx.ConvTranspose(
            2, 5, (3, 3), (3, 1), transpose_kernel=True, rngs=RNGS, **CIRCULAR
        ),
        ones(1, 3, 4, 2),
        6,
    ),
}


@pytest.mark.parametrize("name", NNX)
def test_an_nnx_layer_is_a_matrix_of_its_fan_in(name):
    make, x, fan_in = NNX[name]
    model = make()
    graph, params, others = nnx.split(model, nnx.Param, ...)
    weights, fan_ins = weights_of(rules_of(model), params)
    assert list(fan_ins.values()) == [fan_in]
    found = variance(lambda x: nnx.merge(graph, weights, others, copy=True)(x), x)
    assert found == pytest.approx(2, rel=1e-4)


EQUINOX = {
    "Linear": (lambda: eqx.nn.Linear(8, 5, key=KEY), ones(8), 8),
    "Linear of scalars": (
        lambda: eqx.nn.Linear("scalar", 5, key=KEY),
        ones(),
        1,
    ),
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
}


@pytest.mark.parametrize("name", EQUINOX)
def test_an_equinox_layer_is_a_matrix_of_its_fan_in(name):
    make, x, fan_in = EQUINOX[name]
    params, static = eqx.partition(make(), eqx.is_array)
    weights, fan_ins = weights_of(rules_of(make()), params)
    assert list(fan_ins.values()) == [fan_in]
    found = variance(eqx.combine(weights, static), x)
    assert found == pytest.approx(2, rel=1e-4)


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.zeros, (4, 8, 3))
        return jnp.einsum("ei,eio->eo", x, kernel)


def of_each(model, inputs):
    """{leaf: fan-in} of the pruned leaves of a layer of several linear maps."""
    rules = rules_of(model, *inputs)
    if isinstance(model, nn.Module):
        params = model.init(KEY, *inputs)["params"]
    elif isinstance(model, nnx.Module):
        params = nnx.state(model, nnx.Param)
    else:
        params = eqx.filter(model, eqx.is_array)
    return weights_of(rules, params)[1]


GATES = [f"{a}{b}" for a in "ih" for b in "ifgo"]
ATTENTION = {"query": 32, "key": 32, "value": 32, "out": 24}
C = (ones(2, 5), ones(2, 5))
COMPOSED = {
    "MultiHeadDotProductAttention": (
        nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=24),
        (ones(1, 7, 32),),
        {f"{name}/kernel": n for name, n in ATTENTION.items()},
    ),
    "MultiHeadAttention": (
        nn.MultiHeadAttention(num_heads=4, qkv_features=24, normalize_qk=True),
        (ones(1, 7, 32),),
        {f"{name}/kernel": n for name, n in ATTENTION.items()},
    ),
    "Embed": (nn.Embed(40, 25), (jnp.zeros(3, int),), {"embedding": 25}),
    "LSTMCell": (
        nn.LSTMCell(5),
        (C, ones(2, 3)),
        {f"{g}/kernel": 3 if g[0] == "i" else 5 for g in GATES},
    ),
    "OptimizedLSTMCell": (
        nn.OptimizedLSTMCell(5),
        (C, ones(2, 3)),
        {f"{g}/kernel": 3 if g[0] == "i" else 5 for g in GATES},
    ),
    "SimpleCell": (
        nn.SimpleCell(5),
        (C[0], ones(2, 3)),
        {"i/kernel": 3, "h/kernel": 5},
    ),
    "GRUCell": (
        nn.GRUCell(5),
        (C[0], ones(2, 3)),
        {f"{a}{g}/kernel": n for a, n in (("i", 3), ("h", 5)) for g in "rzn"},
    ),
    "MGUCell": (
        nn.MGUCell(5),
        (C[0], ones(2, 3)),
        {f"{a}{g}/kernel": n for a, n in (("i", 3), ("h", 5)) for g in "fn"},
    ),
    "ConvLSTMCell": (
        nn.ConvLSTMCell(4, (3, 3)),
        ((ones(1, 6, 6, 4), ones(1, 6, 6, 4)), ones(1, 6, 6, 2)),
        {"ih/kernel": 18, "hh/kernel": 36},
    ),
    "RNN": (
        nn.RNN(nn.SimpleCell(5)),
        (ones(2, 4, 3),),
        {"cell/i/kernel": 3, "cell/h/kernel": 5},
    ),
    "Bidirectional": (
        nn.Bidirectional(nn.RNN(nn.SimpleCell(5)), nn.RNN(nn.SimpleCell(6))),
        (ones(2, 4, 3),),
        {
            "forward_rnn/cell/i/kernel": 3,
            "forward_rnn/cell/h/kernel": 5,
            "backward_rnn/cell/i/kernel": 3,
            "backward_rnn/cell/h/kernel": 6,
        },
    ),
    "SpectralNorm": (
        nn.Sequential([nn.Dense(3), nn.LayerNorm(), nn.PReLU(), nn.RMSNorm()]),
        (ones(2, 4),),
        {"layers_0/kernel": 4},
    ),
    "nnx.Embed": (nnx.Embed(40, 25, rngs=RNGS), (), {"embedding": 25}),
    "nnx.MultiHeadAttention": (
        nnx.MultiHeadAttention(4, 32, 24, decode=False, rngs=RNGS),
        (),
        {f"{name}/kernel": n for name, n in ATTENTION.items()},
    ),
    "nnx.LSTMCell": (
        nnx.LSTMCell(3, 5, rngs=RNGS),
        (),
        {
            f"{a}{g}/kernel": n
            for a, n in (("i", 3), ("h", 5))
            for g in ("i", "f" if a == "h" else "f_", "g", "o")
        },
    ),
    "nnx.OptimizedLSTMCell": (
        nnx.OptimizedLSTMCell(3, 5, rngs=RNGS),
        (),
        {"dense_i/kernel": 3, "dense_h/kernel": 5},
    ),
    "nnx.SimpleCell": (
        nnx.SimpleCell(3, 5, rngs=RNGS),
        (),
        {"dense_i/kernel": 3, "dense_h/kernel": 5},
    ),
    "nnx.GRUCell": (
        nnx.GRUCell(3, 5, rngs=RNGS),
        (),
        {"dense_i/kernel": 3, "dense_h/kernel": 5},
    ),
    "nnx.LoRA": (nnx.LoRA(8, 2, 5, rngs=RNGS), (), {"lora_a": 8, "lora_b": 2}),
    "nnx.LoRALinear": (
        nnx.LoRALinear(8, 5, lora_rank=2, rngs=RNGS),
        (),
        {"kernel": 8, "lora/lora_a": 8, "lora/lora_b": 2},
    ),
    "eqx.Embedding": (eqx.nn.Embedding(40, 25, key=KEY), (), {"weight": 25}),
    "eqx.LSTMCell": (
        eqx.nn.LSTMCell(3, 5, key=KEY),
        (),
        {"weight_ih": 3, "weight_hh": 5},
    ),
    "eqx.GRUCell": (
        eqx.nn.GRUCell(3, 5, key=KEY),
        (),
        {"weight_ih": 3, "weight_hh": 5},
    ),
    "eqx.MultiheadAttention": (
        eqx.nn.MultiheadAttention(4, 32, qk_size=6, vo_size=6, key=KEY),
        (),
        {
            f"{name}_proj/weight": 24 if name == "output" else 32
            for name in ("query", "key", "value", "output")
        },
    ),
    "eqx normalizations": (
        eqx.nn.Sequential(
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
    "eqx.WeightNorm": (
        eqx.nn.WeightNorm(eqx.nn.Linear(8, 3, key=KEY)),
        (),
        {"layer/weight": 8},
    ),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_each_map_of_a_layer_has_its_own_fan_in(name):
    model, inputs, expected = COMPOSED[name]
    assert of_each(model, inputs) == expected


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
    "nn.vmap of Dense": (lifted(nn.vmap, nn.Dense, 5), (ones(6, 2, 8),), (0,), 8),
    "nn.vmap, the last axis": (
        lifted(nn.vmap, nn.Conv, 5, (3,), axis=-1, axis_size=6, in_axes=None),
        (ones(2, 7, 8),),
        (3,),
        24,
    ),
    "nn.vmap of a stack of as many": (
        lifted(nn.vmap, nn.Dense, 6, axis=1),
        (ones(6, 2, 6),),
        (1,),
        6,
    ),
    "nnx.vmap of Linear": (
        stack(nnx.Linear, in_features=8, out_features=5),
        (),
        (0,),
        8,
    ),
    "nnx.vmap of Conv": (
        stack(nnx.Conv, in_features=8, out_features=5, kernel_size=(3,)),
        (),
        (0,),
        24,
    ),
    "filter_vmap of Linear": (
        stack(eqx.nn.Linear, in_features=8, out_features=5),
        (),
        (0,),
        8,
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_has_the_fan_in_of_a_slice_and_its_own_axes(name):
    model, inputs, axes, fan_in = STACKS[name]
    assert [*of_each(model, inputs).values()] == [fan_in]
    rule = rules_of(model, *inputs)[0]
    assert rule.stack_axis == axes


def test_what_nnx_and_equinox_do_not_say_is_refused():
    alike = stack(nnx.Linear, in_features=6, out_features=6)  # (6, 6, 6)
    with pytest.raises(ValueError, match=r"'kernel' of shape \(6, 6, 6\).*stack_axis"):
        of_each(alike, ())
    with pytest.raises(ValueError, match=r"'kernel' of shape \(4, 8, 3\).*stack_axis"):
        of_each(Experts(), (ones(4, 8),))


def layers_with_parameters(room, module):
    base = {"Module", "RNNCellBase"}
    return {
        name
        for name, cls in vars(room).items()
        if isinstance(cls, type) and issubclass(cls, module) and name not in base
    }


def test_no_layer_escapes_the_table():
    known = {name.split(",")[0].split(" ")[0] for name in (*LINEN, *NNX, *EQUINOX)}
    known |= {name.split(".")[-1] for name in COMPOSED}
    without_kernels = {
        *("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm", "PReLU"),
        *("Dropout", "Sequential", "Identity", "Lambda", "Pool", "SpectralNorm"),
        *("Fp8DirectDotGeneralOp", "Fp8DotGeneralOp", "NANOOFp8DotGeneralOp"),
        *("Fp8Einsum", "StatefulLayer", "State", "StateIndex", "Shared", "Inline"),
        *(
            "RotaryPositionalEmbedding",
            "RoPE",
            "WeightNorm",
            "Conv",
            "ConvTranspose",
            "MLP",
        ),
        *("RNN", "Bidirectional", "ConvTranspose3d", "List", "Dict", "BatchApply"),
        *("Fp8DotGeneral", "SelfAttention"),  # attention, by its old name
    }
    for room, module in ((nn, nn.Module), (nnx, nnx.Module), (eqx.nn, eqx.Module)):
        names = layers_with_parameters(room, module)
        pools = {name for name in names if "Pool" in name}
        assert names - pools <= known | without_kernels
        assert len(names) > 15
