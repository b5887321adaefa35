"""State dicts of PyTorch as arrays, and what their names say of masks and scores.

    X.weight                 a weight, as torchvision and anybody stores it
    X.weight, X.scores       and the scores that say which of it are kept
    X.weight, X.mask         and its mask; or X.weight_mask
    X.weight_orig, X.weight_mask    as torch.nn.utils.prune stores both

Files are safetensors, which need no PyTorch, or what torch.save writes, which
torch.load reads with weights_only=True: nothing of a file is executed.
"""

import fnmatch
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from iterand_jax.tickets import container, places

COUNTER = "num_batches_tracked"
"""Of batch normalization: what no evaluation reads."""

MOST_NAMES = 12  # that an error lists
_GLOBAL = re.compile(r"\bGLOBAL ([\w.]+)")


class State(NamedTuple):
    """The arrays of a state dict.

    Attributes:
      arrays: weights, biases and statistics by name, "X.weight".
      scores: by the name of their weight.
      masks: in the same way.
    """

    arrays: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a file by name; bfloat16 as NumPy's extension has it.

    Args:
      path: of a state dict, or of a checkpoint that holds one; or its URL.

    Raises:
      ValueError: in one line with the path, a file that is none or holds other than
        tensors, or PyTorch is needed and not installed.
    """
    with places.local(path) as file:
        if not file.is_file():
            raise ValueError(f"cannot read the state dict {file}: it is no file")
        try:
            if _is_safetensors(file):
                return _of_safetensors(file)
            return _of_torch(file)
        except _RefusedError as error:
            raise ValueError(f"{file}: {error}") from error
        except Exception as error:  # of a made-up file any
            raise ValueError(
                f"{file} is no whole state dict: {container.one_line(error)}"
            ) from error


def state_of(
    tensors: Mapping[str, np.ndarray],
    rename: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> State:
    """The arrays of a state dict by what they are.

    First parts of names that all share, as "module.", are left out.

    Args:
      tensors: by name.
      rename: "OLD=NEW" with parts of names between their dots; an empty NEW leaves OLD
        out.
      ignore: patterns of names that are left out.

    Raises:
      ValueError: in one line, a part or pattern that no name has, two names of one
        array, or scores and masks without weights, of other shapes, or of one weight.

    >>> w, ones = np.array([[3.0, 4.0]]), np.ones((1, 2))
    >>> found = state_of({"module.fc.weight_orig": w, "module.fc.weight_mask": ones})
    >>> found.arrays, found.masks
    ({'fc.weight': array([[3., 4.]])}, {'fc.weight': array([[1., 1.]])})
    """
    named = _renamed(_without_prefix(tensors), rename)
    for pattern in ignore:
        left = [name for name in named if not fnmatch.fnmatchcase(name, pattern)]
        if len(left) == len(named):
            raise ValueError(f"--ignore={pattern}: no name of the state dict is such")
        named = {name: named[name] for name in left}
    state = State({}, {}, {})
    for name, array in named.items():
        module, _, leaf = name.rpartition(".")
        dot = "." if module else ""
        if leaf == COUNTER:
            continue
        table, key = state.arrays, name.removesuffix("_orig")
        if leaf == "scores":
            table, key = state.scores, f"{module}{dot}weight"
        elif leaf == "mask" or leaf.endswith("_mask"):
            leaf = leaf.removesuffix("mask").removesuffix("_") or "weight"
            table, key = state.masks, f"{module}{dot}{leaf}"
        if key in table:
            raise ValueError(f"two names of the state dict are of {key!r:.60}")
        table[key] = array
    original = {n.removesuffix("_orig") for n in named if n.endswith("_orig")}
    _check_pairs(state, original)
    return state


def listed(names: Sequence[str]) -> str:
    """Names in a line, the first of them where they are many."""
    shown = ", ".join(f"{name:.100}" for name in names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    return shown if more <= 0 else f"{shown} and {more:,} more"


class _RefusedError(ValueError):
    """What a file is refused for, which says all that is to be said."""


def _is_safetensors(file: Path) -> bool:
    """Whether a file starts with the length of a JSON object, and the object."""
    with open(file, "rb") as opened:
        head = opened.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(
        file
    )


def _of_safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    arrays = {}
    with safe_open(file, framework="np") as opened:
        names = [*opened.keys()]
        narrow = [n for n in names if opened.get_slice(n).get_dtype() == "BF16"]
        for name in sorted({*names} - {*narrow}):
            arrays[name] = opened.get_tensor(name)
    if narrow:  # NumPy itself has no bfloat16
        with safe_open(file, framework="flax") as opened:
            arrays |= {name: np.asarray(opened.get_tensor(name)) for name in narrow}
    return arrays


def _of_torch(file: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise _RefusedError(
            "it is no safetensors file, and any other is read by PyTorch, which is "
            "not installed: pip install torch"
        ) from error
    _check_size(file)
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        found = _GLOBAL.search(str(error))
        if found is None:
            raise
        raise _RefusedError(
            f"it holds {found[1]:.60}, and of a file only tensors, numbers and texts "
            f"are read; possible: torch.save(model.state_dict(), FILE), by whoever "
            f"trusts it"
        ) from error
    tensors = _state_dict(loaded, torch.Tensor)
    return {name: _array(name, tensor, torch) for name, tensor in tensors.items()}


def _check_size(file: Path) -> None:
    """Raises `_RefusedError` for an archive of more than its own bytes."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > file.stat().st_size:
            raise _RefusedError(
                f"its entries have {size:,} bytes, more than the file; possible: "
                f"uncompressed, as torch.save writes them"
            )


