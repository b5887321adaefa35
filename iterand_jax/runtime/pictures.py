"""Figures without a display and without changes to matplotlib's global state."""

import io
from pathlib import Path
from typing import Any

from iterand_jax.runtime.files import write_atomically


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure that is saved as PNG.

    Args:
      width: in inches.
      height: in inches.
    """
    # Imported here, and not as pyplot, which would choose a backend for the process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path, *, dpi: int) -> None:
    """Writes a figure as PNG: all of it, or the file stays as it was.

    Raises:
      OSError: as `files.write_atomically`.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    write_atomically(path, content.getvalue())


def set_title(figure: Any, text: str, size: float = 11) -> None:
    """Titles a figure in one line, in smaller letters where it would not fit.

    Args:
      figure: of `new_figure`.
      text: without line breaks.
      size: of the letters at most, in points.
    """
    title = figure.suptitle(text, fontsize=size)
    # Step by step: widths of letters are rounded to pixels, not in proportion to size.
    while size > 1 and title.get_window_extent().width > 0.98 * figure.bbox.width:
        size -= 0.25
        title.set_fontsize(size)
