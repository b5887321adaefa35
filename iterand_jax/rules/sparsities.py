"""Sparsities per leaf, by patterns of paths in the order in which they were written.

JAX sorts the keys of a dict whenever it flattens a tree, which would change which
pattern comes first. `Sparsities` is a mapping that keeps its order in `jit`, `scan` and
`jax.tree.map`, and that can be part of a static argument.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from iterand_jax.rules.patterns import covers, matches

__all__ = ["Sparsities"]


@jax.tree_util.register_pytree_with_keys_class
class Sparsities(Mapping):
    """An immutable, ordered mapping from patterns to fractions.

    >>> sparsities = Sparsities({"conv/*": 0.2, "*": 0.9})
    >>> jax.tree.map(lambda sparsity: sparsity / 2, sparsities)
    Sparsities({'conv/*': 0.1, '*': 0.45})
    >>> sparsities == Sparsities({"*": 0.9, "conv/*": 0.2})
    False
    """

    def __init__(self, of_patterns: Mapping[str, Any]):
        """Copies the patterns in their order."""
        self._of_patterns = dict(of_patterns)
        for pattern in self._of_patterns:
            if not isinstance(pattern, str):
                raise ValueError(
                    f"a sparsity's pattern is the text of a path; got {pattern!r}"
                )

    def __getitem__(self, pattern: str) -> Any:
        """The fraction of a pattern."""
        return self._of_patterns[pattern]

    def __iter__(self) -> Iterator[str]:
        """The patterns, in order."""
        return iter(self._of_patterns)

    def __len__(self) -> int:
        """The number of patterns."""
        return len(self._of_patterns)

    def __eq__(self, other: object) -> bool:
        """Whether patterns, fractions and their order are the same."""
        return isinstance(other, Mapping) and [*self.items()] == [*other.items()]

    def __hash__(self) -> int:
        """A hash of patterns, fractions and their order."""
        return hash(tuple(self.items()))

    def __repr__(self) -> str:
        """The expression that creates it."""
        return f"Sparsities({self._of_patterns})"

    def of(self, path: str) -> Any:
        """The sparsity of a leaf: that of the first pattern that matches its path.

        Raises:
          ValueError: no pattern matches.
        """
        for pattern, sparsity in self.items():
            if matches(pattern, path):
                return sparsity
        raise ValueError(
            f"no sparsity for the leaf {path!r}; patterns: {', '.join(self)}"
        )

    def check(self, paths: Iterable[str]) -> None:
        """Raises ValueError for a pattern or a pruned leaf that the other lacks.

        Of a whole tree: its parts need not use each pattern.

        >>> Sparsities({"*": 0.9, "x": 0.2}).check(["conv/kernel", "head"])
        Traceback (most recent call last):
        ...
        ValueError: the sparsity pattern 'x' matches none of the pruned leaves \
conv/kernel, head
        """
        paths = [*paths]
        for path in paths:
            self.of(path)
        for pattern in self:
            if not any(matches(pattern, path) for path in paths):
                raise ValueError(
                    f"the sparsity pattern {pattern!r} matches none of the pruned "
                    f"leaves {', '.join(paths)}"
                )
        self._check_used(paths)

    def check_order(self) -> None:
        """Raises ValueError for a pattern that no tree uses: an earlier one covers it.

        >>> Sparsities({"*": 0.9, "conv/*": 0.2}).check_order()
        Traceback (most recent call last):
        ...
        ValueError: the sparsity pattern 'conv/*' is never used: '*' before it matches \
all that it does
        """
        patterns = [*self]
        for number, pattern in enumerate(patterns):
            for earlier in patterns[:number]:
                if covers(earlier, pattern):
                    raise ValueError(
                        f"the sparsity pattern {pattern!r} is never used: {earlier!r} "
                        f"before it matches all that it does"
                    )

    def _check_used(self, paths: Iterable[str]) -> None:
        """Raises ValueError for a pattern that is shadowed in a tree of these paths."""
        unused: dict[str, tuple[str, str]] = {}
        used = set()
        for path in paths:
            first, *others = [p for p in self if matches(p, path)] or [""]
            used.add(first)
            unused |= {other: (first, path) for other in others}
        for pattern, (first, path) in unused.items():
            if pattern not in used:
                raise ValueError(
                    f"the sparsity pattern {pattern!r} is never used: {first!r} comes "
                    f"before it and matches {path!r}, too"
                )

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """The fractions as children, in order, and the patterns as static data."""
        key = jax.tree_util.DictKey
        return [(key(p), s) for p, s in self.items()], tuple(self)

    @classmethod
    def tree_unflatten(cls, patterns: tuple[str, ...], fractions: Any) -> "Sparsities":
        """Rebuilds the mapping from the same patterns and new fractions."""
        return cls(dict(zip(patterns, fractions, strict=True)))
