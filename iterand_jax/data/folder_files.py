"""Files in a folder that somebody else made: regular ones only, and none outside.

A folder can hold what is no file (a pipe that waits forever, a device without end),
links to what is outside, and names that are not text.
"""

import stat
from pathlib import Path

from iterand_jax.data.image_headers import MOST_BYTES


def check(path: Path, *roots: Path) -> None:
    """Checks that a path is a regular file that can be read as an image is.

    Args:
      path: of the file.
      roots: the folders, without links in their paths, that links may not leave; none
        for links to anywhere.

    Raises:
      ValueError: it is no regular file, a link that leaves the folder, larger than an
        image may be, or its name is not UTF-8.
    """
    check_name(path)
    try:
        status = path.stat()
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        reason = getattr(error, "strerror", None) or "a link to itself"
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if roots and not any(target.is_relative_to(root) for root in roots):
        raise ValueError(
            f"{path} is a link to {target}, outside of {roots[0]}; possible: files in "
            f"it"
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if status.st_size > MOST_BYTES:
        raise ValueError(
            f"{path} has {status.st_size} bytes; possible: at most {MOST_BYTES}"
        )


def check_name(path: Path) -> None:
    """Raises ValueError for a name that is not UTF-8."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name {path.name!r} in {path.parent} is not UTF-8"
        ) from error
