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
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from iterand_jax import distributions, masks
from iterand_jax.distributions import placed_as
from iterand_jax.keys import leaf_key
from iterand_jax.masks import Scalar
from iterand_jax.rules import DEFAULT_RULES, Axes, Rule, Schedule
from iterand_jax.rules.checks import (
    check_biases,
    check_rules,
    scales_of,
    warn_of_unnamed,
)
from iterand_jax.rules.patterns import literal
from iterand_jax.rules.ratios import Layer, ratios
from iterand_jax.rules.scopes import (
    check_scope,
    groups_of,
    in_scope,
    scope_of,
    shared_sparsity,
)
from iterand_jax.rules.sparsities import Sparsities
from iterand_jax.runtime.checks import (
    check_array,
    check_floats,
    check_fraction,
    check_key,
    described,
)
from iterand_jax.trees import check_pair, leaves_of, map_pair, map_paths

__all__ = [
    "RANKED_BY",
    "Subnetwork",
    "apply_masks",
    "check_masks",
    "check_sampling_rate",
]

PyTree = Any
RANKED_BY = ("score", "magnitude")
"""What is ranked of a score."""


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Subnetwork:
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

    It is hashable, so a static argument of `jit`, unless a sparsity is an array. It is
    also a pytree with its sparsities as leaves: as an argument of `jit` these may
    change without a new compilation. (A schedule is none: it is static.)

    >>> subnetwork = Subnetwork({"conv/*": 0.2, "*": 0.8})
    >>> jax.tree.map(lambda sparsity: sparsity / 2, subnetwork).sparsity
    Sparsities({'conv/*': 0.1, '*': 0.4})
    """

    sparsity: Scalar | Mapping[str, Scalar] | Schedule = 0.5
    distribution: str | distributions.Distribution | None = "signed_constant"
    rules: Sequence[Rule] = DEFAULT_RULES
    scores_dtype: DTypeLike | None = None
    rank: str = "count"
    scope: Sequence[str] = ()
    ranked_by: str = "score"
    values: str | masks.Values = "masked"
    coats: Sequence[float] = ()

    def __post_init__(self):
        """Raises ValueError for what cannot be a field's value."""
        if isinstance(self.rules, str | Rule) or not isinstance(self.rules, Iterable):
            raise ValueError(
                f"rules is a sequence of Rule objects; got {described(self.rules)}"
            )
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise ValueError(f"rules are Rule objects; got {described(rule)}")
        check_rules(self.rules)
        if isinstance(self.sparsity, Mapping):
            sparsities = Sparsities(self.sparsity)
            sparsities.check_order()
            object.__setattr__(self, "sparsity", sparsities)
        if self.scores_dtype is not None:
            masks.check_scores_dtype(self.scores_dtype)
        masks.check_rank(self.rank)
        object.__setattr__(self, "scope", scope_of(self.scope))
        if self.ranked_by not in RANKED_BY:
            raise ValueError(
                f"unknown ranked_by {self.ranked_by!r}; possible: "
                f"{', '.join(RANKED_BY)}"
            )
        masks.values_of(self.values)
        if self.distribution is not None:
            distributions.get_distribution(self.distribution)
        if isinstance(self.sparsity, Mapping):
            for sparsity in self.sparsity.values():
                masks.check_sparsity(sparsity)
        elif isinstance(self.sparsity, Schedule):
            for sparsity in (self.sparsity.start, self.sparsity.to):
                masks.check_sparsity(sparsity)
                masks.check_sparsity(float(np.float32(sparsity)))  # as it is traced
        else:
            masks.check_sparsity(self.sparsity)
        self._check_coats()

    def _check_coats(self) -> None:
        """Raises ValueError for coats that do not rise, or that do not fit the rest."""
        numbers = isinstance(self.coats, Sequence) and not isinstance(self.coats, str)
        if not numbers or not all(isinstance(p, int | float) for p in self.coats):
            raise ValueError(
                f"coats are a tuple of sparsities, (0.9, 0.97) say; got "
                f"{described(self.coats)}"
            )
        object.__setattr__(self, "coats", tuple(self.coats))
        if not self.coats:
            return
        if isinstance(self.sparsity, Mapping | Schedule) or self.values == "binary":
            raise ValueError(
                f"coats={self.coats} need one number as sparsity and values that are "
                f"masked or scaled; got sparsity={self.sparsity}, "
                f"values={self.values!r}"
            )
        for sparsity in self.coats:
            masks.check_sparsity(sparsity)
        traced = isinstance(self.sparsity, jax.core.Tracer)
        known = [] if traced else [float(self.sparsity)]
        rising = [*known, *self.coats]
        if any(low >= high for low, high in itertools.pairwise(rising)):
            raise ValueError(
                f"coats rise from the sparsity on, each removes more than the one "
                f"before; got sparsity={self.sparsity}, coats={self.coats}"
            )

    def at(self, step: Any) -> "Subnetwork":
        """The subnetwork of a step, whose sparsity is the value of its schedule.

        Without a schedule it is this one. `count` counts what remains at the end.

        Args:
          step: the number of updates done, which may be traced.

        >>> from iterand_jax.rules import Schedule
        >>> subnetwork = Subnetwork(Schedule(to=0.75, start=0.5, begin=0, end=100))
        >>> float(subnetwork.at(0).sparsity), float(subnetwork.at(100).sparsity)
        (0.5, 0.75)
        """
        if not isinstance(self.sparsity, Schedule):
            return self
        return dataclasses.replace(self, sparsity=self.sparsity.at(step))

    @property
    def drawn_from(self) -> distributions.Distribution:
        """The distribution that weights are drawn and resampled from.

        Raises:
          ValueError: it is None, so that weights are given and not drawn.

        >>> Subnetwork(distribution="kaiming_uniform").drawn_from.name
        'kaiming_uniform'
        """
        if self.distribution is None:
            raise ValueError(
                "distribution=None keeps the given weights, so they cannot be "
                "resampled; possible: edge_popup, or a distribution of "
                f"{', '.join(distributions.DISTRIBUTIONS)}"
            )
        return distributions.get_distribution(self.distribution)

    def tree_flatten(self) -> tuple[tuple[Any], tuple[Any, ...]]:
        """The sparsities, and the other fields: `jax.tree_util` calls this.

        >>> Subnetwork(sparsity=0.9).tree_flatten()[0]
        (0.9,)
        """
        names = [field.name for field in dataclasses.fields(self)]
        return (self.sparsity,), tuple(getattr(self, name) for name in names[1:])

    @classmethod
    def tree_unflatten(cls, others: tuple, children: tuple) -> "Subnetwork":
        """With other sparsities, which may be anything and are not checked.

        >>> jax.tree.map(lambda sparsity: sparsity / 2, Subnetwork(0.5)).sparsity
        0.25
        """
        self = object.__new__(cls)
        for field, value in zip(
            dataclasses.fields(cls), (*children, *others), strict=True
        ):
            object.__setattr__(self, field.name, value)
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

    def fan_ins(self, params: PyTree) -> dict[str, float]:
        """The fan-in of each leaf of a tree that is pruned, by path.

        A rule by name leaves alone what is known to be a normalization's scale: a leaf
        of a normalization layer of Equinox, and one with a bias of the same shape.

        Args:
          params: as for `init`, or their shapes.

        Raises:
          ValueError: a leaf that no rule claims, or whose axes are not known.

        >>> from iterand_jax import OUTPUTS_FIRST_RULES
        >>> norm = {"weight": jnp.ones((4, 8)), "bias": jnp.zeros((4, 8))}
        >>> tree = {"norm": norm, "dense": {"weight": jnp.zeros((5, 32))}}
        >>> Subnetwork(rules=OUTPUTS_FIRST_RULES).fan_ins(tree)
        {'dense/weight': 32}
        """
        leaves = leaves_of(params)
        for path, leaf in leaves.items():
            check_array(path, leaf)
        scales = scales_of(params, leaves)

        def is_scale(path):
            return path in scales and self.rule_of(path, leaves[path]).ndims is not None

        others = {path: x for path, x in leaves.items() if not is_scale(path)}
        check_biases(self.rule_of, others)
        fan_ins = {path: self.fan_in(path, leaf) for path, leaf in others.items()}
        return {path: fan_in for path, fan_in in fan_ins.items() if fan_in is not None}

    def layers(self, params: PyTree) -> dict[str, Layer]:
        """The pruned leaves, in the order of the rules that claim them.

        That of `rules_of` a Linen model is the order in which it calls its layers; of
        leaves that one rule claims it is that of the tree.

        >>> found = Subnetwork().layers({"kernel": jnp.zeros((8, 5))})
        >>> found["kernel"].size
        40
        """
        leaves = leaves_of(params)

        def place(path):
            return self.rules.index(self.rule_of(path, leaves[path]))

        paths = sorted(self.fan_ins(params), key=place)
        return {
            path: Layer(leaves[path].shape, self.axes(path, leaves[path]))
            for path in paths
        }

    def spread(self, params: PyTree, name: str) -> "Subnetwork":
        """With a sparsity for each leaf that a rule finds, of which all make this one.

        Args:
          params: as for `init`, or their shapes.
          name: of the rule, one of `rules.ratios.RATIOS`: "equal_edges", "erk",
            "balanced", "pyramidal", "uniform".

        Raises:
          ValueError: in one line, a layer that would keep more weights than it has, or
            none; a sparsity that is a mapping or a schedule; a scope, which has one
            sparsity for all of its leaves.

        >>> params = {"a": {"kernel": jnp.zeros((10, 40))}}
        >>> params["b"] = {"kernel": jnp.zeros((20, 10))}
        >>> Subnetwork(sparsity=0.5).spread(params, "equal_edges").sparsity
        Sparsities({'a/kernel': 0.625, 'b/kernel': 0.25})
        """
        if self.scope or isinstance(self.sparsity, Mapping | Schedule):
            other = f"scope={self.scope}" if self.scope else f"{self.sparsity}"
            raise ValueError(
                f"layer_sparsities={name} makes of one number a sparsity for each "
                f"layer; it is not possible with {other}"
            )
        found = ratios(name, float(self.sparsity), self.layers(params))
        sparsities = {literal(path): sparsity for path, sparsity in found.items()}
        return dataclasses.replace(self, sparsity=sparsities)

    def fan_in(self, path: str, leaf: Array) -> float | None:
        """The fan-in of a leaf, or None for one that is not pruned.

        Of a leaf alone: `fan_ins` knows the scales of normalizations in a tree, too.

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
          ValueError: no rule claims it, or its rule does not know.

        >>> Subnetwork().axes("kernel", jnp.zeros((8, 5)))
        Axes(inputs=(0,), outputs=(1,), stack=(), window=())
        """
        rule = self.rule_of(path, leaf)
        rule.check(path, leaf.shape)
        return rule.axes(leaf.ndim)

    def _stack(self, path: str, leaf: Array) -> tuple[int, ...]:
        """The axes along which a pruned leaf has many thresholds: () for most."""
        if in_scope(self.scope, path):
            return ()
        return self._slices(path, leaf)

    def _slices(self, path: str, leaf: Array) -> tuple[int, ...]:
        """The axes along which a pruned leaf is many maps: () for most."""
        rule = self.rule_of(path, leaf)
        rule.check(path, leaf.shape)
        return rule.axes(leaf.ndim).stack if rule.prune else ()

    def _sparsity_of(self, path: str) -> Scalar:
        if isinstance(self.sparsity, Sparsities):
            return self.sparsity.of(path)
        if isinstance(self.sparsity, Schedule):
            raise ValueError(
                f"the sparsity follows {self.sparsity}, so masks are those of a step: "
                f"subnetwork.at(step)"
            )
        return self.sparsity  # type: ignore[return-value]

    def sparsity_of(self, paths: Sequence[str]) -> Scalar:
        """The sparsity of leaves that share a threshold.

        Raises:
          ValueError: they have several, or that of a step.

        >>> Subnetwork({"a/*": 0.2, "*": 0.8}).sparsity_of(["a/kernel"])
        0.2
        """
        return shared_sparsity(self.scope, paths, self._sparsity_of)

    @property
    def _final(self) -> "Subnetwork":
        """With the sparsity at the end of a schedule."""
        if not isinstance(self.sparsity, Schedule):
            return self
        return dataclasses.replace(self, sparsity=self.sparsity.to)

    def _scores_dtype_of(self, leaf: Array) -> DTypeLike:
        if self.scores_dtype is not None:
            return self.scores_dtype
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)  # of NumPy's float64
        return dtype if dtype.itemsize > 4 else jnp.float32

    def _check(self, params: PyTree) -> dict[str, float]:
        """Raises ValueError for a tree that cannot be pruned; returns its fan-ins."""
        leaves, fan_ins = leaves_of(params), self.fan_ins(params)
        for path in fan_ins:
            check_floats(path, leaves[path])
        if not fan_ins:
            raise ValueError(
                "the rules prune none of the leaves "
                f"{', '.join(leaves) or '(no leaves)'}"
            )
        if isinstance(self.sparsity, Sparsities):
            self.sparsity.check(fan_ins)
        if self.scope:
            check_scope(self.scope, fan_ins, self._final._sparsity_of)
        return fan_ins


