import errno
import gc
import logging
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from iterand_jax.training import orbax_log
from iterand_jax.training.checkpoint import Checkpoints, state_leaves
from iterand_jax.training.checkpoint_folder import (
    CheckpointFolder,
    IncompatibleCheckpointError,
    saved_steps,
)
from iterand_jax.trees import leaves_of, sha256
from tests import helpers

# Orbax leaves coroutines unawaited when a file is damaged; not tested here.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

STATE = {
    "weights": {"kernel": jnp.linspace(-1, 1, 1000), "bias": None},
    "step": jnp.int32(5),
    "empty": {},
}


def abstract():
    return jax.eval_shape(lambda: STATE)


def save(folder, steps, keep=3):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        state = STATE | {"step": jnp.int32(step)}
        checkpoints.save(step, state, {"redrawn": 10 * step})
    checkpoints.close()


def restore(folder):
    checkpoints = Checkpoints(folder, keep=3)
    try:
        return checkpoints.restore(abstract())
    finally:
        checkpoints.close()


def damage(folder, step, how):
    item = "record" if how == "record" else "state"
    files = [p for p in (folder / str(step) / item).rglob("*") if p.is_file()]
    data = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    if how in ("truncated", "record"):
        data.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    else:
        shutil.rmtree(folder / str(step) / "state")


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_was_removed_is_not_written_to(tmp_path, again):
    """Nor another of its name: Orbax itself may have made that, in a last save."""
    folder = tmp_path / "workdir/checkpoints"
    checkpoints = Checkpoints(folder, keep=3)
    checkpoints.save(1, STATE, {})
    checkpoints.wait()
    shutil.rmtree(folder.parent)
    if again:
        folder.mkdir(parents=True)
    with pytest.raises(OSError, match=r"cannot be written in .*: No such file"):  # noqa: PT012
        checkpoints.save(2, STATE, {})
        checkpoints.wait()
    assert not list(folder.glob("*"))
    with pytest.raises(OSError, match=r"cannot be written in .*: No such file"):
        checkpoints.wait()
    checkpoints.close()


FORBIDDEN = """
import ctypes, os, sys, time
from pathlib import Path

if "obeys" not in sys.argv:  # after exec, root obeys permissions, too
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    os.execv(sys.executable, [sys.executable, *sys.argv, "obeys"])
import numpy as np
from iterand_jax.training.checkpoint import Checkpoints

folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder, keep=3)
checkpoints.save(1, {"a": np.zeros(3)}, {})
checkpoints.wait()
folder.chmod(0o555)
try:
    checkpoints.save(2, {"a": np.zeros(3)}, {})
    checkpoints.wait()
except OSError as error:
    print(str(error).rpartition(": ")[2])
folder.chmod(0o755)
"""


@pytest.mark.slow
def test_a_process_ends_when_a_save_may_not_write(tmp_path):
    (tmp_path / "forbidden.py").write_text(FORBIDDEN)
    arguments = tmp_path / "forbidden.py", tmp_path / "checkpoints"
    path = {"PYTHONPATH": str(helpers.ROOT)}
    printed = helpers.printed(*arguments, env=path, timeout=120)  # not five minutes
    assert printed == "Permission denied; that of step 1 is whole\n"


@pytest.mark.parametrize("name", ["record/metadata", "state/_METADATA"])
@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_or_a_link_in_a_checkpoint_is_not_opened(name, link, tmp_path, caplog):
    """A pipe would be waited for, and a link may point to anything."""
    folder = tmp_path / "checkpoints"
    save(folder, [10, 20])
    path = folder / "20" / name
    moved = path.rename(tmp_path / "moved")
    if link:
        path.symlink_to(moved)
    else:
        os.mkfifo(path)
    reader = Checkpoints(folder, keep=3, only_read=True)
    _, record = reader.restore(abstract())
    assert record == {"redrawn": 100}
    with pytest.raises(ValueError, match=f"damaged .{name} is no regular file"):
        reader.restore_step(20, abstract())
    reader.close()
    assert f"20 ({name} is no regular file)" in caplog.text


def test_a_folder_with_what_orbax_would_wait_for_is_not_opened(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, [10, 20])
    path = folder / "10/_CHECKPOINT_METADATA"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=f"{path} is no regular file"):
        Checkpoints(folder, keep=3, only_read=True)


def test_damaged_checkpoints_replace_nothing_elsewhere(tmp_path):
    """In a workdir of others their folder may be a link to another run's."""
    folder, others = tmp_path / "w/checkpoints", tmp_path / "others/checkpoints"
    save(others, [20])
    save(folder, [10, 20])
    damage(folder, 20, "truncated")
    (tmp_path / "w/damaged_checkpoints").symlink_to(others)
    with pytest.raises(ValueError, match="damaged_checkpoints is a symbolic link to"):
        restore(folder)
    assert int(restore(others)[0]["step"]) == 20


