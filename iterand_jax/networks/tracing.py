"""Networks that are traced for another purpose than to be run.

A converter to another format knows fewer primitives than XLA. And whoever asks for the
shapes of a network alone, as the reader of a ticket does, pays for each operation that
is traced: of a ResNet18, three quarters of that memory are for initial kernels and
normalized images, which nobody will see, and for forms whose gradients are faster.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.random import define_prng_impl

PyTree = Any

_AS_XLA = contextvars.ContextVar("_AS_XLA", default=False)
_FOR_SHAPES = contextvars.ContextVar("_FOR_SHAPES", default=False)


@contextlib.contextmanager
def as_xla() -> Iterator[None]:
    """A context in which layers are traced as XLA's own operations on every platform.

    Converters to other formats know no primitives that choose among platforms.

    >>> from iterand_jax.networks.cpu.convolution import Conv
    >>> with as_xla():
    ...     traced = jax.make_jaxpr(Conv(1, (3, 3)).init)(
    ...         jax.random.key(0), jnp.ones((1, 2, 2, 1))
    ...     )
    >>> "platform" in str(traced)
    False
    """
    with _set(_AS_XLA):
        yield


def traces_as_xla() -> bool:
    """Whether this is traced in the context of `as_xla`."""
    return _AS_XLA.get()


def shapes(network: nn.Module, *inputs: Any) -> PyTree:
    """The variables that `network.init` returns, as shapes and dtypes.

    Args:
      network: of any kind.
      inputs: what it is called with, arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The tree of collections, with a `jax.ShapeDtypeStruct` for each array. It is that
      of `jax.eval_shape(network.init, key, *inputs)`; the memory is a quarter to a
      third for the ResNets of this package.

    >>> shapes(nn.Dense(3, use_bias=False), jnp.ones((1, 2)))
    {'params': {'kernel': ShapeDtypeStruct(shape=(2, 3), dtype=float32)}}
    """
    key = jax.eval_shape(lambda: jax.random.key(0, impl=_OF_SHAPES))
    with _set(_AS_XLA), _set(_FOR_SHAPES):
        return jax.eval_shape(network.init, key, *inputs)


def traces_for_shapes() -> bool:
    """Whether this is traced by `shapes`, so that no value is of use to anybody."""
    return _FOR_SHAPES.get()


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[bool]) -> Iterator[None]:
    token = variable.set(True)
    try:
        yield
    finally:
        variable.reset(token)


_OF_SHAPES = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.zeros(1, jnp.uint32),
    split=lambda key, shape: jnp.zeros((*shape, 1), jnp.uint32),
    random_bits=lambda key, width, shape: jnp.zeros(shape, f"uint{width}"),
    fold_in=lambda key, number: key,
    name="for_shapes",
    tag="shapes",
)
"""A generator of zeros, whose keys have a dtype of their own.

JAX keeps what it has traced, by the dtypes of the arguments. With such a key that is
not what it traces of the same network for its values.
"""
