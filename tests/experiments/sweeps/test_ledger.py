"""The ledger: each run once, whole lines only; damaged lines are reported."""

import json
import multiprocessing

import pytest

from experiments.paper.catalogue import EXPERIMENTS
from experiments.paper.experiment import shortened, with_precision
from experiments.sweeps import costs, ledger
from experiments.sweeps.runs import Run

CELL = EXPERIMENTS["table3"].cells()[0]


def run(seed=0, cell=CELL):
    return Run(cell, seed, cell.config(seed))


@pytest.mark.smoke
def test_a_line_is_found_by_its_config(line, tmp_path):
    first, second = line(CELL, 0, 75.0), line(CELL, 1, 76.0)
    assert ledger.append(tmp_path / "a.jsonl", first)
    assert ledger.append(tmp_path / "b.jsonl", second)
    known = ledger.read(tmp_path)
    assert known.problems == []
    assert known.of(run(0)) == [first]
    assert known.of(run(1)) == [second]
    assert known.of(run(2)) == []
    assert known.seeds(run().folder) == [0, 1]
    assert known.of(run(0, shortened(CELL, 3))) == []
    # Table 6 has a run of this one, under other labels.
    (same,) = [
        cell
        for cell in EXPERIMENTS["table6"].cells()
        if cell.name == "conv6 iterand sparsity=0.5"
    ]
    wide = EXPERIMENTS["table3"].cells()[2]
    assert ledger.append(tmp_path / "a.jsonl", line(wide, 0, 88.0))
    (found,) = ledger.read(tmp_path).of(run(0, same))
    assert found["cell"] == wide.name == "conv6 iterand SC width=1"


def test_a_run_is_held_once_for_each_data(line, tmp_path):
    path = tmp_path / "table3.jsonl"
    assert ledger.append(path, line(CELL, 0, 75.0))
    assert not ledger.append(path, line(CELL, 0, 99.0))
    assert not ledger.append(tmp_path / "table8.jsonl", line(CELL, 0, 99.0))
    other = line(CELL, 0, 60.0, dataset_fingerprint="e" * 16, dataset_official=False)
    assert ledger.append(path, other)
    accuracies = [found["test_accuracy"] for found in ledger.read(tmp_path).of(run())]
    assert accuracies == [75.0, 60.0]


def test_precision_is_in_every_line_and_makes_another_run(line, tmp_path):
    path = tmp_path / "table3.jsonl"
    ours = line(CELL, 0, 75.0)
    assert (ours["dtype"], ours["matmul_precision"]) == ("float32", "default")
    on_gpu = ours | {"device": "1 x GPU", "precision": "tensorfloat32"}
    half = with_precision(CELL, dtype="bfloat16", matmul_precision=None)
    for one in (ours, on_gpu, line(half, 0, 74.0)):
        assert ledger.append(path, one)
        assert not ledger.append(path, one)
    known = ledger.read(tmp_path)
    found = [ledger.precision(one) for one in known]
    assert found == ["float32", "tensorfloat32", "bfloat16"]
    assert known.of(run()) == [ours, on_gpu]
    assert run(cell=half).folder == run().folder + "_bfloat16"
    assert len(costs.references(known, "1 x GPU")) == 0
    assert len(costs.references(known, "1 x GPU", "tensorfloat32")) == 1


def test_the_precision_of_a_line_older_than_its_field_is_that_of_its_device(line):
    new = line(CELL, 0, 75.0, device="1 x x86_64 CPU of 2 cores")
    old = {field: new[field] for field in new if field not in ledger.NEWER}
    old["config"] = {k: v for k, v in new["config"].items() if k != "matmul_precision"}
    assert ledger.precision(old) == "float32"
    assert ledger.conflicts(old, run()) == []
    unknown = old | {"device": "1 x H200"}
    assert ledger.precision(unknown) == "float32 on 1 x H200"
    half = unknown | {"config": old["config"] | {"dtype": "bfloat16"}}
    assert ledger.precision(half) == "bfloat16"


