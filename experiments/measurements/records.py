"""Records of measurements: the results, the device and the versions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iterand_jax.runtime.files import write_atomically
from iterand_jax.training import provenance


def origin() -> dict[str, Any]:
    """The device, the versions and the commit of a record."""
    return {
        "device": provenance.device(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


def write(out: Path | None, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON to a file and logs that; does nothing without a file."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(record, indent=2) + "\n")
        print(f"wrote {out}")
