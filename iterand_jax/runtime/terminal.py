"""What a person sees in a terminal: a progress bar, and tables."""

import contextlib
import sys
from typing import Any, TextIO

from tqdm import tqdm


class _Heedless:
    """A stream that goes on when nobody reads it: a terminal is closed, a pipe ends."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress_bar(total: int, *, initial: int, hidden: bool = False) -> tqdm:
    """A bar of steps; on a terminal it is live, in a file it is a line now and then."""
    live = sys.stderr.isatty()
    return tqdm(
        file=_Heedless(sys.stderr),
        disable=hidden,
        total=total,
        initial=initial,
        unit="step",
        mininterval=0.2 if live else 30.0,
        dynamic_ncols=live,
        smoothing=0.1,
    )


def table(rows: dict[str, str], indent: str = "  ") -> str:
    """Two aligned columns of text."""
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:<{width}}  {text}" for name, text in rows.items())
