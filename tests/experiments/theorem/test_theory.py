import math
import re

import pytest

from experiments import theory
from experiments.theorem import figures as theory_figures
from experiments.theorem import measurements as theory_measurements
from experiments.theorem.measurements import QUICK
from iterand_jax.theory import conclusion_fail_d2


@pytest.mark.exhaustive
def test_the_whole_command(tmp_path, capsys, command):
    assert command(theory, "--quick", f"--out={tmp_path}") == 0
    assert "wrote" in capsys.readouterr().out
    page = (tmp_path / "theory.md").read_text()
    shown = set(re.findall(r"\]\((figures/theory/\w+\.png)\)", page))
    assert shown == {f"figures/theory/{name}.png" for name in theory_figures.FIGURES}
    for name in shown:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "$" not in page
    # The exact columns do not depend on how much was simulated.
    for exact in ("0.525304", "0.110664", "0.391990", "0.339974", "0.648032"):
        assert exact in page


@pytest.mark.parametrize("name", ["regime_map", "sums_of_neurons"])
def test_a_figure_is_drawn(name, tmp_path):
    figure = theory_figures.FIGURES[name](getattr(theory_measurements, name)(QUICK))
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    theory_figures.plt.close(figure)


def test_the_page_names_every_table():
    names = set(re.findall(r"\$(\w+)", theory.TEMPLATE.read_text()))
    assert {"counterexamples", "networks", "blind", "provenance"} <= names


def test_successful_networks_stay_below_eps():
    data = theory_measurements.constructed_networks(QUICK)
    for result in data["results"].values():
        for point in result["against_R"] + result["against_width"]:
            assert all(found["broken"] == 0 for found in point.values())


def test_the_least_R_of_the_conclusion_is_the_least():
    R = theory_measurements.least_R_conclusion(0.1, 0.01)
    assert conclusion_fail_d2(0.1, R)[2] <= 0.01 < conclusion_fail_d2(0.1, R - 1)[2]


@pytest.mark.smoke
def test_quantiles_by_rank():
    middle, low, high = theory_measurements.quantile(lambda seed: float(seed), 1000)
    assert middle == 899.0
    assert low < middle < high
    assert math.isinf(theory_measurements.quantile(lambda seed: math.inf, 10)[0])


def test_markdown_by_hand():
    assert (
        theory.markdown(["a", "b"], [[1, 2]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    )
