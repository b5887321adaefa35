"""The leaves of a pytree by their paths, a digest of them, and pairs of trees.

In a pair of scores or masks and the weights that they apply to, the first tree holds
None where the leaf of the second is not pruned.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from iterand_jax.checks import check_array

PyTree = Any


def path_string(path: tuple) -> str:
    """A key path of jax.tree_util as names joined by slashes: "Conv_0/kernel".

    A Flax NNX variable is a node around its value; its path is the variable's.

    >>> import jax
    >>> ((path, _),) = jax.tree_util.tree_leaves_with_path({"Conv_0": {"kernel": 0}})
    >>> path_string(path)
    'Conv_0/kernel'
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_of(tree: PyTree) -> dict[str, Any]:
    """{path: leaf} in the order of the tree; None is not a leaf.

    >>> leaves_of({"Dense_0": {"kernel": 1, "bias": None}})
    {'Dense_0/kernel': 1}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_string(path): leaf for path, leaf in leaves}


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

    >>> map_paths(lambda path, leaf: path, {"Dense_0": {"kernel": 1}})
    {'Dense_0': {'kernel': 'Dense_0/kernel'}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: f(path_string(path), leaf), tree
    )


def map_pair(
    f: Callable[[str, Any, Any], Any], scored: PyTree, weights: PyTree
) -> PyTree:
    """The tree of f(path, scored, weight); weights paired with None are unchanged.

    >>> map_pair(lambda path, s, w: s * w, {"a": 2, "b": None}, {"a": 3, "b": 5})
    {'a': 6, 'b': 5}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, s, w: w if s is None else f(path_string(path), s, w),
        scored,
        weights,
        is_leaf=_is_none,
    )


def check_pair(scored: PyTree, weights: PyTree, *, what: str = "score") -> None:
    """Raises ValueError, with the path of a leaf, if two trees do not match.

    Swapped trees are detected by leaves that are not pruned, which have weights but no
    scores. If every leaf is pruned, they cannot be detected.

    >>> check_pair({"kernel": jax.numpy.ones((2, 2))}, {"kernel": jax.numpy.ones(3)})
    Traceback (most recent call last):
    ...
    ValueError: the leaf 'kernel' has scores (2, 2) and weights (3,), which differ in \
shape
    """
    ours, theirs = _with_none(scored), _with_none(weights)
    for path, score in ours.items():
        if score is None:
            continue
        if path not in theirs:
            raise ValueError(
                f"the leaf {path!r} has a {what} and is not in the tree of weights"
            )
        weight = theirs[path]
        if weight is None:
            raise ValueError(
                f"the leaf {path!r} has a {what} and no weight: the scores are the "
                f"first argument, the weights the second; masks come after weights"
            )
        check_array(path, score)
        check_array(path, weight)
        if score.shape != weight.shape:
            raise ValueError(
                f"the leaf {path!r} has {what}s {score.shape} and weights "
                f"{weight.shape}, which differ in shape"
            )
    unpruned = {path for path, score in ours.items() if score is None}
    for path in theirs.keys() - ours.keys():
        parts = path.split("/")
        if not any("/".join(parts[:n]) in unpruned for n in range(len(parts))):
            raise ValueError(
                f"the leaf {path!r} has a weight, and the tree of {what}s has neither "
                f"a {what} nor None in its place"
            )
    try:
        jax.tree.map(lambda s, w: None, scored, weights, is_leaf=_is_none)
    except (TypeError, ValueError) as error:  # the same paths, in other containers
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the trees of {what}s and weights differ in structure: {reason[:200]}"
        ) from error


def _with_none(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_none)
    return {path_string(path): leaf for path, leaf in leaves}


def _is_none(leaf: Any) -> bool:
    return leaf is None
