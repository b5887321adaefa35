"""The examples run, stay short, and reach the accuracy that they print."""

import ast
import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LEAST = {  # accuracies in %, in the order in which they are printed
    "edge_popup_from_scratch": [90, 94],
    "prune_equinox_model": [93],
    "prune_flax_module": [90],
}


def test_each_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == LEAST.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_an_example_finds_an_accurate_subnetwork(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    accuracies = [float(a) for a in re.findall(r"([\d.]+)% of the test", printed)]
    assert len(accuracies) == len(LEAST[name])
    for accuracy, least in zip(accuracies, LEAST[name], strict=True):
        assert accuracy >= least, printed
    if name == "edge_popup_from_scratch":
        assert "equal the library's" in printed


def test_the_example_from_scratch_is_one_page_of_jax():
    text = (EXAMPLES / "edge_popup_from_scratch.py").read_text()
    assert len(text.splitlines()) <= 150
    assert text.count("TRAP") > 5
    at_the_top = {
        name
        for node in ast.parse(text).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert at_the_top == {"jax", "jax.numpy", "math", "sklearn.datasets", "zlib"}
