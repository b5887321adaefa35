"""Tickets of any tree: what is written of it, and what a tree is compared with."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from iterand_jax.distributions import DISTRIBUTIONS
from iterand_jax.runtime.checks import check_at_least, described
from iterand_jax.runtime.files import check_written
from iterand_jax.runtime.remote import is_url
from iterand_jax.subnetwork import Subnetwork, check_sampling_rate
from iterand_jax.tickets import container, places
from iterand_jax.tickets.draws import KeyDraws
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import paths_of

PyTree = Any
GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")
# Arrays of `packing` in the dtype of the leaf.
OF_VALUES = ("leaf", "kept", "scale", "levels")


def describe(
    weights: PyTree,
    masks: PyTree,
    batch_stats: PyTree,
    draws: KeyDraws | None,
) -> tuple[Description, PyTree]:
    """The description of a tree, and its masks in the structure of the weights.

    Raises:
      ValueError: in one line with the path, a leaf that is no array or that a file
        cannot hold, or a mask that does not fit.
    """
    of_weights = checked_leaves(weights, "weights")
    of_statistics = checked_leaves(batch_stats, "batch_stats")
    of_masks = _checked_masks(of_weights, masks)
    rooms = {"params": of_weights, "batch_stats": of_statistics}
    leaves = {
        f"{room}/{path}": (tuple(leaf.shape), jnp.dtype(leaf.dtype).name)
        for room, arrays in rooms.items()
        for path, leaf in arrays.items()
    }
    in_order = [of_masks.get(path) for path in of_weights]
    described = Description(network={}, inputs=(), leaves=leaves, draws=draws)
    return described, jax.tree.unflatten(jax.tree.structure(weights), in_order)


def checked_leaves(tree: PyTree, what: str) -> dict[str, Any]:
    """{path: leaf} of a tree of arrays.

    Raises:
      ValueError: a leaf that is no array of a dtype of `container.DTYPES`, or a path
        that two leaves have.
    """
    leaves: dict[str, Any] = {}
    names = paths_of(tree)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = names[key_path]
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ValueError(
                f"the leaf {path!r} of {what} is {leaf!r:.60}; possible: an array"
            )
        if str(leaf.dtype) not in container.DTYPES:
            raise ValueError(
                f"the leaf {path!r} of {what} is of {leaf.dtype}; possible: "
                f"{', '.join(container.DTYPES)}"
            )
        if path in leaves:
            raise ValueError(f"two leaves of {what} have the path {path!r}")
        leaves[path] = leaf
    return leaves


def key_draws(
    weights: PyTree,
    subnetwork: Subnetwork | None,
    *,
    key: Array | None,
    refresh_key: Array | None,
    step: int | None,
    k_per: int,
    sampling_rate: float,
) -> KeyDraws | None:
    """Where weights come from; None for given ones and for your own distribution.

    Raises:
      ValueError: a subnetwork without a key or a key without a subnetwork, a key of
        another generator than JAX's, impossible refreshes, some of what says how they
        were without the rest or without a key, or a subnetwork whose values are not
        "masked".
    """
    if subnetwork is not None and not isinstance(subnetwork, Subnetwork):
        raise ValueError(
            f"subnetwork is {described(subnetwork)}; possible: the Subnetwork that "
            f"drew the weights, or None"
        )
    if (subnetwork is None) != (key is None):
        missing = "subnetwork" if subnetwork is None else "key"
        raise ValueError(f"weights follow from a key and a subnetwork; no {missing}")
    for name, number in (("step", 0 if step is None else step), ("k_per", k_per)):
        check_at_least(0, number, f"{name} is a number of steps")
    check_sampling_rate(sampling_rate)
    of_refreshes = {"k_per": k_per or None, "sampling_rate": sampling_rate or None}
    _check_together(
        {**of_refreshes, "refresh_key": refresh_key, "step": step},
        without_key=key is None,
    )
    if subnetwork is None or key is None or subnetwork.distribution is None:
        return None
    if subnetwork.values != "masked":
        raise ValueError(
            f"values={subnetwork.values!r:.60}: from a key a ticket rebuilds the drawn "
            f"weights, which are not those that the network sees; possible: no "
            f"subnetwork and key, and as weights what subnetwork.prune returns"
        )
    distribution = subnetwork.drawn_from
    if DISTRIBUTIONS.get(distribution.name) != distribution:
        return None
    generator, data = _key_data("key", key)
    other, refresh_data = _key_data("refresh_key", key)
    if refresh_key is not None:
        other, refresh_data = _key_data("refresh_key", refresh_key)
    if generator != other:
        raise ValueError(f"key is of {generator}, refresh_key of {other}")
    return KeyDraws(
        distribution=distribution.name,
        fan_ins=subnetwork.fan_ins(weights),
        generator=generator,
        key=data,
        refresh_key=refresh_data,
        step=int(step or 0),
        k_per=int(k_per),
        sampling_rate=float(sampling_rate),
    )


def _check_together(given: Mapping[str, Any], *, without_key: bool) -> None:
    """Raises ValueError for arguments of refreshes that would not be used.

    Args:
      given: k_per, sampling_rate, refresh_key and step, None for what is not given.
      without_key: whether the weights are no draws of a key.
    """
    named = [name for name, value in given.items() if value is not None]
    if without_key and named:
        raise ValueError(
            f"{named[0]} is of weights that are drawn from a key; possible: with "
            f"subnetwork and key, or without {' and '.join(named)}"
        )
    if given["k_per"] is None:
        for name in ("sampling_rate", "refresh_key"):
            if given[name] is not None:
                raise ValueError(
                    f"{name} is of refreshes every k_per steps; possible: with k_per "
                    f"and step"
                )
    elif given["step"] is None:
        raise ValueError(
            f"k_per={given['k_per']}: how often weights were resampled follows from "
            f"the steps done; possible: with step"
        )


def abstract(
    description: Description,
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    like: PyTree,
    like_statistics: PyTree,
) -> tuple[PyTree, PyTree]:
    """Shapes and dtypes of the parameters and statistics, in their structures."""
    if description.leaves is not None:
        said = _said(description.leaves)
        return (
            _as_like(said["params"], like, "like"),
            _as_like(said["batch_stats"], like_statistics, "batch_stats"),
        )
    prefix = "batch_stats/"
    statistics = {
        name.removeprefix(prefix): jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    if like is None:
        variables = description.abstract()
        like, statistics = variables["params"], variables.get("batch_stats", {})
    params = _as_like(checked_leaves(like, "like"), like, "like")
    return params, _as_like(statistics, like_statistics, "batch_stats")


def in_their_dtypes(
    description: Description, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of a file, those of values in the dtypes that a tree's leaves have."""
    found = dict(arrays)
    for name, (_, dtype) in (description.leaves or {}).items():
        room, _, path = name.partition("/")
        kinds = ("batch_stats",) if room == "batch_stats" else OF_VALUES
        for array in (f"{kind}/{path}" for kind in kinds):
            if array in found:
                bits, wanted = found[array], container.DTYPES[dtype]
                found[array] = container.from_bits(bits, wanted)
    return found


