"""All experiments by name, in the paper's order, and the paper's numbers."""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.paper import (
    figure1,
    figure2,
    successors,
    table3,
    table4,
    table5,
    table6,
    table7,
    table8,
    table9,
    table10,
)
from experiments.paper.experiment import Experiment

_MODULES = (
    *(table3, table4, figure1, figure2, table5),
    *(table6, table7, table8, table9, table10),
    successors,
)

EXPERIMENTS: Mapping[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT for module in _MODULES
}

PAPER = Path(__file__).with_name("paper.toml")

Place = tuple[frozenset[tuple[str, Any]], str]
"""Labels and a metric: the key of a number in a table."""


class Number(NamedTuple):
    """A number printed in the paper.

    Attributes:
      text: as printed.
      mean: the value, a mean over seeds.
      deviation: one standard deviation; None where none is printed.
    """

    text: str
    mean: float
    deviation: float | None


def get_experiment(name: str) -> Experiment:
    """Returns the experiment with this name.

    Raises:
      ValueError: an unknown name.
    """
    if name not in EXPERIMENTS:
        possible = ", ".join(EXPERIMENTS)
        raise ValueError(f"unknown table or figure {name!r}; possible: {possible}")
    return EXPERIMENTS[name]


def place(labels: Mapping[str, Any], metric: str) -> Place:
    """The key of a number."""
    return frozenset(labels.items()), metric


@functools.cache
def published() -> Mapping[str, Any]:
    """The paper's data file."""
    return tomllib.loads(PAPER.read_text())


@functools.cache
def paper_numbers(name: str) -> Mapping[Place, Number]:
    """The paper's numbers of a table, by place; figures print none."""
    table = published().get(name, {})
    numbers: dict[Place, Number] = {}
    for row in table.get("rows", ()):
        labels = {label: value for label, value in row.items() if label != "numbers"}
        for value, text in zip(table["values"], row["numbers"], strict=True):
            if not text:
                continue
            if table["column"] == "metric":
                key = place(labels, value)
            else:
                key = place({**labels, table["column"]: value}, table["metric"])
            if key in numbers:
                raise ValueError(f"{PAPER.name}: {name} has a number twice: {key}")
            numbers[key] = _number(text)
    return numbers


def _number(text: str) -> Number:
    mean, _, deviation = text.partition("±")
    return Number(text, float(mean), float(deviation) if deviation else None)
