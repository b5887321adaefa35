"""Trees as their leaves by path, and a digest of them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from iterand_jax.rules import path_string

PyTree = Any


def leaves_of(tree: PyTree) -> dict[str, Any]:
    """{path: leaf} in the order of the tree; where it holds None there is no leaf.

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
