"""Runs a campaign: python -m experiments.measurements.faults --campaign=NAME."""

import contextlib
import importlib
import json
import pkgutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from experiments.measurements import faults, records
from experiments.measurements.faults.trial import Trial, record_of
from iterand_jax.runtime import cli


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


CAMPAIGNS = campaigns()  # before flags are defined: what it imports defines its own


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


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_enum("campaign", None, CAMPAIGNS, "what is broken")
    flags.DEFINE_integer("count", 100, "how many trials", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of all changes")
    flags.DEFINE_float("minutes", None, "after which no more is tried", lower_bound=0)
    records.define_out()


def main() -> int:
    """Runs a campaign, prints its counts and writes its record.

    Ctrl-C and SIGTERM end it with the record of what was tried until then.

    Returns:
      The exit status: 0 if the promise was kept in every trial, else 1.
    """
    chosen = flags.FLAGS
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


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(
        main,
        define_flags,
        required=("campaign",),
        again="starts again",
        cached=False,
        unwinds=True,
    )


if __name__ == "__main__":
    run()
