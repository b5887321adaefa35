"""Networks that are traced for another purpose than to be run.

A converter to another format knows fewer primitives than XLA. And whoever asks for the
shapes of a network alone, as the reader of a ticket does, pays for each operation that
is traced: of a ResNet18, three quarters of that memory are for initial kernels and
normalized images, which nobody will see, and for forms whose gradients are faster.

JAX keeps what it has traced. Both purposes are contexts in the keys of its caches, so
that what is traced for one of them is never run in place of the network.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from jax import Array

PyTree = Any

_AS_XLA = jax.make_user_context(default_value=False)
_FOR_SHAPES = jax.make_user_context(default_value=False)


def as_xla() -> Any:
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
    return _AS_XLA(True)


def traces_as_xla() -> bool:
    """Whether this is traced in the context of `as_xla`."""
    return _AS_XLA.value


def shapes(network: nn.Module, *inputs: Any) -> PyTree:
    """The variables that `network.init` returns, as shapes and dtypes.

    Args:
      network: of any kind. Those of this package are traced without what only values
        need.
      inputs: what it is called with, arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The tree of collections, with a `jax.ShapeDtypeStruct` for each array: that of
      `jax.eval_shape(network.init, jax.random.key(0), *inputs)`, in a quarter to a
      third of the memory for the ResNets of this package.

    >>> shapes(nn.Dense(3, use_bias=False), jnp.ones((1, 2)))
    {'params': {'kernel': ShapeDtypeStruct(shape=(2, 3), dtype=float32)}}
    """
    ours = type(network).__module__.startswith(f"{__package__}.")
    key = jax.eval_shape(lambda: jax.random.key(0))
    with _AS_XLA(ours), _FOR_SHAPES(ours):
        return jax.eval_shape(network.init, key, *inputs)


def traces_for_shapes() -> bool:
    """Whether this is traced by `shapes`, so that no value is of use to anybody."""
    return _FOR_SHAPES.value


class BatchNorm(nn.BatchNorm):
    """The variables of `flax.linen.BatchNorm` and the dtype of its result."""

    @nn.compact
    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        """(N, ..., C), as it is."""
        features = x.shape[-1:]
        for name in ("mean", "var"):
            self.variable("batch_stats", name, jnp.zeros, features, jnp.float32)
        affine = [
            self.param(name, nn.initializers.zeros, features, self.param_dtype)
            for name, used in (("scale", self.use_scale), ("bias", self.use_bias))
            if used
        ]
        return x.astype(canonicalize_dtype(x, *affine, dtype=self.dtype))
