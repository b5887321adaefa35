"""The metadata of a ticket: the network, its inputs, and the source of its weights."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from iterand_jax.data import augment
from iterand_jax.keys import keyed
from iterand_jax.networks import build_network
from iterand_jax.rules import DEFAULT_RULES, Rule
from iterand_jax.rules.patterns import literal
from iterand_jax.runtime import modes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.tickets import replay

PyTree = Any
MAX_REFRESHES = 5000
"""With more refreshes a ticket stores the weights: a replay would take hours."""

_UNRECORDED = tuple(dataclasses.replace(rule, ndims=None) for rule in DEFAULT_RULES)


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
        refreshes = self.step // self.k_per if self.k_per else 0
        return self.distribution != "signed_constant" and refreshes <= MAX_REFRESHES

    @property
    def summary(self) -> str:
        """Where the weights come from, in a line."""
        return _summary(f"seed {self.seed}", self)

    @property
    def subnetwork(self) -> Subnetwork:
        """How the weights were sampled; its sparsity is not used."""
        if self.fan_ins is None:
            return Subnetwork(distribution=self.distribution, rules=_UNRECORDED)
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
            root = jax.random.key(self.seed, impl=modes.GENERATOR)
            return keyed(root, "method"), root

        return _replayed(function, keys, self, self.subnetwork, tree)


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
        many = self.step // self.k_per > MAX_REFRESHES
        return self.distribution != "signed_constant" and not many

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The metadata of a ticket.

    Attributes:
      network: the arguments of `build_network`; dtype as a name. {} for a tree of
        arrays whose network the ticket does not name.
      inputs: (shape, dtype) of each input of the network, for a batch of one.
      mean: per channel, of pixels / 255; None for inputs that are not pixels.
      std: per channel, of pixels / 255.
      draws: how the weights were sampled; None for trained weights.
      leaves: (shape, dtype) of each array of a tree by its path ("params/..."); None
        for a network, from which they follow.
      run: further information: dataset, method, sparsity.
      module: the network itself, which is not stored; None to look up its name.
    """

    network: Mapping[str, Any]
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    draws: Draws | KeyDraws | None = None
    leaves: Mapping[str, tuple[tuple[int, ...], str]] | None = None
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    module: nn.Module | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def to_json(self) -> dict[str, Any]:
        """The fields that a file stores, the inverse of `from_json`."""
        names = [field.name for field in dataclasses.fields(self)]
        fields = {name: getattr(self, name) for name in names if name != "module"}
        if self.leaves is None:
            del fields["leaves"]
        draws = None if self.draws is None else dataclasses.asdict(self.draws)
        return fields | {"draws": draws}

    @classmethod
    def from_json(
        cls, fields: Mapping[str, Any], module: nn.Module | None = None
    ) -> "Description":
        """The description with the fields that `to_json` returned."""

        numbers = (int, float)
        of_leaves = fields.get("leaves")
        network, run = of_type(fields, "network", dict), of_type(fields, "run", dict)
        if of_leaves is not None:
            of_leaves = {
                path: (_shape(leaf[0]), of_type(leaf, 1, str))
                for path, leaf in of_type(fields, "leaves", dict).items()
            }
        return cls(
            network=network,
            inputs=tuple(
                (_shape(value[0]), of_type(value, 1, str))
                for value in of_type(fields, "inputs", list)
            ),
            mean=_row(fields, "mean", numbers),
            std=_row(fields, "std", numbers),
            draws=_draws_from(fields["draws"]),
            leaves=of_leaves,
            run=run,
            module=module,
        )

    def build(self) -> nn.Module:
        """The network.

        Raises:
          ValueError: its name is not registered or its module not imported, or it
            is of a tree of arrays.
        """
        if self.module is not None:
            return self.module
        if "name" not in self.network:
            raise ValueError(
                "the ticket is of a tree of arrays and names no network to build or "
                "apply; its params are put into your own model"
            )
        if "num_classes" not in self.network:
            raise ValueError(
                f"the network {self.network['name']!r} is described without "
                f"num_classes; pass the module, or load with like="
            )
        return build_network(**{**self.network, "dtype": self.dtype})

    @property
    def dtype(self) -> Any:
        """The dtype of the network's activations, float32 unless it says another."""
        return jnp.dtype(self.network.get("dtype", "float32"))

    def abstract(self) -> PyTree:
        """The network's variables, as shapes and dtypes."""
        inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.inputs]
        return jax.eval_shape(self.build().init, jax.random.key(0), *inputs)

    def logits(self, variables: PyTree, *inputs: Array) -> Array:
        """The network's logits, as a pure function; inputs as in `Ticket.apply`."""
        network = self.build()
        if self.mean is not None and self.std is not None:
            images, *rest = inputs
            images = augment.normalize(images, self.mean, self.std, self.dtype)
            inputs = images, *rest
        return network.apply(variables, *inputs)  # type: ignore[return-value]


def of_type(fields: Any, name: Any, types: type | tuple[type, ...]) -> Any:
    """A field of a type; True and False are no numbers.

    Raises:
      ValueError: there is none, or one of another type.
    """
    try:
        value = fields[name]
    except (LookupError, TypeError):
        raise ValueError(f"it has no field {name!r}") from None
    if isinstance(value, bool) or not isinstance(value, types):
        raise ValueError(f"its field {name!r} is {value!r:.60}")
    return value


def _row(fields: Mapping, name: str, types) -> tuple | None:
    if fields.get(name) is None:
        return None
    row = of_type(fields, name, list)
    return tuple(of_type(row, i, types) for i in range(len(row)))


def _shape(sizes: Any) -> tuple[int, ...]:
    shape = tuple(of_type(sizes, i, int) for i in range(len(sizes)))
    if any(size < 0 for size in shape):
        raise ValueError(f"a shape of the file is {shape}")
    return shape


def _draws_from(fields: Any) -> Draws | KeyDraws | None:
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
        if not all(0 < of_type(fan_ins, x, (int, float)) < math.inf for x in fan_ins):
            raise ValueError("its draws have a fan-in that cannot be")
    if "key" not in fields:
        seed = of_type(fields, "seed", int)
        return Draws(seed=seed, distribution=distribution, fan_ins=fan_ins, **rates)
    return KeyDraws(
        distribution=distribution,
        fan_ins=fan_ins or {},
        generator=of_type(fields, "generator", str),
        key=_row(fields, "key", int) or (),
        refresh_key=_row(fields, "refresh_key", int) or (),
        **rates,
    )
