"""Devices: a one-axis mesh, and the re-randomization as a pmapped tree update.

Steps are `jax.jit` programs over the mesh: the batch is sharded, everything else
replicated. The re-randomization communicates nothing, since every device draws the same
values from the same key, so it is a `jax.pmap` of the plain tree update: it takes and
returns the very arrays of the jitted step, without a transfer or a retrace. For that
the mesh must have Auto axes and the pmap its axis name.

With several processes all of this is the same, over the devices of all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iterand_jax.methods import Method
from iterand_jax.training.step import State
from iterand_jax.trees import leaves_of

PyTree = Any
AXIS = "batch"


class DifferingDevicesError(ValueError):
    """Devices do not hold the same state."""


def device_mesh() -> Mesh:
    """All devices on one axis, those of a process beside each other, as pmap's are."""
    devices = sorted(jax.devices(), key=lambda d: d.process_index)
    return Mesh(np.array(devices), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state, the data and the keys: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def steps_per_dispatch() -> int:
    """The most steps in one call where a config does not say.

    An accelerator that waits for the host before each step waits longer than a small
    step takes. On CPU a loop would make the gradients of convolutions 30 times slower.
    """
    return 1 if jax.default_backend() == "cpu" else 50


def form(arguments: PyTree) -> tuple[tuple[int, ...], ...]:
    """The shapes of the arguments of a step: which compiled program takes them."""
    return tuple(leaf.shape for leaf in jax.tree.leaves(arguments))


def check_batch_size(batch_size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises ValueError unless the devices divide the batch, and each its parts."""
    if batch_size < 1 or batch_size % (mesh.size * parts):
        in_parts = f", {parts} parts on each" if parts > 1 else ""
        raise ValueError(
            f"a batch of {batch_size} cannot be split over {mesh.size} devices"
            f"{in_parts}; possible: multiples of {mesh.size * parts}"
        )


def compile_refresh(
    method: Method, mesh: Mesh, key: Array, state: State
) -> Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]]:
    """`method.refresh` compiled for all devices at once and trees like the state's.

    Returns (key, step, trainable, frozen) -> (frozen, redrawn); all but the step are
    replicated over the mesh.
    """

    def refresh(device, key, step, trainable, frozen):
        del device
        return method.refresh(key, step, trainable, frozen)

    on_devices = jax.pmap(
        refresh, axis_name=AXIS, in_axes=(0, None, None, None, None), out_axes=None
    )
    local = np.arange(jax.local_device_count())
    compiled = on_devices.lower(
        local, key, np.int32(0), state.trainable, state.frozen
    ).compile()
    # Once compiled it takes and returns arrays over the devices of all processes.
    devices = jax.make_array_from_process_local_data(batch_sharded(mesh), local)

    def call(key, step, trainable, frozen):
        return compiled(devices, key, np.int32(step), trainable, frozen)

    return call


def compile_check(mesh: Mesh, state: State) -> Callable[[State], None]:
    """A check that all devices, those of other processes too, hold the same state.

    Nothing else would notice: a replicated array is read from one device. A sum of each
    leaf's words is compared, with odd factors that differ, so that any one word that
    differs is seen.

    Returns (state) -> None, which raises DifferingDevicesError.
    """

    def sums(state):
        return jnp.stack([_sum_of_words(leaf) for leaf in jax.tree.leaves(state)])[None]

    on_devices = jax.shard_map(
        sums,
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,
    )
    compiled = (
        jax.jit(on_devices, out_shardings=replicated(mesh)).lower(state).compile()
    )
    names = list(leaves_of(state))

    def check(state: State) -> None:
        found = np.asarray(compiled(state))
        differing = found != found[0]
        if not differing.any():
            return
        leaf = int(np.flatnonzero(differing.any(axis=0))[0])
        others = ", ".join(map(str, mesh.devices[differing[:, leaf]]))
        raise DifferingDevicesError(
            f"{names[leaf]} is not the same on {others} as on {mesh.devices[0]}"
        )

    return check


def _sum_of_words(leaf: Array) -> Array:
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = min(8 * leaf.dtype.itemsize, 32)
    words = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{bits}")).ravel()
    factors = 2 * lax.iota(jnp.uint32, words.size) + 1
    return jnp.sum(words.astype(jnp.uint32) * factors, dtype=jnp.uint32)


def compile_refresh_without_pmap(
    method: Method, mesh: Mesh, key: Array, state: State
) -> Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]]:
    """What `compile_refresh` gives, bit for bit, of a JAX that has no pmap."""
    whole = PartitionSpec()
    on_devices = jax.shard_map(
        method.refresh, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
    )
    compiled = (
        jax.jit(on_devices)
        .lower(key, np.int32(0), state.trainable, state.frozen)
        .compile()
    )

    def call(key, step, trainable, frozen):
        return compiled(key, np.int32(step), trainable, frozen)

    return call
