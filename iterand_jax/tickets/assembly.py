"""A ticket's arrays from its subnetwork, and its subnetwork from them."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from iterand_jax.data.text import as_lines
from iterand_jax.tickets import claims, packing, tree
from iterand_jax.tickets.claims import VOCABULARY
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of, map_paths

PyTree = Any


def pack(
    description: Description,
    params: PyTree,
    masks: PyTree,
    batch_stats: PyTree,
    words: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """The arrays of the fields of a `Ticket`, by the names that a file has."""
    draws, of_masks = description.draws, leaves_of(masks)
    numbers: dict[str, np.ndarray] = {}
    leaves = leaves_of(params)
    too_much = claims.too_much(draws, leaves, leaves)
    if draws is not None and draws.can_be_replayed() and not too_much:
        numbers = leaves_of(draws.numbers(params))
    arrays: dict[str, np.ndarray] = {}
    for path, weights in leaves.items():
        leaf = packing.Leaf(weights, of_masks.get(path), numbers.get(path))
        arrays |= packing.pack(path, leaf)
    statistics = leaves_of(batch_stats)
    arrays |= {f"batch_stats/{path}": leaf for path, leaf in statistics.items()}
    if words is not None:
        lines = zlib.compress(as_lines(words).encode(), 9)
        arrays[VOCABULARY] = np.frombuffer(lines, np.uint8)
    return arrays


def unpack(
    description: Description,
    arrays: Mapping[str, np.ndarray],
    abstract: PyTree,
    statistics: PyTree,
) -> dict[str, Any]:
    """The inverse of `pack`: params, masks, batch_stats and words by name.

    Args:
      description: of the file.
      arrays: of the file.
      abstract: the parameters, as shapes and dtypes.
      statistics: the running statistics, in the same way.

    Raises:
      ValueError: arrays that do not fit, or weights that cannot be sampled again.
    """
    arrays = tree.in_their_dtypes(description, arrays)
    structure = jax.tree.structure(abstract)
    leaves = leaves_of(abstract)
    stored = {path: packing.unpack(path, leaves[path], arrays) for path in leaves}
    weights, masks, numbers = (
        jax.tree.unflatten(structure, [leaf[kind] for leaf in stored.values()])
        for kind in range(3)
    )
    # Leaves with draw numbers are rebuilt by a replay; the others were stored.
    if leaves_of(numbers):
        drawn = leaves_of(_drawn(description, numbers))
        weights = map_paths(
            lambda path, like: _rebuilt(like, stored[path], drawn.get(path)), abstract
        )
    words = None
    if VOCABULARY in arrays:
        words = claims.words(arrays[VOCABULARY], description, abstract)
    return {
        "params": weights,
        "masks": masks,
        "batch_stats": map_paths(
            lambda path, _: arrays[f"batch_stats/{path}"], statistics
        ),
        "words": words,
    }


def _drawn(description: Description, numbers: PyTree) -> PyTree:
    """The weights that have numbers of draws, drawn again; None for the others."""
    draws = description.draws
    if draws is None:
        raise ValueError("kept weights are missing")
    if not draws.can_be_replayed():
        raise ValueError(f"its weights would have to be replayed: {draws.summary}")
    return draws.weights(numbers)


def _rebuilt(
    like: jax.ShapeDtypeStruct, stored: packing.Stored, drawn: np.ndarray | None
) -> np.ndarray:
    """The weights of a leaf: as they were stored, or drawn and 0.0 where pruned."""
    if stored.weights is not None:
        return stored.weights
    if drawn is None or stored.mask is None:
        # It is neither stored nor sampled: the checksum is of zeros, or differs.
        return np.zeros(like.shape, like.dtype)
    np.copyto(drawn, 0, where=~stored.mask)
    return drawn.astype(like.dtype, copy=False)
