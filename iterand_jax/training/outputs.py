"""What an export writes, where, and how large it is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from iterand_jax.runtime import remote
from iterand_jax.runtime.files import check_written
from iterand_jax.tickets import formats, onnx, places
from iterand_jax.tickets.ticket import Ticket


def write(ticket: Ticket, name: str, output: Path, dtype: str) -> dict[str, str]:
    """Writes a ticket in a format of another library; returns what is reported of it.

    Args:
      ticket: to write.
      name: "safetensors", "torchvision", "stablehlo" or "onnx".
      output: the file or folder.
      dtype: of dense weights, one of `formats.DTYPES`.

    Raises:
      ValueError: the ticket's network has no such format.
    """
    if name == "stablehlo":
        formats.save_program(ticket, output)
        return {
            "for": f"jax from three weeks before to six months after jax "
            f"{jax.__version__}; export --ticket=FILE renews it"
        }
    if name == "onnx":
        return {"ONNX": onnx.save(ticket, output)}
    arrays_of = {
        "safetensors": formats.flax_arrays,
        "torchvision": formats.torchvision_arrays,
    }
    arrays = formats.in_dtype(arrays_of[name](ticket), dtype)
    formats.save_arrays(arrays, ticket.description, output)
    return {}


def written(path: Path, output: Path | str) -> str:
    """The files that were written, and their bytes."""
    shown = remote.shown(str(output)) if remote.is_url(str(output)) else str(output)
    files = {shown: path}
    if path.is_dir():
        files = {f"{shown}/{file.name}": file for file in sorted(path.iterdir())}
    return ", ".join(
        f"{n} ({file.stat().st_size:,} bytes)" for n, file in files.items()
    )


@contextlib.contextmanager
def opened(output: str, *, is_folder: bool) -> Iterator[Path]:
    """A path to write to: that of the output, or one that is sent to its URL on exit.

    Args:
      output: a file or folder, or its URL.
      is_folder: which of them the format is.

    Raises:
      ValueError: it cannot be written.
    """
    places.check_written(output)
    with contextlib.ExitStack() as stack:
        path = Path(output)
        if remote.is_url(output):
            path = stack.enter_context(remote.sent(output, "output"))
        _check(path, is_folder=is_folder)
        yield path


def _check(output: Path, *, is_folder: bool) -> None:
    if not output.parent.is_dir():
        raise ValueError(f"cannot write {output}: there is no folder {output.parent}")
    if is_folder and os.path.lexists(output) and not output.is_dir():
        raise ValueError(f"cannot write the folder {output}: it is no folder")
    if not is_folder:
        try:
            check_written(output)
        except OSError as error:
            said = error.strerror
            raise ValueError(f"cannot write the file {output}: {said}") from error


def sizes(ticket: Ticket, arrays: dict[str, Any]) -> dict[str, str]:
    """The size of a ticket's arrays by kind, and in all compared with float32."""
    by_kind: dict[str, int] = {}
    for name, array in arrays.items():
        kind = name.split("/")[0].removesuffix("_code")
        by_kind[kind] = by_kind.get(kind, 0) + array.nbytes
    statistics = by_kind.pop("batch_stats", 0)
    vocabulary = by_kind.pop("vocabulary", 0)
    packed = sum(by_kind.values())
    dense = 4 * sum(leaf.size for leaf in jax.tree.leaves(ticket.params))
    rows = {
        "parameters": f"{packed / 1e6:.3f} MB ("
        + ", ".join(f"{kind} {size / 1e6:.3f}" for kind, size in by_kind.items())
        + f") against {dense / 1e6:.2f} MB in float32: "
        f"{dense / packed:.1f} times smaller"
    }
    if statistics:
        rows["statistics"] = f"{statistics / 1e6:.3f} MB of batch normalization"
    if ticket.words is not None:
        rows["vocabulary"] = f"{vocabulary / 1e6:.3f} MB, {len(ticket.words):,} words"
    return rows
