"""What a ticket claims, checked against its network before anything is allocated.

A ticket may come from anybody. Its header says the dtype and shape of each array, and
its metadata what is computed from them; both are compared here with the leaves of the
network. What remains takes memory and time in proportion to the network, except for
refreshes (`draws.MAX_REFRESHES`, `MOST_SMALL`), programs (`MOST_PROGRAMS`) and words,
which have limits.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from iterand_jax.data.text import WORDS, from_lines
from iterand_jax.runtime import modes
from iterand_jax.tickets import codes, container, headers, packing, replay, tree
from iterand_jax.tickets.draws import Draws, KeyDraws
from iterand_jax.tickets.fields import form, of_type
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of

PyTree = Any
Forms = Mapping[str, jax.ShapeDtypeStruct]  # of arrays by their names
MOST_PROGRAMS = 256
"""Leaves that differ in shape or fan-in and are sampled: `save` compiles for each."""

MOST_SMALL = 2**18
"""Refreshes times leaves of less than a part, each of which takes as long as a part."""

BYTES_OF_A_PROGRAM = 2**24
"""Of a network in float32, for each program that another generator than Threefry needs.

Such a program is of one size of leaves: it takes 9 MB to compile, and the first of a
process 60. Weights of smaller networks are stored.
"""

VOCABULARY = "vocabulary"
BYTES_OF_A_WORD = 64  # on average, or more in a large network: reviews have 7


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
      ValueError: an array that no leaf has or needs, of another size or of another
        dtype, a vocabulary that is too large or of no texts, or weights whose sampling
        would take too long.
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
        _, limit = vocabulary_limits(description, params)
        _check_form(VOCABULARY, left.pop(VOCABULARY), limit, np.dtype(np.uint8))
    if left:
        raise ValueError(f"no leaf of it has the array {min(left)!r:.60}")
    drawn = {
        path: leaf for path, leaf in leaves.items() if packing.is_drawn(path, found)
    }
    check_draws(description.draws, leaves, drawn)


def network_of(
    module: nn.Module | None, like: PyTree, batch_stats: PyTree
) -> container.NetworkOf:
    """Tells the leaves and weights that a large header is of, before it is parsed.

    Args:
      module: the network that was given, or None.
      like: the tree that was given, or None.
      batch_stats: the tree of statistics that was given, or None.

    Returns:
      `headers.skeleton` of the metadata -> (leaves, weights or 0 where the skeleton
      does not say them); raises ValueError for leaves in another form than they are
      written in, or no network that can be built.
    """

    def told(fields: Mapping[str, Any]) -> tuple[int, int]:
        if fields.get("leaves") is not None:
            return _in_skeleton(of_type(fields, "leaves", dict))
        network = of_type(fields, "network", dict)
        # Of a compact network the skeleton has no sizes, on which its weights depend.
        counted = headers.MORE not in (network.get("sizes") or ())
        if like is None:
            if not counted:
                network = {name: network[name] for name in network if name != "sizes"}
            fields = {**fields, "network": network, "draws": None}
            described = Description.from_json(fields, module)
            leaves = [*leaves_of(described.abstract()).values()]
        else:
            leaves = [*tree.checked_leaves(like, "like").values()]
            leaves += tree.checked_leaves(batch_stats, "batch_stats").values()
        weights = sum(math.prod(leaf.shape) for leaf in leaves)
        return len(leaves), weights if counted else 0

    return told


def _in_skeleton(leaves: Mapping[str, Any]) -> tuple[int, int]:
    if headers.MORE not in leaves:
        sizes = [math.prod(form(leaf)[0]) for leaf in leaves.values()]
        return len(sizes), sum(sizes)
    if len(leaves) > 1:  # of which one may be in the row, too
        raise ValueError("its leaves are not in the form in which they are written")
    row = of_type(leaves, headers.MORE, list)
    return of_type(row, 0, int), of_type(row, 1, int)


def check_draws(
    draws: Draws | KeyDraws | None, leaves: Mapping[str, Any], drawn: Mapping[str, Any]
) -> None:
    """Raises ValueError for fan-ins of no leaves, or too much that is drawn again."""
    fan_ins = (draws.fan_ins if draws else None) or {}
    unknown = fan_ins.keys() - leaves.keys()
    if unknown:
        raise ValueError(f"its draws have a fan-in of {min(unknown)!r:.60}, no leaf")
    reason = too_much(draws, leaves, drawn)
    if reason:
        raise ValueError(reason)


def too_much(
    draws: Draws | KeyDraws | None, leaves: Mapping[str, Any], drawn: Mapping[str, Any]
) -> str | None:
    """Why sampling leaves again would take too much; None if it would not."""
    if draws is None:
        return None
    fan_ins = dict.fromkeys(leaves) if draws.fan_ins is None else draws.fan_ins
    sampled = {path: drawn[path] for path in fan_ins if path in drawn}
    forms = {(tuple(leaf.shape), fan_ins[path]) for path, leaf in sampled.items()}
    if len(forms) > MOST_PROGRAMS:
        return f"over {MOST_PROGRAMS} of its leaves are sampled in different ways"
    sizes = {math.prod(shape) for shape, _ in forms}
    weights = sum(math.prod(leaf.shape) for leaf in leaves.values())
    most = 4 * weights // BYTES_OF_A_PROGRAM
    other = isinstance(draws, KeyDraws) and draws.generator != modes.GENERATOR
    if other and len(sizes) > most:
        return (
            f"its leaves are sampled in {len(sizes)} sizes by another generator than "
            f"{modes.GENERATOR}; at most {most} in so small a network"
        )
    small = sum(math.prod(leaf.shape) < replay.SMALL for leaf in sampled.values())
    if draws.can_be_replayed() and small * draws.refreshes > MOST_SMALL:
        return (
            f"its {small:,} small leaves were resampled {draws.refreshes:,} times; at "
            f"most {MOST_SMALL:,} in all"
        )
    return None


def check_words(
    words: Sequence[str] | None, description: Description, params: PyTree
) -> None:
    """Raises ValueError for words that `words` would not read."""
    if words is None:
        return
    most, limit = vocabulary_limits(description, params)
    size = sum(len(word.encode()) + 1 for word in words)
    if len(words) > most or size > limit:
        raise ValueError(
            f"the ticket cannot be written: its vocabulary has {len(words):,} words "
            f"in {size:,} bytes; at most {most:,} in {limit:,}"
        )


def words(
    lines: np.ndarray, description: Description, params: PyTree
) -> tuple[str, ...]:
    """The words of a compressed vocabulary.

    Raises:
      ValueError: it is damaged, or of more words or bytes than its network reads.
    """
    most, limit = vocabulary_limits(description, params)
    inflate = zlib.decompressobj()
    text = inflate.decompress(lines.data, limit + 1)
    if len(text) > limit or not inflate.eof or text.count(b"\n") > most:
        raise ValueError(
            f"its vocabulary is cut, or of over {most:,} words or {limit:,} bytes"
        )
    return from_lines(text)


def vocabulary_limits(description: Description, params: PyTree) -> tuple[int, int]:
    """The words and bytes that the vocabulary of a network has, at most.

    Raises:
      ValueError: the network does not read texts.
    """
    if not description.of_texts:
        raise ValueError("it has a vocabulary, and its inputs are no texts")
    try:
        rows = getattr(description.build(), "vocabulary_size", WORDS + 2)
    except ValueError:  # a network that is not named, of which `like` has the leaves
        rows = WORDS + 2
    most = max(0, int(rows) - 2)
    weights = sum(math.prod(leaf.shape) for leaf in leaves_of(params).values())
    return most, max(BYTES_OF_A_WORD * most, 2 * weights)  # half of float32


def _sizes(path: str, leaf: Any, found: Forms) -> dict[str, int]:
    """The kinds of arrays that a leaf may have, and the entries of each at most.

    Others beside them would be read and not used.
    """
    code = 5 * leaf.size + 64  # four bytes a number, as deflate stores them
    bits = -(-leaf.size // 8)
    sizes = {
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
    has = {kind for kind in sizes if f"{kind}/{path}" in found}
    if not has & {"leaf", "mask", "mask_code"}:
        raise ValueError(f"there is neither leaf/{path} nor mask/{path}")
    values = [kind for kind in packing.SOURCES if kind in has]
    if len(values) > 1:
        raise ValueError(f"there are both {values[0]}/{path} and {values[1]}/{path}")
    source = values[0] if values else None
    possible = set(_BESIDE[source])
    for kind in sorted(possible):
        possible.add(f"{kind}_code")
        if {kind, f"{kind}_code"} <= has:
            raise ValueError(f"there are both {kind}/{path} and {kind}_code/{path}")
    if source == "draw" and not has & {"drawn", "drawn_code"}:
        possible.add("gap")
    for kind in sorted(has - possible - set(values)):
        beside = f"{source}/{path}" if source else f"no other array of {path}"
        raise ValueError(f"there is {kind}/{path} beside {beside}")
    coded = found.get(f"mask_code/{path}")
    if coded is not None and codes.BITS_OF_A_BYTE * coded.size < leaf.size:
        raise ValueError(
            f"mask_code/{path} has {coded.size} bytes for {leaf.size} weights; "
            f"possible: at least one for {codes.BITS_OF_A_BYTE}"
        )
    return sizes


_BESIDE: Mapping[str | None, tuple[str, ...]] = {
    "leaf": (),
    "scale": ("mask", "sign"),
    "levels": ("mask", "sign", "level"),
    "kept": ("mask",),
    "draw": ("mask", "drawn"),
    None: ("mask",),
}
"""The bits that a leaf has beside the array of its values, each plain or as a code."""


def _dtype(kind: str, leaf: Any) -> np.dtype:
    values = kind in ("leaf", "scale", "levels", "kept")
    return np.dtype(leaf.dtype if values else np.uint8)


def _check_form(
    name: str, form: jax.ShapeDtypeStruct, most: int, wanted: np.dtype
) -> None:
    if form.size > most:
        raise ValueError(f"{name} has {form.size} entries where {most} are possible")
    same_kind = np.can_cast(form.dtype, wanted, "same_kind")
    if not same_kind or form.dtype.itemsize > wanted.itemsize:
        raise ValueError(f"{name} is of {form.dtype}; possible: {wanted}")
