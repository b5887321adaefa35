"""Reports: the paper's and ours side by side, and nothing mixed that differs."""

import json

import pytest

from experiments import (
    catalogue,
    evidence,
    figures,
    findings,
    ledger,
    report,
    tables,
)
from experiments.catalogue import EXPERIMENTS
from experiments.metrics import METRICS, Statistics, statistics_of
from experiments.sweep import ITERAND_IS_BETTER

TABLE8 = EXPERIMENTS["table8"]
FULL = {cell.name: cell for cell in TABLE8.cells()}
ITERAND, EDGE_POPUP = (
    FULL["resnet18 iterand width=0.5"],
    FULL["resnet18 edge_popup width=0.5"],
)


def write(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "table8.jsonl").write_text(text)
    return evidence.versions(TABLE8, ledger.read(folder))


def test_a_small_report_by_hand(line, tmp_path):
    lines = [line(ITERAND, seed, 90.0 + seed, experiment="table8") for seed in range(3)]
    lines += [line(EDGE_POPUP, 0, 88.0, experiment="table8", dataset_official=False)]
    full, miniature = write(tmp_path, lines)
    text = tables.version_text(TABLE8, full, [])
    assert text == (
        """## As in the paper

4 of 18 runs are done. The rest was not run; --dry_run estimates what it costs.

| network | method | width | paper | ours | n | difference | remarks |
| --- | --- | --- | --- | --- | --- | --- | --- |
| ResNet18 | IteRand | 0.5 | 89.96 ± 0.06 | 91.00 ± 1.00 | 3 | +1.04 |  |
| ResNet18 | IteRand | 1 | 92.47 ± 0.16 | not run | 0 | - |  |
| ResNet18 | edge-popup | 0.5 | 88.45 ± 0.53 | 88.00 | 1 | -0.45 | """
        """**not official cifar10 data**; 1 of 3 seeds |
| ResNet18 | edge-popup | 0.65 | 89.99 ± 0.08 | not run | 0 | - |  |
| ResNet18 | edge-popup | 1 | 91.79 ± 0.19 | not run | 0 | - |  |
| ResNet18 | edge-popup | 1.3 | 92.54 ± 0.19 | not run | 0 | - |  |

**IteRand above edge-popup**: in 1 of 1 pairs of ours (in 0 by more than the """
        """deviation; 1 of one seed, without a deviation), in 2 of 2 of the paper.

- devices: 1 x test device
- time: 4.0 h in all
- data: cifar10 ffffffffffffffff (official); cifar10 ffffffffffffffff (not official)
- versions: jax 0.1, jaxlib 0.2, iterand_jax 0.3
- commits: abc"""
    )
    assert not miniature.lines


def test_lengths_never_share_a_table(line, tmp_path):
    short = {cell.name: cell for cell in TABLE8.cells(epochs=5)}
    small = {cell.name: cell for cell in TABLE8.miniature_cells()}
    lines = [
        line(ITERAND, 0, 90.0),
        line(short[ITERAND.name], 0, 50.0),
        line(short[ITERAND.name], 1, 52.0),
        line(small["conv6 iterand width=0.25"], 0, 30.0, miniature=True),
    ]
    found = {version.key: version for version in write(tmp_path, lines)}
    assert found.keys() == {"full", "miniature", "5_epochs"}
    for key, accuracies in (
        ("full", [90]),
        ("miniature", [30]),
        ("5_epochs", [50, 52]),
    ):
        assert [made["test_accuracy"] for made in found[key].lines] == accuracies
    text = tables.table(TABLE8, found["5_epochs"])
    assert "| 89.96 ± 0.06 | 51.00 ± 1.41 | 2 | -38.96 | **5 of 100 epochs**" in text
    text = tables.table(TABLE8, found["miniature"])
    assert (
        "| Conv6 | IteRand | 0.25 | - | 30.00 | 1 | - | **2 of 100 epochs**; " in text
    )
    assert "K_per 6 instead of 300" in text
    assert "epochs" not in tables.table(TABLE8, found["full"])


