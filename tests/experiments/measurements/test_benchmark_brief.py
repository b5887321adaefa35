"""The brief benchmark keeps its deadline, and writes what it has as it goes."""

import functools
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import benchmark
from experiments.measurements import benchmark_brief as brief
from experiments.measurements import benchmark_parts as parts
from experiments.measurements import benchmark_runs


class Clock:
    """Parts that take seconds of a clock of their own; none of them is late."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(brief.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(brief, "_within", self._within)

    def _within(self, seconds, function):
        end = self.now + seconds
        found = function()
        if self.now > end:
            self.now = end
            raise TimeoutError
        return found

    def taking(self, seconds, found=None, reported=None):
        def part(report, left):
            if reported:
                report(reported)
            self.now += seconds
            return found or {"step": {"median": 2e-3, "fastest": 1e-3, "slowest": 4e-3}}

        return part


def measure(monkeypatch, parts, seconds):
    """The record of parts, (name, kind, expected seconds, function), and what grew."""
    made = [brief.Part(name, (name,), *rest) for name, *rest in parts]
    monkeypatch.setattr(brief, "_parts", lambda *_: iter(made))
    seen = []
    record = brief.measure(seconds=seconds, written=lambda r: seen.append(dict(r)))
    return record, seen


def test_a_part_is_left_out_only_if_it_would_end_late_itself(monkeypatch, capsys):
    clock = Clock(monkeypatch)

    def failing(report, left):
        clock.now += 1
        raise MemoryError("17 GiB")

    parts = [
        ("a", "runs", 40, clock.taking(40, reported={"step, one call": 2.5})),
        ("b", "programs", 5, failing),
        ("c", "runs", 70, clock.taking(70)),
        ("d", "programs", 20, clock.taking(20)),
        ("e", "runs", 10, clock.taking(10)),
    ]
    record, seen = measure(monkeypatch, parts, 100)
    assert record["left_out"] == ["c"]
    assert (record["seconds"], record["given_up"]) == (71, [])
    assert record["b"] == {"error": "MemoryError: 17 GiB"}
    assert record["a"].keys() == {"step, one call", "step"}
    assert [len(r) for r in seen] == [4, 4, 5, 6, 7, 7]  # each line, and at the end
    printed = capsys.readouterr().out
    assert "[    0 s] a: step, one call: 2.5" in printed
    assert "[   40 s] a: step" in printed
    assert "2.0000 ms  (1.0000 to 4.0000)" in printed
    assert "c: left out, as it is expected to take 70 s" in printed


def test_what_parts_of_a_kind_took_scales_what_later_ones_are_expected_to(
    monkeypatch,
):
    clock = Clock(monkeypatch)
    parts = [
        ("a", "runs", 20, clock.taking(60)),  # three times as long
        ("b", "runs", 15, clock.taking(45)),
        ("c", "programs", 15, clock.taking(15)),
        ("d", "runs", 5, clock.taking(15)),
    ]
    record, _ = measure(monkeypatch, parts, 100)
    assert record["left_out"] == ["b"]
    assert record["seconds"] == 90


def test_what_still_runs_after_the_deadline_is_given_up(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    parts = [
        ("a", "programs", 20, clock.taking(900, reported={"first": 1})),
        ("b", "programs", 1, clock.taking(1)),
    ]
    record, _ = measure(monkeypatch, parts, 100)
    assert record["seconds"] == 100 + brief.GRACE
    assert record["a"] == {"first": 1, "error": "given up after 105 s"}
    assert (record["given_up"], record["left_out"]) == (["a"], ["b"])


SHORT = [
    "conv6: steps",
    "resnet18: steps",
    "resnet18: phases",
    "resnet18: profile",
    "digits: runs, without a cache",
]
DECISIVE = [*SHORT, "conv6: runs, without a cache", "conv6: profile"]


@pytest.mark.parametrize(
    ("seconds", "slower", "kept"),
    [
        (200, {}, DECISIVE),
        (200, {"runs": 2}, [*SHORT, "conv6: profile"]),
        (200, {"programs": 2}, ["conv6: steps", "resnet18: steps", "resnet18: phases"]),
        (200, {"conv6: runs, without a cache": 9}, SHORT),
        (500, {}, [*DECISIVE, "resnet18: runs, without a cache", "resnet50: imagenet"]),
        (650, {}, [name for name in brief.EXPECTED if "peer" not in name]),
    ],
)
def test_so_many_seconds_keep_the_decisive_parts(
    seconds, slower, kept, monkeypatch, tmp_path
):
    """With the times that parts took on an H200, and some of them slower."""
    clock = Clock(monkeypatch)

    def real(part, left):
        factor = slower.get(part.name, slower.get(part.kind, 1))
        took = part.expected * factor
        if part.kind == "runs" and took > left:  # the process is killed
            clock.now += left
            raise RuntimeError("killed")
        clock.now += took
        return {"median": 1}

    planned = brief._parts

    def parts(*arguments):
        for part in planned(*arguments):
            measured = functools.partial(lambda p, tell, left: real(p, left), part)
            yield part._replace(measure=measured)

    monkeypatch.setattr(brief, "_parts", parts)
    monkeypatch.setattr(brief.synthetic, "build", print)
    record = brief.measure(seconds=seconds, written=lambda record: None)
    assert record["seconds"] <= seconds + brief.GRACE
    for name in kept:
        found = record
        for key in (name,) if name in record else name.split(", "):
            found = found[key]
        assert found == {"median": 1}
    assert not {*kept} & {*record["left_out"], *record["given_up"]}


def test_a_function_that_does_not_end_is_not_waited_for():
    stop = threading.Event()
    with pytest.raises(TimeoutError):
        brief._within(0.05, lambda: stop.wait(60))
    stop.set()
    assert brief._within(60, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        brief._within(60, lambda: 1 / 0)


def test_the_profile_of_two_steps_counts_kernels_of_streams_of_the_device():
    def event(name, start, duration):
        return SimpleNamespace(name=name, start_ns=start, duration_ns=duration)

    def plane(name, **lines):
        lines = [SimpleNamespace(name=k, events=v) for k, v in lines.items()]
        return SimpleNamespace(name=name, lines=lines)

    kernels = [
        event("loop_add_fusion_3", 0, 4000),
        event("loop_add_fusion_7", 2000, 4000),
        event("gemm", 8000, 2000),
    ]
    planes = [
        plane("/host:CPU", Stream=[event("wait", 0, 10**9)]),
        plane("/device:GPU:0", Stream=kernels, Steps=[event("step", 0, 10**9)]),
    ]
    assert parts.kernels_of(SimpleNamespace(planes=planes), 2) == {
        "kernels": 1.5,
        "busy_ms": 0.004,  # 6,000 and 2,000 ns, in two steps
        "profiled_ms": 0.005,
        "by_name": {"loop_add_fusion": [1.0, 4.0], "gemm": [0.5, 1.0]},
    }


@pytest.mark.exhaustive
def test_a_brief_benchmark_measures_steps_first(tmp_path, capsys, command, monkeypatch):
    monkeypatch.setattr(benchmark.cli, "started", time.perf_counter)
    assert command(benchmark, "--seconds=3600", "--quick", f"--out={tmp_path}") == 0
    (out,) = tmp_path.glob("*-brief.json")
    found = json.loads(out.read_text())
    assert found["left_out"] == []
    assert found["commit"]
    config, fields = found["configs of steps"]["conv2"]
    assert (config, fields["dtype"]) == ("cifar_conv2", "bfloat16")
    assert found["configs of runs"]["digits"] == ["digits", {}]
    parts = [name for name in found if ": " in name]
    assert parts[:3] == ["conv2: steps", "digits: runs", "digits: same bits"]
    assert len(parts) == 7
    assert not any("error" in found[name] for name in parts)
    steps = found["conv2: steps"]
    assert steps["iterand, as it is"]["median"] > 0
    assert steps["sgd, as it is"]["median"] > 0
    assert steps["iterand x 3, as it is"]["median"] > 0
    cold, warm = (found["digits: runs"][f"{x} a cache"] for x in ("without", "with"))
    for run in (cold, warm):
        assert 0 < run["loop (ms a step)"] < 1e3 * run["process (s)"] / 600
        assert 0 < run["first step (s)"] < run["process (s)"]
        assert {"imports", "dataset"} <= run["start (s)"].keys()
    bits = found["digits: same bits"]
    assert bits["same bits"]
    assert 200 <= bits["continued from step"] < 600
    # CPUs have no graphs: an option is refused by name, or has no effect.
    graphs = found["conv2: graphs"]
    assert {"iterand, one graph", "sgd, one graph"} <= {*graphs, *graphs["refused"]}
    assert found["vgg11: phases"]["masks"]["samples"] == 7
    assert "conv2: steps: iterand, as it is" in capsys.readouterr().out


def test_the_loop_of_a_run_is_compared_with_its_program(monkeypatch, tmp_path):
    result = {
        "seconds": {"first step": 3.0, "training": 1.5, "evaluation": 0.5},
        "startup": {"data": {"begin": 0.25, "end": 1.0}},
        "steps": 1000,
    }
    monkeypatch.setattr(benchmark_runs, "_run", lambda *_: (7.0, result))
    record = {"conv6: steps": {"iterand, as it is": {"median": 1e-3}}}
    cold, warm = benchmark_runs.CACHES
    found = brief._runs("conv6", cold, record, tmp_path, print, 60.0)
    assert found == {
        "process (s)": 7.0,
        "first step (s)": 3.0,
        "loop (ms a step)": 2.0,
        "loop / program": 2.0,
        "start (s)": {"data": [0.25, 1.0]},
    }
    with pytest.raises(RuntimeError, match="no run has filled its cache"):
        brief._runs("conv6", warm, record, tmp_path, print, 60.0)
    record = {"conv6: runs": {cold: found}}
    again = brief._runs("conv6", warm, record, tmp_path, print, 60.0)
    assert "loop / program" not in again


def test_a_run_has_no_cache_but_that_of_its_folder(monkeypatch, tmp_path):
    """Neither programs nor decoded images of the user, nor are any written there."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "another")
    environments = []

    def run(command, env, **options):
        environments.append(env)
        (workdir,) = (x for x in command if x.startswith("--workdir="))
        result = Path(workdir.removeprefix("--workdir=")) / "result.json"
        seconds = {"first step": 3.0, "training": 1.0}
        result.write_text(json.dumps({"seconds": seconds, "startup": {}, "steps": 10}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(benchmark_runs.subprocess, "run", run)
    found = benchmark_runs.whole_run("digits", {}, tmp_path)
    assert found["first step (s)"] == 3.0
    (environment,) = environments
    assert environment["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_the_busy_share_of_a_profile_is_of_the_step_that_was_measured():
    def profiled(report, left):
        return {"kernels": 305.0, "busy_ms": 1.5}

    record = {"conv6: steps": {"iterand, as it is": {"median": 2e-3}}}
    found = brief._profile(profiled, "conv6", record, print, 60.0)
    assert found == {"busy / step": 0.75, "kernels": 305.0, "busy_ms": 1.5}
    assert "busy / step" not in brief._profile(profiled, "conv6", {}, print, 60.0)


def test_a_run_that_fails_says_its_last_line(tmp_path):
    with pytest.raises(RuntimeError, match=r"status 2: .*there is no config nope"):
        benchmark_runs.whole_run("nope", {}, tmp_path)


def test_a_run_is_killed_when_its_time_is_over(tmp_path):
    begun = time.perf_counter()
    with pytest.raises(RuntimeError, match="killed after 1 s, as the time was over"):
        benchmark_runs.whole_run("digits", {}, tmp_path, most=1.0)
    assert time.perf_counter() - begun < 30


def test_two_runs_with_other_bits_are_told_apart(monkeypatch, tmp_path):
    """The killed one goes on in its own workdir; each start has a cache of its own."""
    started = []

    def run(command, folder, most):
        started.append((command[-1], folder.name))
        return 2.0, {"state_sha256": f"bits {len(started)}"}

    def killed(command, folder, most):
        started.append((command[-1], folder.name))
        return 300, 1.0

    monkeypatch.setattr(benchmark_runs, "_run", run)
    monkeypatch.setattr(benchmark_runs, "_killed", killed)
    found = benchmark_runs.same_bits("digits", {}, tmp_path, most=60.0)
    assert found == {
        "same bits": False,
        "continued from step": 300,
        "processes (s)": [2.0, 1.0, 2.0],
    }
    workdirs, caches = zip(*started, strict=True)
    assert workdirs[0] != workdirs[1] == workdirs[2]
    assert caches == ("1", "2", "3")


def test_a_run_that_fails_is_not_waited_for_to_kill_it(tmp_path):
    with pytest.raises(RuntimeError, match="a run ended before it could be killed"):
        benchmark_runs._killed(["false", f"--workdir={tmp_path}"], tmp_path, 60.0)
