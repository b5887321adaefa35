"""Lock files, also on file systems without locks."""

import errno
import fcntl
import os

import pytest

from iterand_jax.runtime.locks import alone, alone_or_refused


def test_a_folder_without_locks_is_used_and_that_is_said(tmp_path, monkeypatch, capsys):
    def refused(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refused)
    lock = tmp_path / "lock"
    with alone_or_refused(lock, refusal="held"), alone(lock, while_waiting="waiting"):
        said = capsys.readouterr().err
    assert said.count("a second process is not kept out: ") == 2
    assert f"{lock} cannot be locked (Function not implemented)" in said


def test_another_error_is_one(tmp_path, monkeypatch):
    def refused(file, how):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refused)
    with (
        pytest.raises(OSError, match="Input/output error"),
        alone_or_refused(tmp_path / "lock", refusal="held"),
    ):
        pass


def test_a_foreign_folders_lock_is_no_pipe_and_no_link(tmp_path):
    """A pipe would be waited for, and the file that a link is of emptied."""
    (tmp_path / "other").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with (
            pytest.raises(OSError, match=name),
            alone_or_refused(tmp_path / name, refusal="held"),
        ):
            pass
    assert (tmp_path / "other").read_text() == "kept"
