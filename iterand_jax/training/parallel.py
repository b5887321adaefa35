"""Devices: a one-axis mesh, and the re-randomization as a pmapped tree update.

Steps are `jax.jit` programs over the mesh: the batch is sharded, everything else
replicated. The re-randomization communicates nothing, since every device draws the same
values from the same key, so it is a `jax.pmap` of the plain tree update: it takes and
returns the very arrays of the jitted step, without a transfer or a retrace. For that
the mesh must have Auto axes and the pmap its axis name.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iterand_jax.methods import Method
from iterand_jax.training.step import State

PyTree = Any
AXIS = "batch"


def device_mesh() -> Mesh:
    """All devices on one axis."""
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state, the data and the keys: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def compiler_options(dtype: str) -> dict[str, str]:
    """Options for the compilation of steps that compute in a dtype.

    On CPU, jaxlib 0.12.0 fuses chains of bfloat16 matrix products in a way that returns
    garbage (seen with three products and 360 rows); this turns that fusion off.
    """
    version = tuple(map(int, jax.__version__.split(".")[:2]))
    if dtype != "bfloat16" or jax.default_backend() != "cpu" or version < (0, 11):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": ""}


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the devices divide the batch."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"a batch of {batch_size} cannot be split over {mesh.size} devices; "
            f"possible: multiples of {mesh.size}"
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
    devices = np.arange(mesh.size)
    compiled = on_devices.lower(
        devices, key, np.int32(0), state.trainable, state.frozen
    ).compile()

    def call(key, step, trainable, frozen):
        return compiled(devices, key, np.int32(step), trainable, frozen)

    return call
