"""Tickets at URLs and in repositories of the Hub, without a network."""

import importlib
import os
import socket
import time
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.callbacks import Callback
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from iterand_jax import Subnetwork, load_ticket, save_ticket
from iterand_jax.tickets import hub as of_hub
from iterand_jax.tickets import places
from tests import helpers
from tests.tickets.hub_server import served

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def empty_store():
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub on this machine, in place of the real one; nothing is in the cache."""
    with served() as (hub, address):
        set_endpoint(monkeypatch, address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def set_endpoint(monkeypatch, address):
    path = "/{repo_id}/resolve/{revision}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + path + "/{filename}"
    # Before 1.0, the module that downloads keeps the template of its own import.
    for module in (constants, importlib.import_module("huggingface_hub.file_download")):
        monkeypatch.setattr(
            module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )


def a_tree(seed=0):
    subnetwork, key = Subnetwork(0.5, "signed_constant"), jax.random.key(seed)
    scores, weights = subnetwork.init(key, {"kernel": jnp.zeros((12, 8))})
    return weights, subnetwork.masks(scores), subnetwork.prune(scores, weights)


def content_of(tmp_path, seed=0):
    """The bytes of a ticket, and the weights that it has."""
    weights, masks, pruned = a_tree(seed)
    save_ticket(tmp_path / "one", weights, masks)
    return (tmp_path / "one").read_bytes(), np.asarray(pruned["kernel"])


@pytest.mark.smoke
def test_a_ticket_at_a_url_is_the_one_that_was_saved(tmp_path):
    weights, masks, pruned = a_tree()
    for place in ("memory://bucket/deep/ticket", f"file://{tmp_path}/ticket"):
        save_ticket(place, weights, masks)
        loaded = load_ticket(place)
        assert np.array_equal(loaded.params["kernel"], pruned["kernel"])
        loaded.save(place + "_again")
        assert np.array_equal(
            load_ticket(place + "_again").masks["kernel"], masks["kernel"]
        )
    assert fsspec.filesystem("memory").exists("/bucket/deep/ticket")
    content = fsspec.filesystem("memory").cat_file("/bucket/deep/ticket")
    assert content == (tmp_path / "ticket").read_bytes() == content_of(tmp_path)[0]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://none/a", "^there is no ticket memory://none/a$"),
        (
            "memory://bucket",
            "^the ticket memory://bucket cannot be read: it is no file",
        ),
        ("memory://bucket/text", "^memory://bucket/text is not a complete ticket: "),
        ("nowhere://a", "^the ticket nowhere://a cannot be reached: .* nowhere$"),
        ("hf://a", r"^hf://a is no ticket; possible: hf://user/repo\[@revision\]$"),
        ("hf://a/b@@c", "is no ticket"),
        ("hf://a/..", "^the repository is 'a/..'; possible: user/repo$"),
    ],
)
def test_what_is_no_ticket_at_a_url_is_one_line(url, message):
    fsspec.filesystem("memory").pipe_file("/bucket/text", b"no ticket")
    with pytest.raises(ValueError, match=message) as refused:
        load_ticket(url)
    assert "\n" not in str(refused.value)
    assert "/tmp" not in str(refused.value)


@pytest.mark.parametrize("reported", ["true", "smaller", None])
def test_a_copy_of_what_is_too_large_ends(reported, tmp_path, monkeypatch):
    """By the size that a store reports, or else where the limit is."""
    store, (content, kernel) = MemoryFileSystem(), content_of(tmp_path)
    store.pipe_file("/bucket/one", content)
    about, update, copied = MemoryFileSystem.info, Callback.relative_update, []
    if reported != "true":
        size = {"size": 99 if reported else None}
        lying = lambda *given, **named: about(*given, **named) | size  # noqa: E731
        monkeypatch.setattr(MemoryFileSystem, "info", lying)
        monkeypatch.setattr(MemoryFileSystem, "blocksize", 64)
        monkeypatch.setattr(MemoryFile, "size", None)

    def counted(self, inc=1):
        copied.append(inc)
        update(self, inc)

    monkeypatch.setattr(Callback, "relative_update", counted)
    monkeypatch.setattr(places, "MOST_REMOTE", len(content))
    assert np.array_equal(load_ticket("memory://bucket/one").params["kernel"], kernel)
    assert sum(copied) == len(content)
    copied.clear()
    monkeypatch.setattr(places, "MOST_REMOTE", 100)
    with pytest.raises(ValueError, match="cannot be read") as refused:
        load_ticket("memory://bucket/one")
    assert str(refused.value) == (
        "the ticket memory://bucket/one cannot be read: it has more than 100 bytes; "
        "possible: the path of a copy of yours"
    )
    assert sum(copied) == (0 if reported == "true" else 128)


def test_a_pipe_at_a_url_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="it is no file: other"):
        load_ticket(f"file://{tmp_path}/pipe")


def test_where_a_ticket_cannot_be_written_is_one_line(tmp_path):
    weights, masks, _ = a_tree()
    with pytest.raises(ValueError, match="cannot be reached: Protocol not known"):
        save_ticket("nowhere://a", weights, masks)
    with pytest.raises(
        ValueError, match=f"^the ticket file://{tmp_path}/a/b cannot be w"
    ):
        save_ticket(f"file://{tmp_path}/a/b", weights, masks)
    with pytest.raises(ValueError, match="--format=hub --push=user/repo"):
        save_ticket("hf://user/repo", weights, masks)


def test_a_server_that_is_asked_at_once_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for url in (f"ftp://127.0.0.1:{port}/a", "zip://a::/nowhere.zip"):
        with pytest.raises(ValueError, match=f"^the ticket {url} cannot be reached: "):
            load_ticket(url)


def test_a_password_in_a_url_is_not_repeated(monkeypatch):
    def lost(url):
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(fsspec, "url_to_fs", lost)
    for url in ("ftp://me:secret@host/a", "https://host/a?signature=secret"):
        with pytest.raises(ValueError, match="cannot be reached: no route") as refused:
            load_ticket(url)
        assert "secret" not in str(refused.value)
        with pytest.raises(ValueError, match="token is of repositories") as refused:
            load_ticket(url, token="other")
        assert "secret" not in str(refused.value)


def test_a_home_is_found_and_what_is_no_path_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights, masks, pruned = a_tree()
    save_ticket("~/one", weights, masks)
    for path in ("~/one", tmp_path / "one"):
        assert np.array_equal(load_ticket(path).params["kernel"], pruned["kernel"])
    with pytest.raises(ValueError, match=r"^the ticket is 3; possible: a path or URL$"):
        load_ticket(3)
    with pytest.raises(ValueError, match="possible: a URL as a string"):
        save_ticket(Path("memory://bucket/a"), weights, masks)
    with pytest.raises(ValueError, match=r"^revision is 3; possible: a string$"):
        load_ticket("hf://user/repo", revision=3)


def test_a_file_url_has_the_new_file_or_the_old_one(tmp_path, monkeypatch):
    weights, masks, _ = a_tree()
    url = f"file://{tmp_path}/one"
    save_ticket(url, weights, masks)
    before = (tmp_path / "one").read_bytes()

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"^the ticket file.*No space left"):
        save_ticket(url, *a_tree(1)[:2])
    assert (tmp_path / "one").read_bytes() == before


@pytest.mark.parametrize(
    "given",
    [{"revision": "a"}, {"token": "t"}, {"cache_dir": "."}, {"local_files_only": True}],
    ids=lambda given: next(iter(given)),
)
def test_what_is_of_the_hub_is_refused_elsewhere(given):
    with pytest.raises(ValueError, match=f"^{next(iter(given))} is of repositories of"):
        load_ticket("memory://a", **given)


@pytest.mark.smoke
def test_a_repository_is_read_by_name_revision_and_file(hub, tmp_path):
    contents = {name: content_of(tmp_path, i) for i, name in enumerate("abc")}
    hub.contents["user/repo", "main"] = {
        "ticket.safetensors": contents["a"][0],
        "deep/other.safetensors": contents["b"][0],
    }
    hub.contents["user/repo", "v1"] = {"ticket.safetensors": contents["c"][0]}

    def kernel(url, **options):
        return load_ticket(url, **options).params["kernel"]

    named = {
        "a": [("hf://user/repo", {}), ("hf://user/repo@main", {"revision": "main"})],
        "b": [("hf://user/repo/deep/other.safetensors", {})],
        "c": [("hf://user/repo@v1", {}), ("hf://user/repo", {"revision": "v1"})],
    }
    for name, urls in named.items():
        for url, options in urls:
            assert np.array_equal(kernel(url, **options), contents[name][1])
    commit = hub.commit_of("user/repo", "v1")
    own = {"cache_dir": tmp_path / "own", "token": "secret"}
    assert np.array_equal(kernel(f"hf://user/repo@{commit}", **own), contents["c"][1])
    assert "Bearer secret" in hub.tokens
    calls = len(hub.calls)
    kernel("hf://user/repo@v1", local_files_only=True)
    assert len(hub.calls) == calls
    with pytest.raises(ValueError, match="another revision than revision='v2'"):
        kernel("hf://user/repo@v1", revision="v2")


def test_what_is_too_large_on_the_hub_is_not_downloaded(hub, tmp_path, monkeypatch):
    content, kernel = content_of(tmp_path)
    hub.contents["user/repo", "main"] = {"ticket.safetensors": content}
    monkeypatch.setattr(places, "MOST_REMOTE", len(content) - 1)
    with pytest.raises(ValueError, match=r"^hf://user/repo cannot be read: it "):
        load_ticket("hf://user/repo")
    assert [method for method, _ in hub.calls] == ["HEAD"]
    monkeypatch.setattr(places, "MOST_REMOTE", len(content))
    assert np.array_equal(load_ticket("hf://user/repo").params["kernel"], kernel)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hf://user/none", "there is no such repository, or the token given may not"),
        ("hf://user/repo@v9", "the repository has no such revision"),
        ("hf://user/repo", "it holds no ticket: there is no ticket.safetensors"),
        ("hf://user/repo/README.md", "^hf://user/repo/README.md is not a complete"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(hub, url, message):
    hub.contents["user/repo", "main"] = {"README.md": b"text"}
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as refused:
        load_ticket(url)
    assert str(refused.value).startswith(url)
    assert "\n" not in str(refused.value)
    assert time.monotonic() - start < 10


def unreachable(monkeypatch, how):
    """Makes the Hub one that refuses connections, or never answers them."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    if how == "refuses":
        listening.close()
    monkeypatch.setattr(of_hub, "SECONDS", 0.3)
    set_endpoint(monkeypatch, address)
    return listening


