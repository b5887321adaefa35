"""What fails in the world around a command is one true line, and loses nothing."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags

from iterand_jax import analyze, convert, main
from iterand_jax.configs import default, load
from iterand_jax.runtime import cli, files, streams
from iterand_jax.training import checkpoint_folder, fields, memory
from iterand_jax.training.checkpoint import Checkpoints
from iterand_jax.training.config import resolve
from iterand_jax.training.replica import NonFiniteLossError
from iterand_jax.training.train import train_config
from tests import helpers


def shell(script, **options):
    return subprocess.run(
        ["sh", "-c", script],
        cwd=helpers.ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_a_list_of_commands_on_a_full_disk_is_one_line():
    done = shell(f"{sys.executable} -m iterand_jax --help > /dev/full")
    expected = "error: stdout cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_closed_streams_are_opened_on_nothing(tmp_path):
    """A file that is opened later does not get their numbers."""
    script = (
        "import sys, os; sys.orig_argv[1:] = ['-m', 'iterand_jax.main']; "
        "from iterand_jax.runtime import early; "
        f"file = open('{tmp_path / 'file'}', 'w'); "
        "print('out'); print('err', file=sys.stderr); assert file.fileno() > 2"
    )
    done = shell(f'{sys.executable} -c "{script}" <&- >&- 2>&-')
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_ctrl_c_while_libraries_load_is_one_line():
    script = (
        "import os, signal, sys; signal.signal(signal.SIGINT, "
        "signal.default_int_handler); sys.orig_argv[1:] = ['-m', 'iterand_jax.main']; "
        "from iterand_jax.runtime import early; os.kill(os.getpid(), signal.SIGINT)"
    )
    done = helpers.python("-c", script)
    assert done.returncode == 130
    assert done.stderr == "interrupted while starting; nothing was begun\n"


COMMAND = """
import gc, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.orig_argv[1:] = ["-m", "iterand_jax.main"]
from iterand_jax.runtime import early

def interrupt(*arguments):
    if done:
        return
    done.append(True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

done = []
early.ready("interrupted; words")
"""
"""What a process of a command has done before main is called."""


def test_ctrl_c_in_a_callback_that_drops_errors_ends_a_command():
    """As JAX's at each collection: a KeyboardInterrupt would be printed and dropped."""
    done = helpers.python(
        "-c", COMMAND + "gc.callbacks.append(interrupt); gc.collect(); time.sleep(60)"
    )
    assert (done.returncode, done.stderr) == (130, "interrupted; words\n")


def test_ctrl_c_is_raised_where_something_is_undone_and_not_dropped():
    """Also where the process waits: `time.sleep` ends long before its minute.

    The first signal that is sent again is lost here, as one that comes between Python's
    last look at its signals and the system's call.
    """
    script = """
kill, sent = signal.pthread_kill, []

def losing_the_first(*arguments):
    if sent:
        kill(*arguments)
    sent.append(time.monotonic())

signal.pthread_kill = losing_the_first
begun = time.monotonic()
try:
    with early.unwinding():
        gc.callbacks.append(interrupt)
        gc.collect()
        time.sleep(60)
except KeyboardInterrupt:
    print("undone", len(sent) >= 2, time.monotonic() - begun < 50)
interrupt(done.clear())
"""
    done = helpers.python("-c", COMMAND + script)
    assert (done.returncode, done.stdout) == (130, "undone True True\n")
    assert done.stderr == "interrupted; words\n"


def test_ctrl_c_through_an_exec_leaves_the_status_as_it_is(tmp_path):
    """Python itself would end by the signal, as pymain_run_module does then."""
    script = """
try:
    with early.unwinding():
        exec("interrupt()")
except KeyboardInterrupt:
    early.decided(130)
    sys.exit(130)
"""
    (tmp_path / "module.py").write_text(COMMAND + script)
    done = shell(
        f"cd {tmp_path} && {sys.executable} -m module",
        env=os.environ | {"PYTHONPATH": str(helpers.ROOT)},
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_while_a_command_ends_leaves_its_status():
    done = helpers.python("-c", COMMAND + "early.decided(3); interrupt()")
    assert (done.returncode, done.stderr) == (3, "")


def test_ctrl_c_while_python_frees_what_there_is_leaves_the_status():
    """Its handlers are gone by then: the process would end by the signal."""
    script = """
class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), write=os.write):
        write(1, b"freed")
        kill(process, 2)

sys.modules["last"] = Last()
early.decided(3)
sys.exit(3)
"""
    done = helpers.python("-c", COMMAND + script)
    assert (done.returncode, done.stdout, done.stderr) == (3, "freed", "")


def test_ctrl_c_says_what_a_run_has_saved():
    script = (
        "import tqdm\nbar = tqdm.tqdm(total=3)\nwith early.saying(lambda: 'saved'):\n"
        "    interrupt()"
    )
    done = helpers.python("-c", COMMAND + script)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "saved"


@pytest.mark.parametrize("where", ["ours", "another"])
def test_ctrl_c_of_experiments_is_ours_if_they_are(where, tmp_path):
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.orig_argv[1:] = ['-m', 'experiments.run']; import experiments, "
        "iterand_jax; print(signal.getsignal(signal.SIGINT).__name__)"
    )
    if where == "another":
        (tmp_path / "experiments").mkdir()
        (tmp_path / "experiments" / "__init__.py").write_text("")
        script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); " + script
    expected = {"ours": "_leave\n", "another": "default_int_handler\n"}
    assert helpers.printed("-c", script) == expected[where]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["iterand_jax.export", "experiments.benchmark"])
