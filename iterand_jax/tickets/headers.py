"""How large the header of a ticket can be, the same rule for writing and for reading.

Parsing JSON takes up to forty times its bytes of memory, so that they are counted
before. Three things of a header grow with the network: the entries of its arrays, those
of a tree's leaves, and numbers by the path of a leaf (fan-ins and sizes). All have a
fixed form, in which a byte takes some thirty of memory. All else together is small.

So a header of up to `ALWAYS` bytes is parsed at once, and a larger one when it is known
how large its network is, and of how many leaves: from its `skeleton`, which has no long
row of entries.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MOST = 2**23
"""Bytes of names, shapes and metadata: of some twenty thousand leaves."""

ALWAYS = 2**16
"""Bytes that a header can have whatever its network is: parsed, they take 3 MB."""

OF_SMALL = 5 * 2**16
"""Bytes beyond these for `OF_A_SMALL_LEAF`: of hundreds of leaves."""

OF_A_SMALL_LEAF = 2**10
"""Bytes of a header for each leaf of its network, however few weights that has: of four
arrays with a name of 140 characters."""

SHARE = 16
"""Beyond `ALWAYS` and `OF_SMALL`, the header grows by one byte for this many of the
arrays, and of the network in float32."""

OF_A_LEAF = 2**11
"""Bytes of a header for each leaf of its network: of its arrays, form and fan-in."""

WEIGHTS_OF_A_BYTE = 64
"""Weights for each byte of the arrays, at most: a code of a mask is filled to that."""

MOST_OTHER = 2**16
"""Bytes of a header besides entries by path: a run and a network are a thousand, means
and deviations of a thousand channels forty thousand."""

MOST_SKELETON = 3 * 2**15
"""Bytes of a skeleton: these, and entries that follow too few others to be a row."""

OF_AN_ARRAY = 3
"""Entries by path for each array: of its leaf, its fan-in, and few other numbers."""

# An entry of an array as safetensors writes it, and the entries of a path in the
# metadata, which is JSON in a string of JSON. After the quote at the end of a string is
# none of what a name may begin with, and a quote inside of one comes after a backslash,
# so that an entry is one wherever it is found.
_ESCAPE = rb'\\\\(?:u[0-9a-f]{4}|[bfnrt]|\\"|\\\\)'  # of JSON in a string of JSON
_NO_END = rb"(?![\s:,\]}])"
_ENTRY = re.compile(
    rb'(?<!\\)"' + _NO_END + rb'(?:[^"\\]|\\(?:["\\bfnrt]|u[0-9a-f]{4})){0,1000}+":'
    rb'\{"dtype":"\w{1,16}","shape":\[[\d,]{0,400}\],'
    rb'"data_offsets":\[\d{1,20},\d{1,20}\]\},?'
    rb'|(?<!\\)\\"(?P<name>' + _NO_END + rb'(?:[^"\\]|' + _ESCAPE + rb'){0,1000}+)\\": '
    rb'(?:[-+.e\d]{1,30}|\[\[(?P<shape>[\d, ]{0,400})\], \\"\w{1,16}\\"\])(?:, )?'
)
_QUOTE = ord('"')  # which starts the entry of an array
_LONG = 32  # entries that follow each other, of which the skeleton has the number
MORE = "(more)"
"""In the place of a long row of entries: how many, and the numbers in their leaves."""


def check_size(size: int, of_arrays: int) -> None:
    """Checks the bytes of a header beside those of the arrays.

    Raises:
      ValueError: more than a network of such arrays has.

    >>> check_size(3_000_000, of_arrays=4_000)
    Traceback (most recent call last):
    ...
    ValueError: its header has 3,000,000 bytes; at most 393,466 with arrays of 4,000
    >>> check_size(3_000_000, of_arrays=50_000_000)
    """
    of_arrays = max(0, of_arrays)  # of a size that is none, as of another file
    most = ALWAYS + OF_SMALL + of_arrays // SHARE
    _check_most(size, most, f"arrays of {of_arrays:,}")


def _check_most(size: int, most: int, of_what: str) -> None:
    if size > min(MOST, most):
        beside = f" with {of_what}" if most < MOST else ""
        raise ValueError(
            f"its header has {size:,} bytes; at most {min(MOST, most):,}{beside}"
        )


def check(header: bytes) -> None:
    """Checks what a header has besides the entries of arrays and of their leaves.

    Raises:
      ValueError: more than `MOST_OTHER` bytes, or entries by path of more leaves than
        it has arrays.

    >>> check(b'{"mask/a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}')
    """
    if len(header) <= MOST_OTHER:
        return
    arrays, by_path, of_paths, of_arrays = 0, 0, 0, 0
    for found in _ENTRY.finditer(header):
        size = found.end() - found.start()
        if header[found.start()] == _QUOTE:
            arrays, of_arrays = arrays + 1, of_arrays + size
        else:
            by_path, of_paths = by_path + 1, of_paths + size
    if by_path > OF_AN_ARRAY * arrays:  # they are not all of its leaves
        of_paths = 0
    other = len(header) - of_arrays - of_paths
    if other > MOST_OTHER:
        raise ValueError(
            f"its metadata has {other:,} bytes besides the leaves of its network (in "
            f"inputs, run and other fields); at most {MOST_OTHER:,}"
        )


def check_network(size: int, of_arrays: int, of_network: int, leaves: int) -> None:
    """Checks the bytes of a large header by the network that it is about.

    Args:
      size: of the header.
      of_arrays: bytes.
      of_network: weights.
      leaves: of the network.

    Raises:
      ValueError: more than such a network has, or arrays too small for its weights.

    >>> check_network(3_000_000, 2**30, of_network=100, leaves=4)
    Traceback (most recent call last):
    ...
    ValueError: its header has 3,000,000 bytes; at most 69,657 with a network of 400
    """
    if of_network > WEIGHTS_OF_A_BYTE * of_arrays:
        raise ValueError(
            f"its network has {of_network:,} weights, and its arrays {of_arrays:,} "
            f"bytes; at most {WEIGHTS_OF_A_BYTE} weights for each"
        )
    for_leaves = min(OF_SMALL, OF_A_SMALL_LEAF * leaves)
    for_weights = min(4 * of_network // SHARE, OF_A_LEAF * leaves)
    most = ALWAYS + for_leaves + for_weights
    _check_most(size, most, f"a network of {4 * of_network:,}")


def skeleton(header: bytes, field: str) -> dict[str, Any]:
    """The metadata in a field of a header of any size, in little memory.

    A long row of entries is one entry named `MORE`. Its value is how many entries the
    row has, and the numbers in the leaves of it, 0 in one of fan-ins or sizes.

    Raises:
      ValueError: the skeleton is long, too, or no JSON; or the leaves of a row are not
        in the order of their names, in which they are written.

    >>> leaves = {f"a/{n}": [[2, 3], "int8"] for n in range(40, 90)}
    >>> fields = {"leaves": leaves, "mean": [0.5]}
    >>> header = json.dumps({"__metadata__": {"ticket": json.dumps(fields)}})
    >>> skeleton(header.encode(), "ticket")
    {'leaves': {'(more)': [50, 300]}, 'mean': [0.5]}
    """
    rows = [row for row in _rows(header) if row.entries >= _LONG]
    if len(header) - sum(row.end - row.start for row in rows) > MOST_SKELETON:
        raise ValueError("its metadata is not in the form in which it is written")
    pieces, end = [], 0
    for row in rows:
        quote = b'"' if header[row.start] == _QUOTE else b'\\"'
        comma = b"," if b"," in header[row.end - 2 : row.end] else b""
        number = str([row.entries, row.numbers]).encode()
        pieces += [header[end : row.start], quote, MORE.encode(), quote, b": ", number]
        pieces.append(comma)
        end = row.end
    pieces.append(header[end:])
    try:
        return dict(json.loads(json.loads(b"".join(pieces))["__metadata__"][field]))
    except (LookupError, TypeError, ValueError, RecursionError):
        raise ValueError("its metadata is no JSON object") from None


class _Row(NamedTuple):
    """Entries that follow each other: where they lie, and their leaves' numbers."""

    start: int
    end: int
    entries: int = 0
    numbers: int = 0
    last: str = ""


def _rows(header: bytes) -> Iterator[_Row]:
    row = _Row(0, 0)
    for found in _ENTRY.finditer(header):
        if found.start() != row.end:
            yield row
            row = _Row(found.start(), found.start())
        numbers, last = row.numbers, row.last
        if found["shape"] is not None:
            name = _name(found["name"])
            if name <= last and row.entries:
                raise ValueError(f"its leaf {name!r:.60} is after {last!r:.60}")
            sizes = map(int, found["shape"].split(b", ") if found["shape"] else ())
            numbers, last = numbers + math.prod(sizes), name
        row = _Row(row.start, found.end(), row.entries + 1, numbers, last)
    yield row


def _name(written: bytes) -> str:
    """The name of an entry in the metadata, a string of JSON in a string of JSON."""
    of_json = json.loads(b'"' + written + b'"')
    return json.loads(f'"{of_json}"')
