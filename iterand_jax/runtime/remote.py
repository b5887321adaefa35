"""Files at URLs, through whichever file system fsspec has for them.

Any URL that fsspec supports works: gs:// needs the package gcsfs, s3:// needs s3fs.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iterand_jax.runtime import early
from iterand_jax.runtime.files import write_atomically


def is_url(path: str) -> bool:
    """Whether a path is a URL, not a local path.

    >>> is_url("gs://bucket/run"), is_url("/data/run"), is_url("run")
    (True, False, False)
    """
    return "://" in path


def shown(text: str) -> str:
    """A URL, or what is said of one, without the secrets that it may carry.

    >>> shown("ftp://me:secret@host/a"), shown("https://host/a?signature=secret")
    ('ftp://me:***@host/a', 'https://host/a?***')
    """
    text = re.sub(r"(://[^/@:\s]*:)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"(://[^?\s]*\?)[^\s'\"]+", r"\1***", text)


def store_of(url: str, what: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
      ValueError: in one line with the URL: fsspec knows no such URLs, the package for
        them is missing, or a server that is asked at once does not answer.
    """
    import fsspec

    try:
        return fsspec.url_to_fs(url)
    except Exception as error:  # of each kind of URL other ones
        raise ValueError(
            f"the {what} {shown(url)} cannot be reached: {in_one_line(error)}"
        ) from error


@contextlib.contextmanager
def fetched(url: str, what: str, most: int) -> Iterator[Path]:
    """A local copy of the file at a URL, which is removed afterwards.

    Args:
      url: of the file.
      what: it is, for errors.
      most: bytes that are copied. A store that reports a larger size is asked for
        nothing; where none is reported, or a wrong one, the copy ends there.

    Raises:
      ValueError: in one line with the URL, it cannot be read, or is larger.

    >>> write("memory://doc/a", b"text", "file")
    >>> with fetched("memory://doc/a", "file", 1000) as path:
    ...     path.read_bytes()
    b'text'
    >>> with fetched("memory://doc/a", "file", 3) as path:  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    ...
    ValueError: the file memory://doc/a cannot be read: it has more than 3 bytes; ...
    """
    store, path = store_of(url, what)
    from fsspec.callbacks import Callback

    def check(size: int | None, value: int = 0, **_: object) -> None:
        if max(size or 0, value or 0) > most:
            raise ValueError(too_large(most))

    with early.unwinding(), tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "file"
        try:
            about = store.info(path)
            kind = about["type"]
            if kind != "file":  # a pipe would be waited for, and a device does not end
                raise ValueError(f"it is no file: {kind}")
            check(about.get("size"))
            store.get_file(path, str(copy), callback=Callback(hooks={"size": check}))
        except FileNotFoundError as error:
            raise ValueError(f"there is no {what} {shown(url)}") from error
        except Exception as error:
            raise ValueError(
                f"the {what} {shown(url)} cannot be read: {in_one_line(error)}"
            ) from error
        yield copy


def write(url: str, content: bytes, what: str) -> None:
    """Writes a file at a URL.

    A store of objects and the local disk (file://) have all of it or what was there
    before. Others, as sftp://, may keep a part of it if the connection breaks: a ticket
    that is cut short is refused when it is read.

    Raises:
      ValueError: in one line with the URL, it cannot be written.

    >>> write("nowhere://a", b"", "file")
    Traceback (most recent call last):
    ...
    ValueError: the file nowhere://a cannot be reached: Protocol not known: nowhere
    """
    store, path = store_of(url, what)
    try:
        if store.protocol == ("file", "local"):
            write_atomically(Path(path), content)
        else:
            store.pipe_file(path, content)
    except Exception as error:
        raise ValueError(
            f"the {what} {shown(url)} cannot be written: {in_one_line(error)}"
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
    >>> with fetched("memory://doc/folder/a", "file", 1000) as path:
    ...     path.read_text()
    'text'
    """
    store_of(url, what)  # before any work
    with early.unwinding(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        yield path
        files = sorted(path.iterdir()) if path.is_dir() else []
        for file in files:
            write(f"{url.rstrip('/')}/{file.name}", file.read_bytes(), what)
        if not files:
            write(url, path.read_bytes(), what)


def too_large(most: int) -> str:
    """What is said of a file elsewhere that has more bytes than are copied."""
    return f"it has more than {most:,} bytes; possible: the path of a copy of yours"


def in_one_line(error: Exception) -> str:
    """What an error says, which may be a server's words: printable, and in one line.

    >>> in_one_line(ValueError("no\\nanswer\\x1b[2J"))
    'no answer [2J'
    """
    words = "".join(c if c.isprintable() else " " for c in str(error))
    return shown(" ".join(words.split()) or repr(error))