@pytest.mark.parametrize("how", ["refuses", "is silent", 503, 429])
def test_without_a_network_the_cache_is_used_or_a_line_says_so(
    hub, how, tmp_path, monkeypatch
):
    content, kernel = content_of(tmp_path)
    hub.contents["user/repo", "main"] = {"ticket.safetensors": content}
    load_ticket("hf://user/repo")
    if isinstance(how, int):
        hub.status = how
        monkeypatch.setattr(of_hub, "SECONDS", 2.0)  # before 1.0 a 503 is retried
    else:
        listening = unreachable(monkeypatch, how)
    start = time.monotonic()
    assert np.array_equal(load_ticket("hf://user/repo").params["kernel"], kernel)
    message = r"^hf://user/other cannot be reached \(.+\), and is not in the cache /"
    with pytest.raises(ValueError, match=message) as refused:
        load_ticket("hf://user/other")
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"^hf://user/other is not in the cache /"):
        load_ticket("hf://user/other", local_files_only=True)
    assert time.monotonic() - start < 10
    if not isinstance(how, int):
        listening.close()


def test_a_folder_is_published_as_one_commit_and_read_back(hub, tmp_path):
    content, kernel = content_of(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ticket.safetensors").write_bytes(content)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Card\n")
    (folder / "notes.txt").write_text("of nobody else")
    names = ("ticket.safetensors", "README.md", "curves.png")
    url = of_hub.publish(folder, "user/repo", names, token="secret")
    assert url.endswith("/user/repo/commit/" + hub.commit_of("user/repo", "main"))
    assert hub.contents["user/repo", "main"].keys() == {
        "README.md",
        "ticket.safetensors",
    }
    assert sum("/commit/" in path for _, path in hub.calls) == 1
    assert np.array_equal(load_ticket("hf://user/repo").params["kernel"], kernel)
    hub.status = 403
    with pytest.raises(ValueError, match=r"be pushed to user/repo: .*403") as no:
        of_hub.publish(folder, "user/repo", names, token="secret")
    assert "\n" not in str(no.value)
    assert "secret" not in str(no.value)
    with pytest.raises(ValueError, match="the repository is 'repo'; possible"):
        of_hub.publish(folder, "repo", names)


