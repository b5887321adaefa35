"""Atomic writes of files, and paths as people write them."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file such that readers, and kills, see either the old or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def path(text: str) -> Path:
    """A path that somebody wrote, whose ~ is the user's home.

    >>> path("~/runs") == Path.home() / "runs"
    True
    """
    return Path(text).expanduser()
