"""Runs a campaign: python -m experiments.measurements.faults --campaign=NAME."""

import argparse
import contextlib
import importlib
import json
import pkgutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.measurements import faults, records
from experiments.measurements.faults.trial import Trial, record_of
from iterand_jax.runtime import files


def campaigns() -> list[str]:
    """The names of the campaigns: the modules of this package that have trials."""
    prefix = f"{faults.__name__}."
    names = [found.name for found in pkgutil.iter_modules(faults.__path__)]
    return [
        name
        for name in names
        if name != "__main__"
        and hasattr(importlib.import_module(prefix + name), "trials")
    ]


def within(minutes: float | None, trials: Iterator[Trial]) -> Iterator[Trial]:
    """The trials that end within some minutes, and the one that is being tried then.

    Ctrl-C ends them, too.
    """
    begun = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        for trial in trials:
            yield trial
            if minutes is not None and time.monotonic() - begun > 60 * minutes:
                return


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a campaign, prints its counts and writes its record.

    Ctrl-C and SIGTERM end it with the record of what was tried until then.

    Returns:
      The exit status: 0 if the promise was kept in every trial, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.measurements.faults")
    parser.add_argument("--campaign", choices=campaigns(), required=True)
    parser.add_argument("--count", type=int, default=100, help="of trials")
    parser.add_argument("--seed", type=int, default=0, help="of all changes")
    parser.add_argument("--minutes", type=float, help="after which no more is tried")
    parser.add_argument("--out", type=files.path, help="a file for the record")
    chosen = parser.parse_args(arguments)
    if chosen.count < 1:
        parser.error(f"--count must be at least 1; got {chosen.count}")
    if chosen.minutes is not None and not chosen.minutes > 0:
        parser.error(f"--minutes must be above 0; got {chosen.minutes}")
    campaign = importlib.import_module(f"{faults.__name__}.{chosen.campaign}")
    begun = time.monotonic()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trials = campaign.trials(chosen.count, chosen.seed, Path(folder))
            counts = record_of(within(chosen.minutes, trials))
    finally:
        signal.signal(signal.SIGTERM, before)
    record = {
        "campaign": chosen.campaign,
        "promise": campaign.PROMISE,
        "count": chosen.count,
        "seed": chosen.seed,
        **counts,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        **records.origin(),
    }
    print(json.dumps(record, indent=2))
    records.write(chosen.out, record)
    return 0 if counts["kept"] == counts["trials"] else 1


if __name__ == "__main__":
    sys.exit(main())
