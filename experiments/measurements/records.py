"""Records of measurements: the results, the device and the versions."""

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
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


def runs_of(out: str | Path | None) -> list[Mapping[str, Any]]:
    """The runs of a record that is there already, to which more are added."""
    if not out or not Path(out).exists():
        return []
    return json.loads(Path(out).read_text())["runs"]


def with_run(
    runs: Sequence[Mapping[str, Any]], run: Mapping[str, Any], key: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The runs and one more, in place of that of its key; sorted by these fields.

    >>> with_run([{"seed": 1, "a": 2}], {"seed": 0, "a": 3}, ["seed"])
    [{'seed': 0, 'a': 3}, {'seed': 1, 'a': 2}]
    """

    def of(one: Mapping[str, Any]) -> list[Any]:
        return [one[field] for field in key]

    others = [one for one in runs if of(one) != of(run)]
    return sorted([*others, run], key=of)


def mean_of(numbers: Collection[float]) -> str:
    """A mean and the deviation, which one number has not, with two digits.

    >>> mean_of([1.0, 2.0]), mean_of([1.0])
    ('1.50 ± 0.71', '1.00')
    """
    mean = f"{statistics.mean(numbers):.2f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.2f}"


def define_out() -> None:
    """Defines --out=PATH, for `write`."""
    cli.define_path("out", None, "write the record to this file; default: only print")


def write(out: str | Path | None, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON to a file and logs that; does nothing without a file."""
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(out), json.dumps(record, indent=2) + "\n")
        print(f"wrote {out}")
