"""Checks that a tree of scores or masks, and the weights they apply to, fit."""

from typing import Any

import jax

from iterand_jax.runtime.checks import check_array
from iterand_jax.trees import leaves_of

__all__ = ["check_pair"]

PyTree = Any


def check_pair(scored: PyTree, weights: PyTree, *, what: str = "score") -> None:
    """Raises ValueError, with the path of a leaf, if two trees do not match.

    Swapped trees are detected by leaves that are not pruned, which have weights but no
    scores. If every leaf is pruned, both trees are floats of the same shapes, and
    nothing tells them apart; name the arguments there: `prune(scores=s, weights=w)`.

    >>> check_pair({"kernel": jax.numpy.ones((2, 2))}, {"kernel": jax.numpy.ones(3)})
    Traceback (most recent call last):
    ...
    ValueError: the leaf 'kernel' has scores (2, 2) and weights (3,), which differ in \
shape
    """
    ours, theirs = (leaves_of(tree, is_leaf=_is_none) for tree in (scored, weights))
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


def _is_none(leaf: Any) -> bool:
    return leaf is None
