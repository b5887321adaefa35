"""Lock files: one process at a time in a folder.

On a file system without locks, as Lustre mounted without the option flock, a line on
stderr says so, and nothing is locked.
"""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def alone(lock: Path, *, while_waiting: str) -> Iterator[None]:
    """Holds a lock file; if another process holds it, prints a line and waits.

    The system releases the lock when a process ends, even if it is killed. The empty
    file stays: another process may be about to lock it.
    """
    with _opened(lock) as file:
        if not _locked(file):
            print(while_waiting, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone_or_refused(lock: Path, *, refusal: str) -> Iterator[None]:
    """Holds a lock file, as `alone` does, but never waits.

    Raises:
      ValueError: the refusal, if another process holds it.
    """
    with _opened(lock) as file:
        if not _locked(file):
            raise ValueError(refusal)
        yield


def _opened(lock: Path):
    lock.parent.mkdir(parents=True, exist_ok=True)
    return open(lock, "a", opener=_of_a_file)


def _of_a_file(path: str, flags: int) -> int:
    """A foreign folder's pipe is not waited for, and no file elsewhere is changed."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"a second process is not kept out: {file.name} cannot be locked "
            f"({error.strerror})",
            file=sys.stderr,
        )
    return True
