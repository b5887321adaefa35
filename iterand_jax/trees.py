"""The leaves of a pytree by their paths, a digest of them, and pairs of trees.

In a pair of scores or masks and the weights that they apply to, the first tree holds
None where the leaf of the second is not pruned.
"""

import collections
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

PyTree = Any
VALUE = jax.tree_util.GetAttrKey("value")


def path_string(path: tuple) -> str:
    """A key path of jax.tree_util as names joined by slashes: "Conv_0/kernel".

    A Flax NNX variable is a node around its value; its path is the variable's.

    >>> import jax
    >>> ((path, _),) = jax.tree_util.tree_leaves_with_path({"Conv_0": {"kernel": 0}})
    >>> path_string(path)
    'Conv_0/kernel'
    """
    return _joined(path[:-1] if len(path) > 1 and path[-1] == VALUE else path)


def _joined(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def paths_of(
    tree: PyTree, *, is_leaf: Callable[[Any], bool] | None = None
) -> dict[tuple, str]:
    """The `path_string` of each leaf of a tree by its key path, None included.

    Only a node with nothing but a value is taken for a variable: a module whose leaves
    are query, key and value has a leaf "value".

    >>> import equinox
    >>> class Attention(equinox.Module):
    ...     query: int
    ...     value: int
    >>> [*paths_of([Attention(1, 2)]).values()]
    ['0/query', '0/value']
    """
    paths = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda x: x is None or (is_leaf is not None and is_leaf(x))
        )
    ]
    values = [path for path in paths if path and path[-1] == VALUE]
    below = collections.Counter(
        path[:n] for path in paths for n in range(len(path)) if values
    )
    return {
        path: path_string(path) if below[path[:-1]] < 2 else _joined(path)
        for path in paths
    }


def leaves_of(
    tree: PyTree, *, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Any]:
    """{path: leaf} in the order of the tree; None is not a leaf.

    Args:
      tree: of any nodes that JAX knows.
      is_leaf: what else is a leaf, as in `jax.tree.leaves`.

    Raises:
      ValueError: two leaves have one path, which determines rules and draws.

    >>> leaves_of({"Dense_0": {"kernel": 1, "bias": None}})
    {'Dense_0/kernel': 1}
    >>> leaves_of({"a": {"b": 1}, "a/b": 2})
    Traceback (most recent call last):
    ...
    ValueError: two leaves of the tree have the path 'a/b', since names are joined by \
slashes; rename the key that has a slash
    """
    found: dict[str, Any] = {}
    names = paths_of(tree, is_leaf=is_leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
        name = names[path]
        if name in found:
            raise ValueError(
                f"two leaves of the tree have the path {name!r}, since names are "
                f"joined by slashes; rename the key that has a slash"
            )
        found[name] = leaf
    return found


def sha256(leaves: Mapping[str, np.ndarray]) -> str:
    """A digest of the paths, dtypes, shapes and bytes of leaves, in any order."""
    digest = hashlib.sha256()
    for path in sorted(leaves):
        leaf = leaves[path]
        digest.update(f"{path}:{leaf.dtype}:{leaf.shape};".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def map_paths(f: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """The tree of f(path, leaf).

    Raises:
      ValueError: two leaves have one path.

    >>> map_paths(lambda path, leaf: path, {"Dense_0": {"kernel": 1}})
    {'Dense_0': {'kernel': 'Dense_0/kernel'}}
    """
    leaves_of(tree)
    names = paths_of(tree)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: f(names[path], leaf), tree
    )


def map_pair(
    f: Callable[[str, Any, Any], Any], scored: PyTree, weights: PyTree
) -> PyTree:
    """The tree of f(path, scored, weight); weights paired with None are unchanged.

    >>> map_pair(lambda path, s, w: s * w, {"a": 2, "b": None}, {"a": 3, "b": 5})
    {'a': 6, 'b': 5}
    """
    names = paths_of(scored)
    return jax.tree_util.tree_map_with_path(
        lambda path, s, w: w if s is None else f(names[path], s, w),
        scored,
        weights,
        is_leaf=_is_none,
    )


def _is_none(leaf: Any) -> bool:
    return leaf is None
