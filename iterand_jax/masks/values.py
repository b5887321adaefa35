"""What a mask makes of a weight: functions with a gradient of their own.

    masked      w m: kept weights as they are
    binary      a sign(w) m, with a the mean of |w| over the kept weights of the leaf;
                the gradient of a mask is that of the effective weight times w, and a
                is a constant in it (biprop, Diffenderfer and Kailkhura 2021). In
                float32 it has the error of XLA's sums, on a CPU up to 2.3e-5 of it
                (seen of equal numbers). Of a leaf in shards a is a sum over devices, in
                another order: its last places may differ from those of one device
    scaled      w m / sqrt(1 - p), with p the fraction of the leaf that is removed,
                which keeps the variance of the layer's outputs

No gradient reaches the weights.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from iterand_jax.masks.topk import topk_mask
from iterand_jax.runtime.checks import described
from iterand_jax.selection import Scalar

__all__ = ["VALUES", "Values", "masked", "pruned", "values_of"]

Values = Callable[[Array, Array, Sequence[int]], Array]
"""(weights, mask, stack) -> the effective weights, zero where the mask is.

stack: the axes along which the leaf is a stack of arrays, () for most.
"""


def masked(weights: Array, mask: Array) -> Array:
    """The effective weights, weights * mask: no gradient reaches the weights.

    Raises:
      ValueError: weights and mask of different shapes.

    >>> import jax.numpy as jnp
    >>> masked(jnp.array([3.0, 5.0]), jnp.array([0.0, 1.0]))
    Array([0., 5.], dtype=float32)
    """
    if weights.shape != mask.shape:
        raise ValueError(
            f"weights {weights.shape} and scores {mask.shape} differ in shape"
        )
    return lax.stop_gradient(weights) * mask.astype(weights.dtype)


def pruned(scores: Array, weights: Array, sparsity: Scalar) -> Array:
    """The effective weights given their scores: `masked` with the `topk_mask`.

    Raises:
      ValueError: as these two.

    >>> import jax.numpy as jnp
    >>> pruned(jnp.array([-1.0, 0.2]), jnp.array([3.0, 5.0]), sparsity=0.5)
    Array([0., 5.], dtype=float32)
    """
    return masked(weights, topk_mask(scores, sparsity))


def values_of(values: str | Values) -> Values:
    """The function of a name in `VALUES`, or the function itself.

    Raises:
      ValueError: an unknown name, or what cannot be called.

    >>> values_of("binary")(jnp.array([3.0, -5.0]), jnp.array([1.0, 1.0]), ())
    Array([ 4., -4.], dtype=float32)
    """
    if isinstance(values, str) and values in VALUES:
        return VALUES[values]
    if not callable(values):
        raise ValueError(
            f"unknown values {described(values)}; possible: {', '.join(VALUES)}, or a "
            f"function of (weights, mask, stack)"
        )
    return values


def _masked(weights: Array, mask: Array, stack: Sequence[int]) -> Array:
    del stack
    return masked(weights, mask)


def _others(array: Array, stack: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in range(array.ndim) if axis not in stack)


def _kept(mask: Array, stack: Sequence[int]) -> Array:
    """The number of kept weights of each array of a stack, at least 1, as float32."""
    kept = jnp.sum(mask != 0, axis=_others(mask, stack), keepdims=True, dtype=jnp.int32)
    return jnp.maximum(kept, 1).astype(jnp.float32)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _binary(weights: Array, mask: Array, stack: Sequence[int]) -> Array:
    kept = jnp.where(mask != 0, jnp.abs(weights), 0)
    # The sum of narrow weights may be beyond their largest number.
    wide = weights.dtype if weights.dtype.itemsize > 4 else jnp.dtype(jnp.float32)
    sizes = jnp.sum(kept, axis=_others(kept, stack), keepdims=True, dtype=wide)
    magnitude = (sizes / _kept(mask, stack).astype(wide)).astype(weights.dtype)
    return jnp.where(mask != 0, jnp.copysign(magnitude, weights), 0)


@_binary.defjvp
def _derivative_is_that_of_masked(stack, primals, tangents):
    """d effective = w d mask: the magnitude is a constant."""
    weights, mask = primals
    _, of_mask = tangents
    return _binary(weights, mask, stack), weights * of_mask.astype(weights.dtype)


def _scaled(weights: Array, mask: Array, stack: Sequence[int]) -> Array:
    others = _others(mask, stack)
    size = math.prod(mask.shape[axis] for axis in others)
    factor = jnp.sqrt(size / _kept(lax.stop_gradient(mask), stack))
    return masked(weights, mask) * factor.astype(weights.dtype)


VALUES: Mapping[str, Values] = {
    "masked": _masked,
    "binary": lambda weights, mask, stack: _binary(
        lax.stop_gradient(weights), mask, tuple(stack)
    ),
    "scaled": _scaled,
}
"""What a mask makes of a weight, by name; see the module's docstring."""
