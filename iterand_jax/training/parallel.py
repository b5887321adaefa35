"""Devices: a one-axis mesh, and the re-randomization as a pmapped tree update.

Steps are `jax.jit` programs over the mesh: the batch is sharded, everything else
replicated. The re-randomization needs no communication, since every device samples the
same values from the same key, so it is a `jax.pmap` of the plain tree update: it takes
and returns the arrays of the jitted step as they are, without a transfer or a retrace.
For that the mesh must have Auto axes and the pmap its axis name.

With several processes the mesh spans the devices of all of them.
"""

from collections.abc import Callable, Mapping
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
    """All devices on one axis, grouped by process, in the order of pmap."""
    devices = sorted(jax.devices(), key=lambda d: d.process_index)
    return Mesh(np.array(devices), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state, the data and the keys: replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def steps_per_dispatch(chosen: int = 0) -> int:
    """The maximum of steps per dispatch: the chosen one, or by default the device's.

    On an accelerator the dispatch overhead of each step exceeds the time of a small
    step. On CPU a loop would make the gradients of convolutions 30 times slower.
    """
    return chosen or (1 if jax.default_backend() == "cpu" else 50)


def checkpoint_seconds(chosen: int | None, every_steps: int) -> int:
    """The most seconds of work that a run is to lose, 0 for no such limit.

    By default 60 on accelerators, where epochs can be shorter than a checkpoint takes,
    unless checkpoints have a period in steps.
    """
    if chosen is None:
        return 0 if jax.default_backend() == "cpu" or every_steps else 60
    return chosen


def form(arguments: PyTree) -> tuple[tuple[int, ...], ...]:
    """The shapes of a step's arguments, the key to its compiled program."""
    return tuple(leaf.shape for leaf in jax.tree.leaves(arguments))


def check_batch_size(batch_size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises ValueError unless devices * parts divides the batch size."""
    if batch_size < 1 or batch_size % (mesh.size * parts):
        in_parts = f", {parts} parts on each" if parts > 1 else ""
        raise ValueError(
            f"a batch of {batch_size} cannot be split over {mesh.size} devices"
            f"{in_parts}; possible: multiples of {mesh.size * parts}"
        )


def compile_refresh(
    method: Method,
    mesh: Mesh,
    key: Array,
    state: State,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]]:
    """`method.refresh` compiled for all devices, for trees like the state's.

    Returns (key, step, trainable, frozen) -> (frozen, redrawn); all but the step are
    replicated over the mesh. The options are those of XLA's compiler.
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
    ).compile(dict(options or {}))
    # Once compiled it takes and returns arrays over the devices of all processes.
    devices = jax.make_array_from_process_local_data(batch_sharded(mesh), local)

    def call(key, step, trainable, frozen):
        return compiled(devices, key, np.int32(step), trainable, frozen)

    return call


def compile_check(mesh: Mesh, state: State) -> Callable[[State], None]:
    """A check that all devices, those of other processes too, hold the same state.

    Nothing else would detect a difference: a replicated array is read from one device.
    It compares a checksum of each leaf, the sum of its words times distinct odd
    factors, which detects any single word that differs.

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
    method: Method,
    mesh: Mesh,
    key: Array,
    state: State,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Array, int, PyTree, PyTree], tuple[PyTree, Array]]:
    """As `compile_refresh`, bit for bit, for a JAX version without pmap."""
    whole = PartitionSpec()
    on_devices = jax.shard_map(
        method.refresh, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False
    )
    compiled = (
        jax.jit(on_devices)
        .lower(key, np.int32(0), state.trainable, state.frozen)
        .compile(dict(options or {}))
    )

    def call(key, step, trainable, frozen):
        return compiled(key, np.int32(step), trainable, frozen)

    return call
