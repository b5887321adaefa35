"""Records of measurements: the results, the device and the versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iterand_jax.runtime import cli
from iterand_jax.runtime.files import write_atomically
from iterand_jax.training import provenance


def origin() -> dict[str, Any]:
    """The device, the versions and the commit of a record."""
    return {
        "device": provenance.device(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


def define_out() -> None:
    """Defines --out=PATH, for `write`."""
    cli.define_path("out", None, "write the record to this file; default: only print")


def write(out: str | Path | None, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON to a file and logs that; does nothing without a file."""
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(out), json.dumps(record, indent=2) + "\n")
        print(f"wrote {out}")
