"""Random changes of bytes, of JSON and of arrays, for campaigns and tests.

Each takes a `random.Random` and returns what it did with the changed value, so that a
seed is enough to see a change again.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

DEEP = 2000  # lists in lists

STRANGE: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 10**22, -(2**63)),
    *(0.5, -0.25, 1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
    *("", "a", "x" * 300, "\x1b[31m\n\x00", "\ud800", "../up", "module:Name", "é"),
    *([], {}, [[]], [None], {"": None}, ["a", "b"], [1, 2, 3], [0] * 100),
    *("float8_e4m3fn", "bfloat16", "object", "int32", "rbg", "kaiming_normal"),
)


LONG: Mapping[str, Callable[[int], Any]] = {
    "lists": lambda count: [[]] * count,
    "lists in lists": lambda count: [[[]]] * count,
    "dicts": lambda count: [{"": 0}] * count,
    "numbers": lambda count: [1000] * count,
    "inputs": lambda count: [[[], "u1"]] * count,
    "texts": lambda count: ["\u00e9"] * count,
    "numbers by path": lambda count: {f"{n:x}": n for n in range(count)},
    "leaves by path": lambda count: {f"{n:x}": [[n], "u1"] for n in range(count)},
}
"""Long values of JSON, of so many parts, which take many times their bytes."""


def changed_bytes(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """(kind, content) with a bit flipped, or bytes cut, lost, added or repeated."""
    kind = draw.choice(list(_OF_BYTES))
    found = bytearray(content)
    first, last = sorted(draw.choices(range(len(content) + 1), k=2))
    _OF_BYTES[kind](found, first, min(last, first + 64), draw)
    return kind, bytes(found)


def _flip(found: bytearray, first: int, last: int, draw: random.Random) -> None:
    if found:
        found[first % len(found)] ^= 1 << draw.randrange(8)


def _cut(found: bytearray, first: int, last: int, draw: random.Random) -> None:
    del found[first:]


def _lose(found: bytearray, first: int, last: int, draw: random.Random) -> None:
    del found[first:last]


def _fill(found: bytearray, first: int, last: int, draw: random.Random) -> None:
    found[first:last] = bytes([draw.choice((0, 255))]) * (last - first)


def _add(found: bytearray, first: int, last: int, draw: random.Random) -> None:
    found[first:first] = draw.randbytes(draw.randrange(1, 64))


def _repeat(found: bytearray, first: int, last: int, draw: random.Random) -> None:
    found[last:last] = found[first:last]


_OF_BYTES: dict[str, Callable[[bytearray, int, int, random.Random], None]] = {
    "a bit flipped": _flip,
    "bytes cut": _cut,
    "bytes lost": _lose,
    "bytes filled": _fill,
    "bytes added": _add,
    "bytes repeated": _repeat,
}


def changed_json(value: Any, draw: random.Random) -> tuple[str, Any]:
    """(kind, value) with a part replaced, removed, added, doubled or nested deeply.

    The value is one of `json.loads`; the one that is given is not changed.
    """
    whole = [copy.deepcopy(value)]
    places = list(_places(whole))
    container, key = draw.choice(places)
    kind = draw.choice(["replaced", "removed", "added", "of text", "doubled", "nested"])
    if kind == "nested" and draw.random() < 0.8:
        kind = "replaced"  # one in thirty is enough
    here = container[key]
    if kind == "removed" and container is not whole:
        del container[key]
    elif kind == "added" and isinstance(here, dict):
        here[draw.choice(("", "other", "key", "name"))] = draw.choice(STRANGE)
    elif kind == "added" and isinstance(here, list):
        here.append(draw.choice(STRANGE))
    elif kind == "of text" and not isinstance(here, str):
        container[key] = str(here)
    elif kind == "doubled" and isinstance(here, int | float):
        container[key] = here * draw.choice((2, -1, 10**3, 10**9, 0.5))
    elif kind == "nested":
        container[key] = nested(DEEP)
    else:
        kind, container[key] = "replaced", draw.choice(STRANGE)
    return f"a value {kind}", whole[0]


def changed_arrays(
    arrays: Mapping[str, np.ndarray],
    renamed: Callable[[str], str],
    draw: random.Random,
) -> tuple[str, dict[str, np.ndarray]]:
    """(kind, arrays) with one of them changed, removed, or of another name or form.

    Args:
      arrays: by name; they are not changed.
      renamed: another name for a name.
      draw: decides.
    """
    found = dict(arrays)
    name = draw.choice(sorted(found))
    array = found[name]
    kind = draw.choice(["changed", "removed", "renamed", "of a dtype", "of a shape"])
    if kind == "removed":
        del found[name]
    elif kind == "renamed":
        found[renamed(name)] = found.pop(name)
    elif kind == "of a dtype":
        # safetensors 0.6, the oldest allowed, writes no complex numbers.
        dtype = draw.choice(["bool", "uint8", "int8", "float16", "float64", "int64"])
        with np.errstate(all="ignore"):
            found[name] = array.astype(dtype)
    elif kind == "of a shape":
        shapes = [array[None], array.ravel()[:-1], np.tile(array.ravel(), 3)]
        found[name] = draw.choice([*shapes, array.ravel()[:0], array.reshape(-1)])
    else:
        content = changed_bytes(array.tobytes(), draw)[1]
        content = content[: len(content) // array.itemsize * array.itemsize]
        found[name] = np.frombuffer(content, array.dtype)
        if found[name].size == array.size:
            found[name] = found[name].reshape(array.shape)
    return f"an array {kind}", found


def nested(depth: int) -> list[Any]:
    """A list in a list in a list ..."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def text_of(value: Any) -> str:
    """JSON of a value however deep, where `json.dumps` gives up.

    >>> text_of(nested(5000)).count("["), text_of({"a": [1, "b"]})
    (5001, '{"a": [1, "b"]}')
    """
    try:
        return json.dumps(value)
    except RecursionError:
        if isinstance(value, dict):
            parts = (f"{json.dumps(str(k))}: {text_of(v)}" for k, v in value.items())
            return "{" + ", ".join(parts) + "}"
        depth, inner = 0, value
        while isinstance(inner, list) and len(inner) == 1:
            depth, inner = depth + 1, inner[0]
        if not depth:
            return "[" + ", ".join(map(text_of, value)) + "]"
        return "[" * depth + text_of(inner) + "]" * depth


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of all values in it."""
    keys = container if isinstance(container, dict) else range(len(container))
    for key in list(keys):
        yield container, key
        if isinstance(container[key], dict | list):
            yield from _places(container[key])
