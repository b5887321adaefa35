"""A small share of each campaign, and that campaigns see what is broken."""

import json
import os
import random
import resource
import tempfile
import time
from dataclasses import asdict

import pytest

from experiments.measurements.faults import __main__ as faults
from experiments.measurements.faults import (
    disk,
    limited,
    memory,
    mutators,
    states,
    sweeps,
    tickets,
    workdirs,
)
from experiments.measurements.faults.trial import REFUSED, Trial, record_of
from iterand_jax.training import record
from tests import helpers

SEED = 7


class Answered:
    """A child that has one answer to all calls."""

    answer: limited.Called

    def __init__(self, **limits):
        del limits

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def call(self, *arguments):
        return self.answer


def broken(trials):
    return [trial for trial in trials if not trial.kept]


def test_a_record_counts_outcomes_and_names_what_was_not_kept():
    found = record_of(
        [Trial("a", "x", True, seconds=2.0), Trial("a", "y", False, "see 3")]
    )
    assert (found["trials"], found["kept"], found["slowest_seconds"]) == (2, 1, 2.0)
    assert found["outcomes"] == {"a": {"x": 1, "y": 1}}
    assert found["broken"] == ["a: y: see 3"]


def test_the_command_knows_all_campaigns_and_fails_for_a_broken_promise(
    tmp_path, monkeypatch, command
):
    assert {"kills", "processes", "tickets", "workdirs"} <= {*faults.CAMPAIGNS}
    for kept, status in ((True, 0), (False, 1)):
        made = [Trial("a", "x", kept)]
        monkeypatch.setattr(tickets, "trials", lambda *_, made=made: iter(made))
        out = tmp_path / "record.json"
        assert command(faults, "--campaign=tickets", f"--out={out}") == status
        assert f'"kept": {int(kept)}' in out.read_text()


def test_bad_flags_of_the_campaigns_are_one_line(fails):
    fails(faults, ["--campaign=tickets", "--count=0"], "--count=0")
    fails(faults, [], "give --campaign=")


def test_a_campaign_ends_after_its_minutes():
    made = [Trial("a", "x", True)] * 3
    assert len(list(faults.within(None, iter(made)))) == 3
    assert len(list(faults.within(1e-12, iter(made)))) == 1


def test_ctrl_c_ends_a_campaign_with_what_was_tried():
    def trials():
        yield Trial("a", "x", True)
        raise KeyboardInterrupt

    assert len(list(faults.within(None, trials()))) == 1


def test_the_same_seed_makes_the_same_changes():
    value, content = {"a": [1, {"b": "c"}], "d": None}, bytes(range(100))

    def changes(seed):
        draw = random.Random(seed)
        for _ in range(50):
            kind, other = mutators.changed_json(value, draw)
            yield mutators.changed_bytes(content, draw), kind, mutators.text_of(other)

    assert [*changes(1)] == [*changes(1)] != [*changes(2)]
    assert value == {"a": [1, {"b": "c"}], "d": None}
    assert len({kind for (kind, _), _, _ in changes(1)}) == 6


def take(megabytes):
    return len(b"x" * (megabytes * 2**20))


def wait(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def imported():
    """Nothing more than this module, which imports jax."""


def taken(megabytes):
    try:
        return take(megabytes)
    except MemoryError:
        return "refused"


@pytest.mark.slow
def test_calls_have_limits_of_memory_and_time():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited.Limited(megabytes=200, seconds=1, ready=imported) as child:
        assert child.call(taken, 50).value == 50 * 2**20
        assert child.call(taken, 400).value == "refused"
        assert child.call(wait, 30).ended == "SIGALRM"
        found = child.call(taken, 60)  # in another child
        assert found.value == 60 * 2**20
        assert found.megabytes > 40
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_the_progress_bar_is_no_line_of_a_run_that_cannot_write():
    bar = " 33%|███▎      | 20/60 [00:00<00:01, 32.91step/s, loss=2.256, val=25.2%]"
    stderr = f"\r  0%|          | 0/60 [00:00<?, ?step/s]\r{bar}\nerror: cannot\n"
    assert disk._lines(stderr) == ["error: cannot"]


def sweep_folder(tmp_path):
    """A ledger of one line, a finished run and one with a checkpoint at step 40."""
    shared = sweeps.Folders(tmp_path, epochs=3, seeds=1)
    done, saved = map(shared.workdir, shared.runs())
    (saved / "checkpoints" / "40").mkdir(parents=True)
    (saved / "checkpoints" / "60.orbax-checkpoint-tmp").mkdir()
    done.mkdir(parents=True)
    (done / "result.json").write_text("{}")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "digits.jsonl").write_text("a line\n")
    start(saved)
    return shared, done, saved


def start(workdir, step=0):
    said = f"continuing from the checkpoint at step {step}\n" if step else ""
    with workdir.with_suffix(".txt").open("a") as log:
        log.write(f"  network  conv2\n  steps    1,000 = 50 epochs of 20\n{said}")


