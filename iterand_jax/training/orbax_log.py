"""What is shown of what Orbax logs while it saves."""

import logging
import sys
from pathlib import Path
from typing import Any

from absl import logging as absl_logging

__all__ = ["LOG", "OrbaxLog", "install"]

_GONE = "Unable to find the step"


class OrbaxLog:
    """What of Orbax's log is shown: a filter of absl's logger.

    Orbax logs an error with its traceback before it raises it, several times for one;
    whoever waits for the save reports it in one line. Of a folder that was removed in
    the middle of a save it warns before, of each thing that it misses. So what it warns
    of during a save is held until that is done, and dropped with a save that fails.
    Warnings of metadata that are not there, or of a step that it was to delete, are
    never shown.
    """

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._saving = False
        self._held: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown now."""
        parts = Path(record.pathname).parts
        if "orbax" not in parts or record.levelno < logging.WARNING:
            return True
        is_gone = "metadata" in parts or str(record.msg).startswith(_GONE)
        if is_gone or record.levelno >= logging.ERROR:
            return False
        if self._saving:
            self._held.append(record)
        return not self._saving

    def hold(self) -> None:
        """From now on warnings are held."""
        self._saving = True

    def drop(self) -> None:
        """The save has failed."""
        self._held.clear()

    def show(self) -> None:
        """The save is done."""
        self._saving, held = False, [*self._held]
        self._held.clear()
        for record in held:
            absl_logging.get_absl_logger().handle(record)


LOG = OrbaxLog()


def install() -> None:
    """From now on absl's logger shows what `LOG` lets pass."""
    absl_logging.get_absl_logger().addFilter(LOG)
    _drop_closed_loops()


def _drop_closed_loops() -> None:
    """Drops the tracebacks of callbacks that come when Orbax's event loop is closed.

    Of a save that fails on a full disk, TensorStore ends its other writes after Orbax
    has given up, one traceback each; the save's own error is raised.
    """
    show = sys.unraisablehook
    if getattr(show, "drops_closed_loops", False):
        return

    def dropping(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not isinstance(error, RuntimeError) or str(error) != "Event loop is closed":
            show(unraisable)

    dropping.drops_closed_loops = True  # type: ignore[attr-defined]
    sys.unraisablehook = dropping
