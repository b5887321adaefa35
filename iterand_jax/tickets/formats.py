"""Exporting a ticket to other formats: named arrays and compiled programs.

    flax_arrays          masked weights and batch statistics by their Flax paths
    torchvision_arrays   a ResNet with torchvision's names and layouts
    matrices             masked weights as PyTorch's and NVIDIA's 2:4 formats take them
    save_program         StableHLO for CPU, CUDA and TPU, with the weights in a file
    to_bcoo              sparse arrays of jax.experimental, for experiments

The first four store zeros for pruned weights, so they are as large as the dense
network. In no format does unstructured sparsity make inference faster on GPUs or CPUs,
but where it leaves whole channels dead, the network of `compact` is smaller; masks of
the pattern 2:4 can be faster, on GPUs with sparse tensor cores, as `matrices`.
"""

import datetime
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from flax import traverse_util

from iterand_jax.networks import build_network
from iterand_jax.networks.resnet import ResNet
from iterand_jax.rules import Axes
from iterand_jax.runtime.files import write_atomically
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.names import outputs_first, torchvision_name
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of

__all__ = ["to_bcoo"]

PyTree = Any
PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "float16", "bfloat16")
"""Of dense weights in a file."""

PROGRAM, WEIGHTS = "program.jax", "weights.safetensors"
VERSIONS = "versions.json"


def flax_arrays(ticket: Ticket) -> dict[str, np.ndarray]:
    """The network's variables by path: "params/Conv_0/kernel", "batch_stats/..."."""
    return leaves_of(ticket.variables)


def check_torchvision(name: str) -> None:
    """Raises ValueError unless the network of a name is a ResNet."""
    if not isinstance(build_network(name, num_classes=1), ResNet):
        raise ValueError(
            f"torchvision's names exist only for ResNets; the network is {name!r}"
        )


def torchvision_arrays(ticket: Ticket) -> dict[str, np.ndarray]:
    """The state_dict of a ResNet, with torchvision's names and layouts.

    Convolutions are (outputs, inputs, height, width), linear weights (outputs, inputs).
    Normalization without scale and bias gets weight 1 and bias 0, and a linear layer
    without bias gets bias 0. At width 1 the ImageNet ResNets load into torchvision's
    with strict=True; the CIFAR ResNets, which torchvision lacks, load into those with a
    3x3 stem and no max-pool.

    Raises:
      ValueError: the network is not a ResNet.
    """
    if "name" not in ticket.description.network:
        raise ValueError(
            "torchvision's names exist only for ResNets; the ticket is of a tree of "
            "arrays"
        )
    check_torchvision(ticket.description.network["name"])
    stages = ticket.description.build().stages
    arrays = {}
    for path, leaf in leaves_of(ticket.params).items():
        arrays[torchvision_name(path, stages)] = outputs_first(leaf)
    for path, leaf in leaves_of(ticket.batch_stats).items():
        name = torchvision_name(path, stages)
        arrays[name] = leaf
        if name.endswith("running_var"):
            norm = name.removesuffix("running_var")
            arrays.setdefault(norm + "weight", np.ones_like(leaf))
            arrays.setdefault(norm + "bias", np.zeros_like(leaf))
            arrays[norm + "num_batches_tracked"] = np.asarray(0, np.int64)
    outputs = len(arrays["fc.weight"])
    arrays.setdefault("fc.bias", np.zeros(outputs, np.float32))
    return arrays


def matrices(
    arrays: Mapping[str, np.ndarray], axes: Mapping[str, Axes]
) -> dict[str, np.ndarray]:
    """Arrays by path, of which linear maps become matrices (outputs, inputs).

    A convolution's is (outputs, window * inputs) with the input channels fastest, so
    that the groups of a pattern n:m are m neighbours in a row, and so that it is the
    factor of patches of images (N, H, W, C). A stack of maps stays one: its axes come
    first.

    `torch.sparse.to_sparse_semi_structured` takes such a matrix of the pattern 2:4, on
    a GPU, as float16 or bfloat16: of a multiple of 32 outputs and of 64 inputs with
    CUTLASS, of 16 and 16 with cuSPARSELt (PyTorch 2.13). TensorRT reads kernels
    (outputs, inputs, height, width), whose input channels it groups in the same way.

    Args:
      arrays: by path.
      axes: what the axes are of those that are linear maps.

    >>> kernel = np.arange(24).reshape(1, 2, 4, 3)  # (height, width, inputs, outputs)
    >>> axes = {"kernel": Axes(inputs=(2,), outputs=(3,), stack=(), window=(0, 1))}
    >>> matrices({"kernel": kernel}, axes)["kernel"][0].tolist()
    [0, 3, 6, 9, 12, 15, 18, 21]
    """
    found = dict(arrays)
    for path, (inputs, outputs, stack, window) in axes.items():
        leaf = arrays[path]
        order = (*stack, *outputs, *window, *sorted(inputs))
        rows = math.prod(leaf.shape[axis] for axis in outputs)
        slices = [leaf.shape[axis] for axis in stack]
        found[path] = leaf.transpose(order).reshape(*slices, rows, -1)
    return found