def test_ctrl_c_in_the_first_seconds_of_a_command_is_one_line(module, attended):
    with helpers.started("-m", module, "--workdir=none") as process:
        while "jaxlib" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted while starting; nothing was begun\n"


def test_a_closed_stdout_is_one_line():
    done = shell(f"{sys.executable} -m iterand_jax --help >&-")
    expected = "error: stdout cannot be written: it is closed\n"
    assert (done.returncode, done.stderr) == (1, expected)


@pytest.mark.slow
def test_what_is_only_printed_fails_without_stdout_and_files_do_not(
    tiny_config, tmp_path
):
    train_config(tiny_config(epochs=1), str(tmp_path))
    given = f"--workdir={tmp_path} >&-"
    done = shell(f"{sys.executable} -m iterand_jax.evaluate {given}")
    expected = "error: stdout cannot be written: it is closed\n"
    assert (done.returncode, done.stderr) == (1, expected)
    done = shell(f"{sys.executable} -m iterand_jax.export {given}")
    expected = "stdout cannot be written: it is closed; what was printed is lost\n"
    assert (done.returncode, done.stderr) == (0, expected)
    assert (tmp_path / "ticket.safetensors").exists()


def of_another_kind(path, kind):
    """Puts what is not a regular file at a path."""
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        target = path.with_name("target")
        if kind == "a symbolic link to":
            target.write_text("of the user")
        path.symlink_to(target)


