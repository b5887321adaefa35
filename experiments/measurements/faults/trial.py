"""One thing that a campaign broke, and the record of all of them."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

MOST_BROKEN = 20  # of those that are described in a record
REFUSED = "refused in one line"


class Trial(NamedTuple):
    """One thing that was broken, and what happened.

    Attributes:
      kind: of the change, such as "a bit flipped".
      outcome: what happened, such as "refused in one line".
      kept: whether that is what is promised.
      detail: for a promise that was not kept, how to see it again.
      seconds: that it took.
      megabytes: by which the memory of the process grew.
    """

    kind: str
    outcome: str
    kept: bool
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


def outcome_of(
    error: Exception,
    *,
    most: int,
    refusals: tuple[type[Exception], ...] = (ValueError,),
) -> str:
    """The outcome of an error: `REFUSED`, or what is wrong with it.

    Args:
      error: that was raised.
      most: characters that a refusal may have.
      refusals: the errors that are promised.

    >>> outcome_of(ValueError("no ticket"), most=600)
    'refused in one line'
    >>> outcome_of(ValueError("two\\nlines"), most=600).partition(":")[0]
    'a message that is no line'
    >>> outcome_of(KeyError("name"), most=600)
    "KeyError: 'name'"
    """
    if not isinstance(error, refusals):
        return f"{type(error).__name__}: {error!s:.300}"
    lines = str(error).splitlines()
    if len(lines) == 1 and lines[0].isprintable() and len(lines[0]) < most:
        return REFUSED
    return f"a message that is no line: {error!r:.300}"


def record_of(trials: Iterable[Trial]) -> dict[str, Any]:
    """The counts of trials.

    Returns:
      "trials" and "kept", their numbers; "outcomes" by kind; "slowest_seconds" and
      "largest_megabytes" of one trial; and "broken", the first promises not kept.

    >>> record = record_of([Trial("cut", "refused", True), Trial("cut", "hung", False)])
    >>> record["trials"], record["kept"], record["outcomes"]
    (2, 1, {'cut': {'refused': 1, 'hung': 1}})
    """
    outcomes: dict[str, Counter[str]] = {}
    broken, number, slowest, largest = [], 0, 0.0, 0.0
    for trial in trials:
        number += 1
        outcomes.setdefault(trial.kind, Counter())[trial.outcome] += 1
        slowest = max(slowest, trial.seconds)
        largest = max(largest, trial.megabytes)
        if not trial.kept:
            detail = without_folders(trial.detail)
            broken.append(f"{trial.kind}: {trial.outcome}: {detail}")
    return {
        "trials": number,
        "kept": number - len(broken),
        "outcomes": {kind: dict(outcomes[kind]) for kind in sorted(outcomes)},
        "slowest_seconds": round(slowest, 2),
        "largest_megabytes": round(largest, 1),
        "broken": broken[:MOST_BROKEN],
    }


def without_folders(text: str) -> str:
    """A text without the temporary folders of the machine that it comes from.

    >>> without_folders(f"no such file: {tempfile.gettempdir()}/tmpx/2/checkpoints")
    'no such file: FOLDER/2/checkpoints'
    """
    return re.sub(re.escape(tempfile.gettempdir()) + r"/[^/\s]+", "FOLDER", text)
