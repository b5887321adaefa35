"""Shared fixtures: a tiny config that really trains, in seconds."""

import collections
import os
import signal
import sys
import tomllib

import jax
import pytest
from absl import app, flags

from experiments.paper import catalogue
from iterand_jax.configs import digits
from iterand_jax.runtime import cli


def pytest_configure(config):
    """Pins each worker of `pytest -n` to a core: XLA's threads wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def _compile_each_program_once(tmp_path_factory):
    """Shares a compilation cache: most of the time of training tests is compilation."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # one cache for all workers
    # A given cache is shared with other test runs, as between CI's two.
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = given or str(folder / "compilation_cache")
    options = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for the processes that tests start
    # XLA warns on stderr that cached CPU programs may not fit this machine: in this
    # process, where commands that use no cache do not silence it, and in others.
    if jax.config.jax_logging_level == "NOTSET":
        jax.config.update("jax_logging_level", "CRITICAL")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


@pytest.fixture
def attended():
    """What this process starts obeys signals, though it may ignore them itself.

    Started with nohup it ignores SIGHUP, in the background of a shell Ctrl-C.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGHUP, before)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def command(monkeypatch):
    """Runs a command's module in this process: (module, *arguments) -> exit status.

    absl defines flags for the whole process, so they are taken back afterwards, but
    for those of libraries, which read them long after they were imported.
    """
    app.define_help_flags()
    known = {*flags.FLAGS}

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                module.run()
            return ended.value.code or 0
        finally:
            for name in {*flags.FLAGS} - known:
                library = flags.FLAGS.find_module_defining_flag(name).split(".")[0]
                if library not in ("array_record", "grain", "orbax"):
                    delattr(flags.FLAGS, name)

    return run


@pytest.fixture
def fails(command, capfd):
    """Asserts that a command ends in one line: (module, flags, *words, out="")."""

    def check(module, given, *words, out=""):
        assert command(module, *given) == cli.BAD_INPUT
        printed, err = capfd.readouterr()
        assert printed == out
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        for word in words:
            assert word in err

    return check


@pytest.fixture(scope="session")
def papers_numbers():
    """{network: its numbers in the paper's tables, without deviations}."""
    numbers = collections.defaultdict(set)
    for table in tomllib.loads(catalogue.PAPER.read_text()).values():
        for row in table.get("rows", ()):
            numbers[row["network"]] |= {n.split("±")[0] for n in row["numbers"]}
    return numbers


@pytest.fixture(scope="session")
def tiny_config():
    """Conv2 at width 1/16 on the digits: 3 epochs of 20 steps, refreshed every 7."""

    def make(**overrides):
        config = digits.get_config()
        config.network.width = 0.0625
        config.epochs = 3
        config.recipe.iterand.k_per = config.recipe.biprop_iterand.k_per = 7
        config.checkpoint_every_steps = 10
        config.update_from_flattened_dict(overrides)
        return config

    return make
