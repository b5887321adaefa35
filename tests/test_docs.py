"""The pages: their code runs, their commands exist, their numbers match the records."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from iterand_jax.configs import default, names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


class Block(NamedTuple):
    """A block of code of a page, with the options of its fence."""

    language: str
    options: dict[str, str]
    code: str


def blocks(text):
    """Those between fences that have a language, in order."""
    fences = re.findall(r"^```(?:\{code-block\} )?(\w+)\n(.*?)^```$", text, re.M | re.S)
    for language, body in fences:
        options = dict(re.findall(r"^:(\w+): (.*)\n", body, re.M))
        code = re.sub(r"\A(:\w+: .*\n)+\n", "", body)
        yield Block(language, options, code)


def of_page(name, language="python"):
    text = (DOCS / f"{name}.md").read_text()
    return [block for block in blocks(text) if block.language == language]


def test_blocks_are_found_with_their_options():
    text = "```python\na\n```\n\n```{code-block} sh\n:class: c\n\nb\n```\n```\nd\n```\n"
    assert list(blocks(text)) == [
        Block("python", {}, "a\n"),
        Block("sh", {"class": "c"}, "b\n"),
    ]


def run(page, folder, *, classes=(None,)):
    """Executes the blocks of a page in one namespace; captions name files."""
    namespace = {"__name__": f"page_{page}"}
    for block in of_page(page):
        if "caption" in block.options:
            (folder / block.options["caption"]).write_text(block.code)
        code = compile(block.code, f"{page}.md", "exec")
        if block.options.get("class") in classes and "caption" not in block.options:
            exec(code, namespace)
    return namespace


def shares(text):
    """What is printed as a number of percent."""
    return [float(share) for share in re.findall(r"([\d.]+) ?% of the", text)]


def test_every_block_of_code_is_run_by_a_test():
    with_code = {path.stem for path in DOCS.glob("*.md") if of_page(path.stem)}
    assert with_code == {
        "extend",
        "getting_started",
        "index",
        "python",
        "successors",
        "theorem",
        "tickets",
        "your_own_model",
    }


@pytest.mark.parametrize("page", ["index", "successors", "theorem"])
def test_short_code_runs(page, tmp_path, capsys):
    namespace = run(page, tmp_path)
    if page == "index":
        assert namespace["logits"].shape == (1, 10)
    elif page == "successors":
        assert namespace["method"].rescales
    else:
        assert "improved (B): 19232" in capsys.readouterr().out


@pytest.mark.slow
def test_models_of_every_library_are_pruned(tmp_path, capsys):
    pytest.importorskip("equinox")
    namespace = run("your_own_model", tmp_path)
    printed = capsys.readouterr().out
    assert len(shares(printed)) == 3
    assert min(shares(printed)) > 80, printed
    gradient = namespace["gradients"]["first"]["kernel"]
    assert gradient.shape == (64, 256)
    assert abs(gradient).max() > 0
    assert "19210 parameters, 3184 kept" in printed


def test_a_config_of_ones_own_starts_from_a_shipped_one(tmp_path):
    from iterand_jax import configs

    run("getting_started", tmp_path)
    config = configs.load(str(tmp_path / "my_config.py"))
    assert config.network.width == 0.5
    assert config.recipe.iterand.sampling_rate == 0.2
    assert config.recipe.iterand.learning_rate == 0.2  # Conv6's


@pytest.mark.slow
def test_training_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("python", tmp_path)
    by_config, by_arrays, by_ticket = shares(capsys.readouterr().out)[-3:]
    assert by_config > 30
    assert by_arrays > 85
    assert by_ticket == pytest.approx(by_arrays, abs=0.1)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) > 2
    assert all(line.split(",")[0] in ("step", "epoch") for line in lines)


@pytest.mark.slow
def test_a_ticket_and_a_program_are_read(tmp_path, monkeypatch, capsys):
    import numpy as np

    import iterand_jax

    monkeypatch.chdir(tmp_path)
    overrides = {"epochs": 1, "network.width": 0.25}
    iterand_jax.train("digits", overrides, workdir=str(tmp_path / "run"))
    export = [sys.executable, "-m", "iterand_jax.export", "--workdir=run"]
    for options in (
        ["--format=ticket", "--output=ticket.safetensors"],
        ["--format=stablehlo", "--output=."],
    ):
        subprocess.run([*export, *options], check=True, env=environment())
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[:, 2:6, 2:6] = 255
    text = "".join(
        block.code
        for block in of_page("tickets")
        if block.options.get("class") != "on-a-gpu"
    )
    namespace = {"images": images}
    exec(compile(text, "tickets.md", "exec"), namespace)
    ticket = namespace["ticket"]
    kernel = ticket.params["Conv_0"]["kernel"]
    np.testing.assert_array_equal(
        namespace["dense"]("Conv_0/kernel", kernel.shape), kernel
    )
    np.testing.assert_allclose(namespace["logits"], ticket.apply(images), atol=1e-5)


def environment():
    """Of a process elsewhere, which finds this package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def commands():
    """(page, line) of each `python -m` in the pages, continued lines joined."""
    for path in PAGES:
        text = path.read_text().replace("\\\n", " ")
        for block in blocks(text):
            if block.language == "sh":
                for line in re.findall(r"python -m (?:iter|exp).*", block.code):
                    yield pytest.param(line, id=f"{path.stem}: {line[10:70]}")


def source_of(module):
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    return Path(spec.origin).read_text()


SHARED = "".join(
    (ROOT / path).read_text()
    for path in ("iterand_jax/runtime/cli.py", "experiments/measurements/records.py")
)
FIELDS = {*default.get_config().to_dict()} | {
    f"{outer}.{inner}"
    for outer, fields in default.get_config().to_dict().items()
    if isinstance(fields, dict)
    for inner in fields
}


