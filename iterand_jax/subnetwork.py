"""The tree door: a random network and its scores as two pytrees, pruned by functions.

Frozen weights and trainable scores are separate pytrees of one shape. `prune` turns the
two into the parameters that the network sees, and its gradient reaches the scores only.
The trees may come from anything: Flax Linen or NNX, Equinox, dicts of arrays.

    subnetwork = Subnetwork(sparsity=0.5, distribution="signed_constant")
    weights, scores = subnetwork.init(key, params)
    logits = model.apply({"params": subnetwork.prune(weights, scores)}, x)
    weights = subnetwork.rerandomize(key, weights, scores, sampling_rate=0.1)

Rules on a leaf's path and shape say which leaves are pruned: the first rule that
matches claims the leaf, and every leaf must be claimed. A leaf that is not pruned keeps
the value it had in `params`, frozen, and is None in the tree of scores.

Every draw is keyed by the leaf's path, so it is the same whatever else the tree holds
and on however many devices.
"""

import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax import distributions, masks
from iterand_jax.masks import Scalar

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """Claims the leaves whose path matches a pattern, and says whether to prune them.

    Attributes:
      pattern: shell-style, against the path written with slashes: "*/kernel" claims
        "Conv_0/kernel", and "kernel" at the root.
      prune: whether the leaf has scores.
      out_axis: the axis of the outputs of a pruned leaf: -1 for the (..., inputs,
        outputs) of Flax, 0 for the (outputs, inputs, ...) of Equinox and PyTorch, and
        for the (words, features) of an embedding. The product of the other axes is the
        fan-in.
      min_ndim: leaves of fewer dimensions are left to the rules below.
    """

    pattern: str
    prune: bool
    out_axis: int = -1
    min_ndim: int = 0

    def claims(self, path: str, leaf: Array) -> bool:
        """Whether this rule matches a leaf of this path and shape."""
        return leaf.ndim >= self.min_ndim and _matches(self.pattern, path)


DEFAULT_RULES = (
    Rule("*/kernel", prune=True, min_ndim=2),
    Rule("*/embedding", prune=True, out_axis=0, min_ndim=2),
    Rule("*", prune=False),
)
"""Flax's names: kernels and embeddings are pruned; biases and normalization are not."""

OUTPUTS_FIRST_RULES = (
    Rule("*/weight", prune=True, out_axis=0, min_ndim=2),
    Rule("*", prune=False),
)
"""For models whose weights are (outputs, inputs, ...), as Equinox's are."""


