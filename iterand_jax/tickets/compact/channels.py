"""Which channels the logits need, and which have a value that no input changes.

Two passes over the layers of `wiring`. Forward: the value of a channel after its ReLU,
NaN where it varies. Backward: a channel is needed if a weight reads it for a needed
one, unless it is zero, or constant and its effect can be added to a bias or taken from
a running mean. That is exact only where each output reads the same constants, so not in
a convolution that pads with zeros: at a border it reads fewer. There a constant is
taken for a channel that varies.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from iterand_jax.networks.conv_norm import EPSILON
from iterand_jax.networks.lstm import GATES
from iterand_jax.tickets.compact.wiring import (
    INPUTS,
    LOGITS,
    Layer,
    Linear,
    Recurrent,
    Sum,
    Table,
)

Arrays = Mapping[str, np.ndarray]  # parameters and running statistics by path
Channels = dict[str, np.ndarray]  # by the names of `wiring`

NEGLIGIBLE = 1e-20
"""Constants up to it count as zero: what is left of a running mean that decays."""

CANDIDATE = 2  # of the gates; without it the state of a unit stays zero


def constants(layers: Sequence[Layer], arrays: Arrays, inputs: int) -> Channels:
    """The value of each channel, NaN for one that varies.

    Args:
      layers: of the network.
      arrays: its parameters and statistics.
      inputs: channels of its images.

    Raises:
      ValueError: a kernel that reads other channels, as of groups.
    """
    values = {INPUTS: np.full(inputs, np.nan)}
    for layer in layers:
        values[layer.target] = _value(layer, arrays, values)
    return values


def needed(layers: Sequence[Layer], arrays: Arrays, values: Channels) -> Channels:
    """Which channels must be there, as booleans.

    Channels that are added to each other are there together, no network is left
    without a channel, and images keep all of theirs.
    """
    need = {name: np.zeros(len(value), bool) for name, value in values.items()}
    need[INPUTS][:] = need[LOGITS][:] = True
    for layer in reversed(layers):
        _ask(layer, arrays, values, need)
    group = {name: name for name in need}
    for layer in layers:
        if isinstance(layer, Sum):
            joined = {group[name] for name in (*layer.terms, layer.target)}
            group = {n: layer.target if g in joined else g for n, g in group.items()}
    of_group: Channels = {}
    for name, wanted in need.items():
        of_group[group[name]] = of_group.get(group[name], False) | wanted
    for wanted in of_group.values():
        wanted[0] |= not wanted.any()
    found = {name: of_group[group[name]] for name in need}
    _mark_shortcuts(layers, found)
    return found


def matrices(layer: Linear, arrays: Arrays, inputs: int) -> np.ndarray:
    """A kernel as (window, inputs, outputs); of pixels in rows, these are the window.

    Raises:
      ValueError: it has no such inputs.
    """
    kernel = arrays[layer.kernel]
    read = kernel.shape[-2]
    if read != inputs and (kernel.ndim > 2 or read % inputs):
        raise ValueError(
            f"{layer.kernel} reads {read} of {inputs} channels; possible: layers "
            f"without groups"
        )
    return kernel.reshape(-1, inputs, kernel.shape[-1])


def absorbs(layer: Linear, arrays: Arrays) -> bool:
    """Whether constants that a layer reads can become a part of its bias or mean."""
    return not _pads(layer, arrays) and (layer.inner or layer.bias in arrays)


def of_sources(layer: Linear, channels: Channels) -> np.ndarray:
    """What the channels that a layer reads have."""
    return np.concatenate([channels[source] for source in layer.sources])


def _pads(layer: Linear, arrays: Arrays) -> bool:
    """Whether an output at a border reads fewer pixels than the others."""
    window = arrays[layer.kernel].shape[:-2]
    return any(size > 1 for size in window)


def _value(layer: Layer, arrays: Arrays, values: Channels) -> np.ndarray:
    if isinstance(layer, Sum):
        first, second = (values[term] for term in layer.terms)
        return _settled(np.maximum(first + second, 0))
    if isinstance(layer, Table):
        features = arrays[f"{layer.path}/embedding"]
        return np.where(np.any(features != 0, axis=0), np.nan, 0.0)
    if isinstance(layer, Recurrent):
        return np.where(_moves(layer, arrays, values[layer.source]), np.nan, 0.0)
    before = of_sources(layer, values)
    kernel = matrices(layer, arrays, len(before))
    known = before == 0 if _pads(layer, arrays) else ~np.isnan(before)
    sums = np.where(known, before, 0) @ kernel.sum(0, dtype=np.float64)
    sums[np.any(kernel != 0, axis=0)[~known].any(0)] = np.nan
    if layer.norm:
        mean, var = (arrays[f"{layer.norm}/{name}"] for name in ("mean", "var"))
        scale = arrays.get(f"{layer.norm}/scale", 1.0)
        sums = (sums - mean) / np.sqrt(np.float64(var) + EPSILON) * scale
    sums += arrays.get(layer.bias, 0.0)
    return _settled(np.maximum(sums, 0) if layer.relu else sums)


def _settled(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) <= NEGLIGIBLE, 0.0, values)


def _moves(layer: Recurrent, arrays: Arrays, before: np.ndarray) -> np.ndarray:
    """Whether the state of a unit can leave zero."""
    entering, recurrent, bias = _gates(layer, arrays, len(before))
    moves = (entering != 0)[before != 0, CANDIDATE].any(0)
    if bias is not None:
        moves |= bias[CANDIDATE] != 0
    return _closed(moves, recurrent[:, CANDIDATE] != 0)


def _closed(units: np.ndarray, reads: np.ndarray) -> np.ndarray:
    """The units and all that read one of them, (units, units) from the one read."""
    while True:
        more = units | reads[units].any(0)
        if np.array_equal(more, units):
            return units
        units = more


def _gates(layer: Recurrent, arrays: Arrays, inputs: int) -> tuple:
    """Kernels (inputs, gates, units) and (units, gates, units), and the bias."""
    entering = arrays[f"{layer.path}/input/kernel"].reshape(inputs, GATES, -1)
    units = entering.shape[-1]
    recurrent = arrays[f"{layer.path}/recurrent/kernel"].reshape(units, GATES, units)
    bias = arrays.get(f"{layer.path}/input/bias")
    return entering, recurrent, None if bias is None else bias.reshape(GATES, units)


def _ask(layer: Layer, arrays: Arrays, values: Channels, need: Channels) -> None:
    """Adds to what is needed what a layer reads for needed channels."""
    wanted = need[layer.target]
    if isinstance(layer, Sum):
        for term in layer.terms:
            need[term] |= wanted
    elif isinstance(layer, Recurrent):
        before = values[layer.source]
        entering, recurrent, _ = _gates(layer, arrays, len(before))
        moves = np.isnan(values[layer.target])
        reads = np.any(recurrent != 0, axis=1) & moves[:, None]
        wanted |= _closed(wanted, reads.T)
        of_wanted = np.any(entering[..., wanted] != 0, axis=(1, 2))
        need[layer.source] |= of_wanted & (before != 0)
    elif isinstance(layer, Linear):
        before = of_sources(layer, values)
        kernel = matrices(layer, arrays, len(before))
        read = np.any(kernel[..., wanted] != 0, axis=(0, 2))
        constant = ~np.isnan(before) if absorbs(layer, arrays) else before == 0
        sizes = [len(values[source]) for source in layer.sources]
        parts = np.split(read & ~constant, np.cumsum(sizes)[:-1])
        for source, part in zip(layer.sources, parts, strict=True):
            need[source] |= part


def _mark_shortcuts(layers: Sequence[Layer], found: Channels) -> None:
    """Keeps a channel more where a shortcut would else be taken for an identity.

    A block has a convolution in its shortcut where it changes the number of channels.
    """
    writers = {layer.target: layer for layer in layers if isinstance(layer, Linear)}
    shortcuts = [
        writers[layer.terms[0]]
        for layer in layers
        if isinstance(layer, Sum) and layer.terms[0].startswith(f"{layer.target}/")
    ]
    changed = True
    while changed:
        changed = False
        for layer in shortcuts:
            before, after = found[layer.sources[0]], found[layer.target]
            grown = before if after.all() else after
            if before.sum() == after.sum() and not grown.all():
                grown[np.argmin(grown)] = changed = True
