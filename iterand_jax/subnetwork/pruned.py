"""A subnetwork's operations on trees: drawn, masked, pruned, resampled, counted."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from iterand_jax import distributions, masks
from iterand_jax.distributions import placed_as
from iterand_jax.keys import leaf_key
from iterand_jax.masks import Scalar
from iterand_jax.rules.checks import warn_of_unnamed
from iterand_jax.rules.scopes import groups_of
from iterand_jax.runtime.checks import check_array, check_key
from iterand_jax.subnetwork.applied import check_sampling_rate
from iterand_jax.subnetwork.leaves import Leaves
from iterand_jax.subnetwork.pairs import check_pair
from iterand_jax.trees import leaves_of, map_pair, map_paths

__all__ = ["Subnetwork"]

PyTree = Any


@jax.tree_util.register_pytree_node_class
class Subnetwork(Leaves):
    """How a network is initialized and pruned.

    The rule that claims a leaf says what its axes are. Its fan-in is the product of the
    axes that are neither outputs nor a stack: by the default rules, all axes of a
    kernel (..., inputs, outputs) but the last. Each slice along a stack keeps the same
    fraction of its weights: six layers in a kernel (6, inputs, outputs) with
    stack_axis=0 have six thresholds, and the fan-in of one layer.

    Attributes:
      sparsity: the fraction of weights removed in every pruned leaf, in [0, 1), or a
        mapping from path patterns to such fractions, of which the first match counts
        (kept as `Sparsities`: JAX sorts the keys of a dict that passes `jit`), or a
        `rules.Schedule`, of which `at` takes the value of a step. A traced scalar is
        possible: `dataclasses.replace(subnetwork, sparsity=traced)` inside a jitted
        function.
      distribution: a name in `DISTRIBUTIONS`, or a `Distribution`: D_param. None keeps
        the given weights, such as pretrained ones; they are masked, never resampled.
      rules: which leaves are pruned, and what their axes are: see `Rule`. `rules_of`
        reads them from a model. The default ones know matrices (inputs, outputs),
        kernels (height, width, inputs, outputs) and embeddings, and refuse others.
        (Matrices stacked twice, of four axes, they take for a convolution if no bias
        shows it.)
      scores_dtype: of all scores; None for float32, or float64 where the weights are.
        bfloat16 has 8 significant bits: of 10^6 scores, thousands tie at a threshold,
        and at sparsity 0.99 a mask keeps 1.3 times as many weights as requested.

      rank: how many scores a sparsity removes, one of `masks.RANKS`: "count" for
        round(sparsity * n) of n, "quantile" for round(sparsity * (n - 1)).
      scope: patterns of the leaves that share one threshold: those whose first matching
        pattern is the same. ("*",) is one threshold for all, the default one for each.
        A threshold of a scope does not separate the slices of a stack.
      ranked_by: what is ranked, one of `RANKED_BY`: the "score" itself, or its
        "magnitude"; the gradient passes through the absolute value.
      values: what a mask makes of a weight, a name in `masks.VALUES`, or a function
        (weights, mask, stack) -> the effective weights.
      coats: further sparsities, each above the one before and the first above
        `sparsity`: a mask is then the number of thresholds that a score reaches, from 0
        for pruned to 1 + len(coats), and weights are multiplied by it. Each threshold
        passes the gradient on, so that they add up.
      pattern: "n:m", as "2:4": the n best of every m weights along the input axis are
        kept, and no threshold is sought. It says the sparsity, 1 - n/m; one that is
        given must agree, where 0.5 counts as not given. `masks.groups` says which axis,
        what ties, and what is refused beside it.

    It is hashable, so a static argument of `jit`, unless a sparsity is an array. It is
    also a pytree with its sparsities as leaves: as an argument of `jit` these may
    change without a new compilation. (A schedule is none: it is static.)

    >>> subnetwork = Subnetwork({"conv/*": 0.2, "*": 0.8})
    >>> jax.tree.map(lambda sparsity: sparsity / 2, subnetwork).sparsity
    Sparsities({'conv/*': 0.1, '*': 0.4})
    """

    def init(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """Draws trainable scores and frozen weights for a network's parameters.

        Args:
          key: a PRNG key; each leaf folds its path into it.
          params: the network's parameters, all leaves arrays (of an Equinox model, what
            `equinox.partition` returns). Of pruned leaves only shape and dtype matter;
            the others are left unchanged.

        Returns:
          (scores, weights), two trees of the structure of params. Pruned leaves of
          weights follow D_param with the leaf's fan-in, or are those of params if the
          distribution is None; those of scores are Kaiming uniform with the same fan-in
          (raw: they may be negative). The scores of other leaves are None.

        Raises:
          ValueError: no leaf is pruned, a leaf is claimed by no rule, is no array or,
            where it is pruned, of integers, booleans or complex numbers; a sparsity
            pattern is missing for a pruned leaf, matches none, or is shadowed by an
            earlier one; the key is not one key.

        Warns:
          UserWarning: leaves of two or more axes that no rule names stay as they are.

        Weights and scores have the sharding and devices of params, and each device
        samples its own shard. (Within `jit`, give it `out_shardings` unless the
        mesh has Explicit axes: a traced array knows no other sharding.)

        >>> params = {"kernel": jnp.zeros((8, 2)), "bias": jnp.ones(2)}
        >>> scores, weights = Subnetwork().init(jax.random.key(0), params)
        >>> abs(weights["kernel"][0]), weights["bias"]
        (Array([0.5, 0.5], dtype=float32), Array([1., 1.], dtype=float32))
        >>> scores["kernel"].shape, scores["bias"]
        ((8, 2), None)
        >>> pretrained = {"kernel": jnp.array([[3.0], [-4.0]]), "bias": jnp.zeros(1)}
        >>> keeping = Subnetwork(sparsity=0.5, distribution=None)
        >>> scores, weights = keeping.init(jax.random.key(0), pretrained)
        >>> keeping.prune(scores, weights)["kernel"].tolist()
        [[0.0], [-4.0]]
        """
        check_key(key)
        fan_ins = self._check(params)
        warn_of_unnamed(self.rule_of, params, leaves_of(params))
        draw = None if self.distribution is None else self.drawn_from.sample
        draw_scores = distributions.DISTRIBUTIONS["kaiming_uniform"].sample

        def init_weights(path, leaf):
            fan_in = fan_ins.get(path)
            if fan_in is None:
                return leaf
            if draw is None:
                return _given(path, leaf)
            own_key = leaf_key(key, path, "weights")
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            return placed_as(leaf, draw, own_key, leaf.shape, fan_in, dtype)

        def init_scores(path, leaf):
            fan_in = fan_ins.get(path)
            if fan_in is None:
                return None
            own_key = leaf_key(key, path, "scores")
            dtype = self._scores_dtype_of(leaf)
            return placed_as(leaf, draw_scores, own_key, leaf.shape, fan_in, dtype)

        return map_paths(init_scores, params), map_paths(init_weights, params)

    def masks(self, scores: PyTree) -> PyTree:
        """The mask of every pruned leaf, 1 kept and 0 pruned; None stays None.

        Scores of a part of the tree are possible, under the paths of the whole; of a
        scope, all leaves that share a threshold.

        >>> scores = {"kernel": jnp.array([[3.0, 1.0], [2.0, 4.0]]), "bias": None}
        >>> Subnetwork(sparsity=0.5).masks(scores)["kernel"]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> Subnetwork(sparsity=0.5, coats=(0.75,)).masks(scores)["kernel"]
        Array([[1., 0.],
               [0., 2.]], dtype=float32)
        """
        leaves = leaves_of(scores)
        for path, leaf in leaves.items():
            check_array(path, leaf)
        leaves = leaves_of(self.ranked(scores))
        if self.pattern:
            by_groups = {
                path: masks.nm_mask(leaf, self.pattern, self.group_axis(path, leaf))
                for path, leaf in leaves.items()
            }
            return map_paths(lambda path, _: by_groups[path], scores)
        found = {
            path: masks.topk_masks_of_slices(
                leaf, stack, self._sparsity_of(path), rank=self.rank, coats=self.coats
            )
            for path, leaf in leaves.items()
            if (stack := self._stack(path, leaf))
        }
        whole = [path for path in leaves if path not in found]
        groups = groups_of(self.scope, whole)
        of_groups = [self.sparsity_of([whole[i] for i in group]) for group in groups]
        shared = groups if self.scope else None
        ranked = [leaves[path] for path in whole]
        if self.coats:
            further: list[list[Scalar]] = [[p] * len(groups) for p in self.coats]
            of_whole = masks.coat_masks(
                ranked, [of_groups, *further], rank=self.rank, groups=shared
            )
        else:
            of_whole = masks.topk_masks(
                ranked, of_groups, rank=self.rank, groups=shared
            )
        found |= zip(whole, of_whole, strict=True)
        return map_paths(lambda path, _: found[path], scores)

    def ranked(self, scores: PyTree) -> PyTree:
        """What is ranked: the scores, or their magnitudes; the largest are kept.

        >>> Subnetwork(ranked_by="magnitude").ranked({"kernel": jnp.array([-2.0, 1.0])})
        {'kernel': Array([2., 1.], dtype=float32)}
        """
        if self.ranked_by == "magnitude":
            return jax.tree.map(jnp.abs, scores)
        return scores

    def prune(self, scores: PyTree, weights: PyTree) -> PyTree:
        """The parameters that the network sees: weights * mask, straight-through.

        With other `values` than "masked", what those make of a weight and its mask.

        The gradient of a score is the gradient of the effective weight times the frozen
        weight; no gradient reaches the weights.

        >>> weights = {"kernel": jnp.array([5.0, 6.0])}
        >>> scores = {"kernel": jnp.array([0.1, 0.2])}
        >>> subnetwork = Subnetwork(sparsity=0.5)
        >>> subnetwork.prune(scores, weights)["kernel"]
        Array([0., 6.], dtype=float32)
        >>> jax.grad(lambda s: subnetwork.prune(s, weights)["kernel"].sum())(scores)
        {'kernel': Array([5., 6.], dtype=float32)}
        """
        check_pair(scores, weights)
        effective = masks.values_of(self.values)

        def one_leaf(path, mask, leaf):
            if self.values == "masked":  # the axes are not needed
                return masks.masked(leaf, mask)
            return effective(leaf, mask, self._slices(path, leaf))

        return map_pair(one_leaf, self.masks(scores), jax.lax.stop_gradient(weights))

    def rerandomize(
        self, key: Array, scores: PyTree, weights: PyTree, sampling_rate: Scalar
    ) -> PyTree:
        """Resamples a random part of the pruned weights (section 3 of the paper).

        theta' = theta * m + (1 - m) * ((1 - b) * theta + b * fresh), with b ~
        Bernoulli(r) and fresh ~ D_param for each weight. Kept weights, and with them
        the network's output, are unchanged bit for bit.

        Args:
          key: a PRNG key for this call, such as `fold_in(root, step)`; each leaf folds
            its path into it.
          scores: the current scores, which determine what is pruned.
          weights: as returned by `init` or an earlier re-randomization.
          sampling_rate: r in [0, 1]; may be a traced scalar.

        Raises:
          ValueError: a sampling rate outside [0, 1], or weights that are given and not
            drawn (distribution=None).

        >>> key, subnetwork = jax.random.key(0), Subnetwork(0.5, "kaiming_uniform")
        >>> params = {"kernel": jnp.zeros((40, 30))}
        >>> scores, weights = subnetwork.init(key, params)
        >>> new = subnetwork.rerandomize(key, scores, weights, sampling_rate=1.0)
        >>> changed = new["kernel"] != weights["kernel"]
        >>> bool(jnp.all(changed == (subnetwork.masks(scores)["kernel"] == 0)))
        True
        """
        return self.rerandomize_and_count(key, scores, weights, sampling_rate)[0]

    def rerandomize_and_count(
        self, key: Array, scores: PyTree, weights: PyTree, sampling_rate: Scalar
    ) -> tuple[PyTree, Array]:
        """`rerandomize`, and the number of resampled weights as an int32 scalar.

        >>> subnetwork = Subnetwork(sparsity=0.5)
        >>> params = {"kernel": jnp.zeros((40, 30))}
        >>> scores, weights = subnetwork.init(jax.random.key(0), params)
        >>> subnetwork.rerandomize_and_count(jax.random.key(1), scores, weights, 1.0)[1]
        Array(600, dtype=int32)
        """
        redraw = self.drawn_from.redraw
        check_key(key)
        check_sampling_rate(sampling_rate)
        check_pair(scores, weights)
        counts = []

        def one_leaf(path, mask, leaf_weights):
            fan_in = self.fan_in(path, leaf_weights)
            if fan_in is None:
                raise ValueError(f"the leaf {path!r} has scores, but no rule prunes it")
            fresh, chosen = redraw(
                leaf_key(key, path, "redraw"), leaf_weights, fan_in, sampling_rate
            )
            redrawn = chosen & (mask == 0)
            counts.append(masks.partial_counts(redrawn))
            return jnp.where(redrawn, fresh, leaf_weights)

        new = map_pair(one_leaf, self.masks(scores), weights)
        bytes_ = [c for c in counts if c.ndim] or [jnp.zeros(1, jnp.uint8)]
        total = jnp.sum(jnp.concatenate(bytes_), dtype=jnp.int32)
        return new, sum((c for c in counts if not c.ndim), start=total)

    def count(self, params: PyTree, scores: PyTree | None = None) -> tuple[int, int]:
        """(total parameters, parameters that are not pruned).

        Without scores it is known from the shapes alone, and ties at a threshold can
        keep more: of float32 scores a few, of narrow ones many (`scores_dtype`). With
        scores it is what their masks keep, ties included.

        >>> params = {"kernel": jnp.zeros((8, 5)), "bias": jnp.zeros(5)}
        >>> Subnetwork(sparsity=0.9).count(params)
        (45, 9)
        >>> equal = {"kernel": jnp.ones((8, 5)), "bias": None}
        >>> Subnetwork(sparsity=0.9).count(params, equal)
        (45, 45)
        """
        if scores is not None:
            check_pair(scores, params)
            sizes = [leaf.size for leaf in leaves_of(params).values()]
            of_masks = jax.tree.leaves(self.masks(scores))
            removed = sum(int(jnp.sum(m == 0, dtype=jnp.int32)) for m in of_masks)
            return sum(sizes), sum(sizes) - removed
        leaves, pruned = leaves_of(params), [*self.fan_ins(params)]
        total, removed = sum(leaf.size for leaf in leaves.values()), 0
        for group in groups_of(self.scope, pruned):
            paths = [pruned[index] for index in group]
            size, first = sum(leaves[path].size for path in paths), leaves[paths[0]]
            slices = math.prod(first.shape[n] for n in self._stack(paths[0], first))
            sparsity = self._final.sparsity_of(paths)
            of_one = masks.num_pruned(size // slices, sparsity, rank=self.rank)
            removed += slices * int(of_one)
        return total, total - removed

    def _scores_dtype_of(self, leaf: Array) -> DTypeLike:
        if self.scores_dtype is not None:
            return self.scores_dtype
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)  # of NumPy's float64
        return dtype if dtype.itemsize > 4 else jnp.float32


def _given(path: str, leaf: Any) -> Array:
    """A leaf that keeps its values, if it has them."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"the leaf {path!r} has a shape and no values; distribution=None keeps "
            f"given ones"
        )
    return leaf