def test_a_link_is_not_published(hub, tmp_path):
    """A folder of others may have one that points to what is secret."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "curves.png").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"pushed to user/repo: .*a symbolic link to"):
        of_hub.publish(folder, "user/repo", ["curves.png"])
    assert not hub.contents


def test_a_damaged_copy_in_the_cache_is_named(hub, tmp_path):
    content, _ = content_of(tmp_path)
    hub.contents["user/repo", "main"] = {"ticket.safetensors": content[:-3]}
    with pytest.raises(ValueError, match=r"^hf://user/repo is not a comp") as damaged:
        load_ticket("hf://user/repo")
    said, _, copy = str(damaged.value).rpartition("; its copy is ")
    assert said.endswith("not fully covered")
    assert Path(copy).read_bytes() == content[:-3]


def test_huggingface_hub_is_imported_for_such_an_address_only():
    script = (
        "import sys; from iterand_jax.tickets import places, hub; name = 'hugging"
        "face_hub'; print(name in sys.modules); sys.modules[name] = None\n"
        "try: hub.fetched('hf://user/repo', most=9)\n"
        "except ValueError as error: print(error)"
    )
    first, second = helpers.printed("-c", script).splitlines()
    assert first == "False"
    assert second.startswith("hf://user/repo needs the package huggingface_hub: ")


def test_errors_of_a_local_path_are_as_they_were(tmp_path):
    with places.local(tmp_path / "a") as path:
        assert path == tmp_path / "a"
