"""No layer of Linen, NNX or Equinox escapes the table of `test_layers`.

A layer type is in the table if a model of it contains one. Others are named here, with
the reason: they have no weights of two axes, or another has the same.
"""

import contextlib
import functools

import equinox as eqx
import jax
import pytest
from flax import linen as nn
from flax import nnx

from tests.rules.test_layers import COMPOSED, EQUINOX, KEY, LINEN, NNX, model_of

ABSTRACT = {"Module", "RNNCellBase"}
FP8 = "scales of a product in 8 bits, beside the parameters"
EXCEPTIONS = {
    nn: {
        "Fp8DirectDotGeneralOp": FP8,
        "Fp8DotGeneral": FP8,
        "Fp8DotGeneralOp": FP8,
        "Fp8Einsum": FP8,
        "NANOOFp8DotGeneralOp": FP8,
        "SelfAttention": "MultiHeadDotProductAttention by a deprecated name",
    },
    nnx: {"RoPE": "a table of angles, which is not a parameter"},
    eqx.nn: {
        "AdaptivePool": "without arrays",
        **{
            f"Adaptive{kind}Pool{n}d": "without arrays"
            for kind in ("Avg", "Max")
            for n in (1, 2, 3)
        },
        "Pool": "without arrays",
        **{
            f"{kind}Pool{n}d": "without arrays"
            for kind in ("Avg", "Max")
            for n in (1, 2, 3)
        },
        "Identity": "without arrays",
        "Lambda": "without arrays",
        "RotaryPositionalEmbedding": "computes its angles",
    },
}
BASES = {nn: nn.Module, nnx: nnx.Module, eqx.nn: eqx.Module}


def exported(library):
    return {
        name: cls
        for name, cls in vars(library).items()
        if isinstance(cls, type)
        and issubclass(cls, BASES[library])
        and name not in ABSTRACT
    }


def linen_types(module, inputs):
    """The types of the modules that run in a module."""
    found = set()

    def record(call, args, kwargs, context):
        found.add(type(context.module))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(module.init, KEY, *inputs)
    return found


def equinox_types(model):
    def is_inner(node):
        return isinstance(node, eqx.Module) and node is not model

    found = {type(model)}
    for inner in jax.tree.leaves(model, is_leaf=is_inner):
        if is_inner(inner):
            found |= equinox_types(inner)
    return found


@functools.cache
def in_the_table():
    """{library: the types of all modules in the models of the table}."""
    found = {library: set() for library in BASES}
    for make, inputs, _ in (
        *((make, (x,), n) for make, x, n in (*LINEN.values(), *NNX.values())),
        *EQUINOX.values(),
        *COMPOSED.values(),
    ):
        with contextlib.suppress(pytest.skip.Exception):  # this version lacks it
            model = model_of(make)
            if isinstance(model, nn.Module):
                found[nn] |= linen_types(model, inputs)
            elif isinstance(model, nnx.Module):
                found[nnx] |= {type(module) for _, module in nnx.iter_modules(model)}
            else:
                found[eqx.nn] |= equinox_types(model)
    return found


@pytest.mark.parametrize("library", BASES, ids=lambda library: library.__name__)
def test_no_layer_escapes_the_table(library):
    types = exported(library)
    assert len(types) > 20
    missing = {
        name
        for name, cls in types.items()
        if not any(issubclass(one, cls) for one in in_the_table()[library])
    }
    assert missing <= EXCEPTIONS[library].keys()
    assert EXCEPTIONS[library].keys() & types.keys() <= missing  # none is obsolete


def test_a_layer_that_is_not_in_the_table_is_found(monkeypatch):
    class New(nn.Module):
        pass

    monkeypatch.setattr(nn, "New", New, raising=False)
    with pytest.raises(AssertionError, match="New"):
        test_no_layer_escapes_the_table(nn)


@pytest.mark.filterwarnings("ignore:The .* is deprecated:DeprecationWarning")
def test_the_exceptions_have_no_weights_of_their_own():
    ones = jax.numpy.ones((16, 16))
    for op in (nn.Fp8DotGeneralOp, nn.Fp8DirectDotGeneralOp, nn.NANOOFp8DotGeneralOp):
        dense = nn.Dense(16, dot_general_cls=op, use_bias=False)
        shapes = jax.eval_shape(dense.init, KEY, ones)
        assert shapes["params"].keys() == {"kernel"}
    einsum = functools.partial(nn.Fp8Einsum().init, KEY, "ab,bc->ac")
    assert "params" not in jax.eval_shape(einsum, ones, ones)
    assert issubclass(nn.SelfAttention, nn.MultiHeadDotProductAttention)
    rotary = eqx.nn.RotaryPositionalEmbedding(8)
    for layer in (rotary, eqx.nn.Identity(), eqx.nn.AvgPool2d(2), eqx.nn.Dropout()):
        assert jax.tree.leaves(eqx.filter(layer, eqx.is_array)) == []
