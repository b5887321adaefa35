"""Commands cache compiled programs; a library, or a user who opts out, does not."""

import os
import time
import warnings

import jax
import pytest

from iterand_jax.runtime import cli, compilation
from tests import helpers

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_logging_level",
)


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """JAX without a folder, and $XDG_CACHE_HOME where nothing is yet."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def folder():
    compilation.enable()
    return jax.config.jax_compilation_cache_dir


def test_programs_are_kept_in_the_users_folder(unset):
    assert folder() == str(unset / "cache" / "iterand_jax")
    assert os.listdir(unset / "cache") == ["iterand_jax"]


@pytest.mark.parametrize("base", ["", "relative"])
def test_without_an_absolute_folder_it_is_below_home(base, unset, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", str(unset))
    assert folder() == str(unset / ".cache" / "iterand_jax")


def test_a_folder_that_is_set_stays(unset):
    jax.config.update("jax_compilation_cache_dir", str(unset / "own"))
    assert folder() == str(unset / "own")
    assert os.listdir(unset) == []


def test_it_can_be_switched_off(unset):
    jax.config.update("jax_enable_compilation_cache", False)
    assert folder() is None
    assert os.listdir(unset) == []


def test_a_folder_that_cannot_be_made_is_no_error(unset):
    (unset / "cache").write_text("a file")
    assert folder() is None


def run(*arguments, cache, **environment):
    """A process as a user starts it, without what the tests' environment sets."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "TF_"))}
    environment = ours | {"XDG_CACHE_HOME": str(cache)} | environment
    return helpers.python(*arguments, env=environment, inherit=False)


@pytest.mark.parametrize("given", [False, True])
def test_a_program_that_was_kept_gives_the_same_bits_and_no_complaint(given, tmp_path):
    script = (
        "import jax, jax.numpy as jnp; from iterand_jax.runtime import compilation; "
        "compilation.enable(); x = jnp.linspace(0, 1, 4096).reshape(64, 64); "
        "print(jax.jit(lambda x: jnp.sin(x @ x).sum())(x).item().hex())"
    )
    everything = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if given:  # the user's own folder, in place of that below XDG_CACHE_HOME
        everything["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "iterand_jax")
    first = run("-c", script, cache=tmp_path, **everything)
    kept = {path.name for path in (tmp_path / "iterand_jax").glob("*-cache")}
    second = run("-c", script, cache=tmp_path, **everything)
    assert kept
    assert {path.name for path in (tmp_path / "iterand_jax").glob("*-cache")} == kept
    assert first.stderr == second.stderr == ""
    assert first.stdout == second.stdout != ""


@pytest.mark.smoke
def test_commands_switch_it_on_and_the_library_does_not(tmp_path):
    imported = run("-c", "import iterand_jax", cache=tmp_path)
    assert imported.returncode == 0, imported.stderr
    assert os.listdir(tmp_path) == []
    missing = f"--workdir={tmp_path}/no_run"
    assert run("-m", "iterand_jax.evaluate", missing, cache=tmp_path).returncode == 2
    assert os.listdir(tmp_path) == ["iterand_jax"]


def test_the_process_began_before_it_imported_anything():
    assert cli.started() < cli.IMPORTED < time.perf_counter()


def test_entries_that_could_not_be_written_or_read_are_removed(unset, monkeypatch):
    kept, shown = unset / "kept", []
    kept.mkdir()
    monkeypatch.setattr(warnings, "showwarning", lambda text, *_: shown.append(text))
    for name in ("jit_a", "jit_b", "jit_a_b"):
        (kept / f"{name}-0-cache").touch()
        os.utime(kept / f"{name}-0-cache", (0, 0))
    jax.config.update("jax_compilation_cache_dir", str(kept))
    compilation.enable()
    compilation.enable()  # a second time changes nothing

    def left(warning, *new):
        for name in new:
            (kept / name).touch()
        warnings.showwarning(UserWarning(warning), UserWarning, "file", 1)
        return {path.name.removesuffix("-cache") for path in kept.iterdir()}

    what = "persistent compilation cache entry for"
    full = f"Error writing {what} 'jit_a': OSError: [Errno 28] No space left on device"
    assert left(full, "jit_a-1-cache") == {"jit_a-0", "jit_b-0", "jit_a_b-0"}
    cut = f"Error reading {what} 'jit_b': ZstdError: decompression error: did not ..."
    assert left(cut) == {"jit_a-0", "jit_a_b-0"}
    assert shown == []
    assert left("another warning") == {"jit_a-0", "jit_a_b-0"}
    assert list(map(str, shown)) == ["another warning"]


def test_a_full_disk_leaves_no_cut_program_and_no_complaint(tmp_path):
    script = (
        "import resource, jax, jax.numpy as jnp; "
        "from iterand_jax.runtime import compilation; compilation.enable(); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); "
        "print(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8))).item().hex())"
    )
    everything = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = run("-c", script, cache=tmp_path, **everything)
    assert done.returncode == 0
    assert done.stderr == ""
    assert not list((tmp_path / "iterand_jax").glob("jit__lambda*-cache"))


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_same_bits_are_asked_for_where_they_are_not_there_anyway(
    platform, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    asked = compilation.compiler_options("float32", deterministic=True)
    assert asked == ({"xla_gpu_deterministic_ops": True} if platform == "gpu" else {})
    assert compilation.compiler_options("float32") == {}
