"""Checks shared by the theory; each error is one line that names the bad value."""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NORM_SLACK = 1e-9


def check_open_unit(name: str, value: float) -> float:
    """Returns `value` as a float, or raises ValueError unless it lies in (0, 1)."""
    number = float(value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name} must lie in (0, 1), got {value!r}")
    return number


def check_positive(name: str, value: float) -> float:
    """Returns `value` as a float, or raises ValueError unless it is finite and > 0."""
    number = float(value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def check_integer(name: str, value: SupportsIndex, minimum: int = 1) -> int:
    """Returns `value` as an int >= `minimum`.

    Raises TypeError for anything that is not an integer (2.0 and True included) and
    ValueError for one that is too small.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def check_option(name: str, value: str, options: Sequence[str]) -> str:
    """Returns `value`, or raises ValueError unless it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")
    return value


def check_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Returns the layer widths (d_0, ..., d_l), l >= 1, each an integer >= 1."""
    widths = tuple(check_integer("every entry of dims", width) for width in dims)
    if len(widths) < 2:
        raise ValueError(f"dims must name at least two widths, got {widths}")
    return widths


def check_matrix(name: str, matrix: ArrayLike) -> FloatArray:
    """`matrix` as a finite, non-empty 2-D float64 array, or raises ValueError."""
    array: FloatArray = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def check_weights(weights: ArrayLike) -> FloatArray:
    """Returns a lemma's W (d2 x d0) with entries in [-1, 1], or raises ValueError."""
    array = check_matrix("W", weights)
    largest = float(np.abs(array).max())
    if largest > 1.0 + NORM_SLACK:
        raise ValueError(f"W must have entries in [-1, 1], got one of size {largest!r}")
    return array


def check_target(layers: Sequence[ArrayLike], norm: str = "fro") -> list[FloatArray]:
    """Returns the target's layers F_1, ..., F_l as float64 matrices that chain.

    `norm` is "fro" (the paper's condition) or "op" (spectral, all that the proof uses);
    each layer's norm may be at most 1. Raises ValueError otherwise.
    """
    check_option("norm", norm, ("fro", "op"))
    matrices = [check_matrix(f"F_{i}", layer) for i, layer in enumerate(layers, 1)]
    if not matrices:
        raise ValueError("a target needs at least one layer, got none")
    for i, (below, above) in enumerate(itertools.pairwise(matrices), 1):
        if above.shape[1] != below.shape[0]:
            raise ValueError(
                f"F_{i + 1} must have {below.shape[0]} columns to follow F_{i}, "
                f"got shape {above.shape}"
            )
    for i, matrix in enumerate(matrices, 1):
        size = float(np.linalg.norm(matrix, "fro" if norm == "fro" else 2))
        if size > 1.0 + NORM_SLACK:
            raise ValueError(f"F_{i} must have {norm} norm at most 1, got {size!r}")
    return matrices


def target_dims(layers: Sequence[FloatArray]) -> tuple[int, ...]:
    """Returns (d_0, ..., d_l) of a checked target."""
    return (layers[0].shape[1], *(layer.shape[0] for layer in layers))


def check_count(name: str, count: int, limit: int) -> None:
    """Raises ValueError naming the count if it exceeds the limit."""
    if count > limit:
        raise ValueError(f"{name} would be {count}, more than the limit of {limit}")


def check_counts(first: int, d0: int, d2: int, name: str = "R") -> tuple[int, int, int]:
    """The count of a name, d0 and d2, each an integer of at least 1."""
    return (
        check_integer(name, first),
        check_integer("d0", d0),
        check_integer("d2", d2),
    )
