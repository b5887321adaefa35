"""Running sweeps: each run once, whichever process is killed; failures are reported."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags

from experiments import run
from experiments.paper.catalogue import get_experiment
from experiments.paper.experiment import Cell, shortened
from experiments.sweeps import costs, ledger, work
from experiments.sweeps.runs import can_be_replicas, runs_of, select
from iterand_jax.data.sources import DataNotFoundError
from iterand_jax.runtime.locks import alone_or_refused
from iterand_jax.runtime.signals import InterruptedRunError, stop_requests
from iterand_jax.training import provenance
from iterand_jax.training.config import resolve
from iterand_jax.training.config_json import to_json
from tests.experiments.conftest import TINY

ROOT = Path(__file__).parents[2]
COMMAND = """
from experiments.paper import catalogue
from experiments import run
from iterand_jax.runtime import cli
from tests.experiments.conftest import TINY
catalogue.EXPERIMENTS = {**catalogue.EXPERIMENTS, "tiny": TINY}
cli.run(run.main, run.define_flags, positional=1)
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def folders(tmp_path):
    return f"--workdir={tmp_path / 'cells'}", f"--results={tmp_path / 'results'}"


@pytest.fixture
def place(tmp_path):
    ledger_file = tmp_path / "results" / "tiny.jsonl"
    return work.Sweep("tiny", False, tmp_path / "cells", ledger_file, None)


@pytest.fixture
def jobs():
    return [[one] for one in runs_of(TINY.cells(), range(TINY.seeds))]


@pytest.fixture
def untrained(monkeypatch, line):
    """Jobs end at once; `happens` can be set to what happens in one."""
    happens = {}
    trained = []

    def results(job, place):
        trained.extend(one.name for one in job)
        happens.get(job[0].name, lambda: None)()
        clock = {"seconds": {"training": float(len(trained))}}
        made = [line(one.cell, one.seed, 50.0, **clock) for one in job]
        return [{k: v for k, v in own.items() if k != "startup"} for own in made]

    monkeypatch.setattr(work, "_results", results)
    monkeypatch.setattr(work, "fingerprint", lambda dataset, data_dir: "f" * 16)
    return happens, trained


def by_status(ended):
    return {status: [job[0].name for job in found] for status, found in ended.items()}


def test_each_run_is_done_once_and_is_in_the_ledger(untrained, jobs, place):
    _, trained = untrained
    names = [job[0].name for job in jobs]
    ended = work.work_through(jobs, place)
    assert by_status(ended)[work.FINISHED] == names == trained
    again = work.work_through(jobs, place)
    assert by_status(again)[work.ALREADY] == names == trained
    assert len(list(ledger.read(place.ledger.parent))) == 4


def test_a_run_that_fails_is_reported_and_the_others_go_on(
    untrained, jobs, place, capsys
):
    happens, trained = untrained
    second = jobs[1][0]

    def fail():
        raise RuntimeError("out of\nmemory")

    happens[second.name] = fail
    ended = by_status(work.work_through(jobs, place))
    assert ended[work.FAILED] == [second.name]
    assert len(ended[work.FINISHED]) == 3
    printed = capsys.readouterr().err
    assert f"failed: {second.name}: out of memory (see " in printed
    log = place.workdirs / second.folder / "seed_1.txt"
    assert "Traceback" in log.read_text()
    happens.clear()
    ended = by_status(work.work_through(jobs, place))
    assert ended[work.FINISHED] == [second.name]
    assert sorted(trained) == sorted([*(job[0].name for job in jobs), second.name])


def test_what_others_do_is_left_to_them_and_taken_if_they_end(untrained, jobs, place):
    happens, trained = untrained
    first, second = jobs[0][0], jobs[1][0]

    def lock(one):
        path = place.workdirs / one.folder / f"seed_{one.seed}.lock"
        return alone_or_refused(path, refusal="held")

    dies = lock(first)
    with lock(second):
        dies.__enter__()
        happens[jobs[2][0].name] = lambda: dies.__exit__(None, None, None)
        ended = by_status(work.work_through(jobs, place))
    assert ended[work.ELSEWHERE] == [second.name]
    assert ended[work.FINISHED][-1] == first.name == trained[-1]
    assert second.name not in trained


