"""Official archives: downloaded here or by the user, and verified by SHA-256."""

import hashlib
import http.client
import queue
import sys
import tarfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from iterand_jax.runtime import files

CONNECT_SECONDS = 6
READ_SECONDS = 30
LOG_SECONDS = 30  # between progress lines if stderr is not a terminal


class DownloadError(Exception):
    """An archive could not be fetched over the network."""


class ByHandError(ValueError):
    """An archive is missing that only the user can download."""


class Archive(NamedTuple):
    """An official archive.

    Attributes:
      url: its address.
      size: its size in bytes.
      sha256: its SHA-256 in hex.
      by_hand: whether its site needs an account, so that only the user can download it.
    """

    url: str
    size: int
    sha256: str
    by_hand: bool


def registered_archives(builder: Any) -> dict[str, Archive]:
    """The archives that TFDS registers for a dataset, by file name."""
    by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS is not None
    return {
        PurePosixPath(url).name: Archive(url, int(info.size), info.checksum, by_hand)
        for url, info in builder.url_infos.items()
    }


def locate(name: str, expected: Archive, downloads: Path, given: str | None) -> Path:
    """The path where an archive is, or where it can be downloaded to.

    Args:
      name: its file name.
      expected: its registered size and checksum.
      downloads: the folder of downloaded archives.
      given: the user's path of the archive or of its folder, if any.

    Raises:
      ValueError: there is no archive at the given path.
      ByHandError: it is missing, and only the user can download it.
    """
    path = downloads if given is None else Path(given).expanduser()
    path = path if path.is_file() else path / name
    if given is not None and not path.is_file():
        raise ValueError(f"no archive at {path}")
    if expected.by_hand and not path.is_file():
        site = urllib.parse.urlsplit(expected.url).hostname
        raise ByHandError(
            f"{name} must be downloaded manually, with an account at {site}: pass its "
            "folder as --archive=FOLDER"
        )
    return path


def members(archive: tarfile.TarFile) -> Iterator[tuple[str, Any]]:
    """The name and the open file of each file in an archive, in its order."""
    return ((m.name, archive.extractfile(m)) for m in archive if m.isfile())


def obtain(path: Path, expected: Archive) -> None:
    """Verifies the archive at `path`, or downloads it to `path`.

    Raises:
      ValueError: the file at `path` is not the official archive.
      DownloadError: the download fails, or its checksum is wrong.
    """
    if path.is_file():
        _verify(path, expected)
    else:
        _download(expected, path)


def partial_path(path: Path) -> Path:
    """The path of an archive until its download is complete and verified."""
    return path.with_name(f"{path.name}.partial")


def _verify(path: Path, expected: Archive) -> None:
    size, found = path.stat().st_size, ""
    if size == expected.size:  # otherwise the 148 GB of ImageNet need not be read
        with path.open("rb") as file:
            found = _copy(file, None, expected, f"checking {path.name}")
    if found != expected.sha256:
        raise ValueError(
            f"{path} has {size} bytes and SHA-256 {found or 'not computed'}, the "
            f"official archive {expected.size} bytes and {expected.sha256}: delete it "
            f"and download {expected.url} again"
        )


def _download(expected: Archive, path: Path) -> None:
    partial = partial_path(path)
    try:
        with _connect(expected.url) as response, partial.open("wb") as file:
            found = _copy(response, file, expected, f"downloading {path.name}")
        if found != expected.sha256:
            raise ConnectionError(
                f"SHA-256 {found}, not the official {expected.sha256}"
            )
        files.replace(partial, path)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"downloading {expected.url} failed: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _connect(url: str) -> Any:
    """Opens a URL within CONNECT_SECONDS; urllib's timeout excludes DNS lookups."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            outcome.put(urllib.request.urlopen(url, timeout=READ_SECONDS))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        response = outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {CONNECT_SECONDS} seconds") from None
    if isinstance(response, Exception):
        raise response
    return response


def _copy(source: Any, target: Any, expected: Archive, description: str) -> str:
    """Reads a file to its end, copying it to `target` if any; its SHA-256 in hex."""
    digest = hashlib.sha256()
    pause = 0 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(
        desc=description,
        total=expected.size,
        unit="B",
        unit_scale=True,
        delay=pause,
        mininterval=max(pause, 0.1),
        maxinterval=LOG_SECONDS,
    ) as bar:
        while block := source.read(1 << 20):
            digest.update(block)
            if target is not None:
                target.write(block)
            bar.update(len(block))
    return digest.hexdigest()
