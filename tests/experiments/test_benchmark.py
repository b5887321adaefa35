"""The benchmark runs, its record is complete, and targets are evaluated."""

import json
import re

import pytest

from experiments import benchmark
from experiments.measurements import benchmark_report
from iterand_jax.runtime import timing
from iterand_jax.training import provenance

REPLICAS = {"alone": {"median": 0.3}, "of three": {"median": 0.25}}


def record(**networks):
    """A record of medians in seconds."""

    def medians_of(**medians):
        return {name: {"median": m} for name, m in medians.items()}

    rows = [
        {"units": n, "times": medians_of(masks=m, **{"re-randomization": r})}
        for n, m, r in ((10**3, 6e-6, 9e-6), (10**4, 2e-5, 3e-5), (10**5, 3e-4, 7e-4))
    ]
    step = {"compiled": {"process": 8.0}, "cached": {"process": 2.0}}
    return {
        "networks": {k: {"times": medians_of(**m)} for k, m in networks.items()},
        "first_step": {"conv6": step},
        "replicas": {"times": REPLICAS},
        "scaling": {"parameters": rows},
    }


def judged(**networks):
    found = benchmark_report.targets(record(**networks))
    return [(t.measured and round(t.measured, 6), t.verdict) for t in found]


EVERYWHERE = [
    (1.2, "met"),
    (0.25, "met"),
    (1.5, "met"),
    (pytest.approx(7 / 3), "not met"),
]


@pytest.mark.smoke
def test_the_targets_of_a_cpu_are_judged_by_ratios_of_medians():
    conv6 = {"iterand": 0.5, "peer iterand": 0.4}
    resnet18 = {
        "iterand": 2.0,
        "sgd": 1.0,
        "all masks": 0.05,
        "re-randomization": 0.15,
        "floor": 0.01,
        "peer iterand": 3.0,
    }
    assert judged(conv6=conv6, resnet18=resnet18) == [
        (0.025, "met"),
        (15.0, "not met"),
        (0.00025, "met"),
        (0.8, "not met"),
        (1.5, "met"),
        *EVERYWHERE,
    ]
    slower = resnet18 | {"all masks": 0.07, "floor": 0.015, "re-randomization": 1.3}
    assert judged(resnet18=slower) == [
        (0.035, "not met"),
        (pytest.approx(86.666667), "not met"),
        (pytest.approx(0.002167), "not met"),
        (None, "not measured"),
        (1.5, "met"),
        *EVERYWHERE,
    ]


def test_the_targets_of_an_accelerator_are_judged_by_what_was_measured():
    def of(**seconds):
        return {
            name.replace("_", " ") + ", as it is": {"median": s}
            for name, s in seconds.items()
        }

    cold = {"first step (s)": 19.0}
    warm = {"first step (s)": 9.0, "loop / program": 1.04}
    found = benchmark_report.accelerator_targets(
        {
            "conv6: steps": of(iterand=2e-4, sgd=2e-4, iterand_x_3=1e-4),
            "resnet18: steps": of(iterand=2.5e-3, sgd=2e-3),
            "resnet18: runs": {"without a cache": cold, "with a cache": warm},
            "resnet18: phases": {"masks": {"median": 9e-5}},
            "resnet50: imagenet": {**of(iterand=0.08, sgd=0.08), "batch_size": 256},
            "conv6: runs": {"error": "MemoryError: 17 GiB"},
            "conv6: same bits": {"same bits": False},
        }
    )
    assert [(t.measured and round(t.measured, 6), t.verdict) for t in found] == [
        *[(19.0, "met"), (9.0, "not met"), (None, "not measured")],
        *[(1.04, "not met"), (None, "not measured")],
        *[(1.25, "not met"), (1.0, "met"), (1.0, "met")],
        *[(2.5, "not met"), (0.2, "met"), (0.09, "met"), (None, "not measured")],
        *[(2.0, "met"), (False, "not met"), (3200.0, "met")],
    ]
    cold = {"without a cache": {"loop / program": 1.05}}
    found = benchmark_report.accelerator_targets({"conv6: runs": cold})
    (loop,) = (t for t in found if t.measured)
    assert loop.name == "conv6: its loop / its program, without a cache"
    assert loop.verdict == "met"
    nothing = benchmark_report.accelerator_targets({})
    assert {t.verdict for t in nothing} == {"not measured"}
    table = benchmark_report.target_table(nothing)
    assert re.search(r"resnet50: images/s +- +>= 3000  not measured$", table)


