"""A random network and its scores as two pytrees, pruned by pure functions.

Trainable scores and frozen weights are separate pytrees of one structure. `prune` turns
the two into the parameters that the network sees, and its gradient reaches the scores
only. The trees may come from any library: Flax Linen or NNX, Equinox, dicts of arrays.

    subnetwork = Subnetwork(sparsity=0.5, distribution="signed_constant")
    scores, weights = subnetwork.init(key, params)
    logits = model.apply({"params": subnetwork.prune(scores, weights)}, x)
    weights = subnetwork.rerandomize(key, scores, weights, sampling_rate=0.1)

Rules on a leaf's path and shape say which leaves are pruned: the first rule that
matches claims the leaf, and every leaf must be claimed. A leaf that is not pruned keeps
the value it had in `params`, frozen, and is None in the tree of scores.

The argument order is the same everywhere: scores before weights, trainable before
frozen, since `jax.grad` differentiates with respect to the first argument.

Every draw is keyed by the leaf's path, so it depends neither on the other leaves nor on
the number of devices.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from iterand_jax import distributions, masks
from iterand_jax.keys import leaf_key
from iterand_jax.masks import Scalar
from iterand_jax.rules import DEFAULT_RULES, Axes, Rule
from iterand_jax.rules.checks import check_normalization, check_rules
from iterand_jax.rules.patterns import ByPattern, matches
from iterand_jax.trees import path_string

__all__ = ["Subnetwork", "apply_masks", "check_sampling_rate"]

PyTree = Any


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Subnetwork:
    """How a network is initialized and pruned.

    A pruned leaf has the fan-in of the rule that claims it: the product of its axes
    that are neither outputs nor a stack, (..., inputs) of a kernel (..., inputs,
    outputs) by the default rules. Along a stack, each slice keeps the same fraction of
    its weights: six layers in a kernel (6, inputs, outputs) have six thresholds.

    A Subnetwork is a pytree, of which sparsities are the leaves: it can be an argument
    of a jitted function, where they may change without a new compilation.

    Attributes:
      sparsity: the fraction of weights removed in every pruned leaf, in [0, 1), or a
        mapping from path patterns to such fractions, where the first match applies. It
        may be a traced scalar: `dataclasses.replace(subnetwork, sparsity=traced)`
        inside a jitted function lets it follow a schedule.
      distribution: a name in `DISTRIBUTIONS`, or a `Distribution`: D_param.
      rules: which leaves are pruned, and what their axes are: `Rule`. `rules_of` reads
        them from a model. The default ones know matrices (inputs, outputs), kernels
        (height, width, inputs, outputs) and embeddings, and refuse others.

    >>> halved = jax.tree.map(lambda p: p / 2, Subnetwork({"conv/*": 0.2, "*": 0.8}))
    >>> halved.sparsity
    {'conv/*': 0.1, '*': 0.4}
    """

    sparsity: Scalar | Mapping[str, Scalar] = 0.5
    distribution: str | distributions.Distribution = "signed_constant"
    rules: Sequence[Rule] = DEFAULT_RULES

    def __post_init__(self):
        """Raises ValueError for an unknown distribution or a bad sparsity.

        Also for a sparsity pattern or a rule that could never apply, because one
        before it matches all that it does. Default rules may be overridden.
        """
        distributions.get_distribution(self.distribution)
        object.__setattr__(self, "rules", tuple(self.rules))
        check_rules(self.rules)
        if isinstance(self.sparsity, Mapping):
            if not isinstance(self.sparsity, ByPattern):
                object.__setattr__(self, "sparsity", ByPattern(self.sparsity))
            for sparsity in self.sparsity.values():
                masks.check_sparsity(sparsity)
        else:
            masks.check_sparsity(self.sparsity)

    def tree_flatten(self) -> tuple[tuple[Any], tuple]:
        """The sparsities, and the rest."""
        return (self.sparsity,), (self.distribution, self.rules)

    @classmethod
    def tree_unflatten(cls, aux: tuple, children: tuple) -> "Subnetwork":
        """With other sparsities, which are not looked at."""
        self = object.__new__(cls)
        for name, value in zip(
            ("distribution", "rules", "sparsity"), (*aux, *children), strict=True
        ):
            object.__setattr__(self, name, value)
        return self

    def init(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """Draws trainable scores and frozen weights for a network's parameters.

        Args:
          key: a PRNG key; each leaf folds its path into it.
          params: the network's parameters, all leaves arrays (of an Equinox model, what
            `equinox.partition` returns). Of pruned leaves only shape and dtype matter;
            the others are left unchanged.

        Returns:
          (scores, weights), two trees of the structure of params. Pruned leaves of
          weights follow D_param with the leaf's fan-in, those of scores are Kaiming
          uniform with the same fan-in (raw: they may be negative). The scores of other
          leaves are None.

        Raises:
          ValueError: no leaf is pruned, a leaf is claimed by no rule, or a sparsity
            pattern is missing for a pruned leaf or matches none.

        >>> params = {"kernel": jnp.zeros((8, 2)), "bias": jnp.ones(2)}
        >>> scores, weights = Subnetwork().init(jax.random.key(0), params)
        >>> abs(weights["kernel"][0]), weights["bias"]
        (Array([0.5, 0.5], dtype=float32), Array([1., 1.], dtype=float32))
        >>> scores["kernel"].shape, scores["bias"]
        ((8, 2), None)
        """
        self._check(params)
        draw = distributions.get_distribution(self.distribution).sample
        draw_scores = distributions.DISTRIBUTIONS["kaiming_uniform"].sample

        def init_weights(path, leaf):
            fan_in = self.fan_in(path, leaf)
            if fan_in is None:
                return leaf
            return draw(leaf_key(key, path, "weights"), leaf.shape, fan_in, leaf.dtype)

        def init_scores(path, leaf):
            fan_in = self.fan_in(path, leaf)
            if fan_in is None:
                return None
            own_key = leaf_key(key, path, "scores")
            return draw_scores(own_key, leaf.shape, fan_in, leaf.dtype)

        return _map_paths(init_scores, params), _map_paths(init_weights, params)

    def masks(self, scores: PyTree) -> PyTree:
        """The mask of every pruned leaf, 1 kept and 0 pruned; None stays None.

        >>> scores = {"kernel": jnp.array([[3.0, 1.0], [2.0, 4.0]]), "bias": None}
        >>> Subnetwork(sparsity=0.5).masks(scores)["kernel"]
        Array([[1., 0.],
               [0., 1.]], dtype=float32)
        """
        whole, stacked = {}, {}
        for path, leaf in _leaves_with_paths(scores):
            stack = self._stack(path, leaf)
            if stack:
                stacked[path] = _masks_of_slices(leaf, stack, self._sparsity_of(path))
            else:
                whole[path] = leaf
        sparsities = [self._sparsity_of(path) for path in whole]
        found = masks.topk_masks(list(whole.values()), sparsities)
        by_path = stacked | dict(zip(whole, found, strict=True))
        return _map_paths(lambda path, _: by_path[path], scores)

    def prune(self, scores: PyTree, weights: PyTree) -> PyTree:
        """The parameters that the network sees: weights * mask, straight-through.

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
        _check_order(scores, weights)
        return _map_scored_paths(
            lambda _, mask, w: masks.masked(w, mask),
            self.masks(scores),
            jax.lax.stop_gradient(weights),
        )

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
          ValueError: a sampling rate outside [0, 1].

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
        check_sampling_rate(sampling_rate)
        _check_order(scores, weights)
        redraw = distributions.get_distribution(self.distribution).redraw
        counts = []

        def one_leaf(path, mask, leaf_weights):
            fan_in = self.fan_in(path, leaf_weights)
            if fan_in is None:
                raise ValueError(f"the leaf {path!r} has scores, but no rule prunes it")
            fresh, chosen = redraw(
                leaf_key(key, path, "redraw"), leaf_weights, fan_in, sampling_rate
            )
            redrawn = chosen & (mask == 0)
            counts.append(_counted_in_bytes(redrawn))
            return jnp.where(redrawn, fresh, leaf_weights)

        new = _map_scored_paths(one_leaf, self.masks(scores), weights)
        return new, jnp.sum(jnp.concatenate(counts), dtype=jnp.int32)

    def count(self, params: PyTree) -> tuple[int, int]:
        """(total parameters, parameters that are not pruned), from the shapes alone.

        Ties at the threshold can keep a few more than counted here.

        >>> params = {"kernel": jnp.zeros((8, 5)), "bias": jnp.zeros(5)}
        >>> Subnetwork(sparsity=0.9).count(params)
        (45, 9)
        """
        total = kept = 0
        for path, leaf in _leaves_with_paths(params):
            removed = 0
            if self.fan_in(path, leaf) is not None:
                stack = self._stack(path, leaf)
                slices = math.prod(leaf.shape[axis] for axis in stack)
                of_slice = leaf.size // slices
                removed = slices * int(
                    masks.num_pruned(of_slice, self._sparsity_of(path))
                )
            total += leaf.size
            kept += leaf.size - removed
        return total, kept

    def rule_of(self, path: str, leaf: Array) -> Rule:
        """The first rule that claims a leaf.

        Raises:
          ValueError: no rule claims it.

        >>> Subnetwork().rule_of("embed/embedding", jnp.zeros((100, 8))).out_axis
        0
        """
        for rule in self.rules:
            if rule.claims(path, leaf):
                return rule
        patterns = ", ".join(rule.pattern for rule in self.rules)
        raise ValueError(f"no rule claims the leaf {path!r}; rules: {patterns}")

    def fan_in(self, path: str, leaf: Array) -> float | None:
        """The fan-in of a leaf, or None for one that is not pruned.

        >>> Subnetwork().fan_in("Conv_0/kernel", jnp.zeros((3, 3, 4, 20)))
        36
        """
        rule = self.rule_of(path, leaf)
        if not rule.prune:
            return None
        if leaf.size == 0:
            raise ValueError(f"the leaf {path!r} of shape {leaf.shape} is empty")
        rule.check(path, leaf.shape)
        return rule.fan_in_of(leaf.shape)

    def axes(self, path: str, leaf: Array) -> Axes:
        """What the axes of a leaf are, by the rule that claims it.

        Raises:
          ValueError: that is not known.

        >>> Subnetwork().axes("kernel", jnp.zeros((8, 5)))
        Axes(inputs=(0,), outputs=(1,), stack=(), window=())
        """
        rule = self.rule_of(path, leaf)
        rule.check(path, leaf.shape)
        return rule.axes(leaf.ndim)

    def _stack(self, path: str, leaf: Array) -> tuple[int, ...]:
        """The axes along which a pruned leaf is many maps; () for most."""
        rule = self.rule_of(path, leaf)
        rule.check(path, leaf.shape)
        return rule.axes(leaf.ndim).stack if rule.prune and rule.stack_axis else ()

    def _sparsity_of(self, path: str) -> Scalar:
        if not isinstance(self.sparsity, Mapping):
            return self.sparsity
        pattern = self.sparsity.first(path)
        if pattern is not None:
            return self.sparsity[pattern]
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
                matched = [path for path in pruned if matches(pattern, path)]
                if not matched:
                    raise ValueError(
                        f"the sparsity pattern {pattern!r} matches none of the pruned "
                        f"leaves {', '.join(pruned)}"
                    )
                first = [self.sparsity.first(path) for path in matched]
                if pattern not in first and pattern != "*":
                    raise ValueError(
                        f"the sparsity pattern {pattern!r} is never used: earlier "
                        f"ones match all its leaves, {matched[0]!r} by {first[0]!r}"
                    )
        check_normalization(self.rule_of, leaves)


