"""Which leaves of a tree are pruned: rules on a leaf's path and shape.

The first rule that matches claims the leaf. Paths are joined by slashes.
"""

import dataclasses
import fnmatch

from jax import Array

__all__ = ["DEFAULT_RULES", "OUTPUTS_FIRST_RULES", "Rule"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Claims the leaves whose path matches a pattern, and says whether to prune them.

    Attributes:
      pattern: shell-style, matched against the path joined by slashes: "*/kernel"
        claims "Conv_0/kernel", and "kernel" at the root.
      prune: whether the leaf has scores.
      out_axis: the axis of the outputs of a pruned leaf: -1 for the (..., inputs,
        outputs) of Flax, 0 for the (outputs, inputs, ...) of Equinox and PyTorch, and
        for the (words, features) of an embedding. The product of the other axes is the
        fan-in.
      min_ndim: leaves of fewer dimensions fall through to the next rules.
    """

    pattern: str
    prune: bool
    out_axis: int = -1
    min_ndim: int = 0

    def claims(self, path: str, leaf: Array) -> bool:
        """Whether this rule matches a leaf of this path and shape.

        >>> import numpy as np
        >>> rule = Rule("*/kernel", prune=True, min_ndim=2)
        >>> rule.claims("Conv_0/kernel", np.zeros((3, 3, 1, 8)))
        True
        >>> rule.claims("Conv_0/bias", np.zeros(8))
        False
        """
        return leaf.ndim >= self.min_ndim and matches(self.pattern, path)


DEFAULT_RULES = (
    Rule("*/kernel", prune=True, min_ndim=2),
    Rule("*/embedding", prune=True, out_axis=0, min_ndim=2),
    Rule("*", prune=False),
)
"""Flax's names: kernels and embeddings are pruned; biases and normalization are not.

An embedding lookup sums over nothing, so its fan-in is a convention: the number of
features, as PyTorch's initializers compute it for a (words, features) table. (With the
number of words, entries would scale as 1 / sqrt(words), too small a signal for the
layers above.)
"""

OUTPUTS_FIRST_RULES = (
    Rule("*/weight", prune=True, out_axis=0, min_ndim=2),
    Rule("*", prune=False),
)
"""For models whose weights are (outputs, inputs, ...), as in Equinox."""


def matches(pattern: str, path: str) -> bool:
    """Whether a shell-style pattern matches a path, at the root or below.

    >>> matches("*/kernel", "kernel"), matches("*/kernel", "Conv_0/bias")
    (True, False)
    """
    return fnmatch.fnmatchcase("/" + path, pattern) or fnmatch.fnmatchcase(
        path, pattern
    )
