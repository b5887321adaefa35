"""What a subnetwork kept in each layer: counts, signs, magnitudes, dead channels, ages.

Everything is counted on the host, from weights and masks. A channel of a layer is dead
if none of its weights is live: kept, and on a path of kept weights from the inputs of
the network to its logits (`liveness`). So a filter is dead if all its weights are
pruned, if no later layer uses its output, or if it has only dead filters as inputs.
Removing dead channels takes slices out of the weights, kept ones included, and does not
change the logits; only where a bias or an affine normalization follows, a dead channel
still contributes a constant.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from iterand_jax.networks.lstm import gates_of, is_table
from iterand_jax.rules import Axes
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.tickets.replay import NO_DRAW
from iterand_jax.trees import leaves_of

__all__ = ["Layer", "by_path", "check_same_layers", "inspect_layers", "overlap"]

PyTree = Any


class Layer(NamedTuple):
    """A pruned leaf of the parameters.

    Attributes:
      path: its path, with slashes.
      shape: of its weights.
      kept: weights that are not pruned.
      threshold: the smallest score that is kept; None without scores.
      positive: the share of kept weights that are positive.
      magnitude: the mean magnitude of kept weights over that of pruned ones; NaN if
        none is pruned or these are all zero.
      outputs: output channels.
      dead_outputs: those without a live weight; of an LSTM's gates, units of which no
        gate has one.
      inputs: input channels.
      dead_inputs: those without a live weight.
      removable: weights in dead channels of either kind.
      removable_kept: those of them that are kept.
      churn: at each log step of the training, the share of the mask that changed since
        the one before; empty if that is not known.
      ages: how many kept weights were sampled last at initialization (0), at the
        first refresh, and so on; None if that is not known.
      unknown: the other kept weights, if there are ages: replaying the refreshes gives
        other values.
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    threshold: float | None
    positive: float
    magnitude: float
    outputs: int
    dead_outputs: int
    inputs: int
    dead_inputs: int
    removable: int
    removable_kept: int
    churn: Sequence[float]
    ages: np.ndarray | None
    unknown: int

    @property
    def size(self) -> int:
        """Weights in all."""
        return math.prod(self.shape)


def inspect_layers(
    subnetwork: Subnetwork,
    weights: PyTree,
    masks: PyTree,
    *,
    scores: PyTree = None,
    last_redraws: PyTree = None,
    refreshes: int = 0,
    live: Mapping[str, np.ndarray] | None = None,
    churn: Mapping[str, Sequence[float]] | None = None,
) -> list[Layer]:
    """The pruned layers of a network, in the order of their paths, numbers as such.

    Args:
      subnetwork: says which axes are outputs and inputs.
      weights: kept and pruned ones.
      masks: nonzero where a weight is kept, None for leaves that are not pruned.
      scores: which the masks were computed from, for the thresholds.
      last_redraws: as `tickets.replay.last_redraws` returns them, for the ages.
      refreshes: done so far; ages have one entry more.
      live: by path, which weights are live; by default, those that are kept.
      churn: by path, as in `Layer`.

    >>> weights = {"kernel": np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])}
    >>> masks = {"kernel": np.array([[1, 0, 1], [0, 0, 0]])}
    >>> (layer,) = inspect_layers(Subnetwork(), weights, masks)
    >>> layer.kept, layer.positive, layer.dead_outputs, layer.dead_inputs
    (2, 1.0, 1, 1)
    >>> layer.removable
    4
    """
    drawn_of, scores_of, last_of = map(by_path, (weights, scores, last_redraws))
    layers = []
    for path, mask in sorted(by_path(masks).items(), key=_in_order):
        kept = mask != 0
        drawn, ranked, last = drawn_of[path], scores_of.get(path), last_of.get(path)
        layers.append(
            Layer(
                path=path,
                shape=kept.shape,
                kept=int(kept.sum()),
                threshold=_threshold(ranked, kept),
                positive=_share(drawn[kept] > 0),
                magnitude=_magnitude(drawn, kept),
                **_ages(None if last is None else last[kept], refreshes),
                churn=(churn or {}).get(path, ()),
                **_channels(
                    path,
                    kept,
                    kept if live is None else live[path],
                    subnetwork.axes(path, kept),
                ),
            )
        )
    return layers


