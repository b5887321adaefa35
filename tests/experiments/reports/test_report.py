"""Reports compare our runs with the paper's, and mix no versions, data or precision."""

import json
import operator
import re
from types import SimpleNamespace

import pytest

from experiments import report
from experiments.paper import catalogue
from experiments.paper.catalogue import EXPERIMENTS
from experiments.paper.experiment import ITERAND_IS_BETTER, with_precision
from experiments.reports import evidence, figures, findings, learning, tables
from experiments.reports.metrics import METRICS, Statistics, statistics_of
from experiments.sweeps import costs, ledger
from tests import helpers

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


@pytest.mark.smoke
def test_a_small_report_by_hand(line, tmp_path):
    lines = [line(ITERAND, seed, 90.0 + seed, experiment="table8") for seed in range(3)]
    lines += [line(EDGE_POPUP, 0, 88.0, experiment="table8", dataset_official=False)]
    full, miniature = write(tmp_path, lines)
    text = tables.version_text(TABLE8, full)
    assert text == (
        """## As in the paper

4 of 18 runs. 14 are left.

| network | method | width | paper | ours | n | difference | remarks |
| --- | --- | --- | --- | --- | --- | --- | --- |
| ResNet18 | IteRand | 0.5 | 89.96 ± 0.06 | 91.00 ± 1.00 | 3 | +1.04 |  |
| ResNet18 | edge-popup | 0.5 | 88.45 ± 0.53 | 88.00 | 1 | -0.45 | """
        """**not official cifar10 data**; 1 of 3 seeds |

**IteRand above edge-popup**: in 1 of 1 pairs of ours (each with a single """
        """seed, which has no deviation), in 2 of 2 of the paper.

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
    # An order is counted within one dataset.
    text = findings.order_text(TABLE8, full, ITERAND_IS_BETTER)
    assert "in 0 of 1 pairs of ours" in text
    assert "Not so: ResNet18 width 0.5 (70.00 against 75.00)" in text


def test_every_precision_has_rows_and_means_of_its_own(line, tmp_path):
    half = {"dtype": "bfloat16"}
    strict = {"matmul_precision": "highest"}
    lines = [
        line(ITERAND, 0, 90.0),
        line(ITERAND, 1, 80.0, precision="tensorfloat32"),
        line(with_precision(ITERAND, **half), 0, 70.0),
        line(with_precision(ITERAND, **half), 1, 71.0),
        line(with_precision(ITERAND, **strict), 0, 60.0),
        line(with_precision(EDGE_POPUP, **half), 0, 75.0),
    ]
    full, _ = write(tmp_path, lines)
    rows = tables.table(TABLE8, full).splitlines()
    kept = "| ResNet18 | IteRand | 0.5 | 89.96 ± 0.06 |"
    assert [row for row in rows if row.startswith(kept)] == [
        f"{kept} 90.00 | 1 | +0.04 | 1 of 3 seeds |",
        f"{kept} 80.00 | 1 | -9.96 | **tensorfloat32**; 1 of 3 seeds |",
        f"{kept} 60.00 | 1 | -29.96 | **float32, matmul_precision highest**; "
        "1 of 3 seeds |",
        f"{kept} 70.50 ± 0.71 | 2 | -19.46 | **bfloat16**; 2 of 3 seeds |",
    ]
    # An order is counted within one precision.
    text = findings.order_text(TABLE8, full, ITERAND_IS_BETTER)
    assert "in 0 of 1 pairs of ours" in text
    assert len(full.missing) == full.runs - 3  # two seeds of one cell, one of another
    far = report.distance({"table8": [full]})
    assert "| table8 | As in the paper | official, **bfloat16** | -19.46 to" in far
    title = figures.draw(TABLE8, full).get_suptitle()
    assert "in float32 and tensorfloat32 and float32, matmul_precision" in title


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_was_not_run_is_counted_and_neither_listed_nor_drawn(name, tmp_path):
    experiment = EXPERIMENTS[name]
    full, miniature = evidence.versions(experiment, ledger.read(tmp_path))
    text = tables.version_text(experiment, full)
    assert text == (
        f"## {experiment.full}\n\n0 of {full.runs} runs. {full.runs} are left."
    )
    assert miniature.runs == len(miniature.missing) > 0
    with pytest.raises(ValueError, match="nothing of"):
        figures.draw(experiment, full)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_full_table_has_every_number_of_the_paper(name, line, tmp_path):
    experiment = EXPERIMENTS[name]
    lines = [line(cell, 0, 30.0) for cell in experiment.cells()]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    full, _ = evidence.versions(experiment, ledger.read(tmp_path))
    header, _, *rows = tables.table(experiment, full).splitlines()
    column = [name.strip() for name in header.split("|")].index("paper")
    printed = [row.split("|")[column].replace(" ", "") for row in rows]
    numbers = [number.text for number in catalogue.paper_numbers(name).values()]
    assert sorted(text for text in printed if text != "-") == sorted(numbers)


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
    # The paper's number is shown beside ours only if nothing but the length differs.
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
    assert (
        "in 1 of 2 pairs of ours (in 1 of the 1 of several seeds by more than" in text
    )
    assert "Not so: ResNet18 width 1 (90.00 against 91.00)." in text


def drawn(figure, owner="ours"):
    """The numbers in a figure: points, horizontal lines, colours of a heat map."""
    numbers = []
    for ax in figure.axes:
        for container in ax.containers:
            if owner in container.get_label():
                numbers += container.lines[0].get_ydata().tolist()
        for line in ax.get_lines():
            if owner in str(line.get_label()) and len(set(line.get_ydata())) == 1:
                numbers += [line.get_ydata()[0]]
        for image in ax.get_images() if owner == "ours" else ():
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
    for made in (lines[:2], lines):
        text = "".join(json.dumps(one) + "\n" for one in made)
        (tmp_path / "x.jsonl").write_text(text)
        version = evidence.versions(experiment, ledger.read(tmp_path))[which]
        figure = figures.draw(experiment, version)
        metric = METRICS[experiment.metrics[0]]
        own = [statistics_of(metric, entry.lines) for entry in version.entries]
        means = sorted(one.mean for one in own if one)
        assert len(means) == len(made) / 2
        assert drawn(figure) == pytest.approx(means)
        printed = [
            entry.paper.get(experiment.metrics[0])
            for entry in version.entries
            if entry.lines and which == 0
        ]
        theirs = sorted(one.mean for one in printed if one)
        if experiment.figure.x == "ticket_kilobytes":  # the papers print no sizes
            theirs = []
        assert drawn(figure, "paper") == pytest.approx(theirs)
        (title,) = figure.get_suptitle().splitlines()
        assert title.startswith(experiment.title.partition(":")[0])
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
        labels = [ax.get_title() for ax in figure.axes if ax.get_images()]
        assert (0, 0) not in [t.get_position() for t in figure.axes[1].texts]
    else:
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        labels = [
            text for text in labels if text.startswith("IteRand") and "ours" in text
        ]
    assert len(labels) == 2
    assert "ffffff, official" in labels[0]
    assert "eeeeee, not official" in labels[1]


def test_the_paper_is_hollow_ours_is_filled_and_short_runs_stand_apart(line, tmp_path):
    lines = [line(ITERAND, 0, 90.0), line(TABLE8.cells(5)[0], 0, 50.0)]
    full, _, short = write(tmp_path, lines)
    (ax,) = figures.draw(TABLE8, full).axes
    faces = {
        container.get_label(): container.lines[0].get_markerfacecolor()
        for container in ax.containers
    }
    assert faces["IteRand, paper"] == "none"
    assert faces["IteRand, ours"] == figures.COLORS["iterand"]
    assert len(faces) == 2
    (ours,) = figures.draw(TABLE8, short).axes
    assert [container.get_label() for container in ours.containers] == ["IteRand, ours"]


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
        "ticket_kilobytes": 20.26,
    }
    assert METRICS["training_seconds"].of(made | {"together": 3}) == 1212.0
    assert METRICS["randomization_ms"].of(line(EDGE_POPUP, 0, 90.0)) is None
    metric = METRICS["test_accuracy"]
    assert statistics_of(metric, []) is None
    assert statistics_of(metric, [made]) == Statistics(1, 90.0, None)
    three = [made | {"test_accuracy": accuracy} for accuracy in (89.0, 90.0, 91.0)]
    assert statistics_of(metric, three) == Statistics(3, 90.0, 1.0)


def test_the_page_shows_what_was_run_and_what_the_rest_costs(line, tmp_path):
    lines = [line(ITERAND, seed, 90.0 + seed) for seed in range(3)]
    lines += [line(TABLE8.cells(5)[0], 0, 50.0)]
    write(tmp_path, lines)
    known = ledger.read(tmp_path)
    found = {
        name: evidence.versions(EXPERIMENTS[name], known)
        for name in ("table8", "table10")
    }
    text = report.page(found)
    row = next(row for row in text.splitlines() if row.startswith("| [table8]"))
    assert "| 3 of 18 |" in row
    assert row.endswith("| 5 epochs |")
    assert "| table8 | As in the paper | official | +1.04 to +1.04 |" in text
    assert "| table8 | With 5 epochs | official | -39.96 to -39.96 |" in text
    assert "| 0 of 30 |" in text


@pytest.mark.parametrize("given", helpers.table([True, False], operator.not_))
def test_nothing_is_written_but_where_out_says(given, line, tmp_path, monkeypatch):
    (tmp_path / "ledger").mkdir()
    write(tmp_path / "ledger", [line(ITERAND, 0, 90.0)])
    monkeypatch.chdir(tmp_path)
    out = "new/reports" if given else None
    values = SimpleNamespace(results="ledger", out=out)
    monkeypatch.setattr(report.flags, "FLAGS", values)
    report.main("all" if given else "table8")
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    names = ("README.md", "table3.md", "table8.md", "table8.png")
    made = {f"new/reports/{name}" for name in names if name != "table3.md"}
    assert made <= files if given else files == {"ledger/table8.jsonl"}
    for path in tmp_path.glob("new/reports/*.md"):
        for link in re.findall(r"\]\(([^)]*)\)", path.read_text()):
            assert (path.parent / link).exists()


def test_a_longer_run_is_not_called_shortened(line, tmp_path):
    lines = [line(TABLE8.cells(150)[0], 0, 91.0)]
    *_, longer = write(tmp_path, lines)
    assert longer.title == "With 150 epochs"
    assert "**150 for 100 epochs**" in tables.table(TABLE8, longer)


def test_learning_curves_are_of_runs_that_have_them(line, tmp_path):
    curve = {"validation_accuracies": [10.0 + 0.5 * i for i in range(100)]}
    half = with_precision(ITERAND, dtype="bfloat16")
    lines = [
        line(ITERAND, 0, 90.0, **curve),
        line(ITERAND, 1, 92.0, **curve),
        line(ITERAND, 2, 80.0),
        line(EDGE_POPUP, 0, 88.0, validation_accuracies=[1.0, 2.0]),  # cut short
        line(half, 0, 60.0, **curve),
    ]
    one_epoch = [line(ITERAND, 0, 90.0, validation_accuracies=[10.0])]
    assert not learning.drawable(write(tmp_path, one_epoch)[0])
    full, _ = write(tmp_path, lines)
    drawn = learning.drawable(full)
    assert [[made["seed"] for made in e.lines] for e in drawn] == [[0, 1], [0]]
    figure = learning.draw(TABLE8, full)
    ours, other = figure.axes
    title = "Table 8: validation accuracy by epoch"
    assert figure.get_suptitle().startswith(title)  # not the test accuracy of the table
    assert "Conv6, width" not in ours.get_title()
    assert "official), 2 seeds" in ours.get_title()
    assert "bfloat16), 1 seed" in other.get_title()
    curves = [own for own in ours.get_lines() if len(own.get_xdata()) == 100]
    assert len(curves) == 3  # two seeds and their mean
    assert list(curves[-1].get_ydata()) == curve["validation_accuracies"]
    points = {
        (own.get_markerfacecolor() == "none", own.get_ydata()[0])
        for own in ours.get_lines()
        if len(own.get_xdata()) == 1
    }
    assert points == {(False, 91.0), (True, 89.96)}  # ours, and the paper's
    with pytest.raises(ValueError, match="no run of table8 has a learning curve"):
        learning.draw(TABLE8, write(tmp_path, lines[2:4])[0])


def test_what_is_left_is_priced_on_every_device_of_the_ledger(line, tmp_path):
    slow = {"training": 351 * 100 * 2.0}
    lines = [
        line(ITERAND, 0, 90.0, device="1 x slow", seconds=slow),
        line(ITERAND, 1, 90.0, device="1 x fast", seconds={"training": 35_100.0}),
        line(ITERAND, 2, 90.0, device="1 x fast, then 1 x slow"),
    ]
    full, _ = write(tmp_path, lines)
    like = [one for one in full.missing if one.cell.name == EDGE_POPUP.name]
    assert len(like) == 3
    text = costs.left_text(like, ledger.read(tmp_path))
    assert text == "29.2 h on 1 x fast in float32; 58.5 h on 1 x slow in float32"
    line_of_costs = tables.version_text(TABLE8, full, text).splitlines()[2]
    assert line_of_costs == (
        f"3 of 18 runs. 15 are left, in proportion to multiply-adds {text}."
    )
