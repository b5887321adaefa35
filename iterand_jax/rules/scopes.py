"""Which leaves share a threshold, by patterns of paths."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from iterand_jax.rules.patterns import matches

__all__ = ["check_scope", "groups_of", "in_scope", "scope_of", "shared_sparsity"]


def scope_of(scope: Any) -> tuple[str, ...]:
    """The patterns of a scope.

    Raises:
      ValueError: it is not a sequence of patterns, each once.

    >>> scope_of(["conv/*", "*"])
    ('conv/*', '*')
    >>> scope_of("*")
    Traceback (most recent call last):
    ...
    ValueError: scope is a tuple of patterns, ('*',) for all leaves together; got '*'
    """
    patterns = scope if isinstance(scope, Sequence) else [None]
    texts = all(isinstance(pattern, str) and pattern for pattern in patterns)
    if isinstance(scope, str) or not texts or len({*patterns}) < len(patterns):
        raise ValueError(
            f"scope is a tuple of patterns, ('*',) for all leaves together; got "
            f"{scope!r:.60}"
        )
    return tuple(patterns)


def groups_of(
    scope: Iterable[str], paths: Iterable[str]
) -> tuple[tuple[int, ...], ...]:
    """The indices of the paths that share a threshold, in the order of their first.

    Paths whose first matching pattern is the same are a group; one that no pattern
    matches is alone.

    >>> groups_of(["conv/*"], ["conv/a", "head", "conv/b"])
    ((0, 2), (1,))
    """
    groups: dict[Any, list[int]] = {}
    for index, path in enumerate(paths):
        first = next((p for p in scope if matches(p, path)), None)
        groups.setdefault(index if first is None else first, []).append(index)
    return tuple(map(tuple, groups.values()))


def in_scope(scope: Iterable[str], path: str) -> bool:
    """Whether a pattern matches a path, which then shares its threshold.

    >>> in_scope(["conv/*"], "conv/a"), in_scope([], "conv/a")
    (True, False)
    """
    return any(matches(pattern, path) for pattern in scope)


def shared_sparsity(
    scope: Iterable[str], paths: Sequence[str], sparsity_of: Callable[[str], Any]
) -> Any:
    """The sparsity of leaves that share a threshold.

    Args:
      scope: patterns.
      paths: of a group of `groups_of`.
      sparsity_of: path -> its sparsity.

    Raises:
      ValueError: they have several, or ones of different traced scalars, which may be.

    >>> shared_sparsity(["*"], ["a", "b"], {"a": 0.5, "b": 0.7}.get)
    Traceback (most recent call last):
    ...
    ValueError: the scope '*' has one threshold, and the sparsity of 'a' is 0.5, that \
of 'b' 0.7; possible: one sparsity for each pattern of the scope
    """
    first, *others = [sparsity_of(path) for path in paths]
    for path, sparsity in zip(paths[1:], others, strict=True):
        if sparsity is first:
            continue
        traced = any(isinstance(p, jax.core.Tracer) for p in (first, sparsity))
        if traced or sparsity != first:
            pattern = next(p for p in scope if matches(p, path))
            raise ValueError(
                f"the scope {pattern!r} has one threshold, and the sparsity of "
                f"{paths[0]!r} is {first}, that of {path!r} {sparsity}; "
                f"possible: one sparsity for each pattern of the scope"
            )
    return first


def check_scope(
    scope: Sequence[str], paths: Iterable[str], sparsity_of: Callable[[str], Any]
) -> None:
    """Raises ValueError for a scope that does not fit the pruned leaves.

    Args:
      scope: patterns.
      paths: of the pruned leaves.
      sparsity_of: path -> its sparsity, which a group has to share.

    >>> check_scope(["x/*"], ["conv/a", "head"], lambda path: 0.5)
    Traceback (most recent call last):
    ...
    ValueError: the scope pattern 'x/*' is the first to match none of the pruned \
leaves conv/a, head
    """
    paths = [*paths]
    for pattern in scope:
        earlier = [*scope][: [*scope].index(pattern)]
        own = [
            path
            for path in paths
            if matches(pattern, path) and not in_scope(earlier, path)
        ]
        if not own:
            raise ValueError(
                f"the scope pattern {pattern!r} is the first to match none of the "
                f"pruned leaves {', '.join(paths)}"
            )
        shared_sparsity(scope, own, sparsity_of)