def apply_masks(weights: PyTree, mask_tree: PyTree) -> PyTree:
    """weights * mask where there is a mask; other leaves (None) are unchanged.

    Gradients reach the kept weights only.

    >>> apply_masks({"kernel": jnp.array([5.0, 6.0])}, {"kernel": jnp.array([0, 1])})
    {'kernel': Array([0., 6.], dtype=float32)}
    """
    return _map_scored_paths(lambda _, m, w: w * m.astype(w.dtype), mask_tree, weights)


def check_sampling_rate(sampling_rate: Scalar) -> None:
    """Raises ValueError unless r is in [0, 1]; a traced r is not checked.

    >>> check_sampling_rate(2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: sampling_rate is ..., a number in [0, 1]; got 2
    """
    if isinstance(sampling_rate, jax.core.Tracer):
        return
    if not 0 <= float(sampling_rate) <= 1:
        raise ValueError(
            f"sampling_rate is the fraction of pruned weights resampled, a number in "
            f"[0, 1]; got {float(sampling_rate):g}"
        )


def _leaves_with_paths(tree: PyTree) -> list[tuple[str, Array]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(path_string(path), leaf) for path, leaf in leaves]


def _map_paths(f, tree: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: f(path_string(path), *leaves), tree
    )


def _masks_of_slices(scores: Array, stack: Sequence[int], sparsity: Scalar) -> Array:
    """The mask of a leaf that is a stack: each slice has a threshold of its own."""
    first = range(len(stack))
    slices = jnp.moveaxis(scores, stack, first)
    rows = slices.reshape(-1, *slices.shape[len(stack) :])
    found = jax.vmap(lambda row: masks.topk_mask(row, sparsity))(rows)
    return jnp.moveaxis(found.reshape(slices.shape), first, stack)


