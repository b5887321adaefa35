"""How the frozen weights of a ticket were sampled, and their replay."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from iterand_jax.rules import Rule
from iterand_jax.rules.defaults import UNRECORDED_RULES
from iterand_jax.rules.patterns import literal
from iterand_jax.runtime import modes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.tickets import replay
from iterand_jax.tickets.fields import number, of_type, row

PyTree = Any
MAX_REFRESHES = 5000
"""With more refreshes a ticket stores the weights: a replay would take hours."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """How the frozen weights of a run were sampled.

    Replaying costs about as much as the refreshes of the run did. It always runs on the
    CPU, because the inverse error function of Kaiming normal may round differently on
    other platforms.

    Attributes:
      seed: of the run.
      distribution: a name in `DISTRIBUTIONS`.
      step: the number of training steps.
      k_per: the randomization period in steps, 0 for a run without re-randomization.
      sampling_rate: r, 0.0 for a run without re-randomization.
      fan_ins: of the sampled leaves, by path. None in a ticket written before they were
        recorded: then all axes of a kernel but the last are inputs.
    """

    seed: int
    distribution: str
    step: int
    k_per: int = 0
    sampling_rate: float = 0.0
    fan_ins: Mapping[str, float] | None = None

    def can_be_replayed(self) -> bool:
        """Whether the weights can be rebuilt by a replay, in reasonable time."""
        few = self.refreshes <= MAX_REFRESHES
        return self.distribution != "signed_constant" and few

    @property
    def summary(self) -> str:
        """Where the weights come from, in a line."""
        return _summary(f"seed {self.seed}", self)

    def fan_in(self, path: str, leaf: Any) -> float | None:
        """The fan-in of a leaf, None for one that was not drawn."""
        if self.fan_ins is None:
            return self.subnetwork.fan_in(path, leaf)
        return self.fan_ins.get(path)

    @property
    def refreshes(self) -> int:
        """How often pruned weights were resampled."""
        return self.step // self.k_per if self.k_per else 0

    @property
    def subnetwork(self) -> Subnetwork:
        """How the weights were sampled; its sparsity is not used."""
        if self.fan_ins is None:
            return Subnetwork(distribution=self.distribution, rules=UNRECORDED_RULES)
        rules = [
            Rule(literal(path), prune=True, fan_in=fan_in)
            for path, fan_in in self.fan_ins.items()
        ]
        rules.append(Rule("*", prune=False))
        return Subnetwork(distribution=self.distribution, rules=rules)

    def numbers(self, weights: PyTree) -> PyTree:
        """`replay.draw_numbers` of the run's weights."""
        return self._replay(replay.draw_numbers, weights)

    def weights(self, numbers: PyTree) -> PyTree:
        """The weights, from draw numbers (`replay.drawn`)."""
        return self._replay(replay.drawn, numbers)

    def _replay(self, function: Callable[..., PyTree], tree: PyTree) -> PyTree:
        def keys():
            root = modes.root_key(self.seed)
            return replay.initial_key(root), root

        recorded = self.fan_ins is not None
        return _replayed(
            function, keys, self, self if recorded else self.subnetwork, tree
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyDraws:
    """Where the frozen weights of any tree come from, replayed as those of `Draws`.

    Attributes:
      distribution: a name in `DISTRIBUTIONS`.
      fan_ins: of the leaves that were drawn, by path.
      generator: the name of the keys' generator, `jax.random.key_impl`.
      key: the data of the key that `Subnetwork.init` was given.
      refresh_key: the data of the key into which refreshes folded their steps.
      step: steps done.
      k_per: the randomization period in steps, 0 for weights never resampled.
      sampling_rate: r.
    """

    distribution: str
    fan_ins: Mapping[str, float]
    generator: str
    key: tuple[int, ...]
    refresh_key: tuple[int, ...]
    step: int = 0
    k_per: int = 0
    sampling_rate: float = 0.0

    def can_be_replayed(self) -> bool:
        """Whether a replay can rebuild the weights, in reasonable time."""
        if self.k_per == 0:
            return True
        few = self.refreshes <= MAX_REFRESHES
        return self.distribution != "signed_constant" and few

    @property
    def refreshes(self) -> int:
        """How often pruned weights were resampled."""
        return self.step // self.k_per if self.k_per else 0

    @property
    def summary(self) -> str:
        """Where the weights come from, in a line."""
        return _summary("a key", self)

    def fan_in(self, path: str, leaf: Any) -> float | None:
        """The fan-in of a leaf, None for one that was not drawn."""
        del leaf
        return self.fan_ins.get(path)

    def numbers(self, weights: PyTree) -> PyTree:
        """`replay.draw_numbers` of the weights, None for what jax would narrow."""

        def as_in_jax(leaf):
            return (
                leaf
                if jax.dtypes.canonicalize_dtype(leaf.dtype) == leaf.dtype
                else None
            )

        weights = jax.tree.map(as_in_jax, weights)
        return _replayed(replay.draw_numbers, self._keys, self, self, weights)

    def weights(self, numbers: PyTree) -> PyTree:
        """`replay.drawn` of these numbers."""
        return _replayed(replay.drawn, self._keys, self, self, numbers)

    def _keys(self) -> tuple[Array, Array]:
        words = [np.array(data, np.uint32) for data in (self.key, self.refresh_key)]
        first, second = (
            jax.random.wrap_key_data(jnp.asarray(data), impl=self.generator)
            for data in words
        )
        return first, second


def _summary(origin: str, draws: "Draws | KeyDraws") -> str:
    resampled = ""
    if draws.k_per:
        resampled = f", resampled {draws.step // draws.k_per:,} times"
    return f"{draws.distribution} of {origin}{resampled}"


def _replayed(
    function: Callable[..., PyTree],
    keys: Callable[[], tuple[Array, Array]],
    times: "Draws | KeyDraws",
    drawn: replay.Drawn,
    tree: PyTree,
) -> PyTree:
    """What a function of `replay` makes of a tree, on the CPU."""
    with jax.default_device(_cpu()):
        rates = {"k_per": times.k_per, "sampling_rate": times.sampling_rate}
        replayed = function(*keys(), times.step, tree, drawn, **rates)
        return jax.tree.map(np.asarray, replayed)


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
        raise ValueError(
            f"weights are resampled on the CPU, which JAX_PLATFORMS={platforms} "
            f"excludes; set JAX_PLATFORMS={platforms},cpu"
        ) from error


def draws_from(fields: Any) -> Draws | KeyDraws | None:
    """The draws of a file's fields, which are checked as they start a computation."""
    if fields is None:
        return None
    step, k_per = of_type(fields, "step", int), of_type(fields, "k_per", int)
    rate = of_type(fields, "sampling_rate", (int, float))
    if min(step, k_per) < 0 or max(step, k_per) > 2**31 - 1 or not 0 <= rate <= 1:
        raise ValueError(
            f"its draws have the step {step}, k_per {k_per}, sampling_rate {rate}"
        )
    rates = {"step": step, "k_per": k_per, "sampling_rate": rate}
    distribution = of_type(fields, "distribution", str)
    fan_ins = None
    if fields.get("fan_ins") is not None:
        fan_ins = of_type(fields, "fan_ins", dict)
        for path in fan_ins:
            number(fan_ins, path, above=0)
    if "key" not in fields:
        seed = of_type(fields, "seed", int)
        return Draws(seed=seed, distribution=distribution, fan_ins=fan_ins, **rates)
    return KeyDraws(
        distribution=distribution,
        fan_ins=fan_ins or {},
        generator=of_type(fields, "generator", str),
        key=row(fields, "key", int) or (),
        refresh_key=row(fields, "refresh_key", int) or (),
        **rates,
    )
