"""Rules of a model of any supported library."""

import sys
from typing import Any

from iterand_jax.rules.rule import Rule

__all__ = ["rules_of"]


def rules_of(model: Any, *inputs: Any, **options: Any) -> tuple[Rule, ...]:
    """The rules of all leaves of a model, read from its layers.

        subnetwork = Subnetwork(rules=rules_of(model, x))

    Every layer of Flax Linen, Flax NNX and Equinox is known: dense and general ones,
    einsums, convolutions with groups, dilation and strides, transposed and local ones,
    attention, embeddings, recurrent cells, and stacks of all of these by `nn.scan`,
    `nn.vmap`, `nnx.vmap` or `equinox.filter_vmap`. Nothing is computed.

    Kernels of custom layers are claimed by `DEFAULT_RULES` (for Equinox, by
    `OUTPUTS_FIRST_RULES`); those whose axes are not known are refused when the tree is
    initialized, and custom rules before these state their axes:
    `(Rule("mine/kernel", True, in_axis=0, out_axis=(1, 2)), *rules_of(model, x))`.

    Args:
      model: a Flax Linen module; or a Flax NNX or Equinox model, itself or as shapes
        (`nnx.eval_shape`, `equinox.filter_eval_shape`).
      *inputs: the arguments of a Linen module's `init` after the key: arrays or
        `jax.ShapeDtypeStruct`. Omitted for other models.
      **options: keyword arguments of a Linen module's `init`, such as method.

    Returns:
      Rules of the pruned leaves and of others that are known, then the default rules.

    Raises:
      ValueError: a model of another library.

    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> attention = nn.MultiHeadDotProductAttention(num_heads=4, use_bias=False)
    >>> rules = rules_of(attention, jnp.ones((1, 7, 32)))
    >>> rules[0].pattern, rules[0].in_axis, rules[0].out_axis
    ('query/kernel', (0,), (1, 2))
    """
    # The model's library is already imported; the others need not be installed.
    flax, equinox = (sys.modules.get(name) for name in ("flax", "equinox"))
    if flax is not None:
        from flax import linen, nnx

        if isinstance(model, linen.Module):
            from iterand_jax.rules import linen as reader

            return reader.rules_of(model, *inputs, **options)
        if isinstance(model, nnx.Module) and not (inputs or options):
            from iterand_jax.rules import nnx as nnx_reader

            return nnx_reader.rules_of(model)
    if equinox is not None and not (inputs or options):
        from iterand_jax.rules import equinox as equinox_reader

        if isinstance(model, equinox.Module):
            return equinox_reader.rules_of(model)
    raise ValueError(
        f"rules are read from a Flax Linen module with its inputs, or from a Flax NNX "
        f"or Equinox model without; got {type(model).__name__} with "
        f"{len(inputs) + len(options)} inputs"
    )