def test_only_a_folder_is_counted_as_a_checkpoint(tmp_path):
    save(tmp_path, [10])
    (tmp_path / "20").symlink_to(tmp_path / "nowhere")
    (tmp_path / "30").touch()
    assert saved_steps(tmp_path) == [10]


def test_a_name_that_tensorstore_does_not_take_is_refused_before_any_work(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(ValueError, match="its name is not UTF-8"):
        Checkpoints(folder, keep=3)
    assert not folder.exists()


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert restore(tmp_path / "checkpoints") is None


@pytest.mark.smoke
def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    save(tmp_path / "c", [5, 10])
    state, record = restore(tmp_path / "c")
    assert record == {"redrawn": 100}
    assert state["step"] == 10
    assert state["weights"]["bias"] is None
    assert state["empty"] == {}
    np.testing.assert_array_equal(
        state["weights"]["kernel"], STATE["weights"]["kernel"]
    )


def test_a_step_can_be_asked_for(tmp_path):
    save(tmp_path / "c", [5, 10])
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    assert checkpoints.restore_step(5, abstract())[0]["step"] == 5
    with pytest.raises(ValueError, match=r"no checkpoint of step 7 .*possible: 5, 10$"):
        checkpoints.restore_step(7, abstract())
    checkpoints.close()


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path / "c", [1, 2, 3, 4], keep=2)
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"3", "4"}


def test_the_best_are_kept_beside_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1, keep_best=2)
    for step, score in ((1, 0.5), (2, 0.9), (3, None), (4, 0.7), (5, 0.1), (6, None)):
        checkpoints.save(step, STATE, {}, score)
    checkpoints.close()
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"2", "4", "6"}


def test_the_best_are_kept_by_a_run_that_continues(tmp_path):
    """Scores are read again; a checkpoint whose record is damaged has none."""
    folder = tmp_path / "c"

    def kept_after(*saved):
        checkpoints = Checkpoints(folder, keep=1, keep_best=1)
        for step, score in saved:
            checkpoints.save(step, STATE, {}, score)
        checkpoints.close()
        return {path.name for path in folder.iterdir()}

    assert kept_after((1, 0.9), (2, 0.5)) == {"1", "2"}
    assert kept_after((3, 0.4)) == {"1", "3"}
    assert kept_after((4, 0.9)) == {"4"}
    assert kept_after((5, 0.1)) == {"4", "5"}
    damage(folder, 4, "record")
    assert kept_after((6, 0.2)) == {"6"}
    gc.collect()


def test_a_checkpoint_of_another_state_is_refused_and_not_set_aside(tmp_path):
    folder = tmp_path / "c"
    save(folder, [5])
    other = jax.eval_shape(
        lambda: {"weights": {"kernel": jnp.ones(7)}, "step": jnp.int32(0), "new": 1.0}
    )
    checkpoints = Checkpoints(folder, keep=3)
    message = (
        r"c/5 is of another version of the state \(there / here\): "
        r"new: \(none\) / float32\[\]; weights/kernel: float32\[1000\] / float32\[7\]$"
    )
    with pytest.raises(IncompatibleCheckpointError, match=message):
        checkpoints.restore(other)
    checkpoints.close()
    assert restore(folder)[0]["step"] == 5


@pytest.mark.parametrize(
    "leaf", [jnp.zeros((10, 100)), jnp.zeros((999,)), jnp.zeros((1000,), jnp.int32)]
)
def test_a_leaf_of_another_shape_or_dtype_is_refused(leaf, tmp_path):
    # Orbax restores it: with the shape that was saved, and integers without fractions.
    save(tmp_path / "c", [5])
    other = jax.eval_shape(lambda: STATE | {"weights": {"kernel": leaf, "bias": None}})
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    message = rf"weights/kernel: float32\[1000\] / {leaf.dtype}\["
    with pytest.raises(IncompatibleCheckpointError, match=message):
        checkpoints.restore(other)
    checkpoints.close()


def test_keys_with_dots_do_not_collide(tmp_path):
    # Orbax joins the keys of a nested tree with dots, so these would be one array.
    state = {
        "a.b": jnp.zeros(1),
        "a": {"b": jnp.ones(1)},
        "a.": {"b": jnp.full(1, 2.0)},
    }
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(5, state, {})
    found = checkpoints.restore(jax.eval_shape(lambda: state))
    checkpoints.close()
    assert found is not None
    assert leaves_of(found[0]) == leaves_of(state)