def by_path(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree by path, on the host; leaves that are None are left out.

    >>> by_path({"Conv_0": {"kernel": np.ones(2), "bias": None}})
    {'Conv_0/kernel': array([1., 1.])}
    """
    return {path: np.asarray(leaf) for path, leaf in leaves_of(tree).items()}


def overlap(mask: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """How much of a mask another mask keeps too, and how much it would by chance.

    Returns:
      The share of the mask's kept weights that the other keeps, NaN if it keeps none,
      and the share of all weights that the other keeps.

    >>> overlap(np.array([1, 1, 0, 0]), np.array([0, 1, 1, 1]))
    (0.5, 0.75)
    """
    kept, other = mask != 0, other != 0
    return _share(other[kept]), _share(other)


def check_same_layers(
    masks: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> None:
    """Raises ValueError unless two networks have pruned layers of the same shapes.

    >>> masks, other = {"kernel": np.ones((2, 3))}, {"kernel": np.ones((3, 2))}
    >>> check_same_layers(masks, other)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: masks ...: kernel is (2, 3) in one and (3, 2) in the other
    """
    for path in sorted(masks.keys() | other.keys()):
        shapes = [m[path].shape if path in m else None for m in (masks, other)]
        if shapes[0] != shapes[1]:
            texts = [str(shape) if shape else "absent" for shape in shapes]
            raise ValueError(
                f"masks of different networks cannot be compared: {path} is "
                f"{texts[0]} in one and {texts[1]} in the other"
            )


def _in_order(item: tuple[str, np.ndarray]) -> list[str | int]:
    """Numbers in paths sort as numbers: Block_2 comes before Block_10."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", item[0])]


def _share(booleans: np.ndarray) -> float:
    return float(np.mean(booleans)) if booleans.size else math.nan


def _threshold(scores: np.ndarray | None, kept: np.ndarray) -> float | None:
    if scores is None or not kept.any():
        return None
    return float(scores[kept].min())


def _magnitude(weights: np.ndarray, kept: np.ndarray) -> float:
    magnitudes = np.abs(weights)
    if not kept.any() or not magnitudes[~kept].any():
        return math.nan
    return float(magnitudes[kept].mean() / magnitudes[~kept].mean())


def _ages(last_redraws: np.ndarray | None, refreshes: int) -> dict[str, Any]:
    """The fields of a layer about when its kept weights were sampled."""
    if last_redraws is None:
        return {"ages": None, "unknown": 0}
    found = last_redraws[last_redraws != NO_DRAW]
    ages = np.bincount(found, minlength=refreshes + 1)
    return {"ages": ages, "unknown": last_redraws.size - found.size}


def _channels(
    path: str, kept: np.ndarray, live: np.ndarray, axes: Axes
) -> dict[str, Any]:
    """The fields of a layer about its channels; along a stack, each slice has its."""
    inputs_at, outputs_at = axes.inputs, axes.outputs
    if is_table(path):  # its features, whatever counts as its fan-in
        inputs_at, outputs_at = axes.outputs, axes.inputs

    def together(weights):  # (slices, inputs, outputs, weights of each pair)
        order = (*axes.stack, *inputs_at, *outputs_at, *axes.window)
        sizes = [
            math.prod(weights.shape[axis] for axis in kind)
            for kind in (axes.stack, inputs_at, outputs_at)
        ]
        gates = gates_of(path)
        slices, inputs, outputs = sizes
        units = outputs // gates
        weights = weights.transpose(order).reshape(slices, inputs, gates, units, -1)
        return np.moveaxis(weights, 2, 3).reshape(slices, inputs, units, -1)

    live, kept = together(live), together(kept)
    inputs, outputs = np.any(live, axis=(2, 3)), np.any(live, axis=(1, 3))
    stay = np.einsum("si,so->sio", inputs, outputs)
    return {
        "outputs": outputs.size,
        "dead_outputs": int((~outputs).sum()),
        "inputs": inputs.size,
        "dead_inputs": int((~inputs).sum()),
        "removable": int(np.sum(~stay)) * kept.shape[-1],
        "removable_kept": int(kept[~stay].sum()),
    }
