"""The metadata of a ticket: the network, its inputs, and the source of its weights."""

import dataclasses
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
        with jax.default_device(_cpu()):
            root = jax.random.key(self.seed, impl=modes.GENERATOR)
            replayed = function(
                keyed(root, "method"),
                root,
                self.step,
                tree,
                self.subnetwork,
                k_per=self.k_per,
                sampling_rate=self.sampling_rate,
            )
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
      network: the arguments of `build_network`; dtype as a name.
      inputs: (shape, dtype) of each input of the network, for a batch of one.
      mean: per channel, of pixels / 255; None for inputs that are not pixels.
      std: per channel, of pixels / 255.
      draws: how the weights were sampled; None for trained weights.
      run: further information: dataset, method, sparsity.
      module: the network itself, which is not stored; None to look up its name.
    """

    network: Mapping[str, Any]
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    draws: Draws | None = None
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    module: nn.Module | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def to_json(self) -> dict[str, Any]:
        """The fields that a file stores, the inverse of `from_json`."""
        names = [field.name for field in dataclasses.fields(self)]
        fields = {name: getattr(self, name) for name in names if name != "module"}
        draws = None if self.draws is None else dataclasses.asdict(self.draws)
        return fields | {"draws": draws}

    @classmethod
    def from_json(
        cls, fields: Mapping[str, Any], module: nn.Module | None = None
    ) -> "Description":
        """The description with the fields that `to_json` returned."""

        def as_tuple(value):
            return None if value is None else tuple(value)

        draws = fields["draws"]
        return cls(
            network=fields["network"],
            inputs=tuple((tuple(shape), dtype) for shape, dtype in fields["inputs"]),
            mean=as_tuple(fields["mean"]),
            std=as_tuple(fields["std"]),
            draws=None if draws is None else Draws(**draws),
            run=fields["run"],
            module=module,
        )

    def build(self) -> nn.Module:
        """The network.

        Raises:
          ValueError: its name is not registered, or its module is not imported.
        """
        if self.module is not None:
            return self.module
        return build_network(
            **{**self.network, "dtype": jnp.dtype(self.network["dtype"])}
        )

    def abstract(self) -> PyTree:
        """The network's variables, as shapes and dtypes."""
        inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.inputs]
        return jax.eval_shape(self.build().init, jax.random.key(0), *inputs)

    def logits(self, variables: PyTree, *inputs: Array) -> Array:
        """The network's logits, as a pure function; inputs as in `Ticket.apply`."""
        network = self.build()
        if self.mean is not None and self.std is not None:
            images, *rest = inputs
            dtype = jnp.dtype(self.network["dtype"])
            images = augment.normalize(images, self.mean, self.std, dtype)
            inputs = images, *rest
        return network.apply(variables, *inputs)  # type: ignore[return-value]