def test_what_sweeps_lose_or_do_twice_is_seen(tmp_path):
    shared, done, saved = sweep_folder(tmp_path)
    assert not shared.is_between()
    moment = shared.moment()
    assert [*moment.results, *moment.saved] == [run.name for run in shared.runs()]
    assert [*moment.saved.values()] == [40]
    assert shared.lost_since(moment) == []
    start(saved)  # killed before it says from where it continues
    start(saved, 40)
    (tmp_path / "results" / "digits.jsonl").write_text("a line\nanother\n")
    assert shared.lost_since(moment) == []
    start(saved, 20)
    os.utime(done / "result.json", ns=(0, 0))
    (tmp_path / "results" / "digits.jsonl").write_text("another\n")
    first, second = (run.name for run in shared.runs())
    assert shared.lost_since(moment) == [
        "lines of the ledger",
        f"{first}: its result was written again",
        f"{second}: steps were trained again",
    ]
    (saved / "result.json").write_text("{}")
    assert shared.is_between()


def test_a_start_from_the_beginning_is_seen(tmp_path):
    shared, _, saved = sweep_folder(tmp_path)
    moment = shared.moment()
    start(saved)
    found = shared.lost_since(moment)
    assert found == [f"{shared.runs()[1].name}: steps were trained again"]


@pytest.mark.slow
@pytest.mark.compiles
def test_sweeps_that_are_killed_lose_nothing_and_do_nothing_twice(tmp_path):
    whole, shared = (
        sweeps.Folders(tmp_path / name, epochs=4, seeds=1) for name in ("whole", "two")
    )
    whole.end([whole.started()])
    kinds = ("all while one saves", "all at a result")
    found = list(sweeps.disturbed(shared, 2, kinds, random.Random(SEED)))
    found.append(sweeps.compared(shared, whole, "the end"))
    assert not broken(found)
    assert found[-1].outcome == "each of 2 runs once, the same bits"
    assert len(found) > 1
    assert sweeps.compared(shared, shared._replace(folder=tmp_path), "").kept is False


def test_a_record_names_no_temporary_folder_of_the_machine():
    folder = f"{tempfile.gettempdir()}/tmpabc"
    detail = f"no file {folder}/2/checkpoints/10; again: {folder}/3"
    (broken,) = record_of([Trial("cut", "hung", False, detail)])["broken"]
    assert broken == "cut: hung: no file FOLDER/2/checkpoints/10; again: FOLDER/3"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["no permission", "no permission any more", "a workdir that is removed"],
)
def test_a_run_that_may_not_write_ends_with_one_line(kind, tmp_path):
    """In a process of its own: one in which JAX has threads is not to be forked."""
    script = (
        "import random; from pathlib import Path\n"
        "from experiments.measurements.faults import disk\n"
        f"draw, folder = random.Random({SEED}), Path({str(tmp_path / 'w')!r})\n"
        f"fault = disk.FAULTS[{kind!r}]\n"
        f"found = disk.tried({kind!r}, fault, folder, draw, digest='')\n"
        "print(found.kept, found.outcome, found.detail)"
    )
    printed = helpers.printed("-c", script)
    assert printed.startswith("True status 2, 1 lines"), printed


@pytest.mark.slow
def test_changed_tickets_give_the_same_arrays_or_one_line(tmp_path):
    found = list(tickets.trials(150, SEED, tmp_path))
    assert not broken(found)
    assert {trial.outcome for trial in found} == {tickets.SAME, REFUSED}
    assert sum("with a checksum" in trial.kind for trial in found) > 40


@pytest.mark.slow
def test_changed_state_dicts_give_a_ticket_or_one_line(tmp_path):
    pytest.importorskip("torch", reason="needs PyTorch: pip install -e '.[peer]'")
    found = list(states.trials(80, SEED, tmp_path))
    assert not broken(found)
    assert {trial.outcome for trial in found} == {states.TICKET, REFUSED}
    assert {trial.kind.split(":")[0] for trial in found} == {*states.FORMS}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_changed_workdirs_are_used_or_refused_in_one_line(tmp_path):
    found = list(workdirs.trials(40, SEED, tmp_path))
    assert not broken(found)
    assert {"used", "refused in one line"} <= {trial.outcome for trial in found}


@pytest.mark.slow
def test_a_config_of_other_masks_is_another_evaluation(tmp_path):
    """Of a checkpoint that does not say its config, as those of earlier versions."""
    with helpers.replaced(record.Record, "saved_by", lambda own, _: asdict(own)):
        expected = workdirs.prepare(tmp_path)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    assert workdirs.outcome("evaluate", tmp_path, expected) == "used"
    for fields, found in (
        ({"sparsity": 0.25}, "another evaluation: "),
        ({"sparsity": None}, REFUSED),
        ({"my_own": 3}, REFUSED),
    ):
        path.write_text(json.dumps(whole | fields))
        assert workdirs.outcome("evaluate", tmp_path, expected) == found


@pytest.mark.slow
def test_loading_a_ticket_takes_little_more_than_its_network(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SIZES", [memory.Size("conv6", 1)])
    found = list(memory.trials(1, SEED, tmp_path))
    assert not broken(found)
    assert "times 8.6 MB" in found[0].outcome


@pytest.mark.slow
def test_loading_a_forged_ticket_takes_as_little(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "FORGED", 1)
    found = list(memory.trials(3, SEED, tmp_path))
    assert not broken(found)
    assert all(trial.kind.startswith("forged: long") for trial in found)


def test_a_forged_ticket_that_takes_more_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "Limited", Answered)
    cases = ((REFUSED, 4, 9, True), (REFUSED, 16, 9, False), (REFUSED, 4, 11, False))
    for value, megabytes, seconds, kept in (*cases, ("other arrays: ", 1, 1, False)):
        Answered.answer = limited.Called(value, "", seconds, megabytes)
        trial = memory.of_forged(tmp_path / "t", random.Random(SEED))
        assert trial.kept == kept