def test_data_of_other_bytes_is_another_run(untrained, jobs, place, monkeypatch):
    _, trained = untrained
    work.work_through(jobs[:1], place)
    monkeypatch.setattr(work, "fingerprint", lambda dataset, data_dir: "e" * 16)
    ended = by_status(work.work_through(jobs[:1], place))
    assert ended[work.FAILED] == [jobs[0][0].name]  # the workdir holds the first
    assert len(trained) == 2
    assert len(list(ledger.read(place.ledger.parent))) == 1


def test_what_another_machine_trained_in_another_precision_is_not_taken_for_ours(
    untrained, jobs, place, monkeypatch
):
    work.work_through(jobs[:1], place)
    monkeypatch.setattr(provenance, "precision", lambda *fields: "tensorfloat32")
    ended = by_status(work.work_through(jobs[:1], place))
    assert ended[work.FAILED] == [jobs[0][0].name]  # the workdir holds the first
    (known,) = ledger.read(place.ledger.parent)
    assert ledger.precision(known) == "float32"


def test_what_the_plan_has_no_time_for_is_left_and_not_begun(untrained, jobs, place):
    _, trained = untrained
    asked = []

    class Plan:
        def fits(self, job):
            asked.append(job[0].name)
            return len(asked) != 2

        def left(self):
            return 60.0

    ended = work.work_through(jobs, place._replace(plan=Plan()))
    assert by_status(ended)[work.LATER] == [jobs[1][0].name]
    assert asked == [job[0].name for job in jobs]
    assert trained == [name for name in asked if name != jobs[1][0].name]
    assert "1 have no time left" in run.summary(ended)


def test_without_data_only_official_lines_count(jobs, line, tmp_path):
    (one,) = jobs[0]
    jpeg = line(one.cell, one.seed, 50.0, dataset_official=False)
    for made, done in ((jpeg, False), (jpeg | {"dataset_official": True}, True)):
        (tmp_path / "tiny.jsonl").write_text(json.dumps(made) + "\n")
        known = ledger.read(tmp_path)
        assert work.is_done(one, known, None) == done
        assert work.is_done(one, known, "f" * 16)
        assert not work.is_done(one, known, "e" * 16)


@pytest.mark.parametrize("dry_run", [False, True])
def test_data_is_prepared_before_it_is_asked_what_is_finished(dry_run, monkeypatch):
    asked = []

    def source(dataset, data_dir):
        asked.append("open")
        raise DataNotFoundError("absent")

    values = SimpleNamespace(dry_run=dry_run)
    monkeypatch.setattr(run.flags, "FLAGS", values)
    monkeypatch.setattr(work, "fingerprint", source)
    prepare = lambda dataset, data_dir: asked.append("prepare")  # noqa: E731
    monkeypatch.setattr(run.prepare, "prepare_if_possible", prepare)
    run._fingerprint.cache_clear()
    assert run._fingerprint("cifar10", "a folder") is None
    assert asked == (["open"] if dry_run else ["prepare", "open"])


