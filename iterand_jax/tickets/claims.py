"""What a ticket claims, checked against its network before anything is allocated.

A ticket may come from anybody. Its header says the dtype and shape of each array, and
its metadata what is computed from them; both are compared here with the leaves of the
network. What remains takes memory and time in proportion to the network, except for
refreshes (`draws.MAX_REFRESHES`) and programs (`MOST_PROGRAMS`), which have limits.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from iterand_jax.data.text import WORDS, from_lines
from iterand_jax.tickets import codes, headers, packing
from iterand_jax.tickets.draws import Draws, KeyDraws
from iterand_jax.tickets.fields import form, of_type
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of

PyTree = Any
Forms = Mapping[str, jax.ShapeDtypeStruct]  # of arrays by their names
MOST_PROGRAMS = 256
"""Leaves that differ in shape or fan-in and are sampled: each is compiled."""

VOCABULARY = "vocabulary"
BYTES_OF_A_WORD = 64  # on average, at most: reviews have 7


def check(
    description: Description, params: PyTree, statistics: PyTree, found: Forms
) -> None:
    """Checks the arrays of a file and the draws of its weights.

    Args:
      description: of the file.
      params: the leaves of its network, as shapes and dtypes.
      statistics: its running statistics, in the same way.
      found: the arrays that the file says it holds.

    Raises:
      ValueError: an array that no leaf has, of another size or of another dtype, a
        vocabulary that is too large, or weights whose sampling would take too long.
    """
    leaves = leaves_of(params)
    left = dict(found)
    for path, leaf in leaves.items():
        for kind, most in _sizes(path, leaf, found).items():
            form = left.pop(f"{kind}/{path}", None)
            if form is not None:
                _check_form(f"{kind}/{path}", form, most, _dtype(kind, leaf))
    for path, leaf in leaves_of(statistics).items():
        name = f"batch_stats/{path}"
        if name not in left:
            raise ValueError(f"there is no {name}")
        form = left.pop(name)
        if form.shape != leaf.shape:
            raise ValueError(f"{name} is of {form.shape}, not {leaf.shape}")
        _check_form(name, form, leaf.size, leaf.dtype)
    if VOCABULARY in left:
        limit = bytes_of(words_limit(description))
        _check_form(VOCABULARY, left.pop(VOCABULARY), limit, np.dtype(np.uint8))
    if left:
        raise ValueError(f"no leaf of it has the array {min(left)!r:.60}")
    check_draws(description.draws, leaves)


def numbers_of(
    fields: Mapping[str, Any], module: nn.Module | None, like: PyTree
) -> int:
    """The numbers in the leaves that a large header is about, before it is parsed.

    Args:
      fields: the `headers.skeleton` of its metadata.
      module: the network that was given, or None.
      like: the tree that was given, or None.

    Raises:
      ValueError: leaves or sizes of layers in another form than they are written in, or
        a network that cannot be built.
    """
    if like is not None:
        return _total(like)
    if fields.get("leaves") is not None:
        leaves = of_type(fields, "leaves", dict)
        if headers.MORE not in leaves:
            return sum(math.prod(form(leaf)[0]) for leaf in leaves.values())
        if len(leaves) > 1:  # of which one may be in the row, too
            raise ValueError("its leaves are not in the form in which they are written")
        return of_type(leaves, headers.MORE, int)
    described = Description.from_json({**fields, "draws": None}, module)
    return _total(described.abstract())


def _total(leaves: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))


def check_draws(draws: Draws | KeyDraws | None, leaves: Mapping[str, Any]) -> None:
    """Raises ValueError for fan-ins of leaves that are not there, or of too many."""
    fan_ins = (draws.fan_ins if draws else None) or {}
    unknown = fan_ins.keys() - leaves.keys()
    if unknown:
        raise ValueError(f"its draws have a fan-in of {min(unknown)!r:.60}, no leaf")
    if needs_many_programs(draws, leaves):
        raise ValueError(
            f"over {MOST_PROGRAMS} of its leaves are sampled in different ways"
        )


def needs_many_programs(
    draws: Draws | KeyDraws | None, leaves: Mapping[str, Any]
) -> bool:
    """Whether sampling the leaves would compile more than `MOST_PROGRAMS` programs."""
    fan_ins = (draws.fan_ins if draws else None) or {}
    sampled = [path for path in fan_ins if path in leaves]
    forms = {(tuple(leaves[path].shape), fan_ins[path]) for path in sampled}
    return len(forms) > MOST_PROGRAMS


def words(lines: np.ndarray, description: Description) -> tuple[str, ...]:
    """The words of a compressed vocabulary.

    Raises:
      ValueError: it is damaged, or of more words or bytes than its network reads.
    """
    most = words_limit(description)
    limit, inflate = bytes_of(most), zlib.decompressobj()
    text = inflate.decompress(lines.tobytes(), limit + 1)
    if len(text) > limit or not inflate.eof or text.count(b"\n") > most:
        raise ValueError(
            f"its vocabulary is cut, or of over {most:,} words or {limit:,} bytes"
        )
    return from_lines(text.decode())


def words_limit(description: Description) -> int:
    """The largest number of words that the vocabulary of a network can have."""
    try:
        rows = getattr(description.build(), "vocabulary_size", WORDS + 2)
    except ValueError:  # a network that is not named, of which `like` has the leaves
        rows = WORDS + 2
    return max(0, int(rows) - 2)


def bytes_of(words: int) -> int:
    """The largest number of bytes of this many words."""
    return BYTES_OF_A_WORD * words


def _sizes(path: str, leaf: Any, found: Forms) -> dict[str, int]:
    """The kinds of arrays that a leaf may have, and the entries of each at most."""
    one_of = [f"{kind}/{path}" for kind in ("leaf", "mask", "mask_code")]
    if not any(name in found for name in one_of):
        raise ValueError(f"there is neither leaf/{path} nor mask/{path}")
    values = [f"{kind}/{path}" for kind in packing.SOURCES]
    held = [name for name in values if name in found]
    if len(held) > 1:
        raise ValueError(f"there are both {held[0]} and {held[1]}")
    coded = found.get(f"mask_code/{path}")
    if coded is not None and codes.BITS_OF_A_BYTE * coded.size < leaf.size:
        raise ValueError(
            f"mask_code/{path} has {coded.size} bytes for {leaf.size} weights; "
            f"possible: at least one for {codes.BITS_OF_A_BYTE}"
        )
    code = 5 * leaf.size + 64  # four bytes a number, as deflate stores them
    bits = -(-leaf.size // 8)
    return {
        "leaf": leaf.size,
        "mask": bits,
        "mask_code": bits,
        "sign": bits,
        "sign_code": bits,
        "drawn": bits,
        "drawn_code": bits,
        "level": packing.MOST_LEVELS * bits,
        "level_code": packing.MOST_LEVELS * bits,
        "levels": packing.MOST_LEVELS,
        "scale": 1,
        "kept": leaf.size,
        "gap": code,
        "draw": code,
    }


def _dtype(kind: str, leaf: Any) -> np.dtype:
    values = kind in ("leaf", "scale", "levels", "kept")
    return np.dtype(leaf.dtype if values else np.uint8)


def _check_form(
    name: str, form: jax.ShapeDtypeStruct, most: int, wanted: np.dtype
) -> None:
    if form.size > most:
        raise ValueError(f"{name} has {form.size} entries where {most} are possible")
    if not np.can_cast(form.dtype, wanted, "same_kind"):
        raise ValueError(f"{name} is of {form.dtype}; possible: {wanted}")
