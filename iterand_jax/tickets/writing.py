"""Writes the file of a ticket, which `ticket.load` reads."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from iterand_jax.tickets import assembly, claims, container, packing
from iterand_jax.tickets.metadata import Description
from iterand_jax.trees import leaves_of, sha256

OF_NETWORK, OF_TREE, CODED, GROUPED = VERSIONS = 1, 2, 3, 4  # of the file


def write(
    path: str | os.PathLike[str], description: Description, content: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Writes a ticket; returns its arrays by their names in the file.

    Args:
      path: of the file.
      description: of the network.
      content: params, masks, batch_stats and words, as `assembly.unpack` returns them.

    Raises:
      ValueError: an array of a dtype that a file cannot hold, or a description that
        would be refused when it is read.
    """
    arrays = _stored(description, assembly.pack(description, **content))
    fields = {"version": _version(description, arrays), **description.to_json()}
    _check_fields(fields)
    fields["rebuilt_sha256"] = rebuilt_digest(content)
    claims.check_words(content["words"], description, content["params"])
    of_network = claims.network_of(
        description.module, content["params"], content["batch_stats"]
    )
    container.write(path, fields, arrays, of_network)
    return arrays


def rebuilt_digest(content: Mapping[str, Any]) -> str:
    """The checksum of a subnetwork: of its masks, parameters and statistics."""
    trees = {name: content[name] for name in ("masks", "params")}
    if content["batch_stats"]:
        trees["batch_stats"] = content["batch_stats"]
    leaves = leaves_of(trees)
    return sha256({path: container.as_bits(leaf) for path, leaf in leaves.items()})


def _stored(
    description: Description, packed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Arrays in the order and dtypes of a file, in which those of trees are bits."""
    as_bits = container.as_bits if description.leaves is not None else np.asarray
    # Safetensors writes the memory buffer, which is wrong for a transposed array.
    arrays = {
        name: as_bits(np.asarray(array, order="C")) for name, array in packed.items()
    }
    for name, array in arrays.items():
        if array.dtype.name not in container.NATIVE:
            raise ValueError(
                f"the leaf {name.split('/', 1)[1]!r} is of {array.dtype}; possible: "
                f"{', '.join(container.DTYPES)}"
            )
    return arrays


def _version(description: Description, arrays: Mapping[str, np.ndarray]) -> int:
    """The oldest version of the file that has all that is in it."""
    if any(packing.is_grouped(name, array) for name, array in arrays.items()):
        return GROUPED
    if any(name.split("/", 1)[0] in packing.OF_BITS for name in arrays):
        return CODED
    return OF_NETWORK if description.leaves is None else OF_TREE


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a description that would be refused when it is read."""
    try:
        Description.from_json(json.loads(json.dumps(fields)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the ticket cannot be written: {container.one_line(error)}"
        ) from error