@pytest.mark.parametrize(
    ("name", "only", "timed"),
    [
        ("table10", "", ["imdb_lstm", "imdb_bilstm"]),
        ("table3", "conv6", ["cifar_conv6", "cifar_conv6"]),
    ],
)
def test_networks_on_texts_are_priced_by_steps_of_their_own(
    name, only, timed, monkeypatch
):
    """Only what the ledger lacks is timed: two of Conv6, and each network on texts."""
    calls = []

    def here(base, **fields):
        calls.append(base)
        config = Cell({}, base, fields).config(0)
        return costs.Reference(config.network.name, costs.work(config), 1.0, base)

    monkeypatch.setattr(costs, "timed_here", here)
    runs = runs_of(select(get_experiment(name).cells(None), only), [0])
    found = run.timed_steps(runs, ledger.Ledger({}, ()))
    assert calls == timed
    assert all(costs.price(of.cell, found).origin in timed for of in runs)
    if name == "table10":  # a step of its own network costs what it did: one second
        assert {costs.price(of.cell, found).total for of in runs} == {4095.0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_steps_of_a_run_stops_the_sweep_after_it(
    number, untrained, jobs, place
):
    happens, trained = untrained
    first = jobs[0][0]

    def hear():
        with stop_requests() as request:  # as a run does, which then is at its end
            signal.raise_signal(number)
            assert request.number == number

    happens[first.name] = hear
    with pytest.raises(InterruptedRunError, match="between runs") as raised:
        work.work_through(jobs, place)
    assert raised.value.number == number
    assert trained == [first.name]
    assert [made["seed"] for made in ledger.read(place.ledger.parent)] == [first.seed]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    happens.clear()
    ended = by_status(work.work_through(jobs, place))
    assert len(ended[work.FINISHED]) == 3


def test_sigterm_where_no_run_is_in_its_steps_is_no_failure(untrained, jobs, place):
    happens, trained = untrained
    second = jobs[1][0]
    happens[second.name] = lambda: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(InterruptedRunError) as raised:
        work.work_through(jobs, place)
    assert raised.value.number == signal.SIGTERM
    assert trained == [jobs[0][0].name, second.name]
    assert len(list(ledger.read(place.ledger.parent))) == 1


def test_the_seeds_of_a_job_train_together_if_the_folder_is_free_when_it_begins(
    untrained, place, monkeypatch
):
    _, trained = untrained
    cell = TINY.cells()[0]
    job, other = runs_of([cell], [0, 1]), runs_of([cell], [2, 3])
    parts = []
    results = work._results
    record = lambda job, place: parts.append(len(job)) or results(job, place)  # noqa: E731
    monkeypatch.setattr(work, "_results", record)
    assert can_be_replicas(job)
    folder = place.workdirs / job[0].folder

    with alone_or_refused(folder / "together.lock", refusal="held"):
        work.work_through([other], place)  # others are about to begin
    assert parts == [1, 1]
    config = resolve(cell.draft(0, replicas=2))
    (folder / "config.json").write_text(to_json(config))
    work.work_through([job], place)
    assert parts == [1, 1, 2]
    more = runs_of([cell], [4, 5])
    work.work_through([more], place)
    assert parts == [1, 1, 2, 1, 1]
    assert len(trained) == len(list(ledger.read(place.ledger.parent))) == 6


NUMBERS = (
    *("test_accuracy", "validation_accuracy_best", "validation_accuracy_last"),
    *("parameters", "parameters_kept", "redrawn", "steps", "epochs"),
    *("sparsity_achieved", "examples_per_second"),
)
"""The fields without which result.json is none, but its "state_sha256"."""


def test_the_ledger_records_how_many_trained_together_not_how_many_were_asked_for(
    tmp_path,
):
    clocks = {0: 3.5, 1: 7.0, 2: 7.0}
    for seed, seconds in clocks.items():
        path = tmp_path / f"seed_{seed}" / "result.json"
        path.parent.mkdir()
        result = dict.fromkeys(NUMBERS, 1) | {"state_sha256": ""}
        path.write_text(json.dumps(result | {"seconds": {"training": seconds}}))
    together = [
        work._trained_together(tmp_path, seed, {"seconds": {"training": seconds}})
        for seed, seconds in clocks.items()
    ]
    assert together == [1, 2, 2]


def test_a_workdir_of_another_config_is_refused_with_the_difference(
    jobs, place, capsys
):
    first = jobs[0][0]
    folder = place.workdirs / first.folder / "seed_0"
    folder.mkdir(parents=True)
    config = first.config.to_dict() | {"batch_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    ended = by_status(work.work_through(jobs[:1], place))
    assert ended[work.FAILED] == [first.name]
    assert "batch_size: 32 / 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tabel3"], ["'tabel3'", "table3, table4, figure1"]),
        (["tiny", "--only=conv6"], ["'conv6'", "conv2, iterand, width=0.0625"]),
        (["tiny", "--epochs=2", "--miniature"], ["--epochs", "--miniature"]),
        (["tiny", "more"], ["'more'"]),
        (["tiny", "--within=12"], ["'12'", "90s, 12m or 2h"]),
        (["tiny", "--first=conv2"], ["--first=conv2", "--within"]),
        (["tiny", "--pack=runs.tar"], ["--pack", "take no table"]),
    ],
)
@pytest.mark.slow
def test_bad_input_is_one_line(arguments, words, tmp_path):
    code, out, err = finish(start(*arguments, *folders(tmp_path)))
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert not (tmp_path / "cells").exists()


