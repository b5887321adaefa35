"""A workdir in a bucket: a local folder that is mirrored to a URL.

Runs append to files, lock them and rename folders; object stores support none of this.
So a run writes to a local folder, and a thread copies new files to the bucket: first
what was written, logs before checkpoints, then deletions, so that a kill at any moment
leaves the earlier checkpoints in the bucket, newer ones or both. A checkpoint that was
copied in part is detected as damaged when it is read, and the one before it is used.

Any URL that `remote` reaches works.
Nothing prevents two runs from using the same folder of a bucket.
"""

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iterand_jax.runtime import early
from iterand_jax.runtime.remote import in_one_line, shown, store_of

SECONDS = 30.0  # between copies
_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def mirrored(url: str, *, seconds: float = SECONDS) -> Iterator[Path]:
    """A local folder with the content of the URL, copied back during and after use.

    Copies that fail during use are retried, and a line is logged when they begin to
    fail and when they work again. If the last copy fails, the local folder is kept; if
    the body raised an error, that error is raised, with a note about the failed copy.

    Raises:
      ValueError: the URL cannot be read or written; the message says why.
      OSError: the last files could not be copied; the message names the folder.
    """
    with early.unwinding():
        yield from _mirrored(url, seconds)


def _mirrored(url: str, seconds: float) -> Iterator[Path]:
    mirror = _Mirror(url)
    mirror.check_writable()
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, folder)
        mirror.fetch(folder)
        stack.pop_all()  # from here on it is removed once all of it is copied
    ended = threading.Event()
    copying = threading.Thread(target=mirror.keep_up, args=(folder, ended, seconds))
    copying.start()
    failure = None
    try:
        yield folder
    except BaseException as error:
        failure = error
        raise
    finally:
        ended.set()
        copying.join()
        mirror.finish(folder, failure)


class _Mirror:
    """A URL, and the versions of the files copied to it."""

    def __init__(self, url: str):
        self._store, self._root = store_of(url, "workdir")
        self._url = shown(url)
        self._pushed: dict[str, Any] = {}

    def check_writable(self) -> None:
        """Writes and removes a small file."""
        path = f"{self._root}/probe.tmp"
        try:
            self._store.pipe_file(path, b"probe")
            self._store.rm_file(path)
        except Exception as error:
            raise ValueError(
                f"the workdir {self._url} cannot be written: {in_one_line(error)}"
            ) from error

    def fetch(self, folder: Path) -> None:
        """Copies everything from the URL."""
        try:
            paths = self._store.find(self._root)
            for path in paths:
                name = path.removeprefix(self._root.rstrip("/")).lstrip("/")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._store.get_file(path, str(folder / name))
                self._pushed[name] = _version(folder / name)
        except Exception as error:
            raise ValueError(
                f"the workdir {self._url} cannot be read: {in_one_line(error)}"
            ) from error

    def keep_up(self, folder: Path, ended: threading.Event, seconds: float) -> None:
        """Copies changes until an event is set; failed copies are retried later."""
        failing = False
        while not ended.wait(seconds):
            try:
                self.push(folder)
            except Exception as error:
                if not failing:
                    _LOGGER.warning(
                        "copying to %s fails and is retried every %g seconds: %s",
                        *(self._url, seconds, in_one_line(error)),
                    )
                failing = True
            else:
                if failing:
                    _LOGGER.warning("copying to %s works again", self._url)
                failing = False

    def finish(self, folder: Path, failure: BaseException | None) -> None:
        """Copies the rest and removes the folder; keeps it if a copy fails."""
        try:
            self.push(folder)
        except Exception as error:
            line = (
                f"the end of the run could not be copied to {self._url} "
                f"({in_one_line(error)}); all of it is in {folder}: copy that to "
                f"{self._url}, and the same command continues"
            )
            if failure is None:
                raise OSError(line) from error
            _LOGGER.error("%s", line)
            failure.add_note(line)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def push(self, folder: Path) -> None:
        """Copies new files to the URL, then deletes there what was deleted here."""
        paths = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
        files = {
            name: path
            for name, path in sorted(paths.items(), key=lambda item: _turn(item[0]))
            if path.is_file() and not _is_unfinished(path.relative_to(folder))
        }
        for name, path in files.items():
            try:
                version = _version(path)
                if version != self._pushed.get(name):
                    self._store.put_file(str(path), f"{self._root}/{name}")
                    self._pushed[name] = version
            except FileNotFoundError:  # deleted meanwhile, or there is no such bucket
                if path.exists():
                    raise
        for name in self._pushed.keys() - files.keys():
            with contextlib.suppress(FileNotFoundError):  # deleted by someone else
                self._store.rm_file(f"{self._root}/{name}")
            del self._pushed[name]


def _turn(name: str) -> tuple[int, int, str]:
    """The order of copying, such that a kill in between leaves a run that can resume.

    A log that is ahead of its checkpoints is cut when the run resumes; one that is
    behind would have a gap. A result marks a finished run, so it comes last, and that
    of several replicates after theirs.
    """
    path = Path(name)
    kind = 2 if path.name == "result.json" else int("checkpoints" in path.parts)
    return kind, -len(path.parts), name


def _is_unfinished(path: Path) -> bool:
    """Whether a file is temporary: a part of an unfinished write, or a lock."""
    # Orbax's temporary folders, and the files of write_atomically; the name of an event
    # file ends with the host's name, which may itself end with .tmp.
    return (
        path.name == "lock"
        or any(".orbax-checkpoint-tmp" in part for part in path.parts)
        or (path.suffix == ".tmp" and path.parent.name != "tensorboard")
    )


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
