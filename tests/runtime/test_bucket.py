"""Workdirs in a bucket, simulated by fsspec's in-memory file system."""

from pathlib import Path

import fsspec
import orbax.checkpoint as ocp
import pytest

from iterand_jax.data import sources
from iterand_jax.runtime import bucket
from iterand_jax.runtime.files import write_atomically
from iterand_jax.training.train import train_config


@pytest.fixture
def store():
    """An empty store."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()


def contents(store):
    return {path: store.cat_file(path) for path in store.find("/")}


@pytest.mark.smoke
def test_the_bucket_has_what_the_folder_has_but_nothing_unfinished(store):
    store.pipe_file("/runs/a/old", b"before")
    store.pipe_file("/runs/a/deep/er", b"too")
    with bucket.mirrored("memory://runs/a") as folder:
        assert (folder / "old").read_bytes() == b"before"
        assert (folder / "deep" / "er").read_bytes() == b"too"
        (folder / "old").unlink()
        (folder / "log").write_text("a")
        (folder / "lock").touch()
        (folder / "5.orbax-checkpoint-tmp").mkdir()
        (folder / "5.orbax-checkpoint-tmp" / "part").touch()
    assert contents(store) == {"/runs/a/log": b"a", "/runs/a/deep/er": b"too"}
    assert not folder.exists()


def test_only_what_will_have_another_name_is_unfinished(monkeypatch, tmp_path):
    names = [f"5{ocp.utils.TMP_DIR_SUFFIX}/state/d/part", "a/lock"]
    monkeypatch.setattr("os.replace", lambda old, new: names.append(old.name))
    write_atomically(tmp_path / "metrics.jsonl", "")
    assert len(names) == 3
    assert all(bucket._is_unfinished(Path(name)) for name in names)
    whole = ("metrics.jsonl", "tmp/locks.json", "checkpoints/5/d/tmp", "a.tmp/b.json")
    events = [
        f"tensorboard/events.out.tfevents.1.{host}" for host in ("tmpfs", "a.tmp")
    ]
    assert not any(bucket._is_unfinished(Path(name)) for name in (*whole, *events))


def test_the_bucket_is_kept_up_meanwhile_and_after_an_error(store):

    def use():
        with bucket.mirrored("memory://a", seconds=0.01) as folder:
            for text in ("first", "second, longer"):
                (folder / "log").write_text(text)
                while contents(store).get("/a/log") != text.encode():
                    pass
            (folder / "last").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        use()
    assert contents(store).keys() == {"/a/log", "/a/last"}


def refuse(*arguments):
    raise PermissionError("no\nrights")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Where folders of buckets are made, empty."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("refused", ["pipe_file", "rm_file"])
def test_a_bucket_that_cannot_be_written_is_named_at_once(
    store, here, monkeypatch, refused
):
    monkeypatch.setattr(store, refused, refuse)
    with (
        pytest.raises(
            ValueError, match=r"^the workdir memory://a cannot be writ.*no r"
        ),
        bucket.mirrored("memory://a"),
    ):
        pass
    assert not list(here.iterdir())


def test_a_copy_that_fails_is_logged_once_and_so_is_its_end(store, monkeypatch, caplog):
    put_file, failures = store.put_file, iter(range(3))

    def put(*arguments):
        if next(failures, None) is not None:
            refuse()
        put_file(*arguments)

    monkeypatch.setattr(store, "put_file", put)
    with bucket.mirrored("memory://a", seconds=0.01) as folder:
        (folder / "log").touch()
        while len(caplog.messages) < 2:
            pass
    assert caplog.messages == [
        "copying to memory://a fails and is retried every 0.01 seconds: no rights",
        "copying to memory://a works again",
    ]
    assert contents(store) == {"/a/log": b""}


def test_a_bucket_that_is_gone_is_an_error(store, monkeypatch):

    def put(path, name):
        raise FileNotFoundError(name)

    monkeypatch.setattr(store, "put_file", put)
    with (
        pytest.raises(OSError, match=r"could not be copied to memory://a \(/a/log\)"),
        bucket.mirrored("memory://a") as folder,
    ):
        (folder / "log").touch()


def test_a_run_whose_last_copy_fails_stays_here(store, here, monkeypatch):
    monkeypatch.setattr(store, "put_file", refuse)
    with (
        pytest.raises(OSError, match="no rights") as error,
        bucket.mirrored("memory://a") as folder,
    ):
        (folder / "log").write_text("a")
    assert str(error.value) == (
        "the end of the run could not be copied to memory://a (no rights); all of it "
        f"is in {folder}: copy that to memory://a, and the same command continues"
    )
    assert (folder / "log").read_text() == "a"
    assert list(here.iterdir()) == [folder]


def test_an_error_of_the_run_is_not_hidden_by_that_of_its_last_copy(
    store, here, monkeypatch, caplog
):

    def use():
        with bucket.mirrored("memory://a") as folder:
            (folder / "log").touch()
            raise RuntimeError("of the run")

    monkeypatch.setattr(store, "put_file", refuse)
    with pytest.raises(RuntimeError, match="of the run") as error:
        use()
    (folder,) = here.iterdir()
    assert (folder / "log").exists()
    (line,) = caplog.messages
    assert f"all of it is in {folder}: copy" in line
    assert error.value.__notes__ == [line]


def test_logs_are_copied_before_checkpoints_and_results_last(store, monkeypatch):
    put_file, names = store.put_file, []

    def put(path, name):
        names.append(name)
        put_file(path, name)

    monkeypatch.setattr(store, "put_file", put)
    with bucket.mirrored("memory://a") as folder:
        for name in (
            "checkpoints/5/a",
            "metrics.jsonl",
            "result.json",
            "s/result.json",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    assert names == [
        "/a/metrics.jsonl",
        "/a/checkpoints/5/a",
        "/a/s/result.json",
        "/a/result.json",
    ]


def test_a_bucket_that_cannot_be_reached_is_named():
    with (
        pytest.raises(ValueError, match=r"the workdir nowhere://a cannot be reached"),
        bucket.mirrored("nowhere://a"),
    ):
        pass


def test_datasets_are_not_read_from_buckets():
    with pytest.raises(ValueError, match=r"not from gs://a: mount the bucket or copy"):
        sources.resolve_data_dir("gs://a")


def test_a_run_in_a_bucket_is_found_finished_there(store, tiny_config):
    config = tiny_config(epochs=1)
    whole = train_config(config, "memory://runs/a")
    assert train_config(config, "memory://runs/a") == whole
    paths = contents(store)
    assert "/runs/a/config.json" in paths
    assert not any("tmp" in path or "lock" in path for path in paths)