KINDS = ("a named pipe", "a folder", "a symbolic link to", "a symbolic link")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["", ".tmp"])
def test_only_a_regular_file_is_replaced(kind, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    of_another_kind(path, kind)
    before = path.lstat()
    for write in (
        lambda: files.write_atomically(tmp_path / "file", "text"),
        lambda: files.appended(path),
        lambda: files.replace(tmp_path / "other", path),
    ):
        with pytest.raises(FileExistsError, match=f"it is {kind}.*'{path}'"):
            write()
    assert (path.lstat().st_ino, path.lstat().st_mode) == (
        before.st_ino,
        before.st_mode,
    )
    if kind == "a symbolic link to":
        assert (tmp_path / "target").read_text() == "of the user"
    else:
        assert [*tmp_path.iterdir()] == [path]


def test_a_folder_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    files.write_atomically(tmp_path / "link" / "file", "text")
    assert (tmp_path / "disk" / "file").read_text() == "text"


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_refuses_such_an_output_in_one_line(kind, tmp_path, fails):
    of_another_kind(tmp_path / "out", kind)
    given = f"--output={tmp_path / 'out'}"
    fails(analyze, ["--workdir=w", given], "cannot write", f"it is {kind}")
    (tmp_path / "state").write_text("")
    one = [str(tmp_path / "state"), "--network=conv2", given]
    fails(convert, one, "cannot write", f"it is {kind}")


def test_importing_the_library_leaves_ctrl_c_alone():
    script = (
        "import signal; before = signal.getsignal(signal.SIGINT); import iterand_jax; "
        "print(signal.getsignal(signal.SIGINT) is before)"
    )
    assert helpers.printed("-c", script) == "True\n"


def test_a_stream_that_fails_is_dropped_from_there_on():
    with open("/dev/full", "w") as full:
        guarded = streams.Guarded(full)
        assert guarded.write("text\n") == 5
        guarded.flush()
        assert guarded.failure.errno == errno.ENOSPC
        guarded.write("more\n")
        guarded.flush()  # into the null device


def test_what_an_encoding_does_not_have_is_a_question_mark():
    """The bars of analyze, or a name that is no text, do not end a command."""
    raw = io.BytesIO()
    guarded = streams.Guarded(io.TextIOWrapper(raw, "ascii"))
    assert guarded.write("churn \u2581\u2588, \udcff\n") == 12
    guarded.flush()
    assert raw.getvalue() == b"churn ??, ?\n"
    assert guarded.failure is None


def test_an_error_does_nothing_to_a_terminal(capfd):
    """It may name what is in a folder of somebody else."""
    assert cli.report(ValueError("no image: a\n\x1b[2J\x07\udcff\u00e9")) == 2
    said = "error: no image: a \\x1b[2J\\x07\\udcff\u00e9\n"
    assert capfd.readouterr().err == said


def test_a_run_that_diverges_at_once_says_so_and_gives_its_folder_back(
    tiny_config, tmp_path
):
    config = tiny_config(epochs=1, method="sgd", learning_rate=1e6)
    message = "not finite at step .*; no checkpoint was written "
    with pytest.raises(NonFiniteLossError, match=message):
        train_config(config, str(tmp_path))
    assert not (tmp_path / "config.json").exists()
    config.learning_rate = 0.01
    assert train_config(config, str(tmp_path))["steps"] == 20


def test_ctrl_c_before_the_first_step_promises_no_checkpoint(
    tiny_config, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("iterand_jax.training.train._train", interrupted)
    message = "by SIGINT before a checkpoint was written; .* from the beginning"
    with pytest.raises(helpers.InterruptedRunError, match=message):
        train_config(tiny_config(), str(tmp_path))
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    message = "by SIGINT; the same command continues from the checkpoint at step 10"
    with pytest.raises(helpers.InterruptedRunError, match=message) as stopped:
        train_config(tiny_config(), str(tmp_path))
    assert (stopped.value.step, stopped.value.number) == (10, signal.SIGINT)


def test_what_orbax_logs_of_a_failed_save_is_not_printed(tmp_path, capfd):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(1, {"a": np.zeros(3)}, {})
    checkpoints.wait()
    shutil.rmtree(tmp_path)
    message = "a checkpoint cannot be written in .*: No such file or directory; there"
    with pytest.raises(OSError, match=message):  # noqa: PT012 - either of them
        checkpoints.save(2, {"a": np.zeros(3)}, {})
        checkpoints.wait()
    assert capfd.readouterr().err == ""
    assert checkpoint_folder.saved_steps(tmp_path / "checkpoints") == []


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "result.json"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        files.write_atomically(path, "{}")
    with pytest.raises(FileNotFoundError, match=r"none/a\.tmp'"), files.named(path):
        files.write_atomically(tmp_path / "none" / "a", "")


def test_only_what_orbaxs_closed_loop_raises_is_dropped(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    Checkpoints(tmp_path / "checkpoints", keep=2).close()
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another")):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [str(one.exc_value) for one in shown] == ["another"]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_run_whose_output_is_full_trains_to_its_end(tmp_path):
    command = helpers.command(
        "main",
        f"--workdir={tmp_path}",
        "--config.epochs=1",
        "--config.network.width=0.0625",
    )
    done = shell(" ".join([sys.executable, *command, "> /dev/full"]))
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == (
        "stdout cannot be written: No space left on device; what was printed is lost"
    )
    assert (tmp_path / "result.json").exists()


def only_resolves():
    """A command that takes the flags of main, and only checks the config."""

    def body():
        resolve(flags.FLAGS.config)

    return SimpleNamespace(__name__="m", run=lambda: cli.run(body, main.define_flags))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["seed=" + "9" * 30], "seed must be an integer from 0 to 4294967295"),
        (["seed=" + "9" * 5000], "seed"),
        (["seed=1e3"], "seed"),
        (["seed=None"], "seed"),
        (["log_every_steps=1" + "0" * 22], "log_every_steps must be an integer"),
        (["eval_batch_size=9223372036854775808"], "eval_batch_size must be an integer"),
        (["eval_batch_size=1000000000"], "in memory at once"),
        (["replicas=1000000000"], "replicas must be an integer from 1 to 64"),
        (["epochs=1000000000"], "epochs must be an integer from 1 to 1000000"),
        (["learning_rate=None", "recipe.iterand.learning_rate=None"], "learning_rate"),
        (["learning_rate=1e400"], "learning_rate must be a number in [1e-30, 1e+06]"),
        (["sparsity=None"], "--config.sparsity=None"),
        (["recipe.iterand.sparsity=-1"], "sparsity must be a number"),
        (["recipe.iterand.k_per=None"], "k_per"),
        (["dataset.mean=(nan,)"], "dataset.mean"),
        (["dataset.mean=('a',)"], "dataset.mean must be a tuple"),
        (
            ["dataset.mean=(0.5,0.5,0.5)"],
            "need 1 numbers each for images of 1 channels",
        ),
        (["dataset.std=(0.0,)"], "dataset.std must be a tuple"),
        (["dataset=None"], "dataset"),
        (["dataset=abc"], "sets a group of fields; possible: one of them, --config.da"),
        (["recipe.iterand=abc"], "--config.recipe.iterand.distribution=VALUE"),
        (["network=3"], "--config.network=3 sets a group of fields"),
        (["method=relaxed_bernoulli", "gate_noise=1e-300"], "less is lost in float32"),
        (["method=signed_supermask", "threshold=1e-300"], "[1e-30, 1e+06] (far bey"),
        (["learning_rate=1e-300"], "[1e-30, 1e+06] (far beyond"),
        (["weight_decay=1e-300"], "in [0, 1e+06], 0 or at least 1e-30 (far"),
        (["sampling_rate=1e-9"], "in [0, 1], 0 or at least 1e-06 (a probability"),
        (["clip_norm=1e-300"], "a larger limit limits nothing; a smaller one is 0"),
        (["network.width=1e-300"], "below it every layer has one channel"),
        (["sparsity=0.99999999999"], "sparsity must be a number in [0, 1) (the fract"),
        (
            ["schedule=multistep", "milestones=(1,2,3,4,5,6)", "decay_factor=1e-6"],
            "the rate after 6 milestones of decay_factor must be a number in [1e-30",
        ),
        (["checkpoint_every_seconds=99999999"], "no run lasts longer than a year"),
        (
            ["network.name=" + "x" * 1200],
            "a name of at most 1000 printable characters (it is shown in one line); "
            "got a text of 1,200 characters",
        ),
        (["recipe=None"], "recipe"),
        (["network.name="], "unknown network ''"),
        (["network.name=json:loads"], "is not a network"),
        (["network.name=no.module:Net"], "there is no module no"),
        (["network.width=nan"], "network.width must be a number in [0.0001, 1000]"),
        (["schedule=multistep", "milestones=one", "decay_factor=0.1"], "milestones"),
        (["keep_checkpoint_epochs=x"], "keep_checkpoint_epochs"),
        (["keep_checkpoint_epochs=31"], "integers from 1 to 30, the epochs of the run"),
        (["report_memory=maybe"], "report_memory"),
        (["dtype=a\nb"], "dtype must be a name"),
    ],
    ids=lambda given: given[0][:40] if isinstance(given, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_line(given, words, command, capfd):
    flags_given = [f"--config.{one}" for one in given]
    assert command(only_resolves(), *flags_given) == cli.BAD_INPUT
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize("flag", ["config", "import"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(flag, tmp_path, command, capfd):
    os.mkfifo(tmp_path / "fifo.py")
    assert command(only_resolves(), f"--{flag}={tmp_path}/fifo.py") == cli.BAD_INPUT
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"{tmp_path}/fifo.py is no regular file; it must be a Python file" in err


@pytest.mark.parametrize("code", ["", "0", "3", "'done'"])
@pytest.mark.parametrize("where", ["head", "get_config", "import", "module"])
def test_a_file_that_ends_the_process_is_an_error(
    where, code, tmp_path, command, capfd, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    path, stop = tmp_path / f"ends_{where}.py", f"raise SystemExit({code})\n"
    path.write_text(f"def get_config():\n    {stop}" if where[0] == "g" else stop)
    name = path.stem if where == "module" else path
    flag = "import" if where in ("import", "module") else "config"
    assert command(only_resolves(), f"--{flag}={name}") == cli.BAD_INPUT
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"{name} ends the process, by sys.exit({code})" in err


def test_a_named_module_that_ends_the_process_is_an_error(
    tmp_path, command, capfd, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "that_ends.py").write_text("raise SystemExit(0)\n")
    name = "--config.network.name=that_ends:Net"
    assert command(only_resolves(), name) == cli.BAD_INPUT
    assert "importing that_ends ends the process" in capfd.readouterr().err


@pytest.mark.parametrize("pattern", ["a,b", "nothing/*"])
def test_a_pattern_that_matches_nothing_is_refused_before_a_folder(pattern, tmp_path):
    config = load("cifar_resnet20_imp")
    config.update_from_flattened_dict(
        {
            "dataset.name": "digits",
            "dataset.mean": (0.3,),
            "dataset.std": (0.4,),
            "augmentation": "none",
            "network.name": "conv2",
            "unpruned": (pattern,),
        }
    )
    with pytest.raises(ValueError, match="unpruned") as error:
        train_config(config, str(tmp_path / "w"))
    assert pattern in str(error.value)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("method", ["iterand", "sgd"])
def test_a_pattern_that_leaves_nothing_to_prune_is_named(method, tiny_config, tmp_path):
    config = tiny_config(method=method, unpruned=("Conv_*", "*=fixed"))
    with pytest.raises(ValueError, match=r"unpruned=\('Conv_\*', '\*=fixed'\) leaves"):
        train_config(config, str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


def test_an_array_in_place_of_a_flag_is_refused_by_its_name():
    """As a config file may have it: its comparison has no truth value."""
    with pytest.raises(ValueError, match=r"^affine must be False or True; got "):
        fields.FIELDS["affine"].check("affine", np.ones(3))


def test_what_memory_cannot_hold_is_refused_before_a_folder(
    tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "capacity", lambda: 10_000)
    with pytest.raises(ValueError, match="of a device; possible: a smaller"):
        train_config(tiny_config(), str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


def test_every_field_has_a_range_and_a_reason():
    assert fields.FIELDS.keys() == default.FIELDS.keys()
    for name in fields.FIELDS:
        with pytest.raises(ValueError, match=f"^{name} must be ") as error:
            fields.FIELDS[name].check(name, object())
        is_bool = f"{name} must be False or True; got " in str(error.value)
        assert is_bool or len(fields.FIELDS[name].why) > 9


@pytest.mark.parametrize("name", fields.FIELDS)
def test_the_least_number_of_a_field_is_not_zero_in_float32(name):
    """1e-300 would be: of noise, what is divided by it is NaN."""
    for value in (1e-300, (1e-300,)):
        accepted = fields.FIELDS[name].accepts(value)
        harmless = {"dataset.mean", "dataset.validation_fraction", "momentum"}
        assert not accepted or name in harmless or "fraction" in fields.FIELDS[name].why
