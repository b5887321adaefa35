"""The metadata of a ticket: the network, its inputs, and the source of its weights."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from iterand_jax.data import augment
from iterand_jax.networks import build_network, tracing
from iterand_jax.tickets.draws import Draws, KeyDraws, draws_from
from iterand_jax.tickets.fields import LARGEST, form, number, of_type, row
from iterand_jax.trees import leaves_of

PyTree = Any
FLOATS = ("float16", "bfloat16", "float32", "float64")  # of activations
OF_INPUTS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", *FLOATS),
)
MOST_INPUTS = 64  # texts have two


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The metadata of a ticket.

    Attributes:
      network: the arguments of `build_network`; dtype as a name; sizes, of a compact
        network, by path. {} for a tree of arrays whose network the ticket does not
        name.
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
        """The description with the fields that `to_json` returned.

        Raises:
          ValueError: a field that is missing, of another type or out of range.
        """
        of_leaves = fields.get("leaves")
        network, run = of_type(fields, "network", dict), of_type(fields, "run", dict)
        _check_network(network)
        inputs = _inputs(of_type(fields, "inputs", list))
        mean, std = (row(fields, name, (int, float)) for name in ("mean", "std"))
        _check_normalization(mean, std, inputs)
        if of_leaves is not None:
            of_leaves = {
                path: form(leaf)
                for path, leaf in of_type(fields, "leaves", dict).items()
            }
        return cls(
            network=network,
            inputs=inputs,
            mean=mean,
            std=std,
            draws=draws_from(fields["draws"]),
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

    @property
    def of_texts(self) -> bool:
        """Whether its inputs are texts: token ids (N, T) and lengths (N,), integers.

        Raises:
          ValueError: its first input is of integers, and they are no texts.
        """
        if not self.inputs or not np.issubdtype(self.inputs[0][1], np.integer):
            return False
        if [len(shape) for shape, _ in self.inputs] != [2, 1] or self.mean is not None:
            raise ValueError(
                f"its inputs are {self.inputs!r:.100}, integers that are no texts; "
                f"possible: floats, or (N, T) and (N,) without a mean"
            )
        return True

    def abstract(self) -> PyTree:
        """The network's variables, as shapes and dtypes.

        Raises:
          ValueError: sizes of layers that the network does not have.
        """
        inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.inputs]
        found = tracing.shapes(self.build(), *inputs)
        sizes = self.network.get("sizes", {})
        axes = _axes_of_sizes(leaves_of(found["params"])) if sizes else {}
        for path, size in sizes.items():
            if axes.get(path) != size:
                raise ValueError(
                    f"the network has no layer {path!r:.60} of {size} channels"
                )
        return found

    def logits(self, variables: PyTree, *inputs: Array) -> Array:
        """The network's logits, as a pure function; inputs as in `Ticket.apply`."""
        network = self.build()
        if self.mean is not None and self.std is not None:
            images, *rest = inputs
            images = augment.normalize(images, self.mean, self.std, self.dtype)
            inputs = images, *rest
        return network.apply(variables, *inputs)  # type: ignore[return-value]


def _inputs(pairs: Sequence[Any]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """The shapes and dtypes of inputs.

    Raises:
      ValueError: more than `MOST_INPUTS`, or one that is not of numbers.
    """
    if len(pairs) > MOST_INPUTS:
        raise ValueError(f"it has {len(pairs):,} inputs; at most {MOST_INPUTS}")
    inputs = tuple(form(pair) for pair in pairs)
    for _, dtype in inputs:
        if dtype not in OF_INPUTS:
            raise ValueError(
                f"an input is of {dtype!r:.60}; possible: {', '.join(OF_INPUTS)}"
            )
    return inputs


def _axes_of_sizes(leaves: Mapping[str, Any]) -> dict[str, int]:
    """The output channels of each layer by its path, as `sizes` of a network has it."""
    found = {}
    for path, leaf in leaves.items():
        for end in ("/Conv_0/kernel", "/recurrent/kernel", "/kernel", "/embedding"):
            if path.endswith(end):
                axis = 0 if end == "/recurrent/kernel" else -1
                found[path.removesuffix(end)] = leaf.shape[axis]
                break
    return found


def _check_network(network: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments of `build_network` that cannot be."""
    checks: Mapping[str, Callable[[str], Any]] = {
        "name": lambda name: of_type(network, name, str),
        "num_classes": lambda name: number(network, name, above=0, below=2**31),
        "width": lambda name: number(network, name, above=0),
        "affine": lambda name: of_type(network, name, bool),
        "dtype": lambda name: of_type(network, name, str),
        "sizes": lambda name: _check_sizes(of_type(network, name, dict)),
    }
    for name in network:
        if name not in checks:
            raise ValueError(f"a network has no {name!r:.60}")
        checks[name](name)
    if not network.get("name", "").isprintable():
        raise ValueError(f"the name of its network is {network['name']!r:.60}")
    if network.get("dtype", "float32") not in FLOATS:
        raise ValueError(
            f"the dtype of its network is {network['dtype']!r:.60}; possible: "
            f"{', '.join(FLOATS)}"
        )


def _check_sizes(sizes: Mapping[str, Any]) -> None:
    for path in sizes:
        if of_type(sizes, path, int) not in range(1, LARGEST):
            raise ValueError(f"the size of its layer {path!r:.60} is {sizes[path]}")


def _check_normalization(
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    inputs: tuple[tuple[tuple[int, ...], str], ...],
) -> None:
    """Raises ValueError for statistics of pixels that no image has."""
    if mean is None and std is None:
        return
    channels = inputs[0][0][-1] if inputs and inputs[0][0] else None
    for name, values in (("mean", mean), ("std", std)):
        finite = values is not None and all(map(math.isfinite, values))
        if not finite or values is None or len(values) not in (1, channels):
            raise ValueError(f"its {name} is {values!r:.60}, of {channels} channels")
    if std is not None and min(std) <= 0:
        raise ValueError(f"its std is {std!r:.60}, which is not above 0")