def test_the_re_randomization_is_a_share_of_the_steps_between_two():
    times = {
        name: {"median": m, "fastest": m, "slowest": m}
        for name, m in {
            "iterand": 2.0,
            "sgd": 2.0,
            "re-randomization": 0.6,
            **dict.fromkeys(benchmark_report.PHASES, 0.1),
            "forward and backward": 1.0,
        }.items()
    }
    network = {"batch_size": 8, "dtype": "float32", "parameters": 5, "times": times}
    printed = benchmark_report.network_table("conv2", network)
    (line,) = [x for x in printed.splitlines() if x.startswith("  re-randomization")]
    assert line.endswith(" 0.100%")


def test_replicas_are_reported_by_step_and_seed():
    measured = {"config": "cifar_conv6", "width": 0.25, "times": REPLICAS}
    assert benchmark_report.replicas_line(measured).endswith(
        "300.0 ms a step alone, 250.0 ms a step and seed of three in one program: "
        "1.20 times as fast"
    )


def test_programs_are_sampled_by_turns_after_a_warm_up(monkeypatch):
    now, called = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * now[0])

    def program(name, seconds):
        def call():
            called.append(name)
            now[0] += seconds

        return call

    programs = {"slow": program("slow", 3.0), "fast": program("fast", 0.0125)}
    times = timing.interleaved(programs, 2, units={"slow": 10})
    # A sample is two calls of the fast one, after one call that is not timed.
    rounds = ["slow"] * 2 + ["fast"] * 3
    assert called == ["slow"] * 2 + ["fast"] * 2 + rounds * 2
    assert times["slow"] == pytest.approx((0.3, 0.3, 0.3, 0.6, 2))
    assert times["fast"] == pytest.approx((0.0125, 0.0125, 0.0125, 0.025, 2))


def test_a_call_that_is_not_counted_takes_the_misses_of_the_program_before(monkeypatch):
    """Each program is slow right after another one was called."""
    now, last = [0.0], [None]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def program(name):
        def call():
            now[0] += 1.0 if last[0] == name else 5.0
            last[0] = name

        return call

    times = timing.interleaved({"ours": program("ours"), "peer": program("peer")}, 3)
    assert {(t.median, t.slowest) for t in times.values()} == {(1.0, 1.0)}


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, capsys, command):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure", interrupted)
    assert command(benchmark, f"--out={tmp_path}") == 130
    assert capsys.readouterr().err == "interrupted; the same command starts again\n"
    assert not list(tmp_path.iterdir())


def test_an_accelerator_is_measured_within_a_deadline(monkeypatch, command):
    asked = []
    monkeypatch.setattr(
        benchmark.benchmark_brief,
        "run",
        lambda seconds, *_, **__: asked.append(seconds),
    )
    monkeypatch.setattr(benchmark.jax, "default_backend", lambda: "gpu")
    assert command(benchmark) == command(benchmark, "--seconds=500") == 0
    assert asked == [200, 500]


@pytest.mark.slow
def test_a_quick_run_measures_and_records_everything(tmp_path, capsys, command):
    folder = tmp_path / "new"
    assert command(benchmark, "--quick", f"--out={folder}") == 0
    (out,) = folder.glob("*.json")
    found = json.loads(out.read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert found["quick"] is True
    assert found["platform"] == "cpu"
    assert found["device"] == provenance.device()
    assert found["versions"]["jax"]
    assert found["commit"]
    assert found["cores"] >= 1
    (network,) = found["networks"].values()
    assert network["batch_size"] == 8
    times = network["times"]
    assert times.keys() >= {
        *("iterand", "sgd", "augmentation", "masks", "forward", "update", "floor"),
        *("forward and backward", "re-randomization", "all masks"),
        *("masks, per leaf", "masks, blocked"),
    }
    for t in times.values():
        assert 0 < t["fastest"] <= t["median"] <= t["slowest"]
        assert t["samples"] == 2
        assert t["processor"] > 0
    assert found["replicas"]["times"].keys() == {"alone", "of three"}
    for rows in found["scaling"].values():
        sizes = [row["units"] for row in rows]
        assert sizes == sorted(set(sizes))
        assert all(t["median"] > 0 for row in rows for t in row["times"].values())
    assert found["first_step"]["conv2"]["cached"]["process"] > 0
    printed = capsys.readouterr().out
    assert "ResNet18's masks / its step" in printed
    assert f"wrote {out}" in printed
    assert out.with_suffix(".txt").read_text() in printed
