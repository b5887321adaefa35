"""Exporting a ticket to other formats: named arrays and compiled programs.

    flax_arrays          masked weights and batch statistics by their Flax paths
    torchvision_arrays   a ResNet with torchvision's names and layouts
    save_program         StableHLO for CPU, CUDA and TPU, with the weights in a file
    to_bcoo              sparse arrays of jax.experimental, for experiments

The first three store zeros for pruned weights, so they are as large as the dense
network. In no format does unstructured sparsity make inference faster on GPUs or CPUs,
but where it leaves whole channels dead, the network of `compact` is smaller.
"""

import datetime
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from flax import traverse_util

from iterand_jax.networks import build_network
from iterand_jax.networks.resnet import ResNet
from iterand_jax.runtime.files import write_atomically
from iterand_jax.tickets.metadata import Description
from iterand_jax.tickets.ticket import Ticket
from iterand_jax.trees import leaves_of

__all__ = ["to_bcoo"]

PyTree = Any
PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "float16", "bfloat16")
"""Of dense weights in a file."""

PROGRAM, WEIGHTS = "program.jax", "weights.safetensors"
VERSIONS = "versions.json"

_CONV_NORM = re.compile(
    r"((?:BasicBlock|Bottleneck)_(\d+)/)?ConvNorm_(\d+)/(Conv|BatchNorm)_0/(\w+)"
)
_OF_NORMALIZATION = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


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
    check_torchvision(ticket.description.network["name"])
    stages = ticket.description.build().stages
    arrays = {}
    for path, leaf in leaves_of(ticket.params).items():
        arrays[_torchvision_name(path, stages)] = _outputs_first(leaf)
    for path, leaf in leaves_of(ticket.batch_stats).items():
        name = _torchvision_name(path, stages)
        arrays[name] = leaf
        if name.endswith("running_var"):
            norm = name.removesuffix("running_var")
            arrays.setdefault(norm + "weight", np.ones_like(leaf))
            arrays.setdefault(norm + "bias", np.zeros_like(leaf))
            arrays[norm + "num_batches_tracked"] = np.asarray(0, np.int64)
    outputs = len(arrays["fc.weight"])
    arrays.setdefault("fc.bias", np.zeros(outputs, np.float32))
    return arrays


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

    versions.json has the versions that wrote it, and the date. A program is not for
    ever: JAX promises that versions of the next six months read it, and those of the
    three weeks before. An older jax may refuse it: what jax 0.12 writes with a symbolic
    batch size, jax 0.10 does not read, although both have the same calling convention.
    A ticket has no such limit, and this function writes its program anew.

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
        weights, *_symbolic_inputs(description)
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


def _symbolic_inputs(description: Description) -> list[jax.ShapeDtypeStruct]:
    """Symbolic batch sizes and, for token ids, lengths. Pixels are uint8."""
    from jax import export

    scope = export.SymbolicScope()
    specs = []
    for shape, dtype in description.inputs:
        pixels = description.mean is not None
        rest: list[Any] = list(shape[1:])
        if np.issubdtype(dtype, np.integer):
            rest = [f"axis_{i}" for i in range(1, len(shape))]
        text = ", ".join(map(str, ("batch", *rest)))
        symbolic = export.symbolic_shape(f"({text},)", scope=scope)
        specs.append(jax.ShapeDtypeStruct(symbolic, "uint8" if pixels else dtype))
    return specs


def _torchvision_name(path: str, stages: tuple[int, ...]) -> str:
    """Maps "BasicBlock_2/ConvNorm_0/Conv_0/kernel" to "layer2.0.conv1.weight"."""
    match = _CONV_NORM.fullmatch(path)
    if match is None:
        return {"Dense_0/kernel": "fc.weight", "Dense_0/bias": "fc.bias"}[path]
    block, index, number, layer, leaf = match.groups()
    leaf = "weight" if layer == "Conv" else _OF_NORMALIZATION[leaf]
    kind = "conv" if layer == "Conv" else "bn"
    if block is None:
        return f"{kind}1.{leaf}"
    # Flax numbers the blocks through all stages, torchvision within each stage.
    stage, first = 0, int(index)
    while first >= stages[stage]:
        first -= stages[stage]
        stage += 1
    prefix = f"layer{stage + 1}.{first}"
    shortcut = 3 if block.startswith("Bottleneck") else 2
    if int(number) == shortcut:
        return f"{prefix}.downsample.{0 if layer == 'Conv' else 1}.{leaf}"
    return f"{prefix}.{kind}{int(number) + 1}.{leaf}"


def _outputs_first(leaf: np.ndarray) -> np.ndarray:
    """Transposes (height, width, inputs, outputs) or (inputs, outputs) for PyTorch."""
    return leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
