"""The recorded parts of a startup."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from iterand_jax.runtime import compilation, hosts
from iterand_jax.training import loop, printed, startup
from iterand_jax.training import programs as programs_file
from iterand_jax.training.programs import Programs, compile_programs
from iterand_jax.training.train import train_config
from tests.helpers import build


def test_a_result_has_the_parts_of_its_start(tiny_config, tmp_path):
    result = train_config(tiny_config(epochs=1), str(tmp_path))
    parts = result["startup"]
    programs = {"step", "refresh", "numbers", "log", "copy", "evaluation"}
    others = {"imports", "device", "dataset", "network", "state", "reading", "log"}
    others |= {"data copy", "data repeats"}
    names = {f"program {name}" for name in programs} | others | {"first dispatch"}
    assert parts.keys() == names
    for name, part in parts.items():
        assert 0 <= part["begin"] <= part["end"]
        if name.startswith("program "):
            inside = part["traced"] + part["lowered"] + part["compiled"]
            assert inside == pytest.approx(part["end"] - part["begin"], abs=0.01)
    # The first step needs its program and the data.
    begin = parts["first dispatch"]["begin"]
    assert begin >= parts["program step"]["end"]
    assert begin >= parts["reading"]["end"]
    # With two cores nothing else is begun before the first step is done.
    end = parts["first dispatch"]["end"]
    for name in {"log"} | {f"program {one}" for one in programs - {"step"}}:
        if name == "log" or hosts.cores() <= 2:
            assert parts[name]["begin"] >= end
    assert end == pytest.approx(result["seconds"]["first step"], abs=0.01)
    shown = printed.summary(result, tmp_path)
    assert "; first dispatch " in shown
    of_step, how = parts["program step"], "from the cache"
    how = how if of_step["cached"] else "compiled"
    assert (
        f"(traced {of_step['traced']:.1f}, lowered {of_step['lowered']:.1f}, "
        f"{how} {of_step['compiled']:.1f})"
    ) in shown
    del result["startup"]  # of an earlier version
    assert "start-up" not in printed.summary(result, tmp_path)


def test_programs_compile_while_the_data_is_read(tiny_config, tmp_path, monkeypatch):
    """The data comes only once the step's program is being compiled."""
    built = build(tiny_config(epochs=1))
    begun = threading.Event()
    compile_steps = loop.compile_programs.__globals__["compile_steps"]

    def compiling(*arguments, **options):
        begun.set()
        return compile_steps(*arguments, **options)

    def read(root, position=None):
        assert begun.wait(60)
        return opened(root, position)

    opened = built.feed.open
    monkeypatch.setitem(loop.compile_programs.__globals__, "compile_steps", compiling)
    monkeypatch.setattr(built.feed, "open", read)
    assert loop.train_and_evaluate(built, tmp_path).test_examples == 360


def test_a_run_that_ends_early_compiles_nothing_more(
    tiny_config, tmp_path, monkeypatch
):
    """A process ends when its threads have: queued programs would hold it up."""
    release = threading.Event()
    late = []

    def queued(run, states, startup):
        del run, states, startup
        pool = ThreadPoolExecutor(1)
        made = {"step": pool.submit(release.wait, 60)}
        made["refresh"] = pool.submit(late.append, "refresh")
        pool.shutdown(wait=False)
        return Programs(made, 1)

    def damaged(replicas):
        raise ValueError("a damaged checkpoint")

    monkeypatch.setattr(loop, "compile_programs", queued)
    monkeypatch.setattr(loop, "restore_together", damaged)
    before = {*threading.enumerate()}
    with pytest.raises(ValueError, match="a damaged checkpoint"):
        loop.train_and_evaluate(build(tiny_config(epochs=1)), tmp_path)
    release.set()
    for thread in {*threading.enumerate()} - before:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(60)
    assert late == []


@pytest.mark.parametrize("cores", [2, 8])
def test_the_step_is_traced_before_other_programs_begin(
    cores, tiny_config, monkeypatch
):
    """And with few cores they begin when they are asked to, or when one is needed.

    By the order of events: times of a program count what else its thread waits for.
    """
    events = []

    class Lowering:
        """As the step's jitted function, which tells when it is lowered."""

        def __init__(self, jitted):
            self.jitted = jitted

        def lower(self, *arguments):
            lowered = self.jitted.lower(*arguments)
            events.append("the step is lowered")
            return lowered

    class Telling(startup.Startup):
        """Tells when a program begins."""

        def program(self, name, make):
            events.append(name)
            return super().program(name, make)

    def steps(*arguments, **options):
        return Lowering(jitted(*arguments, **options))

    jitted = programs_file.steps
    monkeypatch.setattr(programs_file, "steps", steps)
    monkeypatch.setattr(hosts, "cores", lambda: cores)
    built = build(tiny_config())
    start = Telling()
    state = jax.jit(built.init_state)(built.root)
    programs = compile_programs(built, [state], start)
    assert programs.steps
    if cores == 2:
        assert start.parts.keys() == {"program step"}
        programs.begin_others()
    programs.wait()
    assert events[:2] == ["program step", "the step is lowered"]
    assert len(events) == 7
    assert {*events[2:]} | {"program step"} == start.parts.keys()


def test_a_log_that_cannot_be_opened_ends_the_run_in_one_line(tiny_config, tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(OSError, match="tensorboard cannot be written: File exists"):
        loop.train_and_evaluate(build(tiny_config(epochs=1)), tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_what_fails_to_compile_is_an_error_of_who_asks_for_it(tiny_config, monkeypatch):
    built = build(tiny_config())
    state = jax.jit(built.init_state)(built.root)

    def fail(*arguments):
        raise ValueError("no such program")

    monkeypatch.setattr(loop.parallel, "compile_refresh", fail)
    programs = compile_programs(built, [state])
    assert programs.steps
    with pytest.raises(ValueError, match="no such program"):
        assert programs.refresh
    with pytest.raises(ValueError, match="no such program"):
        programs.wait()


@pytest.mark.slow
def test_a_program_is_cached_or_not(tmp_path):
    def double(x):
        return 2 * x + jnp.sin(x)

    def made(name):
        lowered = jax.jit(double).trace(jnp.zeros(17)).lower
        return start.program(name, lambda: lowered().compile())

    options = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    start = startup.Startup()
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        made("first")
        jax.clear_caches()
        made("second")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    first, second = start.parts["first"], start.parts["second"]
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["compiled"] > 0
    # Another thread's compilation is not counted here.
    with compilation.timed() as times:
        thread = threading.Thread(target=lambda: jax.jit(lambda x: x - 3.5)(1.0))
        thread.start()
        thread.join()
    assert (times.compiled, times.lowered) == (0, 0)
