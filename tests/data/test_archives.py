"""Only official archives are used, and a network that fails is reported at once."""

import functools
import hashlib
import http.server
import io
import re
import socket
import sys
import threading

import pytest

from iterand_jax.data import archives, sources

CONTENT = b"official" * 1000
URL = "http://127.0.0.1:9/folder/file.tar"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def official(url=URL, by_hand=False):
    """The registered archive whose contents are CONTENT."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return archives.Archive(url, len(CONTENT), sha256, by_hand)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.tar"


@pytest.mark.parametrize(
    ("name", "files", "by_hand"),
    [
        ("cifar10", {"cifar-10-binary.tar.gz"}, False),
        ("imdb_reviews", {"aclImdb_v1.tar.gz"}, False),
        ("imagenet2012", {f"ILSVRC2012_img_{s}.tar" for s in ("train", "val")}, True),
    ],
)
def test_tfds_has_registered_every_archive(name, files, by_hand, tmp_path):
    builder, _ = sources.tfds_builder(name, str(tmp_path))
    registered = archives.registered_archives(builder)
    assert set(registered) == files
    for file_name, archive in registered.items():
        assert archive.url.startswith("http")
        assert archive.url.endswith(file_name)
        assert archive.size > 80e6
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert archive.by_hand == by_hand


def test_an_archive_is_the_file_given_or_lies_in_the_folder_given(path, tmp_path):
    path.write_bytes(CONTENT)
    elsewhere = tmp_path / "elsewhere"
    locate = functools.partial(archives.locate, "file.tar", official(), elsewhere)
    assert locate(str(path)) == path
    assert locate(str(tmp_path)) == path
    assert locate(None) == elsewhere / "file.tar"
    for absent in (elsewhere, tmp_path / "renamed.tar"):
        with pytest.raises(ValueError, match=f"no archive at {absent}/file.tar"):
            locate(str(absent))


def test_what_needs_an_account_must_be_there(path, tmp_path):
    by_hand = official("http://www.site.org/file.tar", by_hand=True)
    with pytest.raises(ValueError, match=r"^file\.tar .* at www\.site\.org.*--archive"):
        archives.locate("file.tar", by_hand, tmp_path, None)
    path.write_bytes(CONTENT)
    assert archives.locate("file.tar", by_hand, tmp_path, None) == path


@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_wrong_archive_is_refused_and_kept(path, damaged):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        archives.obtain(path, official())
    assert official().sha256 in str(error.value)
    assert f"{len(damaged)} bytes" in str(error.value)
    assert path.read_bytes() == damaged


def test_downloads_over_http_and_only_once(path, tmp_path):
    (tmp_path / "served").mkdir()
    served = tmp_path / "served" / "file.tar"
    served.write_bytes(CONTENT)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=served.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        expected = official(f"http://127.0.0.1:{server.server_port}/file.tar")
        archives.obtain(path, expected)
        server.shutdown()
    assert path.read_bytes() == CONTENT
    assert not archives.partial_path(path).exists()
    archives.obtain(path, expected)


@pytest.mark.parametrize("served", [CONTENT[:-1], CONTENT[:-1] + b"x", None])
def test_a_download_that_fails_leaves_nothing(path, tmp_path, served):
    source = tmp_path / "served.tar"
    if served is not None:
        source.write_bytes(served)
    message = "SHA-256" if served is not None else "No such file"
    with pytest.raises(archives.DownloadError, match=message) as error:
        archives.obtain(path, official(source.as_uri()))
    assert source.as_uri() in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["served.tar"] * (served is not None)


def test_a_download_that_is_interrupted_leaves_nothing(path, tmp_path, monkeypatch):
    source = tmp_path / "served.tar"
    source.write_bytes(CONTENT)

    def interrupted(response, file, *arguments):
        file.write(response.read(10))
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        archives.obtain(path, official(source.as_uri()))
    assert list(tmp_path.iterdir()) == [source]


def test_a_refused_connection_is_a_download_error(path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.tar"
        with pytest.raises(archives.DownloadError, match=rf"{url} failed: .*refused"):
            archives.obtain(path, official(url))


def test_a_silent_network_is_given_up(path, monkeypatch):
    monkeypatch.setattr(archives, "CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.tar"
        with pytest.raises(archives.DownloadError, match=r"no answer within 0\.05"):
            archives.obtain(path, official(url))


def test_progress_is_live_on_a_terminal_and_sparse_elsewhere(path, monkeypatch, capfd):
    path.write_bytes(CONTENT)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Terminal())
        archives.obtain(path, official())
        assert "checking file.tar: 100%" in sys.stderr.getvalue()
    archives.obtain(path, official())
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(archives, "LOG_SECONDS", 0)
    archives.obtain(path, official())
    assert "checking file.tar: 100%" in capfd.readouterr().err