@pytest.mark.parametrize("line", [*commands()])
def test_a_command_and_its_flags_exist(line):
    _, _, module, *arguments = line.split()
    text = source_of(module) + SHARED
    for argument in arguments:
        if argument in ("--", "||", "&&", ">>"):
            break
        name, _, value = argument.partition("=")
        if name.startswith("--config."):
            assert name.removeprefix("--config.") in FIELDS
        elif name.startswith("--") and name != "--help":
            assert f'"{name[2:]}"' in text or f"--{name[2:]}" in text, name
        if name == "--config" and value[:2] not in ("my", "..") and value:
            assert Path(value).stem in names()


LINKS = [
    pytest.param(path, target, id=f"{path.name}: {target}")
    for path in PAGES
    for target in re.findall(r"\]\(([^)#:<]+)[^):]*\)", path.read_text())
]


@pytest.mark.parametrize(("path", "target"), LINKS)
def test_links_lead_to_files(path, target):
    assert (path.parent / target).exists()


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "paper_runs.md"])
def test_the_papers_numbers_are_the_papers(path, papers_numbers):
    table = path.read_text().split("| config | network", 1)[1].split("\n\n", 1)[0]
    shown = set(re.findall(r"\d\d\.\d\d+", table))
    assert len(shown) > 10
    assert shown <= set().union(*papers_numbers.values())


def test_every_config_is_in_the_table():
    table = (DOCS / "paper_runs.md").read_text()
    linked = re.findall(r"\(\.\./configs/(\w+)\.py\)", table)
    assert set(linked) == set(names()) - {"default"}


def test_every_report_has_a_page():
    reports = {path.name for path in (ROOT / "results" / "reports").glob("*.md")}
    assert reports == {path.name for path in (DOCS / "reports").glob("*.md")}


SIZES = json.loads((ROOT / "results" / "ticket_sizes.json").read_text())
KINDS = ("signed_constant", "edge_popup", "iterand_as_measured", "iterand_at_worst")
LABELS = {
    "cifar_conv6": "Conv6, sparsity 0.5",
    "cifar_resnet18": "ResNet18 (CIFAR form), 0.6",
    "imagenet_resnet50": "ResNet50 (ImageNet form), 0.7",
}
TICKETS = (DOCS / "tickets.md").read_text()


def test_the_sizes_of_tickets_are_those_of_the_record():
    table = TICKETS.split("| MB at width 1", 1)[1].split("\n\n", 1)[0]
    rows = []
    for name, sizes in SIZES["bytes"].items():
        dense = sizes["float32"]
        cells = [f"{sizes[k] / 1e6:.3f} ({dense / sizes[k]:.0f}x)" for k in KINDS]
        cells = [LABELS[name], f"{dense / 1e6:.2f}", *cells]
        rows.append(f"| {' | '.join(cells)} |")
    assert table.splitlines()[2:] == rows


def test_the_sizes_in_the_readme_are_those_of_the_record():
    table = (ROOT / "README.md").read_text().split("| network, sparsity |", 1)[1]
    rows = []
    for name, sizes in SIZES["bytes"].items():
        label = re.sub(r" \(.+\)|sparsity ", "", LABELS[name])
        cells = [f"{sizes[k] / 1e6:.3f}" for k in KINDS if k != "iterand_at_worst"]
        cells = [label, f"{sizes['float32'] / 1e6:.2f}", *cells]
        rows.append(f"| {' | '.join(cells)} |")
    assert table.split("\n\n", 1)[0].splitlines()[2:] == rows


def test_what_the_sizes_were_measured_in_is_that_of_the_record():
    measured, sizes = SIZES["measured_in"], SIZES["bytes"]
    text = " ".join(TICKETS.split("*As measured*", 1)[1].split("## ", 1)[0].split())
    sentence = (
        f"from a Conv6 run (width {measured['width']}, {measured['epochs']} epochs, "
        f"{measured['refreshes']} refreshes as in 100 epochs with K_per 300), where "
        f"{measured['never_redrawn']:.0%} of the kept weights".replace("%", " %")
    )
    assert measured["network"] == "conv6"
    assert sentence in text
    assert (
        f"every one of {sizes['cifar_conv6']['refreshes']} (CIFAR) or "
        f"{sizes['imagenet_resnet50']['refreshes']:,} (ImageNet) refreshes" in text
    )


def test_the_table_of_compact_tickets_is_that_of_the_record():
    from experiments.measurements import compact

    record = json.loads((ROOT / "results" / "compact.json").read_text())
    table = TICKETS.split("| network, width | sparsity", 1)[1].split("\n\n", 1)[0]
    rows = [compact.row(found) for found in record["random"] + record["runs"]]
    assert table.splitlines()[2:] == rows


def printed_by(notebook):
    """The text that the cells print, one string for each cell that has outputs."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.outputs:
            shown = [o for o in cell.outputs if o.get("name") != "stderr"]
            texts.append("".join(output.get("text", "") for output in shown))
    return texts


def test_there_are_two_notebooks():
    assert len(NOTEBOOKS) == 2


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_prints(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(fresh, timeout=300).execute(cwd=str(tmp_path))
    ours, theirs = printed_by(stored), printed_by(fresh)
    words = [re.sub(r"[^A-Za-z\n:%]+", " ", text) for text in ours]
    assert words == [re.sub(r"[^A-Za-z\n:%]+", " ", text) for text in theirs]
    assert len(shares("".join(ours))) > 0
    assert shares("".join(theirs)) == pytest.approx(shares("".join(ours)), abs=6)
