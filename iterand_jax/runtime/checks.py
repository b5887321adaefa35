"""Checks of arguments, which raise errors of one line.

Simple mistakes (a key and a tree swapped, an activation function among the arrays, a
number as text) are refused here, by name or path, before anything compiles. Traced
values have a type but no value yet: only their type is checked.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = [
    "check_array",
    "check_at_least",
    "check_floats",
    "check_fraction",
    "check_key",
    "described",
    "is_wide",
]

WIDE = "float16, bfloat16, float32, float64"
"""The dtypes of scores and of pruned weights."""


def described(value: Any) -> str:
    """A value as errors show it: an array by dtype and shape, others by their repr.

    >>> described(np.zeros((2, 3))), described("0.5"), described([1] * 100)
    ('an array of float64 (2, 3)', "'0.5'", 'a list')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of {value.dtype} {tuple(value.shape)}"
    if callable(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    text = repr(value)
    if len(text) <= 40 and "\n" not in text:
        return text
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def check_fraction(value: Any, meaning: str, *, or_one: bool) -> None:
    """Raises ValueError unless a number is in [0, 1), or [0, 1] with `or_one`.

    >>> check_fraction("0.5", "sparsity is the fraction removed", or_one=False)
    Traceback (most recent call last):
    ...
    ValueError: sparsity is the fraction removed, a number in [0, 1); got '0.5'
    """
    end = "]" if or_one else ")"
    message = f"{meaning}, a number in [0, 1{end}; got "
    if isinstance(value, Array | np.ndarray):
        real = jnp.issubdtype(value.dtype, jnp.number) and not jnp.iscomplexobj(value)
        if value.ndim or not real:
            raise ValueError(message + described(value))
        if isinstance(value, jax.core.Tracer):
            return
    elif not isinstance(value, numbers.Real):
        raise ValueError(message + described(value))
    number = float(value)
    if not (0 <= number < 1 or (or_one and number == 1)):
        raise ValueError(f"{message}{number:g}")


def check_at_least(least: int, value: Any, meaning: str) -> None:
    """Raises ValueError unless a value is an integer of at least `least`.

    >>> check_at_least(1, 1.5, "k_per is the period in steps")
    Traceback (most recent call last):
    ...
    ValueError: k_per is the period in steps and must be an integer of at least 1; \
got 1.5
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(
            f"{meaning} and must be an integer of at least {least}; got "
            f"{described(value)}"
        )


def check_key(key: Any) -> None:
    """Raises ValueError unless it is one PRNG key, typed or as raw uint32 words.

    >>> check_key({"kernel": np.zeros(3)})
    Traceback (most recent call last):
    ...
    ValueError: the key, before the trees, is one jax.random.key; got a dict
    """
    if isinstance(key, Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (typed and key.ndim == 0) or (key.dtype == jnp.uint32 and key.ndim == 1):
            return
        got = described(key)
    else:
        got = "a dict" if isinstance(key, dict) else described(key)
    raise ValueError(f"the key, before the trees, is one jax.random.key; got {got}")


def check_array(path: str, leaf: Any) -> None:
    """Raises ValueError for a leaf that is not an array: without shape and dtype.

    >>> check_array("activation", abs)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: the leaf 'activation' is the function abs and not an array; ...
    """
    if not all(hasattr(leaf, name) for name in ("shape", "dtype", "ndim", "size")):
        raise ValueError(
            f"the leaf {path!r} is {described(leaf)} and not an array; possible: a "
            f"tree of arrays (of an Equinox model, equinox.filter(model, "
            f"equinox.is_inexact_array))"
        )


def check_floats(path: str, leaf: Any) -> None:
    """Raises ValueError for a leaf to be pruned of other than floats of 16 to 64 bits.

    Narrower floats round the weights of a large fan-in to zero, or have no zero.

    >>> check_floats("Dense_0/kernel", np.zeros((2, 2), np.int8))
    Traceback (most recent call last):
    ...
    ValueError: the leaf 'Dense_0/kernel' of int8 cannot be drawn; possible: float16, \
bfloat16, float32, float64
    """
    if not is_wide(leaf.dtype):
        raise ValueError(
            f"the leaf {path!r} of {leaf.dtype} cannot be drawn; possible: {WIDE}"
        )


def is_wide(dtype: Any) -> bool:
    """Whether a dtype is one of `WIDE`.

    >>> is_wide("bfloat16"), is_wide("float8_e5m2"), is_wide("int32")
    (True, False, False)
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16
