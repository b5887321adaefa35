"""Files at URLs, through whichever file system fsspec has for them.

Any URL that fsspec supports works: gs:// needs the package gcsfs, s3:// needs s3fs.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def is_url(path: str) -> bool:
    """Whether a path is a URL, not a local path.

    >>> is_url("gs://bucket/run"), is_url("/data/run"), is_url("run")
    (True, False, False)
    """
    return "://" in path


def store_of(url: str, what: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
      ValueError: fsspec knows no such URLs, or the package for them is missing.
    """
    import fsspec

    try:
        return fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the {what} {url} cannot be reached: {error}") from error


@contextlib.contextmanager
def fetched(url: str, what: str) -> Iterator[Path]:
    """A local copy of the file at a URL, which is removed afterwards.

    Raises:
      ValueError: in one line with the URL, it cannot be read.

    >>> write("memory://doc/a", b"text", "file")
    >>> with fetched("memory://doc/a", "file") as path:
    ...     path.read_bytes()
    b'text'
    """
    store, path = store_of(url, what)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "file"
        try:
            kind = store.info(path)["type"]
            if kind != "file":  # a pipe would be waited for, and a device does not end
                raise ValueError(f"it is no file: {kind}")
            store.get_file(path, str(copy))
        except FileNotFoundError as error:
            raise ValueError(f"there is no {what} {url}") from error
        except Exception as error:
            raise ValueError(
                f"the {what} {url} cannot be read: {in_one_line(error)}"
            ) from error
        yield copy


def write(url: str, content: bytes, what: str) -> None:
    """Writes a file at a URL; where that is a store of objects, all of it or nothing.

    Raises:
      ValueError: in one line with the URL, it cannot be written.

    >>> write("nowhere://a", b"", "file")
    Traceback (most recent call last):
    ...
    ValueError: the file nowhere://a cannot be reached: Protocol not known: nowhere
    """
    store, path = store_of(url, what)
    try:
        store.pipe_file(path, content)
    except Exception as error:
        raise ValueError(
            f"the {what} {url} cannot be written: {in_one_line(error)}"
        ) from error


@contextlib.contextmanager
def sent(url: str, what: str) -> Iterator[Path]:
    """A local path for what goes to a URL, which is copied there after the body.

    The body makes a file of it, or a folder with files.

    Raises:
      ValueError: in one line with the URL, it cannot be written.

    >>> with sent("memory://doc/folder", "folder") as path:
    ...     path.mkdir()
    ...     _ = (path / "a").write_text("text")
    >>> with fetched("memory://doc/folder/a", "file") as path:
    ...     path.read_text()
    'text'
    """
    store_of(url, what)  # before any work
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        yield path
        files = sorted(path.iterdir()) if path.is_dir() else []
        for file in files:
            write(f"{url.rstrip('/')}/{file.name}", file.read_bytes(), what)
        if not files:
            write(url, path.read_bytes(), what)


def in_one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or repr(error)
