"""The leaves of a pytree by their paths, and a digest of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

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
