"""Where tickets lie: a local path, a URL that fsspec reaches, or the Hub."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from iterand_jax.runtime import remote
from iterand_jax.runtime.checks import described
from iterand_jax.tickets import hub

MOST_REMOTE = 2**32
"""Bytes of a ticket that is copied from elsewhere before it is read."""

_URL_OF_A_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")


def address(path: str | os.PathLike[str]) -> str:
    """Where a ticket lies, as text: a URL, or a local path, whose ~ is the home.

    Raises:
      ValueError: it is no path, or a `Path` of a URL, which has lost a slash.

    >>> address("memory://bucket/a"), address(Path("a"))
    ('memory://bucket/a', 'a')
    >>> address(Path("memory://bucket/a"))
    Traceback (most recent call last):
    ...
    ValueError: the ticket is Path('memory:/bucket/a'); possible: a URL as a string
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"the ticket is {described(path)}; possible: a path or URL")
    name = os.fspath(path)
    if isinstance(path, Path) and _URL_OF_A_PATH.match(name):
        raise ValueError(f"the ticket is Path({name!r}); possible: a URL as a string")
    return name if remote.is_url(name) else os.path.expanduser(name)


def printable(name: str) -> str:
    """A path or URL as an error says it: in quotes where it has control characters.

    >>> print(printable("runs/a"), printable("runs/a" + chr(10) + "b"))
    runs/a 'runs/a\\nb'
    """
    return name if name.isprintable() else repr(name)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of a file, as a ticket is, and not of a folder, as a run is.

    A URL is one of a file: nothing is asked of it here.

    Raises:
      ValueError: as `address`.

    >>> is_file("hf://user/repo"), is_file("/"), is_file("nowhere")
    (True, False, False)
    """
    name = address(path)
    return remote.is_url(name) or Path(name).is_file()


def folder(path: str | os.PathLike[str]) -> Path:
    """The folder for what is made of a ticket: its own, or for a URL the current one.

    Raises:
      ValueError: as `address`.

    >>> folder("runs/a.safetensors"), folder("hf://user/repo")
    (PosixPath('runs'), PosixPath('.'))
    """
    name = address(path)
    return Path() if remote.is_url(name) else Path(name).parent


@contextlib.contextmanager
def local(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Iterator[Path]:
    """The file of a ticket as a local path, for use within the context.

    Args:
      path: local, or a URL; hf://user/repo[@revision] as in `hub`.
      revision: of a repository of the Hub, as the following three.
      token: to read it with.
      cache_dir: where its files are kept.
      local_files_only: whether to ask the Hub nothing.

    Raises:
      ValueError: in one line, it cannot be fetched, has more than `MOST_REMOTE` bytes,
        or these are given for another place; and those of the body, with the URL where
        they name the local file.
    """
    name = address(path)
    if name.startswith(hub.SCHEME):
        file = hub.fetched(
            name,
            most=MOST_REMOTE,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            local_files_only=local_files_only,
        )
        # The copy stays in the cache: a damaged one has to be removed there.
        with _named(file, name, f"; its copy is {file}"):
            yield file
        return
    _check_options(name, revision, token, cache_dir, local_files_only)
    if not remote.is_url(name):
        file = Path(name)
        with _named(file, str(file)):
            yield file
        return
    with remote.fetched(name, "ticket", MOST_REMOTE) as file, _named(file, name):
        yield file


def check_written(name: str) -> None:
    """Raises ValueError for a repository of the Hub, which nothing is saved to."""
    if name.startswith(hub.SCHEME):
        raise ValueError(
            f"a ticket is not saved at {name}: `python -m iterand_jax.export "
            f"--format=hub --push=user/repo` uploads one with its card"
        )


def _check_options(name: str, *given: object) -> None:
    names = ("revision", "token", "cache_dir", "local_files_only")
    for option, value in zip(names, given, strict=True):
        if value is not None and value is not False:
            raise ValueError(
                f"{option} is of repositories of the Hub, hf://user/repo; the ticket "
                f"is {remote.shown(name)}"
            )


@contextlib.contextmanager
def _named(file: Path, name: str, also: str = "") -> Iterator[None]:
    """Puts the name that was asked for in errors that name the copy."""
    try:
        yield
    except ValueError as error:
        if str(file) not in str(error) or str(file) == printable(name):
            raise
        said = str(error).replace(str(file), printable(remote.shown(name)))
        raise ValueError(said + also) from error
