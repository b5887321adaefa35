"""Output for a terminal: a progress bar, and tables."""

import contextlib
import sys
from typing import Any, TextIO

from tqdm import tqdm


class _Unbreakable:
    """A stream that ignores write errors, as of a closed terminal or pipe."""

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
    """A progress bar of steps: live on a terminal, a line every 30 s in a file."""
    live = sys.stderr.isatty()
    return tqdm(
        file=_Unbreakable(sys.stderr),
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
