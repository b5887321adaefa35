"""Patterns of paths, and values by pattern in the order in which they were written."""

import fnmatch
import glob
from collections.abc import Iterator, Mapping
from typing import Any

import jax

__all__ = ["ByPattern", "covers", "literal", "matches"]


def matches(pattern: str, path: str) -> bool:
    """Whether a shell-style pattern matches a path, at the root or below.

    >>> matches("*/kernel", "kernel"), matches("*/kernel", "Conv_0/bias")
    (True, False)
    """
    if not glob.has_magic(pattern):  # a path: of many rules most are
        return pattern in (path, f"/{path}")
    return fnmatch.fnmatchcase("/" + path, pattern) or fnmatch.fnmatchcase(
        path, pattern
    )


def covers(pattern: str, other: str) -> bool:
    """Whether a pattern certainly matches every path that another one matches.

    >>> covers("*", "conv/*"), covers("*/kernel", "a/kernel"), covers("a/*", "*/b")
    (True, True, False)
    """
    if "[" in other:
        return pattern in (other, "*")
    # What stands for anything becomes nothing, and then text that no pattern spells.
    short = other.replace("*", "").replace("?", "\0")
    long = other.replace("*", "\0/\0").replace("?", "\0")
    return pattern == other or (
        fnmatch.fnmatchcase(short, pattern) and fnmatch.fnmatchcase(long, pattern)
    )


def literal(path: str) -> str:
    """The pattern that matches this path alone.

    >>> literal("layers/0/kernel"), literal("a[0]")
    ('layers/0/kernel', 'a[[]0]')
    """
    return glob.escape(path)


@jax.tree_util.register_pytree_node_class
class ByPattern(Mapping[str, Any]):
    """Values by pattern, of which the first match counts: a mapping that keeps order.

    JAX sorts the keys of a dict, so that one which passes through `jax.jit`,
    `jax.tree.map` or a scan comes back with "*" first. This one is a pytree of its
    values and keeps its patterns as they are; two of another order are not equal.

    Raises:
      ValueError: a pattern that one before it covers, so that its value, another one,
        would never be used.

    >>> halved = jax.tree.map(lambda p: p / 2, ByPattern({"b/*": 0.5, "*": 0.8}))
    >>> list(halved.items()), halved["b/*"], len(halved)
    ([('b/*', 0.25), ('*', 0.4)], 0.25, 2)
    >>> ByPattern({"*": 0.8, "b/*": 0.5})
    Traceback (most recent call last):
    ...
    ValueError: the pattern 'b/*' is never used: '*' before it matches all that it does
    """

    def __init__(self, values: Mapping[str, Any]):
        """Keeps the order of the mapping."""
        self._items = tuple(values.items())
        for index, (pattern, value) in enumerate(self._items):
            for earlier, first in self._items[:index]:
                if covers(earlier, pattern) and not _equal(first, value):
                    raise ValueError(
                        f"the pattern {pattern!r} is never used: {earlier!r} before it "
                        f"matches all that it does"
                    )

    def __getitem__(self, pattern: str) -> Any:
        """The value of a pattern (of a path: `first`)."""
        return dict(self._items)[pattern]

    def __iter__(self) -> Iterator[str]:
        """The patterns, in their order."""
        return (pattern for pattern, _ in self._items)

    def __len__(self) -> int:
        """The number of patterns."""
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        """Whether patterns, values and order are the same."""
        if isinstance(other, Mapping):
            return self._items == tuple(other.items())
        return NotImplemented

    def __hash__(self) -> int:
        """So that it can be part of a static argument, if its values can."""
        return hash(self._items)

    def __repr__(self) -> str:
        """As the dict that it was made of."""
        return repr(dict(self._items))

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """The values, and the patterns."""
        return tuple(value for _, value in self._items), tuple(self)

    @classmethod
    def tree_unflatten(cls, patterns, values) -> "ByPattern":
        """With other values, which are not looked at."""
        self = object.__new__(cls)
        self._items = tuple(zip(patterns, values, strict=True))
        return self

    def first(self, path: str) -> str | None:
        """The first pattern that matches a path, or None.

        >>> ByPattern({"b/*": 0.5, "*": 0.8}).first("b/kernel")
        'b/*'
        """
        return next((p for p in self if matches(p, path)), None)


def _equal(value: Any, other: Any) -> bool:
    """Whether two values are certainly equal; of traced ones that is not known."""
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return value is other or (numbers and value == other)
