"""How large the header of a ticket can be, the same rule for writing and for reading.

Parsing JSON takes up to forty times its bytes of memory, so that they are counted
before. Three things of a header grow with the network: the entries of its arrays, those
of a tree's leaves, and numbers by the path of a leaf (fan-ins and sizes). All have a
fixed form, in which a byte takes some ten of memory. All else together is small.
"""

import re

MOST = 2**23
"""Bytes of names, shapes and metadata: of some twenty thousand leaves."""

ALWAYS = 7 * 2**16
"""Bytes that a header can have whatever its arrays have: of about a thousand leaves."""

SHARE = 16
"""Beyond `ALWAYS`, the header grows by one byte for this many of the arrays."""

MOST_OTHER = 2**16
"""Bytes of a header besides entries by path: a run and a network are a thousand."""

OF_AN_ARRAY = 3
"""Entries by path for each array: of its leaf, its fan-in, and few other numbers."""

# An entry of an array as safetensors writes it, and the entries of a path in the
# metadata, which is JSON in a string of JSON. No group of them keeps a stack.
_ENTRY = re.compile(
    rb'"[^"\\]*+":\{"dtype":"\w{1,16}","shape":\[[\d,]{0,400}\],'
    rb'"data_offsets":\[\d{1,20},\d{1,20}\]\},?'
    rb'|\\"[^"\\]*+(?:\\\\u[0-9a-f]{4}[^"\\]*+)*+\\": '
    rb'(?:[-+.e\d]{1,30}|\[\[[\d, ]{0,400}\], \\"\w{1,16}\\"\])(?:, )?'
)
_QUOTE = ord('"')  # which starts the entry of an array


def check_size(size: int, of_arrays: int) -> None:
    """Checks the bytes of a header beside those of the arrays.

    Raises:
      ValueError: more than a network of such arrays has.

    >>> check_size(3_000_000, of_arrays=4_000)
    Traceback (most recent call last):
    ...
    ValueError: its header has 3,000,000 bytes; at most 459,002 with arrays of 4,000
    >>> check_size(3_000_000, of_arrays=50_000_000)
    """
    of_arrays = max(0, of_arrays)  # of a size that is none, as of another file
    most = min(MOST, ALWAYS + of_arrays // SHARE)
    if size > most:
        beside = f" with arrays of {of_arrays:,}" if most < MOST else ""
        raise ValueError(f"its header has {size:,} bytes; at most {most:,}{beside}")


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
