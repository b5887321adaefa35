"""Tickets in repositories of the Hugging Face Hub: read one, and publish a folder.

    hf://user/repo[@revision][/FILE]

A repository is one of models, and FILE is `ticket.safetensors` unless it is named. The
package huggingface_hub does the calls: HF_ENDPOINT, HF_TOKEN, HF_HOME and
HF_HUB_OFFLINE mean what they mean everywhere. It comes with `tokenizers`, and is
imported for such an address only.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from iterand_jax.runtime.checks import described
from iterand_jax.runtime.files import check_written
from iterand_jax.runtime.remote import in_one_line, too_large

SCHEME = "hf://"
FILE = "ticket.safetensors"
SECONDS = 8.0
"""How long the Hub has to say which file it is, before the cache is looked at."""

_LATER = (408, 429)
"""What a Hub answers that is too busy, and does not refuse."""

_ADDRESS = re.compile(
    r"hf://(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/@]+))?(?:/(?P<file>.+))?"
)
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class Address(NamedTuple):
    """A file in a repository; the revision is None where none is named."""

    repo: str
    revision: str | None
    file: str


def parse(url: str) -> Address:
    """The parts of hf://user/repo[@revision][/FILE].

    Raises:
      ValueError: it has another form.

    >>> parse("hf://user/repo@v1.0")
    Address(repo='user/repo', revision='v1.0', file='ticket.safetensors')
    >>> parse("hf://user/repo/tickets/a.safetensors")
    Address(repo='user/repo', revision=None, file='tickets/a.safetensors')
    """
    match = _ADDRESS.fullmatch(url)
    if match is None:
        raise ValueError(f"{url} is no ticket; possible: hf://user/repo[@revision]")
    check_repo(match["repo"])
    return Address(match["repo"], match["revision"], match["file"] or FILE)


def check_repo(repo: str) -> None:
    """Raises ValueError unless this names a repository, as user/repo."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ValueError(f"the repository is {repo!r:.100}; possible: user/repo")


def fetched(
    url: str,
    *,
    most: int,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The file of an address, in the cache that all hub libraries share.

    A Hub that cannot be reached, or takes over `SECONDS` to say which file it is, is
    replaced by the cache.

    Args:
      url: the address.
      most: bytes that are downloaded, as the Hub reports the size of the file.
      revision: a branch, tag or commit; None for what the address says, or else main.
      token: of a private repository; None for the one that was logged in with.
      cache_dir: of the cache; None for the default.
      local_files_only: whether to look into the cache alone.

    Raises:
      ValueError: in one line, there is no such repository, revision or file, it may not
        be read or is too large, or the Hub cannot be reached and the cache does not
        have it.
    """
    hub, address = _library(url), parse(url)
    if not isinstance(revision, str | None):
        raise ValueError(f"revision is {described(revision)}; possible: a string")
    if revision is not None and address.revision not in (None, revision):
        raise ValueError(f"{url} names another revision than revision={revision!r}")
    repo, revision, file = address._replace(revision=revision or address.revision)
    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    options: dict[str, Any] = {"revision": revision, "token": token}
    unreached, size = None, None
    if not local_files_only:
        try:
            where = hub.hf_hub_url(repo, file, revision=revision)
            metadata = _in_time(
                lambda: hub.get_hf_file_metadata(where, token=token, timeout=SECONDS)
            )
            size = metadata.size
        except Exception as error:
            unreached = _unreached(hub, error, url, file)
    if size is not None and size > most:
        raise ValueError(f"{url} cannot be read: {too_large(most)}")
    local = local_files_only or unreached is not None
    try:
        found = hub.hf_hub_download(
            repo, file, cache_dir=cache, local_files_only=local, **options
        )
    except Exception as error:
        if not local:
            unreached = _unreached(hub, error, url, file)
        where = f"the cache {cache or hub.constants.HF_HUB_CACHE}"
        if unreached is None:
            raise ValueError(f"{url} is not in {where}") from error
        raise ValueError(
            f"{url} cannot be reached ({unreached}), and is not in {where}"
        ) from error
    return Path(found)


def publish(
    folder: Path, repo: str, names: Iterable[str], *, token: str | None = None
) -> str:
    """Uploads files of a folder as one commit; makes the repository if need be.

    A link is none of them: it may point to what is secret.

    Args:
      folder: that has the files, and maybe others, which are nobody else's business.
      repo: user/repo; one that is made is public, or as the user's settings say.
      names: of the files, of which those that are there are uploaded.
      token: that may write; None for the one that was logged in with.

    Returns:
      The address of the commit.

    Raises:
      ValueError: in one line, the Hub cannot be reached or refuses.
    """
    check_repo(repo)
    hub = _library(SCHEME + repo)
    api = hub.HfApi(token=token)
    message = "Upload a ticket of iterand_jax"
    try:
        found = [name for name in names if os.path.lexists(folder / name)]
        for name in found:
            check_written(folder / name)
        additions = [hub.CommitOperationAdd(name, folder / name) for name in found]
        api.create_repo(repo, exist_ok=True)
        commit = api.create_commit(repo, additions, commit_message=message)
    except Exception as error:
        raise ValueError(
            f"{folder} cannot be pushed to {repo}: {_first_line(error)}"
        ) from error
    return str(commit.commit_url)


def _library(url: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError(
            f"{url} needs the package huggingface_hub: {in_one_line(error)}"
        ) from error
    return huggingface_hub


def _in_time(call: Callable[[], Any]) -> Any:
    """What a call gives; waits `SECONDS`, as looking up a host has no timeout.

    Raises:
      TimeoutError: it takes longer; and what the call raises.
    """
    given: list[Any] = []
    raised: list[Exception] = []

    def body() -> None:
        try:
            given.append(call())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {SECONDS:g} seconds")
    if raised:
        raise raised[0]
    return given[0]


def _unreached(hub: Any, error: Exception, url: str, file: str) -> str:
    """Why the Hub was not reached.

    Raises:
      ValueError: it was, and refuses.
    """
    errors, said = hub.errors, None
    if isinstance(error, errors.GatedRepoError):
        said = "its readers must be accepted, and the token has not been"
    elif isinstance(error, errors.RepositoryNotFoundError):
        said = "there is no such repository, or the token given may not read it"
    elif isinstance(error, errors.RevisionNotFoundError):
        said = "the repository has no such revision"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        pass
    elif isinstance(error, errors.EntryNotFoundError):
        said = f"it holds no ticket: there is no {file}"
    elif isinstance(error, (errors.HFValidationError, errors.LocalTokenNotFoundError)):
        said = _first_line(error)
    elif isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        refused = 400 <= status < 500 and status not in _LATER
        said = _first_line(error) if refused else None
    if said is not None:
        raise ValueError(f"{url} cannot be read: {said}") from error
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return in_one_line(ValueError(lines[0]))[:200] if lines else type(error).__name__
