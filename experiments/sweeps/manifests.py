"""The manifest of packed runs: what each has done, and its files.

It comes with a file that somebody sends, so all of it is checked before it is used.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from iterand_jax.training.config import DTYPES, MATMUL_PRECISIONS
from iterand_jax.training.fields import shown
from iterand_jax.training.saved import object_in, one_line

FORMAT = "iterand_jax sweep 1"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def parsed(content: bytes, file: Path) -> dict[str, Any]:
    """The manifest of a file.

    Returns:
      "runs", by name: the "dtype", the "matmul_precision", the "steps" done and the
      "devices", as [device, precision]; "files", by name: [size, SHA-256].

    Raises:
      ValueError: it is not one that `pack` writes.
    """
    manifest = object_in(content, Path(f"the manifest of {file}"))
    if manifest.get("format") != FORMAT:
        found = shown(manifest.get("format"))
        raise ValueError(f"{file} has format {found}, not {FORMAT!r}")
    for name, is_one in (("runs", _is_run), ("files", _is_file)):
        entries = manifest.get(name)
        if not isinstance(entries, dict) or not entries:
            raise ValueError(f"the manifest of {file} has no {name}")
        for key, value in entries.items():
            if not is_one(value):
                raise ValueError(
                    f"the manifest of {file} is not as --pack writes it: {name}."
                    f"{one_line(ValueError(key))} is {shown(value)}"
                )
    return manifest


def _is_run(facts: Any) -> bool:
    if not isinstance(facts, Mapping):
        return False
    devices = facts.get("devices")
    return (
        facts.get("dtype") in DTYPES
        and facts.get("matmul_precision") in MATMUL_PRECISIONS
        and _is_count(facts.get("steps"))
        and isinstance(devices, list)
        and all(isinstance(two, list) and len(two) == 2 for two in devices)
        and all(isinstance(text, str) for two in devices for text in two)
    )


def _is_file(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and _is_count(entry[0])
        and isinstance(entry[1], str)
        and bool(_DIGEST.fullmatch(entry[1]))
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
