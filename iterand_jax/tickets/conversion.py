"""Tickets of what others trained: a network of ours from a state dict of PyTorch.

A ticket holds what the network sees: weights times masks, or what `masks.VALUES` makes
of the two, and learned biases and normalization as they are. All that a state dict has
must be of the network, and all that the network needs in the state dict; what is not is
listed by name.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from iterand_jax import masks
from iterand_jax.networks import build_network
from iterand_jax.networks.resnet import ResNet
from iterand_jax.rules.scopes import check_scope
from iterand_jax.runtime import modes
from iterand_jax.runtime.checks import check_fraction, is_wide
from iterand_jax.subnetwork import Subnetwork
from iterand_jax.tickets import names
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.states import State, listed
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of

PyTree = Any
RANKS = (*masks.RANKS, "floor")
"""How many of n scores a sparsity p removes: `masks.RANKS`, or the floor of p n."""

OPTIONAL = {"bias": 0.0, "scale": 1.0}
"""What a layer without such a leaf does: nothing."""

CIFAR, IMAGENET = 32, 224  # pixels of the side of an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruning:
    """What a state dict does not say of its scores and masks.

    Attributes:
      sparsity: the fraction that scores remove; None without scores.
      ranked_by: "score" or its "magnitude"; None without scores.
      rank: one of `RANKS`.
      scope: as of a `Subnetwork`.
      values: what a mask makes of a weight, a name in `masks.VALUES`.
    """

    sparsity: float | None = None
    ranked_by: str | None = None
    rank: str = "count"
    scope: Sequence[str] = ()
    values: str = "masked"


def convert(
    state: State,
    name: str,
    pruning: Pruning,
    *,
    width: float = 1.0,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[Ticket, list[str]]:
    """The ticket of a state dict, and what is to be said of it.

    Args:
      state: of `states.state_of`.
      name: of the network.
      pruning: how scores and masks are meant.
      width: of the network.
      image_size: the pixels of a side; None for those that the first linear layer has,
        or else 32, and 224 for the ImageNet forms.
      mean: by channel, of pixels / 255; None for images that come normalized.
      std: in the same way.

    Returns:
      (the ticket, a line for each thing that is not quite as in the file).

    Raises:
      ValueError: in one line, a network that no state dict is read for, names that are
        missing or left over, a shape, or scores without what `pruning` says of them.
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean is {mean} and std is {std}; possible: both, or none")
    _check_pruning(state, pruning)
    empty = [name for name, array in state.arrays.items() if array.size == 0]
    if empty:
        raise ValueError(f"the state dict has no values of {listed(empty)}")
    with modes.fixed():
        description, pixels = _described(state, name, width, image_size)
        network, variables = description.build(), description.abstract()
    rooms = [leaves_of(variables.get(room, {})) for room in ("params", "batch_stats")]
    leaves = rooms[0] | rooms[1]
    in_state = names.names_in_state(network, [*leaves], _shapes(state))
    _check_names(state, in_state)
    affine = any(_acts(path, state.arrays.get(in_state[path])) for path in leaves)
    if not affine:
        leaves = {p: leaf for p, leaf in leaves.items() if not _is_optional(p)}
    description = dataclasses.replace(
        description,
        network={**description.network, "affine": affine},
        mean=mean,
        std=std,
        run=dataclasses.asdict(pruning) if state.scores or state.masks else {},
    )
    Description.from_json(json.loads(json.dumps(description.to_json())))
    weights, kept, notes = _pruned(_arranged(state, in_state, leaves, pixels), pruning)

    def tree(room: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PyTree:
        of_room = {path: arrays.get(path) for path in room if path in leaves}
        return traverse_util.unflatten_dict(of_room, sep="/")

    params, statistics = (tree(room, weights) for room in rooms)
    return Ticket.of(description, params, tree(rooms[0], kept), statistics), notes


def _check_pruning(state: State, pruning: Pruning) -> None:
    """Raises ValueError for scores without what they mean, or the reverse."""
    said = pruning.sparsity is not None or pruning.ranked_by is not None
    if state.scores and (pruning.sparsity is None or pruning.ranked_by is None):
        raise ValueError(
            f"there are scores of {len(state.scores)} weights; which they keep say "
            f"--sparsity=X, the share removed, or --kept=X, and --ranked_by=score or "
            f"magnitude"
        )
    if said and not state.scores:
        raise ValueError(
            "--sparsity, --kept and --ranked_by are of scores, and there are none"
        )
    if not state.scores and (pruning.rank != "count" or pruning.scope):
        raise ValueError("--rank and --scope are of scores, and there are none")
    if not (state.scores or state.masks) and pruning.values != "masked":
        raise ValueError(
            f"--kept_values={pruning.values} is of scores or masks, and there are none"
        )
    if pruning.sparsity is not None:
        check_fraction(
            pruning.sparsity,
            "sparsity is the fraction of weights removed",
            or_one=False,
        )
    if pruning.rank not in RANKS:
        raise ValueError(f"unknown rank {pruning.rank!r}; possible: {', '.join(RANKS)}")
    if pruning.rank == "floor" and pruning.scope:
        raise ValueError("--rank=floor is of single layers; possible: without --scope")


def _described(
    state: State, name: str, width: float, image_size: int | None
) -> tuple[Description, dict[str, tuple[int, int]]]:
    """The description of the network, with biases, and the pixels that are flattened.

    The latter by the path of a linear layer.
    """
    network: Any = build_network(name, num_classes=1, width=width, affine=True)
    shapes = _shapes(state)
    pixels: dict[str, tuple[int, int]] = {}
    if isinstance(network, ResNet):
        first, last = "conv1.weight", "fc.weight"
        size = image_size or (IMAGENET if network.imagenet_stem else CIFAR)
    else:
        layers = names.layers(network, shapes)
        first, last = f"{layers['Conv'][0]}weight", f"{layers['Dense'][-1]}weight"
        flat = f"{layers['Dense'][0]}weight"
        outputs = shapes[f"{layers['Conv'][-1]}weight"][0]
        halved = 2 ** len(network.stages)
        side = math.isqrt(shapes[flat][1] // max(1, outputs))
        size = image_size or side * halved
        side = size // halved
        if side * side * outputs != shapes[flat][1]:
            raise ValueError(
                f"{flat} reads {shapes[flat][1]:,} values, which are not those of "
                f"{outputs} channels of square images"
                + (f" of {size} pixels" if image_size else "")
            )
        pixels["Dense_0/kernel"] = side, side
    classes, channels = shapes.get(last, (1,))[0], shapes.get(first, (1, 3))[1]
    description = Description(
        network={
            "name": name,
            "num_classes": classes,
            "width": width,
            "affine": True,
            "dtype": "float32",
        },
        inputs=(((1, size, size, channels), "float32"),),
    )
    return description, pixels


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.arrays.items()}


def _is_optional(path: str) -> bool:
    return path.rpartition("/")[2] in OPTIONAL


def _acts(path: str, array: np.ndarray | None) -> bool:
    """Whether a bias or scale is there and does anything."""
    if array is None or not _is_optional(path):
        return False
    return bool(np.any(array != OPTIONAL[path.rpartition("/")[2]]))


def _check_names(state: State, in_state: Mapping[str, str]) -> None:
    """Raises ValueError for names that are missing, left over, or cannot be pruned."""
    needed = {name for path, name in in_state.items() if not _is_optional(path)}
    for name in needed:  # a normalization has both scale and bias, or none
        if name.endswith("running_mean"):
            both = {name.replace("running_mean", x) for x in ("weight", "bias")}
            needed = needed | both if both & state.arrays.keys() else needed
    missing = sorted(needed - state.arrays.keys())
    left = sorted(state.arrays.keys() - {*in_state.values()})
    if missing or left:
        parts = {"missing": missing, "left over": left}
        said = "; ".join(f"{k}: {listed(v)}" for k, v in parts.items() if v)
        raise ValueError(f"the state dict is not of this network; {said}")
    kernels = {name for path, name in in_state.items() if path.endswith("kernel")}
    other = sorted(state.scores.keys() - kernels)
    if other:
        raise ValueError(f"there are scores of {listed(other)}; possible: of kernels")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """The arrays of a leaf in Flax's layout."""

    weights: np.ndarray
    scores: np.ndarray | None
    mask: np.ndarray | None


def _arranged(
    state: State,
    in_state: Mapping[str, str],
    leaves: Mapping[str, Any],
    pixels: Mapping[str, tuple[int, int]],
) -> dict[str, _Leaf]:
    """The leaves of a state dict by path, in the layout of ours.

    Raises:
      ValueError: tensors of other shapes or dtypes, which are listed, or a mask of
        other values than 0 and 1.
    """
    found, wrong = {}, []
    for path, like in leaves.items():
        name, flat = in_state[path], pixels.get(path, (1, 1))
        array = state.arrays.get(name)
        if array is None:
            array = np.full(like.shape, OPTIONAL[path.rpartition("/")[2]], np.float32)
        if not is_wide(array.dtype):
            raise ValueError(
                f"{name} is of {array.dtype}; possible: floats of 16 bits or more"
            )
        beside = state.scores.get(name), state.masks.get(name)
        try:
            weights = names.outputs_last(array, like, flat)
        except ValueError as error:
            wrong.append(f"{name} is of {error}")
            continue
        scores, mask = (
            None if other is None else names.outputs_last(other, like, flat)
            for other in beside  # of the shape of the weights
        )
        with np.errstate(over="ignore"):
            narrow = weights.astype(np.float32)
        if not np.isfinite(narrow).all():
            raise ValueError(f"{name} has values that are not finite in float32")
        if mask is not None and not np.all((mask == 0) | (mask == 1)):
            raise ValueError(f"the mask of {name} has other values than 0 and 1")
        found[path] = _Leaf(weights, scores, mask)
    if wrong:
        raise ValueError(f"shapes differ: {listed(wrong)}")
    return found


def _pruned(
    found: Mapping[str, _Leaf], pruning: Pruning
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """What the network sees of each leaf, float32; the masks; and what is to be said.

    It is computed in float64, and rounded in the end.
    """
    scores = {p: leaf.scores for p, leaf in found.items() if leaf.scores is not None}
    weights = {path: leaf.weights for path, leaf in found.items()}
    kept = {p: leaf.mask != 0 for p, leaf in found.items() if leaf.mask is not None}
    notes: list[str] = []
    with jax.enable_x64(True):
        if scores:
            of_scores, notes = _masks(scores, pruning)
            kept |= of_scores
        for path in [path for path in kept if not path.endswith("kernel")]:
            weights[path] = np.where(kept.pop(path), weights[path], 0)
        rounded = [p for p, w in weights.items() if np.any(w.astype(np.float32) != w)]
        if pruning.values != "masked":
            wide = {path: weights[path].astype(np.float64) for path in kept}
            weights |= jax.device_get(_effective(wide, kept, pruning.values))
    if rounded:
        notes.append(f"rounded to float32: {listed(rounded)}")
    narrow = {p: np.asarray(w, np.float32, order="C") for p, w in weights.items()}
    return narrow, kept, notes


@functools.partial(jax.jit, static_argnames="values")
def _effective(
    weights: Mapping[str, Array], kept: Mapping[str, Array], values: str
) -> dict[str, Array]:
    """What masks make of weights, by path."""
    of = masks.values_of(values)
    return {p: of(w, kept[p].astype(w.dtype), ()) for p, w in weights.items()}


def _masks(
    scores: Mapping[str, np.ndarray], pruning: Pruning
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The masks of scores by path, and whether they keep more than they should."""
    rank, sparsity = pruning.rank, pruning.sparsity or 0.0
    for path, own in scores.items():
        if not is_wide(own.dtype) or np.isnan(own).any():
            raise ValueError(f"the scores of {path} are of {own.dtype} or have NaN")
    of_leaves: Any = sparsity
    if rank == "floor":  # a fraction for each leaf, of which the count is that
        of_leaves = {p: int(sparsity * s.size) / s.size for p, s in scores.items()}
        rank = "count"
    subnetwork = Subnetwork(
        of_leaves,
        None,
        rank=rank,
        ranked_by=pruning.ranked_by or "score",
        scope=pruning.scope,
    )
    check_scope(subnetwork.scope, scores, lambda path: sparsity)
    trees = {path: jnp.asarray(own) for path, own in scores.items()}
    found = {p: np.asarray(mask) != 0 for p, mask in subnetwork.masks(trees).items()}
    kept = sum(np.count_nonzero(mask) for mask in found.values())
    more = kept - subnetwork.count(scores)[1]
    ties = [f"{more:,} more weights are kept, with scores that equal a threshold"]
    return found, ties if more else []