def apply_masks(weights: PyTree, mask_tree: PyTree) -> PyTree:
    """weights * mask where there is a mask; other leaves (None) are unchanged.

    Gradients reach the kept weights only.

    Raises:
      ValueError: trees that do not fit, or a mask that `check_masks` refuses.

    >>> apply_masks({"kernel": jnp.array([5.0, 6.0])}, {"kernel": jnp.array([0, 1])})
    {'kernel': Array([0., 6.], dtype=float32)}
    """
    check_pair(mask_tree, weights, what="mask")
    check_masks(mask_tree)
    return map_pair(lambda _, m, w: w * m.astype(w.dtype), mask_tree, weights)


def check_masks(mask_tree: PyTree) -> None:
    """Raises ValueError for a mask with other values than 0 and 1, scores for example.

    Traced masks are not checked.

    >>> check_masks({"kernel": jnp.array([0.3, 1.0])})
    Traceback (most recent call last):
    ...
    ValueError: the mask of the leaf 'kernel' has other values than 1 for kept and 0 \
for pruned; scores are turned into masks by Subnetwork.masks
    """
    for path, mask in leaves_of(mask_tree).items():
        check_array(path, mask)
        if isinstance(mask, jax.core.Tracer):
            continue
        with jax.ensure_compile_time_eval():  # masks from outside a traced function
            is_mask = bool(jnp.all((mask == 0) | (mask == 1)))
        if not is_mask:
            raise ValueError(
                f"the mask of the leaf {path!r} has other values than 1 for kept and 0 "
                f"for pruned; scores are turned into masks by Subnetwork.masks"
            )


def check_sampling_rate(sampling_rate: Scalar) -> None:
    """Raises ValueError unless r is in [0, 1]; a traced r is not checked.

    >>> check_sampling_rate(2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: sampling_rate is ..., a number in [0, 1]; got 2
    """
    meaning = "sampling_rate is the fraction of pruned weights resampled"
    check_fraction(sampling_rate, meaning, or_one=True)


def _given(path: str, leaf: Any) -> Array:
    """A leaf that keeps its values, if it has them."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(
            f"the leaf {path!r} has a shape and no values; distribution=None keeps "
            f"given ones"
        )
    return leaf