@dataclasses.dataclass(frozen=True)
class Subnetwork:
    """How a network is drawn and pruned.

    Attributes:
      sparsity: the fraction of weights removed in every pruned leaf, in [0, 1), or a
        mapping from path patterns to such fractions, of which the first match counts. A
        traced scalar is possible: `dataclasses.replace(subnetwork, sparsity=traced)`
        inside a jitted function lets it follow a schedule.
      distribution: a name in `DISTRIBUTIONS`, or a `Distribution`: D_param.
      rules: which leaves are pruned; see `Rule`.
    """

    sparsity: Scalar | Mapping[str, Scalar] = 0.5
    distribution: str | distributions.Distribution = "signed_constant"
    rules: Sequence[Rule] = DEFAULT_RULES

    def __post_init__(self):
        """Raises ValueError for an unknown distribution or an impossible sparsity."""
        distributions.get_distribution(self.distribution)
        if isinstance(self.sparsity, Mapping):
            for sparsity in self.sparsity.values():
                masks.check_sparsity(sparsity)
        else:
            masks.check_sparsity(self.sparsity)

    def init(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """Draws frozen weights and trainable scores for a network's parameters.

        Args:
          key: a PRNG key; each leaf folds its path into it.
          params: the network's parameters, all leaves arrays (of an Equinox model, what
            `equinox.partition` returns). Of pruned leaves only shape and dtype matter;
            the others are kept as they are.

        Returns:
          (weights, scores), two trees of the structure of params. Pruned leaves of
          weights follow D_param with the leaf's fan-in, those of scores are Kaiming
          uniform with the same fan-in (raw: they may be negative). The scores of other
          leaves are None.

        Raises:
          ValueError: no leaf is pruned, a leaf is claimed by no rule, or a sparsity
            pattern is missing for a pruned leaf or matches none.
        """
        self._check(params)
        draw = distributions.get_distribution(self.distribution).sample
        draw_scores = distributions.DISTRIBUTIONS["kaiming_uniform"].sample

        def init_weights(path, leaf):
            fan_in = self.fan_in(path, leaf)
            if fan_in is None:
                return leaf
            return draw(_leaf_key(key, path, "weights"), leaf.shape, fan_in, leaf.dtype)

        def init_scores(path, leaf):
            fan_in = self.fan_in(path, leaf)
            if fan_in is None:
                return None
            leaf_key = _leaf_key(key, path, "scores")
            return draw_scores(leaf_key, leaf.shape, fan_in, leaf.dtype)

        return _map_paths(init_weights, params), _map_paths(init_scores, params)

    def masks(self, scores: PyTree) -> PyTree:
        """The mask of every pruned leaf, 1 kept and 0 pruned; None stays None."""
        return _map_paths(
            lambda path, s: masks.topk_mask(s, self._sparsity_of(path)), scores
        )

    def prune(self, weights: PyTree, scores: PyTree) -> PyTree:
        """The parameters that the network sees: weights * mask, straight-through.

        The gradient of a score is the gradient of the effective weight times the frozen
        weight; no gradient reaches the weights.
        """
        return _map_scored_paths(
            lambda path, s, w: masks.pruned(w, s, self._sparsity_of(path)),
            scores,
            jax.lax.stop_gradient(weights),
        )

    def rerandomize(
        self, key: Array, weights: PyTree, scores: PyTree, sampling_rate: Scalar
    ) -> PyTree:
        """Re-draws a random part of the pruned weights (section 3 of the paper).

        theta' = theta * m + (1 - m) * ((1 - b) * theta + b * fresh), with b ~
        Bernoulli(r) and fresh ~ D_param for each weight. Kept weights, and with them
        the network's output, do not change by a bit.

        Args:
          key: a PRNG key for this occasion, `fold_in(root, step)` say; each leaf folds
            its path into it.
          weights: as `init` returned them or a later re-randomization.
          scores: the current scores, which say what is pruned.
          sampling_rate: r in [0, 1]; may be a traced scalar.

        Raises:
          ValueError: a sampling rate outside [0, 1].
        """
        return self.rerandomize_and_count(key, weights, scores, sampling_rate)[0]

    def rerandomize_and_count(
        self, key: Array, weights: PyTree, scores: PyTree, sampling_rate: Scalar
    ) -> tuple[PyTree, Array]:
        """`rerandomize`, and how many weights were redrawn as an int32 scalar."""
        check_sampling_rate(sampling_rate)
        redraw = distributions.get_distribution(self.distribution).redraw
        counts = []

        def one_leaf(path, leaf_scores, leaf_weights):
            fan_in = self.fan_in(path, leaf_weights)
            if fan_in is None:
                raise ValueError(f"the leaf {path!r} has scores, but no rule prunes it")
            fresh, chosen = redraw(
                _leaf_key(key, path, "redraw"), leaf_weights, fan_in, sampling_rate
            )
            kept = masks.topk_mask(leaf_scores, self._sparsity_of(path)) != 0
            redrawn = chosen & ~kept
            counts.append(jnp.sum(redrawn, dtype=jnp.int32))
            return jnp.where(redrawn, fresh, leaf_weights)

        new = _map_scored_paths(one_leaf, scores, weights)
        return new, jnp.sum(jnp.stack(counts))

    def count(self, params: PyTree) -> tuple[int, int]:
        """(parameters in all, parameters that are not pruned), from the shapes alone.

        Ties at the threshold can keep a few more than counted here.
        """
        total = kept = 0
        for path, leaf in _leaves_with_paths(params):
            removed = 0
            if self.fan_in(path, leaf) is not None:
                removed = int(masks.num_pruned(leaf.size, self._sparsity_of(path)))
            total += leaf.size
            kept += leaf.size - removed
        return total, kept

    def fan_in(self, path: str, leaf: Array) -> int | None:
        """The fan-in of a leaf, or None for one that is not pruned."""
        rule = next((r for r in self.rules if r.claims(path, leaf)), None)
        if rule is None:
            patterns = ", ".join(r.pattern for r in self.rules)
            raise ValueError(f"no rule claims the leaf {path!r}; rules: {patterns}")
        if not rule.prune:
            return None
        if leaf.size == 0:
            raise ValueError(f"the leaf {path!r} of shape {leaf.shape} is empty")
        return math.prod(leaf.shape) // leaf.shape[rule.out_axis]

    def _sparsity_of(self, path: str) -> Scalar:
        if not isinstance(self.sparsity, Mapping):
            return self.sparsity
        for pattern, sparsity in self.sparsity.items():
            if _matches(pattern, path):
                return sparsity
        raise ValueError(
            f"no sparsity for the leaf {path!r}; patterns: {', '.join(self.sparsity)}"
        )

    def _check(self, params: PyTree) -> None:
        leaves = _leaves_with_paths(params)
        pruned = [path for path, leaf in leaves if self.fan_in(path, leaf) is not None]
        if not pruned:
            paths = ", ".join(path for path, _ in leaves)
            raise ValueError(
                f"the rules prune none of the leaves {paths or '(no leaves)'}"
            )
        for path in pruned:
            self._sparsity_of(path)
        if isinstance(self.sparsity, Mapping):
            for pattern in self.sparsity:
                if not any(_matches(pattern, path) for path in pruned):
                    raise ValueError(
                        f"the sparsity pattern {pattern!r} matches none of the pruned "
                        f"leaves {', '.join(pruned)}"
                    )


def apply_masks(weights: PyTree, mask_tree: PyTree) -> PyTree:
    """weights * mask where there is a mask; other leaves (None) as they are.

    Gradients reach the kept weights only.
    """
    return _map_scored_paths(lambda _, m, w: w * m.astype(w.dtype), mask_tree, weights)


def check_sampling_rate(sampling_rate: Scalar) -> None:
    """Raises ValueError unless r, if it has a value yet, is in [0, 1]."""
    if isinstance(sampling_rate, jax.core.Tracer):
        return
    if not 0 <= float(sampling_rate) <= 1:
        raise ValueError(
            f"sampling_rate is the fraction of pruned weights redrawn, a number in "
            f"[0, 1]; got {float(sampling_rate):g}"
        )


def path_string(path: tuple) -> str:
    """A key path of jax.tree_util as names between slashes: "Conv_0/kernel".

    A Flax NNX variable is a node around its value; its path is the variable's.
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matches(pattern: str, path: str) -> bool:
    return fnmatch.fnmatchcase("/" + path, pattern) or fnmatch.fnmatchcase(
        path, pattern
    )


def _leaf_key(key: Array, path: str, purpose: str) -> Array:
    return jax.random.fold_in(key, zlib.crc32(f"{purpose}:{path}".encode()))


def _leaves_with_paths(tree: PyTree) -> list[tuple[str, Array]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(path_string(path), leaf) for path, leaf in leaves]


def _map_paths(f, tree: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: f(path_string(path), *leaves), tree
    )


def _is_none(leaf) -> bool:
    return leaf is None


def _map_scored_paths(f, scored: PyTree, weights: PyTree) -> PyTree:
    """Maps f(path, scored, weight) over the pruned leaves; others stay as they are."""
    return jax.tree_util.tree_map_with_path(
        lambda path, s, w: w if s is None else f(path_string(path), s, w),
        scored,
        weights,
        is_leaf=_is_none,
    )
