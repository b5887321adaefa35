"""Removes the channels of a ticket's network that its logits do not need."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from iterand_jax.networks import build_network
from iterand_jax.networks.lstm import GATES
from iterand_jax.tickets.compact import channels
from iterand_jax.tickets.compact.channels import Arrays, Channels
from iterand_jax.tickets.compact.wiring import (
    LOGITS,
    Layer,
    Linear,
    Recurrent,
    Sum,
    Table,
    layers_of,
)
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of, map_paths

PyTree = Any
Cut = Callable[[np.ndarray], np.ndarray]  # of a leaf what is left


class Constant(NamedTuple):
    """Channels with a value that is not zero and that no input changes.

    Attributes:
      removed: their effect is part of a bias or a running mean.
      left: their effect is not the same everywhere, or has nowhere to go.
    """

    removed: int
    left: int


class Compact(NamedTuple):
    """A ticket without its dead channels.

    Attributes:
      ticket: of the smaller network; its masks are those of what is left.
      channels: by layer, (those that are left, those that were there).
      constant: how many channels are constant and not zero.
    """

    ticket: Ticket
    channels: dict[str, tuple[int, int]]
    constant: Constant


def check(name: str) -> None:
    """Raises ValueError unless the layers of the network of a name are known."""
    layers_of(build_network(name, num_classes=1), ())


def compact(ticket: Ticket) -> Compact:
    """The ticket of a smaller network with the same logits, up to rounding.

    A channel is removed if no path of nonzero weights leads from it to the logits, if
    it is always zero, or if it is constant and its effect can be added to a bias or
    taken from a running mean. Other weights keep their bits.

    Raises:
      ValueError: a network whose layers are not known, or that its name does not
        rebuild.

    Of four units, the second reads nothing. It is always relu(0.5), which goes into the
    next layer's bias:

    >>> from iterand_jax.tickets.metadata import Description
    >>> network = {"name": "conv2", "num_classes": 1, "width": 1 / 64, "affine": True}
    >>> description = Description(network=network, inputs=(((1, 2, 2, 1), "float32"),))
    >>> params = map_paths(lambda _, w: np.ones(w.shape, "f4"), description.abstract())
    >>> params["params"]["Dense_1"]["kernel"][:, 1] = 0
    >>> params["params"]["Dense_1"]["bias"][1] = 0.5
    >>> masks = map_paths(lambda _, w: None, params["params"])
    >>> found = compact(Ticket.of(description, params["params"], masks, {}))
    >>> found.channels["Dense_1"], found.constant
    ((3, 4), Constant(removed=1, left=0))
    >>> found.ticket.params["Dense_2"]["bias"]
    array([1.5], dtype=float32)
    """
    description = ticket.description
    network, params = description.build(), leaves_of(ticket.params)
    layers = layers_of(network, params)
    arrays = {**params, **leaves_of(ticket.batch_stats)}
    values = channels.constants(layers, arrays, description.inputs[0][0][-1])
    kept = channels.needed(layers, arrays, values)
    cuts = _cuts(layers, kept)
    folded = _folded(layers, arrays, values, kept)

    def cut(path: str, leaf: np.ndarray) -> np.ndarray:
        return cuts[path](folded.get(path, leaf)) if path in cuts else leaf

    def cut_mask(path: str, mask: np.ndarray) -> np.ndarray:
        return cuts[path](mask | (path in folded))

    sizes = _sizes(layers, kept)
    smaller = dataclasses.replace(
        description,
        network={
            **description.network,
            "sizes": {path: left for path, (left, _) in sizes.items()},
        },
        draws=None,
        module=None,
    )
    found = Ticket(
        description=smaller,
        params=map_paths(cut, ticket.params),
        masks=map_paths(cut_mask, ticket.masks),
        batch_stats=map_paths(cut, ticket.batch_stats),
        words=ticket.words,
    )
    _check_rebuilt(found)
    return Compact(found, sizes, _constant(layers, values, kept))


def _sizes(layers: Sequence[Layer], kept: Channels) -> dict[str, tuple[int, int]]:
    return {
        layer.path: (int(kept[layer.target].sum()), len(kept[layer.target]))
        for layer in layers
        if not isinstance(layer, Sum) and layer.target != LOGITS
    }


def _constant(layers: Sequence[Layer], values: Channels, kept: Channels) -> Constant:
    """Of the channels that layers read, those that are constant and not zero."""
    removed = left = 0
    for name in {n for la in layers if isinstance(la, Linear) for n in la.sources}:
        constant = ~np.isnan(values[name]) & (values[name] != 0)
        removed += int(np.sum(constant & ~kept[name]))
        left += int(np.sum(constant & kept[name]))
    return Constant(removed, left)


def _cuts(layers: Sequence[Layer], kept: Channels) -> dict[str, Cut]:
    """By the path of a leaf what removes channels from it, or from its mask."""
    cuts: dict[str, Cut] = {}
    for layer in layers:
        if isinstance(layer, Sum):
            continue
        after = kept[layer.target]
        vector = partial(_take, axes={-1: after})
        if isinstance(layer, Linear):
            before = channels.of_sources(layer, kept)
            cuts[layer.kernel] = partial(_cut_kernel, before=before, after=after)
            cuts[layer.bias] = vector
            for name in ("scale", "mean", "var"):
                cuts[f"{layer.norm}/{name}"] = vector
        elif isinstance(layer, Table):
            cuts[f"{layer.path}/embedding"] = vector
        elif isinstance(layer, Recurrent):
            gates = np.tile(after, GATES)
            for name, before in (("input", kept[layer.source]), ("recurrent", after)):
                axes = {0: before, -1: gates}
                cuts[f"{layer.path}/{name}/kernel"] = partial(_take, axes=axes)
            cuts[f"{layer.path}/input/bias"] = partial(_take, axes={-1: gates})
    return cuts


def _take(leaf: np.ndarray, axes: dict[int, np.ndarray]) -> np.ndarray:
    for axis, channels_ in axes.items():
        leaf = np.compress(channels_, leaf, axis)
    return leaf


def _cut_kernel(leaf: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    pixels = leaf.shape[-2] // len(before)  # of images as rows
    return _take(leaf, {-2: np.tile(before, pixels), -1: after})


def _folded(
    layers: Sequence[Layer], arrays: Arrays, values: Channels, kept: Channels
) -> dict[str, np.ndarray]:
    """Biases and running means with the effect of the constants that are removed."""
    folded = {}
    for layer in layers:
        if not isinstance(layer, Linear) or not channels.absorbs(layer, arrays):
            continue
        value = np.nan_to_num(channels.of_sources(layer, values))
        value[channels.of_sources(layer, kept)] = 0
        if not value.any():
            continue
        kernel = channels.matrices(layer, arrays, len(value))
        effect = value @ kernel.sum(0, dtype=np.float64)
        path, sign = (f"{layer.norm}/mean", -1) if layer.norm else (layer.bias, 1)
        changed = arrays[path] + sign * effect
        folded[path] = changed.astype(arrays[path].dtype)
    return folded


def _check_rebuilt(ticket: Ticket) -> None:
    """Raises ValueError unless the description of a ticket gives its network."""
    wanted = leaves_of(ticket.description.abstract())
    found = leaves_of(ticket.variables)
    for path in [*wanted, *found]:
        if path not in wanted or wanted[path].shape != getattr(
            found.get(path), "shape", None
        ):
            name = ticket.description.network.get("name")
            raise ValueError(f"the network {name!r} has another {path} of these sizes")
