"""The licence, the credit and the citation say what they must and agree."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
AUTHORS = ("Chijiwa", "Yamaguchi", "Ida", "Umakoshi", "Inoue")


def test_the_licence_is_apache_2_in_full():
    assert PROJECT["license"] == "Apache-2.0"
    assert set(PROJECT["license-files"]) == {"LICENSE", "NOTICE"}
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    for number in range(1, 10):
        assert f"\n   {number}. " in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("name", ["NOTICE", "CITATION.cff"])
def test_the_papers_authors_are_credited(name):
    text = " ".join((ROOT / name).read_text().split())
    for author in AUTHORS:
        assert author in text
    title = "Pruning Randomly Initialized Neural Networks with Iterative Randomization"
    assert title in text
    assert "2106.09269" in text
    assert (
        "no code of the paper's authors" in text or "without code of its auth" in text
    )


def test_the_citation_names_this_version():
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
