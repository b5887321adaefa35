"""Atomic writes of files, and what is never written to: devices, pipes, links.

Nor is such a file read where what it holds is passed on (`read_own`).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Names a file in an OSError that does not, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_written(path: Path) -> None:
    """Refuses to write where something is that is not a regular file.

    It would be replaced by a file, as /dev/null of a process that runs as root. A
    symbolic link is refused too, and not followed: in a folder from others it may point
    to any file of the user, and where it was put on purpose, as by a system that keeps
    large files elsewhere, a silent replacement is as wrong. Links among the folders of
    the path are followed as always.

    Raises:
      OSError: says what it is, with the path; and any of looking there.

    >>> check_written(Path("/"))
    Traceback (most recent call last):
    ...
    FileExistsError: [Errno 17] it is a folder: '/'
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        kind = f"a symbolic link to {os.readlink(path)}"
    else:
        kind = next((words for is_one, words in _KINDS if is_one(mode)), "no file")
    raise OSError(errno.EEXIST, f"it is {kind}", str(path))


def read_own(path: Path, most: int) -> bytes:
    """The bytes of a file in a folder that may come from anybody.

    A link may point to what is secret, which would go into a log, a ticket or onto the
    Hub; a pipe would be waited for.

    Args:
      path: of the file.
      most: bytes that it can have.

    Raises:
      ValueError: it is no regular file (`check_written`), or has more bytes.
      OSError: it cannot be read.
    """
    try:
        check_written(path)
    except FileExistsError as error:
        raise ValueError(f"{path} is no regular file: {error.strerror}") from error
    with open(path, "rb", opener=_of_a_file) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most:
            return file.read(size)  # and no more, for which memory would be taken
    raise ValueError(f"{path} has over {most:,} bytes")


def replace(temporary: Path, path: Path) -> None:
    """Puts a written file in the place of one, or of none; see `check_written`.

    Raises:
      OSError: as `check_written`.
    """
    check_written(path)
    temporary.replace(path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file such that readers, and kills, see either the old or the new one.

    Raises:
      OSError: it cannot be written, or as `check_written`.
    """
    check_written(path)
    temporary = path.with_name(path.name + ".tmp")
    check_written(temporary)
    with named(path), open(temporary, "wb", opener=_of_a_file) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    replace(temporary, path)


def appended(path: Path):
    """Opens a file to append bytes to it, none but a regular one; see `check_written`.

    Raises:
      OSError: it cannot be opened, or as `check_written`.
    """
    check_written(path)
    return open(path, "ab", opener=_of_a_file)


def _of_a_file(path: str, flags: int) -> int:
    """What has been put there meanwhile is neither waited for nor followed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