def in_their_forms(
    description: Description, forms: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """`in_their_dtypes`, of arrays that are not read yet."""
    empty = {name: np.empty(0, form.dtype) for name, form in forms.items()}
    dtypes = {n: x.dtype for n, x in in_their_dtypes(description, empty).items()}
    return {n: jax.ShapeDtypeStruct(forms[n].shape, dtypes[n]) for n in forms}


def _said(leaves: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, dict]:
    """The leaves in a file's description, by collection and path."""
    said: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for name, (shape, dtype) in leaves.items():
        room, _, path = name.partition("/")
        if room not in said or dtype not in container.DTYPES:
            raise ValueError(f"its leaf {name!r:.60} is of {dtype!r:.60}")
        said[room][path] = jax.ShapeDtypeStruct(shape, container.DTYPES[dtype])
    return said


def _as_like(leaves: Mapping[str, Any], like: PyTree, what: str) -> PyTree:
    """Leaves by path in the structure of a tree, or as they are without one.

    Raises:
      ValueError: the tree has other paths, shapes or dtypes.
    """
    if like is None:
        return leaves[""] if set(leaves) == {""} else dict(leaves)
    wanted = checked_leaves(like, what)
    for path in [*leaves, *wanted]:
        if path not in wanted or path not in leaves:
            here, there = (
                ("the ticket", what) if path in leaves else (what, "the ticket")
            )
            raise ValueError(f"{here} has a leaf {path!r}, which {there} has not")
        ours, theirs = (
            f"{tuple(leaf.shape)} {leaf.dtype}" for leaf in (leaves[path], wanted[path])
        )
        if ours != theirs:
            raise ValueError(
                f"the leaf {path!r} is {ours} in the ticket and {theirs} in {what}"
            )
    return jax.tree.unflatten(
        jax.tree.structure(like), [leaves[path] for path in wanted]
    )


def _checked_masks(weights: Mapping[str, Any], masks: PyTree) -> dict[str, np.ndarray]:
    """{path: mask as booleans} of the leaves that have one."""
    said = {*paths_of(masks).values()}
    for path in weights:
        if path not in said:
            raise ValueError(
                f"masks have nothing for the leaf {path!r} of weights; possible: an "
                f"array, or None for a leaf without a mask"
            )
    found = {}
    for path, mask in checked_leaves(masks, "masks").items():
        if path not in weights:
            raise ValueError(f"masks have a leaf {path!r}, which weights have not")
        leaf, values = weights[path], np.asarray(mask)
        if values.shape != tuple(leaf.shape):
            raise ValueError(
                f"the mask of the leaf {path!r} is of {values.shape}, its weights of "
                f"{tuple(leaf.shape)}"
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"the leaf {path!r} of {leaf.dtype} has a mask; possible: of floats"
            )
        other = values[(values != 0) & (values != 1)]
        if other.size:
            raise ValueError(
                f"the mask of the leaf {path!r} has the value {other[0]!s}; possible: "
                f"1 for kept and 0 for pruned"
            )
        found[path] = values != 0
    return found


def _key_data(name: str, key: Any) -> tuple[str, tuple[int, ...]]:
    """The generator of a key, typed or of the older kind, and its words."""
    try:
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)
        generator, data = str(jax.random.key_impl(key)), jax.random.key_data(key)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is {key!r:.60}; possible: a PRNG key") from error
    if generator not in GENERATORS or data.ndim != 1:
        raise ValueError(
            f"{name} is of the generator {generator} and shape {key.shape}; possible: "
            f"one key of {', '.join(GENERATORS)}"
        )
    return generator, tuple(np.asarray(data).tolist())


def target(path: str | os.PathLike[str]) -> str | Path:
    """The path of a file that can be written; a URL as it is.

    Raises:
      ValueError: as `places.address`; a repository of the Hub; its folder is not there,
        or it is no regular file.
    """
    name = places.address(path)
    places.check_written(name)
    if is_url(name):
        return name
    found = Path(name)
    shown, parent = (places.printable(str(p)) for p in (found, found.parent))
    if not found.parent.is_dir():
        raise ValueError(f"cannot write {shown}: there is no folder {parent}")
    try:
        check_written(found)
    except OSError as error:
        raise ValueError(f"cannot write the file {shown}: {error.strerror}") from error
    return found