def _state_dict(loaded: Any, tensor: type) -> Mapping[str, Any]:
    """The state dict in what a file holds: all of it, or a part of it."""

    def is_state(value: Any) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(name, str) for name in value)
            and all(isinstance(leaf, tensor) for leaf in value.values())
        )

    if is_state(loaded):
        return loaded
    parts = loaded if isinstance(loaded, Mapping) else {}
    found = {name: part for name, part in parts.items() if is_state(part)}
    if "state_dict" in found:
        return found["state_dict"]
    if len(found) != 1:
        names = [str(name) for name in (found or parts)]
        raise _RefusedError(
            f"it holds {listed(names) or type(loaded).__name__}; possible: one state "
            f"dict of tensors, or one under the name state_dict"
        )
    return next(iter(found.values()))


def _array(name: str, tensor: Any, torch: Any) -> np.ndarray:
    """A tensor as an array of the same memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise _RefusedError(f"{name:.60} is no dense tensor with values")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise _RefusedError(f"{name:.60} has more values than are stored of it")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _without_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without first parts that all names share, where a module and a leaf remain."""
    named = dict(tensors)
    while (
        named
        and all(name.count(".") >= 2 for name in named)
        and len({name.split(".")[0] for name in named}) == 1
    ):
        named = {name.split(".", 1)[1]: array for name, array in named.items()}
    return named


def _renamed(
    tensors: Mapping[str, np.ndarray], rename: Sequence[str]
) -> dict[str, np.ndarray]:
    named = dict(tensors)
    for pair in rename:
        old, equals, new = pair.partition("=")
        if not old or not equals:
            raise ValueError(f"--rename={pair:.60}; possible: OLD=NEW")
        before, after = f".{old}.", f".{new}." if new else "."
        if not any(before in f".{name}." for name in named):
            raise ValueError(
                f"--rename={pair:.60}: no name of the state dict has the part {old}"
            )
        names = [f".{name}.".replace(before, after).strip(".") for name in named]
        if len({*names}) < len(names):
            raise ValueError(f"--rename={pair:.60} makes two names the same")
        named = dict(zip(names, named.values(), strict=True))
    return named


def _check_pairs(state: State, original: set[str]) -> None:
    """Raises ValueError for scores and masks that do not fit their weights."""
    alone = sorted(original - state.masks.keys())
    if alone:
        raise ValueError(f"there is no mask of {listed(alone)}")
    for kind, table in (("scores", state.scores), ("a mask", state.masks)):
        alone = sorted(table.keys() - state.arrays.keys())
        if alone:
            raise ValueError(f"there is {kind} and no weight of {listed(alone)}")
        for name, array in table.items():
            weight = state.arrays[name]
            if array.shape != weight.shape:
                raise ValueError(
                    f"{name:.60} is of {weight.shape}, and there is {kind} of it of "
                    f"{array.shape}"
                )
    both = sorted(state.scores.keys() & state.masks.keys())
    if both:
        raise ValueError(
            f"there are scores and masks of {listed(both)}; possible: one of them, as "
            f"by --ignore=*.scores"
        )