def test_a_saved_state_does_not_change_with_its_donated_buffers(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    state = STATE | {"weights": {"kernel": jnp.ones(100_000), "bias": None}}
    checkpoints.save(1, state, {})
    doubled = double(state["weights"]["kernel"])
    checkpoints.wait()
    restored, _ = checkpoints.restore(jax.eval_shape(lambda: state_of(doubled)))
    checkpoints.close()
    assert np.all(restored["weights"]["kernel"] == 1)


def state_of(kernel):
    return STATE | {"weights": {"kernel": kernel, "bias": None}}


@pytest.mark.parametrize("how", ["truncated", "flipped", "removed", "record"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path, caplog, how
):
    folder = tmp_path / "c"
    save(folder, [5, 10])
    damage(folder, 10, how)
    state, record = restore(folder)
    assert state["step"] == 5
    assert record == {"redrawn": 50}
    assert str(folder / "10") in caplog.text
    assert (tmp_path / "damaged_checkpoints" / "10").is_dir()
    save(folder, [10])
    assert restore(folder)[0]["step"] == 10
    gc.collect()


@pytest.mark.slow
def test_any_damage_to_any_file_is_harmless_or_found(tmp_path):
    """Bits of every file are flipped, of the record's one in every byte."""
    folder, broken = tmp_path / "c", tmp_path / "broken" / "c"
    save(folder, [5, 10])
    generator = random.Random(0)
    used = set()
    for file in sorted((folder / "10").rglob("*")):
        content = file.read_bytes() if file.is_file() else b""
        is_record = file.relative_to(folder / "10") == Path("record/metadata")
        places = (
            range(len(content))
            if is_record
            else generator.sample(range(len(content)), min(8, len(content)))
        )
        for place in places:
            shutil.copytree(folder, broken)
            damaged = bytearray(content)
            damaged[place] ^= 1 << generator.randrange(8)
            (broken / file.relative_to(folder)).write_bytes(damaged)
            state, record = restore(broken)
            used.add(int(state["step"]))
            assert record == {"redrawn": 10 * state["step"]}
            assert int(state["step"]) == 5 or not is_record
            for path, leaf in leaves_of(state).items():
                if path != "step":
                    np.testing.assert_array_equal(leaf, leaves_of(STATE)[path])
            shutil.rmtree(broken.parent)
    assert used == {5, 10}
    gc.collect()


def test_only_damaged_checkpoints_are_an_error_that_names_them(tmp_path):
    folder = tmp_path / "c"
    save(folder, [5, 10])
    damage(folder, 5, "flipped")
    damage(folder, 10, "truncated")
    with pytest.raises(ValueError, match=r"c/10.*c/5"):
        restore(folder)
    gc.collect()


def test_the_digest_sees_path_dtype_shape_and_bytes():
    leaves = state_leaves({"a": jnp.zeros((2, 3))})
    digests = {
        sha256(x)
        for x in (
            leaves,
            {"b": leaves["a"]},
            {"a": leaves["a"].reshape(3, 2)},
            {"a": leaves["a"].view(np.int32)},
            {"a": -leaves["a"]},
        )
    }
    assert len(digests) == 5


def test_what_a_killed_save_left_goes_with_the_next_start_and_not_with_a_reader(
    tmp_path,
):
    save(tmp_path / "c", [5])
    left = tmp_path / "c" / "7.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "c" / "5", left)
    Checkpoints(tmp_path / "c", keep=3, only_read=True).close()
    assert left.is_dir()
    Checkpoints(tmp_path / "c", keep=3).close()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"5"}


def test_a_reader_takes_what_a_run_beside_it_has_saved_meanwhile(tmp_path, caplog):
    """No checkpoint is reported as damaged, and none is moved."""
    save(tmp_path / "c", [5, 10])
    reader = Checkpoints(tmp_path / "c", keep=3, only_read=True)
    assert reader.steps() == [5, 10]
    save(tmp_path / "c", [15, 20], keep=1)
    state, _ = reader.restore(abstract())
    assert state["step"] == 20
    reader.close()
    assert not caplog.records
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_reader_takes_the_newer_one_of_which_an_older_is_half_gone(tmp_path, caplog):
    """Orbax deletes a checkpoint file by file."""
    save(tmp_path / "c", [5, 10])
    reader = Checkpoints(tmp_path / "c", keep=3, only_read=True)
    save(tmp_path / "c", [15], keep=3)
    for step in (5, 10):
        shutil.rmtree(tmp_path / "c" / str(step) / "state")
    state, _ = reader.restore(abstract())
    assert state["step"] == 15
    reader.close()
    assert not caplog.records


def test_a_reader_leaves_a_damaged_checkpoint_where_it_is(tmp_path):
    save(tmp_path / "c", [5, 10])
    damage(tmp_path / "c", 10, "flipped")
    reader = Checkpoints(tmp_path / "c", keep=3, only_read=True)
    assert reader.restore(abstract())[0]["step"] == 5
    reader.close()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"5", "10"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ValueError(f"Error opening [os_error_code='{errno.EMFILE}']"),
            os.strerror(errno.EMFILE),
        ),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_what_the_system_does_not_let_be_read_is_not_damaged(
    error, reason, tmp_path, monkeypatch
):
    save(tmp_path / "c", [5, 10])
    checkpoints = Checkpoints(tmp_path / "c", keep=3)

    read = CheckpointFolder._read_record

    def refused(self, step):  # the newest; the one before it can be read
        if step == 10:
            raise error
        return read(self, step)

    monkeypatch.setattr(CheckpointFolder, "_read_record", refused)
    message = rf"c/10 cannot be read: {reason}$"
    with pytest.raises(OSError, match=message):
        checkpoints.restore(abstract())
    with pytest.raises(OSError, match=message):
        checkpoints.restore_step(10, abstract())
    checkpoints.close()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"5", "10"}


