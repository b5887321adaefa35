"""The file of a ticket: safetensors with JSON metadata and a checksum of both.

What comes from a file is checked before anything is made of it: a made-up file ends in
one ValueError, and makes no array larger than what the file itself holds allows.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iterand_jax.runtime import remote
from iterand_jax.runtime.files import write_atomically
from iterand_jax.tickets import headers
from iterand_jax.trees import sha256

METADATA = "iterand_jax_ticket"
NetworkOf = Callable[[dict[str, Any]], tuple[int, int]]

NATIVE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"),
    *("uint64", "float16", "float32", "float64", "complex64"),
)
_AS_BITS = (
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz"),
)
"""NumPy has no names for these, so a file holds them as unsigned integers."""

_NAMES = {
    f"{kind}{8 * np.dtype(name).itemsize}": np.dtype(name)
    for kind, names in {
        "I": ("int8", "int16", "int32", "int64"),
        "U": ("uint8", "uint16", "uint32", "uint64"),
        "F": ("float16", "float32", "float64"),
        "C": ("complex64",),
    }.items()
    for name in names
} | {"BOOL": np.dtype(bool)}
"""The dtypes by their names in a header."""

DTYPES: Mapping[str, np.dtype] = {name: jnp.dtype(name) for name in NATIVE + _AS_BITS}


class DamagedError(ValueError):
    """The content of a file does not have the checksum that the file says."""


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


def write(
    path: str | os.PathLike[str],
    fields: dict[str, Any],
    arrays: dict[str, np.ndarray],
    network: NetworkOf | None = None,
) -> None:
    """Writes a ticket's fields, to which its checksum is added, and its arrays.

    Args:
      path: of the file, or a URL.
      fields: of the metadata.
      arrays: by their names.
      network: as in `read_header`, to refuse what that would.

    Raises:
      ValueError: a header that `read` would refuse, or a URL that cannot be written.
    """
    from safetensors import numpy as safetensors

    fields["sha256"] = content_digest(fields, arrays)
    metadata = {METADATA: json.dumps(fields, sort_keys=True)}
    content = safetensors.save(arrays, metadata)
    size = int.from_bytes(content[:8], "little")
    try:
        headers.check_size(size, len(content) - 8 - size)
        headers.check(content[8 : 8 + size])
        if network is not None:
            _check_network(content[8 : 8 + size], len(content) - 8 - size, network)
    except ValueError as error:
        raise ValueError(
            f"the ticket of {len(arrays):,} arrays cannot be written: {error}"
        ) from error
    if remote.is_url(os.fspath(path)):
        remote.write(os.fspath(path), content, "ticket")
    else:
        write_atomically(Path(path), content)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file, without a check of the checksum.

    Raises:
      ValueError: in one line, a file that is not there, cut short, or no ticket.
    """
    return read_header(path)[0], read_arrays(path)


def _check_network(header: bytes, of_arrays: int, network: NetworkOf) -> None:
    if len(header) > headers.ALWAYS:
        leaves, weights = network(headers.skeleton(header, METADATA))
        headers.check_network(len(header), of_arrays, weights, leaves)


def read_header(
    path: Path, network: NetworkOf | None = None
) -> tuple[dict[str, Any], dict[str, jax.ShapeDtypeStruct]]:
    """The metadata of a file and the forms of its arrays, which are not read.

    Args:
      path: of the file.
      network: tells the leaves and the weights of a network from the
        `headers.skeleton` of a large header, which is then parsed if it is not too
        large for that; None for a file that is trusted.

    Raises:
      ValueError: as `read`, a header of more than its arrays or its network need
        (`headers`), or an array of a dtype that tickets do not have.
    """
    with _opened(path, network) as file:
        text = (file.metadata() or {}).get(METADATA)
        forms = {name: _form(file.get_slice(name), name) for name in file.keys()}  # noqa: SIM118
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but not a ticket")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its metadata is not JSON") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is damaged: its metadata is not a JSON object")
    return fields, forms


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
      ValueError: as `read`.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path, network: NetworkOf | None = None) -> Iterator[Any]:
    """A safetensors file; what it raises becomes a ValueError of one line."""
    from safetensors import safe_open

    try:
        _check_header(path, network)
        with safe_open(path, framework="np") as file:
            yield file
    except OSError as error:
        raise ValueError(f"cannot read the ticket {path}: {error}") from error
    except Exception as error:  # SafetensorError, or a dtype that NumPy does not have
        raise ValueError(
            f"{path} is not a complete ticket: {one_line(error)}"
        ) from error


def _check_header(path: Path, network: NetworkOf | None) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is no regular file")  # a pipe would be waited for
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        of_arrays = os.fstat(file.fileno()).st_size - 8 - size
        headers.check_size(size, of_arrays)
        header = file.read(size)
    headers.check(header)
    if network is not None:
        _check_network(header, of_arrays, network)


def _form(entry: Any, name: str) -> jax.ShapeDtypeStruct:
    dtype = _NAMES.get(entry.get_dtype())
    if dtype is None:
        raise ValueError(f"the array {name!r:.60} is of {entry.get_dtype()}")
    return jax.ShapeDtypeStruct(tuple(entry.get_shape()), dtype)


def content_digest(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum of a ticket's fields and arrays, as the file holds them."""
    text = np.frombuffer(json.dumps(fields, sort_keys=True).encode(), np.uint8)
    return sha256({"metadata": text, **arrays})


def whole_arrays(
    path: Path, checksum: Any, fields: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays of a file; raises DamagedError without the checksum that it says."""
    arrays = read_arrays(path)
    try:
        whole = checksum == content_digest(fields, arrays)
    except RecursionError:  # fields that nest so deep are not ours
        whole = False
    if not whole:
        raise DamagedError(f"{path} is damaged: its checksum does not match")
    return arrays


def one_line(error: Exception) -> str:
    """What an error says, in one line of at most 300 printable characters."""
    words = "".join(c if c.isprintable() else " " for c in str(error))
    words = " ".join(words.split())
    text = words if isinstance(error, ValueError) else f"{type(error).__name__} {words}"
    return text if len(text) <= 300 else text[:297] + "..."
