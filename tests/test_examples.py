"""The examples run, stay short, and reach the accuracy that they print."""

import ast
import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LEAST = {  # accuracies in %, in the order in which they are printed
    "edge_popup_from_scratch": [90, 94],
    "fine_tune_fixed_mask": [94, 92],
    "mask_pretrained_mlp": [95, 93],
    "one_mask_per_task": [88] * 5 + [95] * 5,
    "prune_equinox_model": [93],
    "prune_flax_module": [90],
    "prune_linen_vit": [92],
    "prune_nnx_model": [93],
}


def test_each_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == LEAST.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_an_example_finds_an_accurate_subnetwork(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    accuracies = [float(a) for a in re.findall(r"([\d.]+)% of the test", printed)]
    assert len(accuracies) == len(LEAST[name])
    for accuracy, least in zip(accuracies, LEAST[name], strict=True):
        assert accuracy >= least, printed
    if name == "edge_popup_from_scratch":
        assert "equal the library's" in printed
    if name == "one_mask_per_task":
        assert printed.count(": 0 logits have changed") == 10
        (bits,) = re.findall(r"([\d.]+) bits a weight and task", printed)
        assert float(bits) < 1


def code_lines(text):
    """How many lines are neither blank nor of a docstring."""
    of_docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(line.strip()) and n not in of_docstrings for n, line in lines)


def test_code_lines_are_counted():
    text = '"""Of a module\n\nin lines."""\n\nx = f(\n    1\n)  # one\n# two\n'
    assert code_lines(text) == 4
    assert code_lines("def f():\n    '''Returns.'''\n    return 1\n") == 2


def test_the_flax_example_is_30_lines_of_code():
    assert code_lines((EXAMPLES / "prune_flax_module.py").read_text()) <= 30


@pytest.mark.parametrize("name", ["fine_tune_fixed_mask", "mask_pretrained_mlp"])
def test_an_example_of_given_weights_is_50_lines_of_code(name):
    assert code_lines((EXAMPLES / f"{name}.py").read_text()) <= 50


def test_the_example_of_tasks_is_60_lines_of_code():
    assert code_lines((EXAMPLES / "one_mask_per_task.py").read_text()) <= 60


def imported(tree):
    """The modules that a tree imports anywhere, in its functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def imported_but_for_the_check(text):
    """The modules of a script without its comparison with the library."""
    tree = ast.parse(text)
    check = "check_against_the_library"
    tree.body = [node for node in tree.body if getattr(node, "name", None) != check]
    return imported(tree)


def test_the_example_from_scratch_is_one_page_of_jax():
    text = (EXAMPLES / "edge_popup_from_scratch.py").read_text()
    assert len(text.splitlines()) <= 150
    assert text.count("TRAP") > 5
    allowed = {"jax", "jax.numpy", "math", "sklearn.datasets", "zlib"}
    assert imported_but_for_the_check(text) == allowed
    assert imported(ast.parse(text)) == allowed | {"iterand_jax"}


@pytest.mark.parametrize(
    "line",
    ["from iterand_jax import masks", "import math, iterand_jax", "import importlib"],
)
def test_an_import_in_another_function_is_found(line):
    text = f"def check_against_the_library():\n    {line}\n"
    assert not imported_but_for_the_check(text)
    module = line.split()[-1 if line.startswith("import") else 1]
    nested = f"def logits_of(x):\n    if x:\n        {line}\n"
    assert module in imported_but_for_the_check(text + nested)
