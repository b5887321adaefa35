"""The brief benchmark keeps its deadline, and writes what it has as it goes."""

import json
from types import SimpleNamespace

import pytest

from experiments import benchmark
from experiments.measurements import benchmark_brief as brief
from experiments.measurements import benchmark_runs


def test_a_part_that_would_end_after_the_deadline_is_left_out(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(brief.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def part():
            now[0] += seconds
            return {"step": {"median": 2e-3, "fastest": 1e-3, "slowest": 4e-3}}

        return part

    def failing():
        now[0] += 1
        raise MemoryError("17 GiB")

    parts = [("a", taking(40)), ("b", failing), ("c", taking(20)), ("d", taking(1))]
    monkeypatch.setattr(brief, "_parts", lambda quick, peer, record: iter(parts))
    seen = []
    record = brief.measure(seconds=100, written=lambda r: seen.append(dict(r)))
    assert record["left_out"] == ["d"]  # at 61 s, as a part may take 40
    assert record["b"] == {"error": "MemoryError: 17 GiB"}
    assert [len(r) for r in seen] == [3, 4, 5, 5]  # after each part, and at the end
    printed = capsys.readouterr().out
    assert "[   40 s] a: step" in printed
    assert "2.0000 ms  (1.0000 to 4.0000)" in printed
    assert "d: left out" in printed


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
    assert brief.kernels_of(SimpleNamespace(planes=planes), 2) == {
        "kernels": 1.5,
        "busy_ms": 0.004,  # 6,000 and 2,000 ns, in two steps
        "profiled_ms": 0.005,
        "by_name": {"loop_add_fusion": [1.0, 4.0], "gemm": [0.5, 1.0]},
    }


@pytest.mark.slow
def test_a_brief_benchmark_measures_steps_first(tmp_path, capsys, command):
    assert command(benchmark, "--seconds=600", "--quick", f"--out={tmp_path}") == 0
    (out,) = tmp_path.glob("*-brief.json")
    found = json.loads(out.read_text())
    assert found["left_out"] == []
    assert found["commit"]
    parts = [name for name in found if ": " in name]
    assert parts[:3] == ["conv2: steps", "digits: runs", "conv2: graphs"]
    assert len(parts) == 6
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
    # CPUs have no graphs: an option is refused by name, or has no effect.
    graphs = found["conv2: graphs"]
    assert {"iterand, one graph", "sgd, one graph"} <= {*graphs, *graphs["refused"]}
    assert found["vgg11: phases"]["masks"]["samples"] == 7
    assert "conv2: steps: iterand, as it is" in capsys.readouterr().out


def test_the_loop_of_a_run_is_compared_with_its_program(monkeypatch):
    result = {
        "seconds": {"first step": 3.0, "training": 1.5, "evaluation": 0.5},
        "startup": {"data": {"begin": 0.25, "end": 1.0}},
        "steps": 1000,
    }
    monkeypatch.setattr(benchmark_runs, "_run", lambda *_: (7.0, result))
    record = {"conv6: steps": {"iterand, as it is": {"median": 1e-3}}}
    assert brief._runs("conv6", record)["with a cache"] == {
        "process (s)": 7.0,
        "first step (s)": 3.0,
        "loop (ms a step)": 2.0,
        "loop / program": 2.0,
        "start (s)": {"data": [0.25, 1.0]},
    }
    assert "loop / program" not in brief._runs("conv6", {})["with a cache"]


def test_a_run_that_fails_says_its_last_line():
    with pytest.raises(RuntimeError, match=r"status 2: .*there is no config nope"):
        benchmark_runs.whole_runs("nope", {})
