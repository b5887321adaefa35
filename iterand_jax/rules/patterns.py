"""Shell-style patterns of paths."""

import fnmatch
import glob

__all__ = ["covers", "literal", "matches"]


def matches(pattern: str, path: str) -> bool:
    """Whether a shell-style pattern matches a path, at the root or below.

    >>> matches("*/kernel", "kernel"), matches("*/kernel", "Conv_0/bias")
    (True, False)
    """
    if not glob.has_magic(pattern):  # a literal path, as most rules of a model are
        return pattern in (path, f"/{path}")
    return fnmatch.fnmatchcase("/" + path, pattern) or fnmatch.fnmatchcase(
        path, pattern
    )


def covers(pattern: str, other: str) -> bool:
    """Whether a pattern provably matches every path that another one matches.

    >>> covers("*", "conv/*"), covers("*/kernel", "a/kernel"), covers("a/*", "*/b")
    (True, True, False)
    """
    if "[" in pattern or "[" in other:  # sets of characters are not compared
        return pattern in (other, "*")
    # Wildcards become empty text, and then text that occurs in no pattern.
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
