"""What a subnetwork is described by, and which values are possible."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Self

import jax
import numpy as np
from jax.typing import DTypeLike

from iterand_jax import distributions, masks
from iterand_jax.masks import Scalar
from iterand_jax.rules import DEFAULT_RULES, Rule, Schedule
from iterand_jax.rules.checks import check_rules
from iterand_jax.rules.scopes import scope_of
from iterand_jax.rules.sparsities import Sparsities
from iterand_jax.runtime.checks import described

__all__ = ["RANKED_BY", "Fields"]
RANKED_BY = ("score", "magnitude")
"""What is ranked of a score."""


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of a `Subnetwork`, which describes them."""

    sparsity: Scalar | Mapping[str, Scalar] | Schedule = 0.5
    distribution: str | distributions.Distribution | None = "signed_constant"
    rules: Sequence[Rule] = DEFAULT_RULES
    scores_dtype: DTypeLike | None = None
    rank: str = "count"
    scope: Sequence[str] = ()
    ranked_by: str = "score"
    values: str | masks.Values = "masked"
    coats: Sequence[float] = ()
    pattern: str | None = None

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
        if self.pattern is not None:
            self._check_pattern(masks.pattern_of(self.pattern).sparsity)

    def _check_pattern(self, sparsity: float) -> None:
        """Raises ValueError for fields that contradict a pattern; sets the sparsity."""
        for name in ("scope", "coats", "rank"):
            value = getattr(self, name)
            if value != Fields.__dataclass_fields__[name].default:
                raise ValueError(
                    f"{name}={value!r} is of a threshold, and pattern={self.pattern!r} "
                    f"has none: it keeps as many of each group"
                )
        given = float(self.sparsity) if isinstance(self.sparsity, Real) else None
        default = Fields.__dataclass_fields__["sparsity"].default
        agrees = given is not None and math.isclose(given, sparsity, rel_tol=1e-6)
        if not agrees and given != default:
            raise ValueError(
                f"pattern={self.pattern!r} removes {sparsity:g} of the weights, and "
                f"sparsity is {described(self.sparsity)}; possible: {sparsity:g}, or "
                f"none"
            )
        object.__setattr__(self, "sparsity", sparsity)

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

    def at(self, step: Any) -> Self:
        """The subnetwork of a step, whose sparsity is the value of its schedule.

        Without a schedule it is this one. `count` counts what remains at the end.

        Args:
          step: the number of updates done, which may be traced.

        >>> from iterand_jax import Subnetwork
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

        >>> from iterand_jax import Subnetwork
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

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The sparsities, and the other fields: `jax.tree_util` calls this.

        A pattern says its sparsity, which then is no leaf that may change.

        >>> import jax
        >>> from iterand_jax import Subnetwork
        >>> Subnetwork(sparsity=0.9).tree_flatten()[0]
        (0.9,)
        """
        names = [field.name for field in dataclasses.fields(self)]
        others = tuple(getattr(self, name) for name in names[1:])
        return () if self.pattern else (self.sparsity,), others

    @classmethod
    def tree_unflatten(cls, others: tuple, children: tuple) -> Self:
        """With other sparsities, which may be anything and are not checked.

        >>> import jax
        >>> from iterand_jax import Subnetwork
        >>> jax.tree.map(lambda sparsity: sparsity / 2, Subnetwork(0.5)).sparsity
        0.25
        """
        self = object.__new__(cls)
        fields = dataclasses.fields(cls)
        if not children:
            children = (masks.pattern_of(others[-1]).sparsity,)
        for field, value in zip(fields, (*children, *others), strict=True):
            object.__setattr__(self, field.name, value)
        return self