def test_the_flags_of_a_sweep_are_all_but_those_of_a_move():
    known = {*flags.FLAGS}
    run.define_flags()
    defined = {*flags.FLAGS} - known
    for name in defined:
        delattr(flags.FLAGS, name)
    assert defined == {*run.OF_A_SWEEP, "pack", "unpack", "workdir"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--unpack=runs.tar", "--dry_run"], "--dry_run is not used with --unpack"),
        (["--pack=runs.tar", "--only=conv6"], "--only is not used with --pack"),
        (["table3", "--dry_run", "--report=r"], "experiments.report table3 --out"),
    ],
)
def test_a_flag_that_would_not_be_used_is_refused(arguments, words, fails, tmp_path):
    fails(run, [*arguments, *folders(tmp_path)[:1]], words)
    assert not (tmp_path / "cells").exists()


def saved(folder):
    """The step of the newest checkpoint in a workdir."""
    names = [path.name for path in folder.glob("checkpoints/*")]
    return max([int(name) for name in names if name.isdecimal()], default=0)


def wait_until_saved(folder, step, process):
    while saved(folder) < step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.compiles
def test_two_processes_on_one_sweep_one_killed_one_stopped(tmp_path):
    """No run is lost, trained twice, or restarted from the beginning."""
    cells, results = tmp_path / "cells", tmp_path / "results"
    command = ("tiny", "--seeds=1", "--epochs=20", *folders(tmp_path))
    mine, other = runs_of(TINY.cells(epochs=20), [0])
    workdir = cells / mine.folder / "seed_0"

    first = start(*command)
    wait_until_saved(workdir, 20, first)
    first.send_signal(signal.SIGSTOP)  # it is alive, and holds the lock of its run
    code, out, err = finish(start(*command))
    assert code == 0, err
    assert out.splitlines()[:2] == [
        "tiny: 2 runs, 0 of them finished",
        "1 runs finished",
    ]
    assert "1 are being done by other processes" in out
    assert f"elsewhere: {mine.name}" in err
    first.kill()
    assert finish(first)[0] == -signal.SIGKILL

    third = start(*command)
    wait_until_saved(workdir, saved(workdir) + 20, third)
    third.terminate()
    code, _, err = finish(third)
    assert (code, "stopped at step" in err) == (75, True), err

    code, out, err = finish(start(*command))
    assert code == 0, err
    assert out.splitlines() == ["tiny: 2 runs, 1 of them finished", "1 runs finished"]
    log = (cells / mine.folder / "seed_0.txt").read_text()
    assert log.count("continuing from the checkpoint") == 2
    assert log.count("test accuracy") == 1
    assert [path.name for path in results.glob("*.jsonl")] == ["tiny.jsonl"]

    # Without its ledger, a sweep takes the results from the workdirs.
    before = sorted(made["state_sha256"] for made in ledger.read(results))
    assert len(before) == 2
    (results / "tiny.jsonl").unlink()
    code, out, err = finish(start(*command))
    assert out.splitlines() == ["tiny: 2 runs, 0 of them finished", "2 runs finished"]
    known = ledger.read(results)
    assert sorted(made["state_sha256"] for made in known) == before
    assert len(known.of(mine)) == len(known.of(other)) == 1


