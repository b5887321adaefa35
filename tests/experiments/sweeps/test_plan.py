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
