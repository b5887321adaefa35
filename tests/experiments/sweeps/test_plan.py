"""Plans: prices, priorities, and what a limit leaves out."""

import json
import signal
import time

import pytest

from experiments.paper.catalogue import EXPERIMENTS
from experiments.sweeps import costs, ledger, plan
from experiments.sweeps.runs import jobs_of, runs_of
from iterand_jax.training import provenance

CELLS = {cell.name: cell for cell in EXPERIMENTS["table3"].cells()}
NARROW = [
    CELLS[f"conv6 {method} width=0.25"]
    for method in ("iterand SC", "edge_popup SC", "sgd KU")
]
WIDE = CELLS["conv6 iterand SC width=1"]
STEPS = 35_100


def jobs(*cells, seeds=(0, 1)):
    return jobs_of(runs_of(cells, seeds), together=False)


def names(found):
    return [
        (job[0].cell.labels["width"], job[0].cell.labels["method"]) for job in found
    ]


@pytest.fixture
def planned(tmp_path, line):
    """A plan of a limit by a ledger of one run: 0.1 s a step, 100 s of start-up."""
    took = {"training": 0.1 * STEPS, "first step": 100.0}
    known = line(NARROW[0], 9, 75.0, device=provenance.device(), seconds=took)
    del known["startup"]  # as in lines of earlier versions
    ledger.append(tmp_path / "results" / "table3.jsonl", known)
    moments = [1000.0]

    def make(within):
        folders = tmp_path / "cells", tmp_path / "results"
        return plan.Plan(within, 1000.0, *folders, clock=lambda: moments[-1])

    return make, moments