@pytest.mark.slow
@pytest.mark.compiles
def test_seeds_together_leave_workdirs_and_lines_of_single_runs(tmp_path):
    command = ("tiny", "--only=iterand", "--epochs=1", *folders(tmp_path))
    code, _, err = finish(start(*command, "--together"))
    assert code == 0, err
    lines = list(ledger.read(tmp_path / "results"))
    assert [(made["seed"], made["together"]) for made in lines] == [(0, 2), (1, 2)]
    code, out, _ = finish(start(*command, "--seeds=1-2", "--together"))
    assert out.splitlines()[0] == "tiny: 2 runs, 1 of them finished"
    lines = list(ledger.read(tmp_path / "results"))
    assert [made["together"] for made in lines] == [2, 2, 1]
    # The folder of the cell is that of seeds 0 and 1 together; others run one by one.
    code, _, err = finish(start(*command, "--seeds=3-4", "--together"))
    assert code == 0, err
    # Without its ledger, and requested one by one.
    (tmp_path / "results" / "tiny.jsonl").unlink()
    code, _, err = finish(start(*command, "--seeds=0-4"))
    assert code == 0, err
    lines = list(ledger.read(tmp_path / "results"))
    assert [made["together"] for made in lines] == [2, 2, 1, 1, 1]
    cell = TINY.cells(epochs=1)[0]
    possible = {(3, 4): True, (3, 5): False, (3,): False}
    for seeds, answer in possible.items():
        assert can_be_replicas(runs_of([cell], seeds)) == answer


@pytest.mark.slow
@pytest.mark.compiles
def test_a_shard_has_a_ledger_file_of_its_own(tmp_path):
    for which in (1, 2):
        arguments = ("tiny", f"--shard={which}/2", "--miniature", "--seeds=2")
        code, _, err = finish(start(*arguments, *folders(tmp_path)))
        assert code == 0, err
    files = sorted(path.name for path in (tmp_path / "results").glob("*.jsonl"))
    assert files
    assert set(files) <= {"tiny_shard_1_of_2.jsonl", "tiny_shard_2_of_2.jsonl"}
    lines = list(ledger.read(tmp_path / "results"))
    assert sorted(made["seed"] for made in lines) == [0, 1]
    assert all(made["miniature"] for made in lines)
    code, out, _ = finish(start("tiny", "--dry_run", *folders(tmp_path)))
    assert (code, out.splitlines()[0]) == (0, "tiny: 4 runs, 0 of them finished")
    assert "conv2 edge_popup width=0.0625" in out
    assert "from the ledger's conv2 iterand" in out


@pytest.mark.slow
@pytest.mark.compiles
def test_the_stages_of_magnitude_pruning_are_one_run(place):
    digits = {"dataset.name": "digits", "dataset.mean": (0.3,), "dataset.std": (0.38,)}
    small = {"augmentation": "none", "network.name": "conv2", "network.width": 0.0625}
    fields = {"method": "imp", "batch_size": 256, "log_every_steps": 1}
    cell = Cell({"method": "imp"}, "cifar_resnet20_imp", digits | small | fields)
    cell = shortened(cell, 1)
    ended = work.work_through([runs_of([cell], [0])], place)
    assert by_status(ended)[work.FINISHED] == ["imp, seed 0"]
    (made,) = ledger.read(place.ledger.parent)
    assert (made["epochs"], made["paper_epochs"]) == (1, 160)
    assert made["steps"] == costs.steps(cell) / 351 * 5 == 4 * 5
    assert made["sparsity_achieved"] == pytest.approx(0.5, abs=0.02)  # of all leaves