def test_data_of_other_bytes_has_rows_and_means_of_its_own(line, tmp_path):
    lines = [line(ITERAND, 0, 90.0), line(ITERAND, 1, 91.0)]
    other = {"dataset_fingerprint": "e" * 16, "dataset_official": False}
    lines += [line(ITERAND, 0, 70.0, **other), line(EDGE_POPUP, 0, 75.0, **other)]
    full, _ = write(tmp_path, lines)
    rows = [
        row for row in tables.table(TABLE8, full).splitlines() if "IteRand | 0.5" in row
    ]
    assert len(rows) == 2
    assert "90.50 ± 0.71" in rows[0]
    assert "not official" not in rows[0]
    assert "70.00" in rows[1]
    assert "**not official cifar10 data**" in rows[1]
    # An order is counted within one set of data.
    text = findings.order_text(TABLE8, full, ITERAND_IS_BETTER)
    assert "in 0 of 1 pairs of ours" in text
    assert "Not so: ResNet18 width 0.5 (70.00 against 75.00)" in text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_empty_ledger_shows_the_papers_numbers_as_the_papers_alone(name, tmp_path):
    experiment = EXPERIMENTS[name]
    full, miniature = evidence.versions(experiment, ledger.read(tmp_path))
    text = tables.version_text(experiment, full, [])
    assert f"0 of {full.runs} runs are done" in text
    header, _, *rows = tables.table(experiment, full).splitlines()
    columns = [column.strip() for column in header.strip("|").split("|")]
    printed = []
    for row in rows:
        cells = dict(zip(columns, row.strip("|").split("|"), strict=True))
        assert cells["ours"].strip() == "not run"
        assert (cells["n"].strip(), cells["difference"].strip()) == ("0", "-")
        printed.append(cells["paper"].strip().replace(" ", ""))
    numbers = [number.text for number in catalogue.paper_numbers(name).values()]
    assert sorted(text for text in printed if text != "-") == sorted(numbers)
    assert miniature.runs == len(miniature.missing) > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_every_table_shows_of_a_miniature_is_marked(name, line, tmp_path):
    experiment = EXPERIMENTS[name]
    lines = [
        line(cell, 0, 30.0, experiment=name, miniature=True, dataset_official=False)
        for cell in experiment.miniature_cells()
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    full, miniature = evidence.versions(experiment, ledger.read(tmp_path))
    assert not full.lines
    assert len(miniature.lines) == len(lines)
    _, _, *rows = tables.table(experiment, miniature).splitlines()
    for row in rows:
        assert "**not official" in row
        assert " epochs**" in row
    # The paper's number stands beside ours only where just the length differs.
    for entry in miniature.entries:
        departs = {"network.width", "network.name", "dataset.name"} & set(
            entry.departures
        )
        assert not (departs and entry.paper)


def test_an_order_is_beyond_the_deviation_only_where_there_is_one(line, tmp_path):
    accuracies = [(ITERAND, (90.0, 91.0, 92.0)), (EDGE_POPUP, (88.0, 89.0, 90.0))]
    lines = [
        line(cell, seed, accuracy)
        for cell, own in accuracies
        for seed, accuracy in enumerate(own)
    ]
    wide = [cell for name, cell in FULL.items() if name.endswith("width=1")]
    lines += [line(cell, 0, 90.0 + i) for i, cell in enumerate(wide)]
    full, _ = write(tmp_path, lines)
    text = findings.order_text(TABLE8, full, ITERAND_IS_BETTER)
    assert "in 1 of 2 pairs of ours (in 1 by more than the deviation; 1 of one" in text
    assert "Not so: ResNet18 width 1 (90.00 against 91.00)." in text


def found_in(name, accuracies, line, tmp_path, **fields):
    """The findings in a miniature, with the accuracies of its cells for each seed."""
    experiment = EXPERIMENTS[name]
    lines = [
        line(cell, seed, accuracy, miniature=True, **fields)
        for cell, own in zip(experiment.miniature_cells(), accuracies, strict=True)
        for seed, accuracy in enumerate(own)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = evidence.versions(experiment, ledger.read(tmp_path))[1]
    return " ".join(findings.texts(experiment, found))


def test_the_best_period_is_told_and_whether_accuracy_falls(line, tmp_path):
    # K_per 1, 6, 60, 600, then edge-popup; validation is one point above.
    good = [(30.0, 31.0), (34.0, 35.0), (33.0, 34.0), (30.5, 31.5), (30.0, 31.0)]
    text = found_in("figure1", good, line, tmp_path)
    assert (
        "Ours, Conv6: the best K_per of 4 is 6, above edge-popup (+4.00, more " in text
    )
    assert "At the largest, 600, accuracy is lower (-3.50, more than the dev" in text
    assert "beside edge-popup it is +0.50, within deviations." in text
    bad = [(30.0,), (31.0,), (32.0,), (33.0,), (34.0,)]
    text = found_in("figure1", bad, line, tmp_path)
    assert "is 600, **not** above edge-popup (-1.00, of one seed, without a " in text
    assert text.endswith("It is the largest: accuracy does **not** fall there.")
    assert found_in("figure1", [()] * 4 + [(30.0,)], line, tmp_path) == ""


def test_cells_of_an_equal_quotient_are_set_against_the_others(line, tmp_path):
    # (K_per, r) = (6, 0.1), (6, 1), (60, 0.1), (60, 1): the first is like the last.
    text = found_in("figure2", [(30.0,), (33.0,), (27.0,), (30.5,)], line, tmp_path)
    assert (
        "cells of equal r / K_per are 0.50 apart in the mean (pairs: 1), others "
        in (text)
    )
    assert "3.60 (pairs: 5), as in the paper; some cells have one seed, " in text
    text = found_in("figure2", [(30.0,), (33.0,), (33.5,), (36.0,)], line, tmp_path)
    assert "6.00 apart in the mean (pairs: 1), others 2.50 (pairs: 5), **not** " in text
    assert found_in("figure2", [(30.0,), (), (), (30.0,)], line, tmp_path) == ""


def test_the_time_of_iterand_is_told_relative_to_edge_popup(line, tmp_path):
    one = [(30.0,)] * 3
    text = found_in("table5", one, line, tmp_path, seconds={"training": 50.0})
    assert "(1.0035 times). Ours, Conv6: 1.0000 times (+0.00, of one seed" in text
    experiment = EXPERIMENTS["table5"]
    iterand, edge_popup, _ = experiment.miniature_cells()
    slow = line(iterand, 0, 30.0, seconds={"training": 100.0, "re-randomization": 3.0})
    other = line(edge_popup, 0, 30.0, seconds={"training": 100.0})
    for device, words in (
        ("1 x test device", "1.0300 times, which is **more**"),
        ("b", ""),
    ):
        lines = [slow, other | {"device": device}]
        text = "".join(json.dumps(made) + "\n" for made in lines)
        (tmp_path / "x.jsonl").write_text(text)
        found = evidence.versions(experiment, ledger.read(tmp_path))[1]
        told = findings.texts(experiment, found)
        assert words in told[0] if words else not told


def drawn(figure, owner="ours"):
    """The numbers that a figure shows: points, levels, and colours of a heat map."""
    numbers = []
    for ax in figure.axes:
        for container in ax.containers:
            if owner in container.get_label():
                numbers += container.lines[0].get_ydata().tolist()
        for line in ax.get_lines():
            if owner in str(line.get_label()) and len(set(line.get_ydata())) == 1:
                numbers += [line.get_ydata()[0]]
        for image in ax.get_images():
            numbers += image.get_array().compressed().tolist()
    return sorted(numbers)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_figures_show_the_numbers_of_their_table_and_no_others(
    name, which, line, tmp_path
):
    experiment = EXPERIMENTS[name]
    cells = [experiment.cells(), experiment.miniature_cells()][which]
    lines = [
        line(cell, seed, 20 + i + seed / 4, seconds={"training": 100.0 + i + seed})
        for i, cell in enumerate(cells)
        for seed in range(2)
    ]
    for made in ([], lines):
        text = "".join(json.dumps(one) + "\n" for one in made)
        (tmp_path / "x.jsonl").write_text(text)
        version = evidence.versions(experiment, ledger.read(tmp_path))[which]
        figure = figures.draw(experiment, version)
        metric = METRICS[experiment.metrics[0]]
        own = [statistics_of(metric, entry.lines) for entry in version.entries]
        means = sorted(one.mean for one in own if one)
        assert len(means) == len(made) / 2
        assert drawn(figure) == pytest.approx(means)
        printed = [entry.paper.get(experiment.metrics[0]) for entry in version.entries]
        theirs = sorted(one.mean for one in printed if one)
        if experiment.figure.x != "k_per":
            assert drawn(figure, "paper") == pytest.approx(theirs)
        figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("name", ["figure1", "figure2", "table8"])
def test_data_of_other_bytes_has_a_panel_or_a_name_of_its_own(name, line, tmp_path):
    experiment = EXPERIMENTS[name]
    other = {"dataset_fingerprint": "e" * 16, "dataset_official": False}
    cells = experiment.cells()
    lines = [line(cell, 0, 50.0 + i) for i, cell in enumerate(cells)]
    lines += [line(cell, 0, 20.0 + i, **other) for i, cell in enumerate(cells[1:])]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    full = evidence.versions(experiment, ledger.read(tmp_path))[0]
    figure = figures.draw(experiment, full)
    metric = METRICS[experiment.metrics[0]]
    assert drawn(figure) == pytest.approx(sorted(map(metric.of, lines)))
    if name == "figure2":
        told = [ax.get_title() for ax in figure.axes if ax.get_images()]
        (empty,) = [t for t in figure.axes[1].texts if t.get_text() == "not run"]
        assert empty.get_position() == (0, 0)
    else:
        (legend,) = figure.legends
        told = [text.get_text() for text in legend.get_texts()]
        told = [text for text in told if text.startswith("IteRand") and "ours" in text]
    assert len(told) == 2
    assert "ffffff, official" in told[0]
    assert "eeeeee, not official" in told[1]


def test_the_paper_is_hollow_ours_is_filled_and_short_runs_stand_apart(line, tmp_path):
    lines = [line(ITERAND, 0, 90.0), line(TABLE8.cells(5)[0], 0, 50.0)]
    full, _, short = write(tmp_path, lines)
    (ax,) = figures.draw(TABLE8, full).axes
    faces = {
        container.get_label(): container.lines[0].get_markerfacecolor()
        for container in ax.containers
    }
    assert faces["IteRand, paper"] == faces["edge-popup, paper"] == "none"
    assert faces["IteRand, ours"] == figures.COLORS["iterand"]
    assert "edge-popup, ours" not in faces
    ours, paper = figures.draw(TABLE8, short).axes
    assert [container.get_label() for container in ours.containers] == ["IteRand, ours"]
    assert all("paper" in container.get_label() for container in paper.containers)


def test_metrics_by_hand(line):
    made = line(ITERAND, 0, 90.0)
    values = {name: metric.of(made) for name, metric in METRICS.items()}
    assert values == {
        "test_accuracy": 90.0,
        "validation_accuracy": 91.0,
        "training_seconds": 3636.0,
        "randomization_ms": pytest.approx(36_000 / (35_100 // 300)),
        "sparsity_percent": 100.0,
        "parameters_kept": 2.0,
        "parameters": 4.0,
    }
    assert METRICS["training_seconds"].of(made | {"together": 3}) == 1212.0
    assert METRICS["randomization_ms"].of(line(EDGE_POPUP, 0, 90.0)) is None
    metric = METRICS["test_accuracy"]
    assert statistics_of(metric, []) is None
    assert statistics_of(metric, [made]) == Statistics(1, 90.0, None)
    three = [made | {"test_accuracy": accuracy} for accuracy in (89.0, 90.0, 91.0)]
    assert statistics_of(metric, three) == Statistics(3, 90.0, 1.0)


def test_the_page_tells_what_was_run_and_what_the_rest_costs(line, tmp_path):
    lines = [line(ITERAND, seed, 90.0 + seed) for seed in range(3)]
    lines += [line(TABLE8.cells(5)[0], 0, 50.0)]
    write(tmp_path, lines)
    known = ledger.read(tmp_path)
    found = {
        name: evidence.versions(EXPERIMENTS[name], known)
        for name in ("table8", "table10")
    }
    timed = report.timed_steps(known, tmp_path)
    text = report.page(found, timed)
    row = next(row for row in text.splitlines() if row.startswith("| [table8]"))
    assert "| 3 of 18 |" in row
    assert row.endswith("| 5 epochs |")
    # An hour at width 0.5; by multiply-adds 1.61, 3.66 and 6.09 at 0.65, 1 and 1.3.
    assert "| 3 of 18 | 48.1 h |" in row
    assert (
        "| table8 | As in the paper | official | 1 | +1.04 | +1.04 to +1.04 |" in text
    )
    assert "| table8 | Shortened to 5 epochs | official | 1 | -39.96 |" in text
    assert "| 0 of 30 |" in text
    assert "--shard" in text
    assert "$SLURM_ARRAY_TASK_ID" in text
    assert "$$" not in text


def test_a_longer_run_is_not_called_shortened(line, tmp_path):
    lines = [line(TABLE8.cells(150)[0], 0, 91.0)]
    *_, longer = write(tmp_path, lines)
    assert longer.title == "Lengthened to 150 epochs"
    assert "**150 for 100 epochs**" in tables.table(TABLE8, longer)
    imp = [EXPERIMENTS["table7"].cells(120)[i] for i in (0, 10)]
    assert evidence._change(imp, 120) == "Changed"


def test_lines_of_another_version_of_their_config_are_told(line, tmp_path):
    made = line(TABLE8.cells(5)[0], 1, 91.0)
    made["config"]["augmentation"] = "crop_flip"
    write(tmp_path, [line(ITERAND, 0, 90.0), made])
    known = ledger.read(tmp_path)
    (told,) = evidence.stale(TABLE8, known)
    assert "augmentation: crop_flip / resized_crop_flip" in told
    assert evidence.stale(EXPERIMENTS["table10"], known) == []
