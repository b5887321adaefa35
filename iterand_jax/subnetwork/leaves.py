"""What the fields of a subnetwork mean for the leaves of a tree."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from jax import Array

from iterand_jax.masks import Scalar, pattern_of
from iterand_jax.rules import Axes, Rule, Schedule
from iterand_jax.rules.checks import check_biases, scales_of
from iterand_jax.rules.patterns import literal
from iterand_jax.rules.ratios import Layer, ratios
from iterand_jax.rules.scopes import check_scope, in_scope, shared_sparsity
from iterand_jax.rules.sparsities import Sparsities
from iterand_jax.runtime.checks import check_array, check_floats
from iterand_jax.subnetwork.fields import Fields
from iterand_jax.trees import leaves_of

__all__ = ["Leaves"]

PyTree = Any


class Leaves(Fields):
    """The rules, axes, fan-ins and sparsities of leaves, known from their shapes."""

    def rule_of(self, path: str, leaf: Array) -> Rule:
        """The first rule that claims a leaf.

        Raises:
          ValueError: no rule claims it.

        >>> import jax.numpy as jnp
        >>> from iterand_jax import Subnetwork
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

        >>> import jax.numpy as jnp
        >>> from iterand_jax import OUTPUTS_FIRST_RULES, Subnetwork
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

        >>> import jax.numpy as jnp
        >>> from iterand_jax import Subnetwork
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

    def spread(self, params: PyTree, name: str) -> Self:
        """With a sparsity for each leaf that a rule finds, of which all make this one.

        Args:
          params: as for `init`, or their shapes.
          name: of the rule, one of `rules.ratios.RATIOS`: "equal_edges", "erk",
            "balanced", "pyramidal", "uniform".

        Raises:
          ValueError: in one line, a layer that would keep more weights than it has, or
            none; a sparsity that is a mapping or a schedule; a scope or a pattern,
            which have one sparsity for all of their leaves.

        >>> import jax.numpy as jnp
        >>> from iterand_jax import Subnetwork
        >>> params = {"a": {"kernel": jnp.zeros((10, 40))}}
        >>> params["b"] = {"kernel": jnp.zeros((20, 10))}
        >>> Subnetwork(sparsity=0.5).spread(params, "equal_edges").sparsity
        Sparsities({'a/kernel': 0.625, 'b/kernel': 0.25})
        """
        one = self.scope or self.pattern
        if one or isinstance(self.sparsity, Mapping | Schedule):
            name_of = "scope" if self.scope else "pattern"
            other = f"{name_of}={one}" if one else f"{self.sparsity}"
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

        >>> import jax.numpy as jnp
        >>> from iterand_jax import Subnetwork
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

        >>> import jax.numpy as jnp
        >>> from iterand_jax import Subnetwork
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

    def group_axis(self, path: str, leaf: Array) -> int:
        """The axis of a pruned leaf that the groups of a pattern lie along.

        It is the last of its input axes: see `iterand_jax.masks.groups`.

        Raises:
          ValueError: its size is no multiple of a group's.

        >>> import jax.numpy as jnp
        >>> from iterand_jax import Subnetwork
        >>> subnetwork = Subnetwork(pattern="2:4")
        >>> subnetwork.group_axis("kernel", jnp.zeros((3, 3, 8, 5)))
        2
        >>> subnetwork.group_axis("kernel", jnp.zeros((3, 5)))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: the leaf 'kernel' of shape (3, 5): pattern='2:4' keeps 2 of every \
4 along its input axis 0; possible: a multiple of 4, or ...
        """
        kept, of = pattern_of(self.pattern)
        axis = max(self.axes(path, leaf).inputs, default=None)
        if axis is None or leaf.shape[axis] % of:
            along = "an input axis" if axis is None else f"its input axis {axis}"
            raise ValueError(
                f"the leaf {path!r} of shape {tuple(leaf.shape)}: pattern="
                f"{self.pattern!r} keeps {kept} of every {of} along {along}; possible: "
                f"a multiple of {of}, or a leaf that is not pruned, by the rule "
                f"Rule({path!r}, False) or in a config by unpruned=('{path}',)"
            )
        return axis

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

        >>> from iterand_jax import Subnetwork
        >>> Subnetwork({"a/*": 0.2, "*": 0.8}).sparsity_of(["a/kernel"])
        0.2
        """
        return shared_sparsity(self.scope, paths, self._sparsity_of)

    @property
    def _final(self) -> Self:
        """With the sparsity at the end of a schedule."""
        if not isinstance(self.sparsity, Schedule):
            return self
        return dataclasses.replace(self, sparsity=self.sparsity.to)

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
        for path in fan_ins if self.pattern else ():
            self.group_axis(path, leaves[path])
        if isinstance(self.sparsity, Sparsities):
            self.sparsity.check(fan_ins)
        if self.scope:
            check_scope(self.scope, fan_ins, self._final._sparsity_of)
        return fan_ins
