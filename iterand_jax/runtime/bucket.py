"""A workdir in a bucket: a folder of this machine and a copy of it that is kept up.

Runs append to files, lock them and rename folders, none of which object stores do. So a
run writes to a folder here, and a thread copies to the bucket what is new there: first
what was written, logs before checkpoints, then what was removed, so that a kill at any
moment leaves either the checkpoints before in the bucket or new ones as well. A
checkpoint of which a part alone arrived is found to be damaged when it is read, and the
one before it is used.

Any URL that fsspec knows will do: gs:// needs the package gcsfs, s3:// needs s3fs.
Nothing keeps two runs out of the same folder of a bucket.
"""

import contextlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 30.0  # between copies
_LOGGER = logging.getLogger(__name__)


def is_url(path: str) -> bool:
    """Whether a path is that of a bucket, not of this machine.

    >>> is_url("gs://bucket/run"), is_url("/data/run"), is_url("run")
    (True, False, False)
    """
    return "://" in path


@contextlib.contextmanager
def mirrored(url: str, *, seconds: float = SECONDS) -> Iterator[Path]:
    """A folder here with what the URL has, copied back while and after it is used.

    What cannot be copied meanwhile is tried again, and a line says when that begins and
    when it is over. If the last copy fails the folder stays; where it was used with an
    error, that is raised, with a note of what the OSError would have said.

    Raises:
      ValueError: the URL cannot be read or written; it says what is missing.
      OSError: what was written at the end could not be copied; it names the folder.
    """
    mirror = _Mirror(url)
    mirror.check_writable()
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, folder)
        mirror.fetch(folder)
        stack.pop_all()  # from here on it is removed once the URL has all of it
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
    """A URL, and which files it has."""

    def __init__(self, url: str):
        import fsspec

        try:
            self._store, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"the workdir {url} cannot be reached: {error}") from error
        self._url = url
        self._pushed: dict[str, Any] = {}

    def check_writable(self) -> None:
        """Writes and removes a small file."""
        path = f"{self._root}/probe.tmp"
        try:
            self._store.pipe_file(path, b"probe")
            self._store.rm_file(path)
        except Exception as error:
            raise ValueError(
                f"the workdir {self._url} cannot be written: {_told(error)}"
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
                f"the workdir {self._url} cannot be read: {_told(error)}"
            ) from error

    def keep_up(self, folder: Path, ended: threading.Event, seconds: float) -> None:
        """Copies what changes until an event; what fails is tried again later."""
        failing = False
        while not ended.wait(seconds):
            try:
                self.push(folder)
            except Exception as error:
                if not failing:
                    _LOGGER.warning(
                        "copying to %s fails and is tried again every %g seconds: %s",
                        *(self._url, seconds, _told(error)),
                    )
                failing = True
            else:
                if failing:
                    _LOGGER.warning("copying to %s works again", self._url)
                failing = False

    def finish(self, folder: Path, failure: BaseException | None) -> None:
        """Copies what is left and removes the folder; keeps it if that fails."""
        try:
            self.push(folder)
        except Exception as error:
            line = (
                f"the end of the run could not be copied to {self._url} "
                f"({_told(error)}); all of it is in {folder}: copy that to "
                f"{self._url}, and the same command continues"
            )
            if failure is None:
                raise OSError(line) from error
            _LOGGER.error("%s", line)
            failure.add_note(line)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def push(self, folder: Path) -> None:
        """Copies what is new to the URL, then removes there what is gone here."""
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
            except FileNotFoundError:  # removed meanwhile, or there is no such bucket
                if path.exists():
                    raise
        for name in self._pushed.keys() - files.keys():
            with contextlib.suppress(FileNotFoundError):  # removed by someone else
                self._store.rm_file(f"{self._root}/{name}")
            del self._pushed[name]


def _turn(name: str) -> tuple[int, int, str]:
    """When a file is copied, so that a kill between leaves what can be continued.

    A log that is ahead of its checkpoints is cut when the run continues; one that is
    behind would have a gap. A result says that a run has ended: it comes last, and that
    of several runs after theirs.
    """
    path = Path(name)
    kind = 2 if path.name == "result.json" else int("checkpoints" in path.parts)
    return kind, -len(path.parts), name


def _is_unfinished(path: Path) -> bool:
    """Whether a file will have another name when it is whole, or means nothing."""
    # Orbax's folders, and the files of write_atomically; the name of a file of events
    # ends with that of the host, which may be any.
    return (
        path.name == "lock"
        or any(".orbax-checkpoint-tmp" in part for part in path.parts)
        or (path.suffix == ".tmp" and path.parent.name != "tensorboard")
    )


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)