def _counted_in_bytes(array: Array) -> Array:
    """Partial counts of the true elements, as uint8 of at most 64 each.

    On CPU this takes half the time of a single sum; on GPU one kernel then adds up the
    counts of all leaves.
    """
    rows = math.gcd(array.size, 64)
    return jnp.sum(array.reshape(rows, -1), axis=0, dtype=jnp.uint8)


def _check_order(scores: PyTree, weights: PyTree) -> None:
    """Raises ValueError, naming a leaf, if scores and weights are swapped.

    The trees differ only in leaves that are not pruned, which have weights and no
    scores. If every leaf is pruned, a swap cannot be detected.
    """
    missing = {
        path_string(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights, is_leaf=_is_none)
        if leaf is None
    }
    for path, _ in _leaves_with_paths(scores):
        if path in missing:
            raise ValueError(
                f"the leaf {path!r} has a score and no weight: the scores are the "
                f"first argument, the weights the second"
            )


def _is_none(leaf) -> bool:
    return leaf is None


def _map_scored_paths(f, scored: PyTree, weights: PyTree) -> PyTree:
    """Maps f(path, scored, weight) over the pruned leaves; others are unchanged."""
    return jax.tree_util.tree_map_with_path(
        lambda path, s, w: w if s is None else f(path_string(path), s, w),
        scored,
        weights,
        is_leaf=_is_none,
    )