def test_files_in_place_of_checkpoints_are_not_a_fresh_start(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "5").write_text("a download that lost its folders")
    with pytest.raises(ValueError, match=r"no whole checkpoint .*damaged: .*/c/5$"):
        restore(tmp_path / "c")


def test_a_file_that_the_system_refuses_leaves_the_earlier_ones_whole(tmp_path):
    """A limit on the size of files fails a write as a full disk does, anywhere."""
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(5, STATE, {"redrawn": 50})
    checkpoints.wait()
    noise = np.random.default_rng(0).bytes(1 << 20)  # does not compress
    large = STATE | {"weights": {"kernel": np.frombuffer(noise, np.uint8)}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        message = rf"cannot be written in {tmp_path}/c: {os.strerror(errno.EFBIG)}; "
        checkpoints.save(10, large, {})
        with pytest.raises(OSError, match=message):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints.close()
    state, record = restore(tmp_path / "c")
    assert (state["step"], record) == (5, {"redrawn": 50})


FULL_DISK = """
import os, subprocess, sys, time
from pathlib import Path

folder, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
checkpoints = Path(folder, "run", "checkpoints")
while not (checkpoints / "10").is_dir():
    assert run.poll() is None, run.stderr.read()
    time.sleep(0.01)
with open(Path(folder, "filler"), "wb", buffering=0) as filler:
    while True:
        try:
            filler.write(bytes(1024))
        except OSError:
            break
said = [line for line in run.communicate()[1].splitlines() if line[:6] == "error:"]
print(*said, run.returncode, flush=True)
os.remove(filler.name)
assert [p for p in checkpoints.iterdir() if p.name.isdigit()]
sys.exit(subprocess.call(command))
"""


@pytest.mark.slow
def test_a_run_on_a_full_disk_says_so_and_continues_when_there_is_space(tmp_path):
    space = ["unshare", "--map-root-user", "--mount"]
    tried = subprocess.run([*space, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)])
    if tried.returncode:
        pytest.skip("this system lets nobody mount a small disk of his own")
    flags = [f"--workdir={tmp_path}/run", "--config.checkpoint_every_steps=10"]
    flags += ["--config.epochs=12", "--config.network.width=0.0625"]
    command = [sys.executable, *helpers.command("main", *flags)]
    script = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run([*space, *script, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^error: .*No space left on device.* 2$", done.stdout, re.M)
    assert "continuing from the checkpoint" in done.stdout


def test_of_orbax_only_what_is_raised_too_is_not_logged(monkeypatch):
    log, shown = orbax_log.OrbaxLog(), []
    monkeypatch.setattr(absl_logging.get_absl_logger(), "handle", shown.append)

    def record(level, path, text="text"):
        return logging.LogRecord("absl", level, path, 1, text, (), None)

    orbax = "/lib/orbax/checkpoint/_src/"
    warning = record(logging.WARNING, orbax + "path/deleter.py")
    gone = "Unable to find the step %d for deletion or renaming, err=%s"
    assert not log.filter(
        record(logging.ERROR, orbax + "checkpointers/checkpointer.py")
    )
    assert not log.filter(record(logging.WARNING, orbax + "metadata/checkpoint.py"))
    assert not log.filter(record(logging.WARNING, orbax + "path/deleter.py", gone))
    assert log.filter(record(logging.ERROR, "/home/runs_of_orbax/lib/other/module.py"))
    assert log.filter(warning)
    log.hold()
    assert not log.filter(warning)
    assert log.filter(record(logging.INFO, orbax + "path/deleter.py"))
    log.drop()  # the save failed, and said so
    assert not log.filter(warning)
    log.show()  # the next one did not
    log.show()
    assert shown == [warning]
    assert log.filter(warning)
