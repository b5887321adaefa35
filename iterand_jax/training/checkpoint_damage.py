"""What of a checkpoint cannot be read: damage, or what the system does not allow."""

import errno
import os
import re
import stat
from pathlib import Path

_NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def check_files(folder: Path) -> None:
    """Raises ValueError for a checkpoint with what is no regular file."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            check_regular(path, path.relative_to(folder))


def check_regular(path: Path, shown: Path | None = None) -> None:
    """Raises ValueError for a link, and for a pipe, which Orbax would wait for."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{shown or path} is no regular file")


def check_name(folder: Path) -> None:
    """Raises ValueError for a name that TensorStore does not take.

    It would be found out when the first checkpoint is saved, or look like damage.
    """
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"checkpoints cannot be in {folder}: its name is not UTF-8"
        ) from error


def _system_error(error: Exception) -> int | None:
    """The errno of an error, None if it has none."""
    # TensorStore has it only inside its long message.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else getattr(error, "errno", None)


def reason(error: Exception) -> str:
    """Why, in a few words: the system's, or the error's own first line."""
    number = _system_error(error)
    return os.strerror(number) if number else first_line(error)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_is_damage(error: Exception, path: Path) -> None:
    """Raises OSError if it was the system that did not let us read a checkpoint."""
    no_thread = "can't start new thread" in str(error)  # which has no errno
    if no_thread or _system_error(error) in _NO_DAMAGE:
        raise OSError(f"{path} cannot be read: {reason(error)}") from error
