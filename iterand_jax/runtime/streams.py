"""Standard output that fails (full, or closed): reported once, does not end a run.

What its encoding does not have, as bars of a terminal in ASCII, is a question mark.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from iterand_jax.runtime import early


class Guarded:
    """A text stream whose first failed write redirects it to the null device.

    Attributes:
      failure: the error of that write; None while all were written.
    """

    def __init__(self, stream: TextIO, *, closed: bool = False):
        """Guards a stream.

        Args:
          stream: to guard.
          closed: whether it was closed, and stands for nothing: writing to it fails.
        """
        self._stream, self._closed = stream, closed
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Writes text, or drops it after a failure."""
        with self._guarding():
            if self._closed and text:
                raise OSError(errno.EBADF, "it is closed")
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                had = text.encode(error.encoding, "replace").decode(error.encoding)
                self._stream.write(had)
        return len(text)

    def flush(self) -> None:
        """Flushes what was written."""
        with self._guarding():
            self._stream.flush()

    @contextlib.contextmanager
    def _guarding(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            # What the stream still holds would fail at every later flush.
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[Guarded]:
    """Guards stdout and stderr inside; gives the guarded stdout."""
    before = sys.stdout, sys.stderr
    out = Guarded(sys.stdout, closed="stdout" in early.closed)
    err = Guarded(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
