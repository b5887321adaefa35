"""The benchmark runs, its record is complete, and targets are evaluated."""

import json
import re

import pytest

from experiments import benchmark
from experiments.measurements import benchmark_report
from iterand_jax.runtime import timing
from iterand_jax.training import parallel, provenance

REPLICAS = {"alone": {"median": 0.3}, "of three": {"median": 0.25}}


def record(platform, **networks):
    """A record of medians in seconds."""

    def medians_of(**medians):
        return {name: {"median": m} for name, m in medians.items()}

    rows = [
        {"units": n, "times": medians_of(masks=m, **{"re-randomization": r})}
        for n, m, r in ((10**3, 6e-6, 9e-6), (10**4, 2e-5, 3e-5), (10**5, 3e-4, 7e-4))
    ]
    step = {"compiled": {"process": 8.0}, "cached": {"process": 2.0}}
    return {
        "platform": platform,
        "networks": {k: {"times": medians_of(**m)} for k, m in networks.items()},
        "first_step": {"conv6": step},
        "replicas": {"times": REPLICAS},
        "scaling": {"parameters": rows},
    }


def judged(*arguments, **networks):
    found = benchmark_report.targets(record(*arguments, **networks))
    return [(t.measured and round(t.measured, 6), t.verdict) for t in found]


EVERYWHERE = [
    (1.2, "met"),
    (0.25, "met"),
    (1.5, "met"),
    (pytest.approx(7 / 3), "not met"),
]
NO_GPU = [(None, "not measured: no GPU")] * 4
NO_CPU = [(None, "not measured: no CPU")] * 2


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
    assert judged("cpu", conv6=conv6, resnet18=resnet18) == [
        (0.025, "met"),
        (15.0, "not met"),
        (0.00025, "met"),
        (0.8, "not met"),
        (1.5, "met"),
        *NO_GPU,
        *EVERYWHERE,
    ]
    slower = resnet18 | {"all masks": 0.07, "floor": 0.015, "re-randomization": 1.3}
    assert judged("cpu", resnet18=slower) == [
        (0.035, "not met"),
        (pytest.approx(86.666667), "not met"),
        (pytest.approx(0.002167), "not met"),
        (None, "not measured"),
        (1.5, "met"),
        *NO_GPU,
        *EVERYWHERE,
    ]


def test_the_targets_of_a_gpu_are_judged_by_ratios_of_medians_and_seconds():
    conv6 = {"iterand": 0.004}
    resnet18 = {
        "iterand": 0.0108,
        "sgd": 0.01,
        "all masks": 0.0004,
        "re-randomization": 0.0004,
        "floor": 0.0001,
    }
    resnet50 = {"iterand": 0.106, "sgd": 0.1}
    assert judged("gpu", conv6=conv6, resnet18=resnet18, resnet50=resnet50) == [
        (0.037037, "met"),
        (4.0, "met"),
        (0.000123, "met"),
        *NO_CPU,
        (1.08, "met"),
        (1.06, "not met"),
        (140.4, "met"),
        (379.08, "met"),
        *EVERYWHERE,
    ]
    nothing = [(None, "not measured")]
    assert judged("gpu") == nothing * 3 + NO_CPU + nothing * 4 + EVERYWHERE


def test_the_table_says_what_no_gpu_leaves_out():
    table = benchmark_report.target_table(benchmark_report.targets(record("cpu")))
    (line,) = [line for line in table.splitlines() if line.startswith("resnet50")]
    assert re.search(r" - +<= 1\.05  not measured: no GPU$", line)


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


def test_replicas_are_told_by_step_and_seed():
    told = {"config": "cifar_conv6", "width": 0.25, "times": REPLICAS}
    assert benchmark_report.replicas_line(told).endswith(
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


def test_a_gpu_measures_larger_networks_in_bfloat16():
    networks = benchmark.plan("gpu", quick=False).networks
    assert networks["resnet50"][1] == {"dtype": "bfloat16", "batch_size": 256}
    assert {fields["dtype"] for _, fields in networks.values()} == {"bfloat16"}
    assert list(benchmark.plan("cpu", quick=False).networks) == ["conv6", "resnet18"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(platform, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure", interrupted)
    assert benchmark.main([f"--out={tmp_path}"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_peer_is_refused_where_it_does_not_belong(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "_python", lambda script, environment: "gpu")
    with pytest.raises(SystemExit):
        benchmark.main(["--peer"])
    assert "PyTorch on cpu; the platform is gpu" in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_run_measures_and_records_everything(tmp_path, capsys):
    folder = tmp_path / "new"
    assert benchmark.main(["--quick", f"--out={folder}"]) == 0
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


@pytest.mark.slow
def test_what_a_gpu_would_measure_runs(monkeypatch):
    """On a CPU, with its bfloat16 and with several steps in a call."""
    monkeypatch.setattr(parallel, "steps_per_dispatch", lambda: 3)
    found = benchmark.measure("gpu", quick=True)
    (network,) = found["networks"].values()
    assert network["dtype"] == "bfloat16"
    assert network["steps_per_call"] == 3
    verdicts = [t.verdict for t in benchmark_report.targets(found)]
    assert verdicts.count("not measured: no CPU") == 2
    assert "not measured: no GPU" not in verdicts
