"""The file of a ticket: safetensors with JSON metadata and a checksum of both.

What comes from a file is checked before anything is made of it: a made-up file ends in
one ValueError, and makes no array larger than what the file itself holds allows.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from iterand_jax.runtime.files import write_atomically
from iterand_jax.trees import sha256

METADATA = "iterand_jax_ticket"

NATIVE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "float16", "float32", "float64", "complex64"),
)
_AS_BITS = (
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz"),
)
"""NumPy has no names for these, so a file holds them as unsigned integers."""

DTYPES: Mapping[str, np.dtype] = {name: jnp.dtype(name) for name in NATIVE + _AS_BITS}


def as_bits(array: np.ndarray) -> np.ndarray:
    """An array as a file holds it: bfloat16 and float8 as unsigned integers."""
    if array.dtype.name in _AS_BITS:
        return array.view(f"uint{8 * array.dtype.itemsize}")
    return array


def from_bits(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array that `as_bits` was given.

    Raises:
      ValueError: the file holds another dtype.
    """
    stored = as_bits(np.zeros((), dtype)).dtype
    if array.dtype != stored:
        raise ValueError(f"an array of {array.dtype} where {stored} is needed")
    return array.view(dtype)


def write(path: Path, fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes a ticket's fields, to which its checksum is added, and its arrays."""
    from safetensors import numpy as safetensors

    fields["sha256"] = content_digest(fields, arrays)
    metadata = {METADATA: json.dumps(fields, sort_keys=True)}
    write_atomically(path, safetensors.save(arrays, metadata))


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file, without a check of the checksum.

    Raises:
      ValueError: in one line, a file that is not there, cut short, or no ticket.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(METADATA)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ValueError(f"cannot read the ticket {path}: {error}") from error
    except Exception as error:  # SafetensorError, or a dtype that NumPy does not have
        raise ValueError(
            f"{path} is not a complete ticket: {one_line(error)}"
        ) from error
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but not a ticket")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its metadata is not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is damaged: its metadata is not a JSON object")
    return fields, arrays


def content_digest(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum of a ticket's fields and arrays, as the file holds them."""
    text = np.frombuffer(json.dumps(fields, sort_keys=True).encode(), np.uint8)
    return sha256({"metadata": text, **arrays})


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 characters."""
    words = " ".join(str(error).split())
    text = words if isinstance(error, ValueError) else f"{type(error).__name__} {words}"
    return text if len(text) <= 300 else text[:297] + "..."