def in_dtype(arrays: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Arrays with their float32 values rounded to another type; others stay.

    Args:
      arrays: by name.
      dtype: one of `DTYPES`.

    Raises:
      ValueError: a value that is finite, and infinite once it is rounded.

    >>> arrays = {"kernel": np.float32([0.1, 1e5]), "steps": np.int32([3])}
    >>> in_dtype(arrays, "bfloat16")["kernel"].tolist()
    [0.10009765625, 99840.0]
    >>> in_dtype(arrays, "float16")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: kernel has a value of 100000, which float16 cannot hold; possible: ...
    """
    rounded = {}
    for name, array in arrays.items():
        rounded[name] = array
        if array.dtype != np.float32:
            continue
        largest = float(np.max(np.abs(array), initial=0))
        if largest > float(jnp.finfo(dtype).max):
            raise ValueError(
                f"{name} has a value of {largest:g}, which {dtype} cannot hold; "
                f"possible: {', '.join(other for other in DTYPES if other != dtype)}"
            )
        rounded[name] = array.astype(jnp.dtype(dtype))
    return rounded


def save_arrays(
    arrays: dict[str, np.ndarray], description: Description, path: Path
) -> None:
    """Writes arrays as safetensors, with the ticket's description as JSON metadata."""
    from safetensors import numpy as safetensors

    text = json.dumps(description.to_json(), sort_keys=True)
    # safetensors 0.8.0 writes the memory of an array as it lies, not in C order. And
    # np.ascontiguousarray would turn scalars into arrays of shape (1,).
    contiguous = {name: np.asarray(leaf, order="C") for name, leaf in arrays.items()}
    write_atomically(path, safetensors.save(contiguous, {"description": text}))


def save_program(ticket: Ticket, folder: Path) -> None:
    """Writes the network as StableHLO with a symbolic batch size, and its weights.

    The weights are an argument of the program, which keeps it small. Reading it needs
    jax, but neither Flax nor this library:

        program = jax.export.deserialize(bytearray(Path("program.jax").read_bytes()))
        weights = safetensors.numpy.load_file("weights.safetensors")
        logits = program.call(weights, images)  # uint8 (N, H, W, C)

    versions.json has the versions that wrote it, and the date. A program does not last:
    JAX promises that versions of the next six months read it, and those of the
    three weeks before. An older jax may refuse it: what jax 0.12 writes with a symbolic
    batch size, jax 0.10 does not read, although both have the same calling convention.
    A ticket has no such limit, and this function writes its program again.

    Args:
      ticket: to write.
      folder: for program.jax, weights.safetensors and versions.json; created if its
        parent exists.
    """
    from jax import export

    description, arrays = ticket.description, flax_arrays(ticket)

    def logits(weights, *inputs):
        variables = traverse_util.unflatten_dict(weights, sep="/")
        return description.logits(variables, *inputs)

    weights = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in arrays.items()
    }
    exported = export.export(jax.jit(logits), platforms=PLATFORMS)(
        weights, *symbolic_inputs(description)
    )
    folder.mkdir(exist_ok=True)
    versions = {
        "written": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
    }
    write_atomically(folder / VERSIONS, json.dumps(versions, indent=2).encode())
    write_atomically(folder / PROGRAM, bytes(exported.serialize()))
    save_arrays(arrays, description, folder / WEIGHTS)


def to_bcoo(params: PyTree, masks: PyTree) -> PyTree:
    """Parameters as sparse arrays where there is a mask, for experiments.

    Args:
      params: dense arrays.
      masks: nonzero for kept, in the structure of params; None for a leaf that stays
        dense.

    Returns:
      params with a `jax.experimental.sparse.BCOO` of the kept weights for each masked
      leaf, indices sorted.

    >>> kernel, mask = np.array([[0.5, 0.0, -0.5]]), np.array([[1, 0, 1]])
    >>> to_bcoo({"kernel": kernel}, {"kernel": mask})["kernel"].indices.tolist()
    [[0, 0], [0, 2]]
    """
    from jax.experimental import sparse

    def sparse_leaf(mask, leaf):
        if mask is None:
            return leaf
        kept = np.asarray(mask) != 0
        indices = np.argwhere(kept).astype(np.int32)
        return sparse.BCOO(
            (jnp.asarray(np.asarray(leaf)[kept]), jnp.asarray(indices)),
            shape=leaf.shape,
            indices_sorted=True,
            unique_indices=True,
        )

    return jax.tree.map(sparse_leaf, masks, params, is_leaf=lambda mask: mask is None)


def symbolic_inputs(description: Description) -> list[jax.ShapeDtypeStruct]:
    """Symbolic batch sizes and, for token ids, lengths. Pixels are uint8.

    Raises:
      ValueError: its inputs are none that it can be applied to.
    """
    from jax import export

    scope, of_texts = export.SymbolicScope(), description.of_texts
    specs = []
    for shape, dtype in description.inputs:
        pixels = description.mean is not None
        rest: list[Any] = list(shape[1:])
        if of_texts:
            rest = [f"axis_{i}" for i in range(1, len(shape))]
        text = ", ".join(map(str, ("batch", *rest)))
        symbolic = export.symbolic_shape(f"({text},)", scope=scope)
        specs.append(jax.ShapeDtypeStruct(symbolic, "uint8" if pixels else dtype))
    return specs