DAMAGE = {
    "half a line": (lambda text: text[: len(text) // 2], "not JSON"),
    "no object": (lambda text: "3", "not a JSON object"),
    "a field less": (
        lambda text: json.dumps(
            {k: v for k, v in json.loads(text).items() if k != "device"}
        ),
        "no field 'device'",
    ),
    "a word for a number": (
        lambda text: text.replace('"test_accuracy": 75.0', '"test_accuracy": "75"'),
        "test_accuracy='75' is of the wrong type",
    ),
    "a truth for a number": (
        lambda text: text.replace('"seed": 1', '"seed": true'),
        "seed=True is of the wrong type",
    ),
    "a precision that is no word": (
        lambda text: text.replace('"precision": "float32"', '"precision": 32'),
        "precision=32 is of the wrong type",
    ),
    "nesting without end": (lambda text: "[" * 10**5, "not JSON: "),
    "deep nesting": (lambda text: f'{{"a": {"[" * 30}{"]" * 30}}}', "deeper than 20"),
    "a number that is no float": (
        lambda text: text.replace(
            '"test_accuracy": 75.0', f'"test_accuracy": {10**400}'
        ),
        "test_accuracy=an integer of 1329 bits is no number",
    ),
    "seconds of words": (
        lambda text: json.dumps(json.loads(text) | {"seconds": {"training": "x"}}),
        "seconds.training='x' is no number",
    ),
    "accuracies of words": (
        lambda text: json.dumps(json.loads(text) | {"validation_accuracies": ["x"]}),
        "validation_accuracies='x' is no number",
    ),
    "no steps": (
        lambda text: json.dumps(json.loads(text) | {"steps": 0}),
        "steps=0 is not above 0",
    ),
    "a config of groups": (
        lambda text: json.dumps(json.loads(text) | {"config": {"dtype": {"a": 1}}}),
        "its config is not one of a run: ",
    ),
    "bytes that are no text": (lambda text: "\udcff", "not JSON"),
    "a second time": (lambda text: text.replace('"seed": 1', '"seed": 0'), "same run"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported_by_file_and_line_and_the_others_are_kept(
    name, line, tmp_path
):
    spoil, word = DAMAGE[name]
    lines = [json.dumps(line(CELL, seed, 75.0)) for seed in range(3)]
    path = tmp_path / "table3.jsonl"
    text = "\n".join([lines[0], spoil(lines[1]), "", lines[2]]) + "\n"
    path.write_text(text, errors="surrogateescape")
    known = ledger.read(tmp_path)
    (problem,) = known.problems
    assert problem.startswith(f"{path}:2: ")
    assert word in problem
    assert sorted(found["seed"] for found in known) == [0, 2]
    assert len(costs.references(known, "1 x test device")) == 2


def test_what_is_appended_to_a_line_cut_short_is_whole(line, tmp_path):
    path = tmp_path / "table3.jsonl"
    path.write_text('{"cell": "conv6 iter')
    assert ledger.append(path, line(CELL, 0, 75.0))
    known = ledger.read(tmp_path)
    assert [problem.split(": ")[0] for problem in known.problems] == [f"{path}:1"]
    assert [found["seed"] for found in known] == [0]


def _append_many(path, lines):
    for one in lines:
        ledger.append(path, one)


@pytest.mark.slow
def test_processes_that_append_at_once_lose_and_double_nothing(line, tmp_path):
    path = tmp_path / "table3.jsonl"
    lines = [line(CELL, seed, 75.0) for seed in range(12)]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_append_many, args=(path, order))
        for order in (lines, lines[::-1])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    known = ledger.read(tmp_path)
    assert known.problems == []
    assert sorted(found["seed"] for found in known) == list(range(12))


def test_a_line_of_another_version_of_its_config_is_reported_and_not_used(
    line, tmp_path
):
    made = line(CELL, 0, 75.0)
    made["config"]["augmentation"] = "crop_flip"
    assert ledger.append(tmp_path / "table3.jsonl", made)
    known = ledger.read(tmp_path)
    assert known.of(run()) == []
    (message,) = known.stale(run())
    assert "seed 0" in message
    assert "augmentation: crop_flip / resized_crop_flip" in message
    # It does not prevent the run from being trained again.
    assert ledger.append(tmp_path / "table3.jsonl", line(CELL, 0, 76.0))
    assert [found["test_accuracy"] for found in ledger.read(tmp_path).of(run())] == [76]


def test_a_field_that_a_line_lacks_had_its_default(line, tmp_path):
    made = line(CELL, 0, 75.0)
    del made["config"]["accumulate_steps"], made["config"]["network"]["width"]
    assert ledger.append(tmp_path / "table3.jsonl", made)
    known = ledger.read(tmp_path)
    assert known.of(run()) == []  # the default width is 1, this cell's is 0.25
    wide = EXPERIMENTS["table3"].cells()[2]
    made = line(wide, 0, 88.0)
    del made["config"]["accumulate_steps"], made["config"]["network"]["width"]
    assert ledger.append(tmp_path / "table3.jsonl", made)
    assert ledger.read(tmp_path).of(run(0, wide)) == [made]


def test_fields_that_change_no_number_do_not_count(line, tmp_path):
    made = line(CELL, 0, 75.0)
    made["config"]["log_every_steps"] = 7
    made["config"]["replicas"] = 3
    assert ledger.append(tmp_path / "table3.jsonl", made)
    assert ledger.read(tmp_path).of(run()) == [made]


def test_a_line_records_what_made_it(line):
    made = line(shortened(CELL, 2), 1, 40.0, experiment="figure1", miniature=True)
    assert made["experiment"] == "figure1"
    assert made["miniature"] is True
    assert (made["epochs"], made["paper_epochs"], made["seed"]) == (2, 100, 1)
    network = {"name": "conv6", "width": 0.25, "vectors": None}
    assert made["config"]["network"] == network
    assert len(made["config_sha256"]) == 16
    assert made.keys() == {*ledger.REQUIRED, *ledger.NEWER, "ticket_bytes"}
    assert made["startup"] == {"program step": 2.5}


def test_an_absent_folder_is_an_empty_ledger(tmp_path):
    known = ledger.read(tmp_path / "nowhere")
    assert (list(known), known.problems) == ([], [])


def test_it_holds_what_only_some_runs_have(line, tmp_path):
    best = {"best_epoch": 7, "best_test_accuracy": 76.5, "best_test_loss": 0.7}
    assert ledger.append(tmp_path / "a.jsonl", line(CELL, 0, 75.0) | best)
    (found,) = ledger.read(tmp_path)
    assert best.items() <= found.items()
    wrong = line(CELL, 1, 75.0) | {"best_epoch": "7"}
    (tmp_path / "b.jsonl").write_text(json.dumps(wrong) + "\n")
    assert "best_epoch='7' is of the wrong type" in ledger.read(tmp_path).problems[0]