@pytest.mark.parametrize("text", ["12", "m", "0m", "-3m", "1.5.2h", "12 m", "1w"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="--within must be a time"):
        plan.parse_duration(text)
    assert plan.parse_duration("90s") == 90.0


def test_only_what_ends_in_time_starts_and_a_start_up_is_paid_once(
    planned, monkeypatch
):
    monkeypatch.setattr(costs, "steps", lambda cell: STEPS)
    make, moments = planned
    price = 100 + 0.1 * STEPS
    one, two = jobs(NARROW[0])
    limit = make(plan.SAFETY * price + 11)
    walked = limit.walk([one, two])
    assert [p.ends for p in walked] == [pytest.approx(price), None]
    assert limit.left() == pytest.approx(plan.SAFETY * price + 1)
    assert limit.fits(one)
    assert limit.ever_fits(two)
    moments.append(moments[0] + 2)
    assert not limit.fits(one)
    assert limit.ever_fits(one)
    wide = jobs(WIDE)[0]
    assert not limit.ever_fits(wide)
    # The second of a form takes the programs of the first, as a line says.
    known = ledger.read(limit._results)
    (first,) = known
    again = first | {"seed": 8, "startup": {"state": 2.0}}
    again["seconds"] = first["seconds"] | {"first step": 3.0}
    ledger.append(limit._results / "table3.jsonl", again)
    moments.append(moments[0])
    walked = make(10 * price).walk([one, two])
    assert [p.price.startup for p in walked] == [100.0, 3.0]
    text = plan.table(walked, make(10 * price))
    assert "conv6 iterand SC width=0.25, seed 1" in text
    assert "the ledger's conv6 iterand SC width=0.25 (median of 2)" in text


def test_what_is_begun_comes_first_then_what_is_named_then_the_cheapest_column(
    planned, tmp_path, monkeypatch
):
    monkeypatch.setattr(costs, "steps", lambda cell: STEPS)
    make, _ = planned
    limit = make(3600)
    every = jobs(WIDE, *NARROW)
    found = limit.order(every, ())
    assert names(found)[-2:] == [(1.0, "iterand")] * 2
    assert [job[0].seed for job in found] == [0, 0, 0, 1, 1, 1, 0, 1]
    assert names(limit.order(every, {WIDE.name}))[:2] == [(1.0, "iterand")] * 2
    job = every[-1]
    saved = tmp_path / "cells" / job[0].folder / f"seed_{job[0].seed}" / "checkpoints"
    (saved / "17550" / "record").mkdir(parents=True)
    (saved / "20.tmp").mkdir()
    record = {"parts": [{"device": "1 x GPU", "precision": "float32"}]}
    (saved / "17550" / "record" / "metadata").write_text(json.dumps(record))
    assert limit.order(every, {WIDE.name})[0] is job
    assert plan.begun(saved.parent) == (17_550, [["1 x GPU", "float32"]])
    (half,) = limit.walk([job])
    assert half.price.seconds == pytest.approx(0.1 * STEPS / 2)


def test_without_lines_of_this_device_a_step_is_timed_once(tmp_path, monkeypatch):
    calls = []

    def timed(base, **fields):
        calls.append((base, fields["network.width"]))
        work = costs.work(NARROW[0].config(0))
        return costs.Reference("conv6", work, 0.5, "timed", startup=7.0)

    monkeypatch.setattr(costs, "timed_here", timed)
    monkeypatch.setattr(costs, "steps", lambda cell: 10)
    limit = plan.Plan(60, time.perf_counter(), tmp_path, tmp_path)
    walked = limit.walk(jobs(*NARROW))
    assert calls == [("cifar_conv6", 0.25)]
    assert {p.price.total for p in walked} == {12.0}


def reference(seconds, width=0.25, method="iterand", finished=""):
    config = CELLS[f"conv6 iterand SC width={width:g}"].config(0)
    times = {"startup": 30.0, "again": 3.0}
    return costs.Reference(
        "conv6",
        costs.work(config),
        seconds,
        "",
        **times,
        method=method,
        finished=finished,
    )


def test_the_most_similar_step_is_of_its_network_then_late_then_of_its_method():
    wide = reference(9.0, width=1.0)
    other = reference(8.0)._replace(network="conv4")
    old, own = reference(2.0, method="sgd"), reference(1.0)
    late = reference(3.0, method="sgd", finished="2026-11-30T05:00:00+00:00")
    later = late._replace(method="iterand", seconds=4.0)
    since, cell = "2026-11-30T04:59:00+00:00", NARROW[0]
    assert costs.alike(cell, []) == []
    assert costs.alike(cell, [other, wide]) == [wide]
    assert costs.alike(cell, [other, wide, old]) == [old]
    assert costs.alike(cell, [old, own, own], since) == [own, own]
    assert costs.alike(cell, [own, late], since) == [late]
    assert costs.alike(cell, [own, late, later, later], since) == [later] * 2
    assert costs.agree([own, own._replace(seconds=1.2)])
    assert not costs.agree([own, own._replace(seconds=1.21)])


def test_where_lines_disagree_a_step_is_timed_until_a_run_of_this_call_ended(
    tmp_path, line, monkeypatch
):
    calls, file = [], tmp_path / "table3.jsonl"

    def timed(base, **fields):
        calls.append(fields["network.width"])
        now = "2999-01-01T00:00:00+00:00"
        return reference(0.5, width=calls[-1], finished=now)._replace(again=None)

    def add(cell, seed, seconds, finished):
        took = {"training": STEPS * seconds, "first step": 80.0}
        parts = {"program step": 60.0, "state": 4.0, "first dispatch": 1.0}
        one = line(cell, seed, 75.0, device=provenance.device(), seconds=took)
        one |= {"startup": parts, "finished": finished, "steps": STEPS}
        ledger.append(file, one)

    monkeypatch.setattr(costs, "timed_here", timed)
    monkeypatch.setattr(costs, "steps", lambda cell: STEPS)
    clock = [1000.0]
    limit = plan.Plan(1e6, 1000.0, tmp_path, tmp_path, clock=lambda: clock[0])

    def prices(*jobs):
        walked = limit.walk(jobs)
        return [(p.price.startup, round(p.price.seconds / STEPS, 3)) for p in walked]

    one, two = jobs(NARROW[0])
    for seed, seconds in ((5, 1.0), (6, 1.1)):
        add(NARROW[0], seed, seconds, "2026-11-25T23:08:06+00:00")
    assert prices(one, two) == [(80.0, 1.05), (5.0, 1.05)]
    assert not calls  # the lines agree
    add(NARROW[0], 7, 4.0, "2026-11-25T23:08:06+00:00")
    assert limit.order([one, two], ()) == [one, two]
    assert not calls  # the order needs no timing
    assert prices(one, two) == [(30.0, 0.5), (5.0, 0.5)]
    assert calls == [0.25]
    assert prices(one, two) == [(30.0, 0.5), (5.0, 0.5)]
    assert calls == [0.25]
    # What ran in this call counts before what was timed.
    add(NARROW[0], 0, 0.6, "2999-01-02T00:00:00+00:00")
    assert prices(two) == [(80.0, 0.6)]
    assert limit.fits(one)
    assert prices(two) == [(5.0, 0.6)]
    assert calls == [0.25]


def test_steps_are_timed_in_a_twentieth_of_the_limit(tmp_path, line, monkeypatch):
    calls, clock = [], [1000.0]

    def timed(base, **fields):
        calls.append(fields["network.width"])
        clock[0] += 30
        return reference(0.5, width=calls[-1], finished="2999-01-01T00:00:00+00:00")

    monkeypatch.setattr(costs, "timed_here", timed)
    monkeypatch.setattr(costs, "steps", lambda cell: STEPS)
    cells = [CELLS[f"conv6 iterand SC width={width}"] for width in ("0.25", "0.5", "1")]
    for cell in cells:
        for seed, seconds in ((5, 0.1), (6, 0.4)):
            took = {"training": STEPS * seconds, "first step": 80.0}
            one = line(cell, seed, 75.0, device=provenance.device(), seconds=took)
            one |= {"finished": "2026-11-25T23:08:06+00:00", "steps": STEPS}
            ledger.append(tmp_path / "table3.jsonl", one)
    limit = plan.Plan(700, 1000.0, tmp_path, tmp_path, clock=lambda: clock[0])
    walked = limit.walk(jobs(*cells, seeds=(0,)))
    assert calls == [0.25, 0.5]  # 30 s of 35, then 60
    assert limit.left() == 700 - 10 - 60
    assert walked[2].price.seconds == pytest.approx(0.25 * STEPS)  # the lines' median


def test_what_timing_takes_is_not_left_for_runs(tmp_path, monkeypatch):
    clock = [1000.0]

    def timed(base, **fields):
        clock[0] += 30
        return reference(0.1)._replace(startup=0.0)

    monkeypatch.setattr(costs, "timed_here", timed)
    monkeypatch.setattr(costs, "steps", lambda cell: 1000)
    for within, fits in (
        (plan.SAFETY * 100 + 41, True),
        (plan.SAFETY * 100 + 36, False),
    ):
        limit = plan.Plan(within, clock[0], tmp_path, tmp_path, clock=lambda: clock[0])
        (planned,) = limit.walk(jobs(NARROW[0], seeds=(0,)))
        assert (planned.ends is not None) == fits
        assert limit.fits(planned.job) == fits


def test_sigterm_comes_when_the_time_is_up(tmp_path, capsys):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        limit = plan.Plan(0.2, time.perf_counter(), tmp_path, tmp_path)
        with plan.stopping_in_time(limit):
            deadline = time.perf_counter() + 5
            while not heard and time.perf_counter() < deadline:
                pass
        assert heard == [signal.SIGTERM]
        assert "--within is up" in capsys.readouterr().out
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGTERM, before)
