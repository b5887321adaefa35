"""The licence, the credit and the citation are complete and consistent."""

import tomllib
from pathlib import Path

import pytest
import yaml  # comes with ml-collections

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TITLE = "Pruning Randomly Initialized Neural Networks with Iterative Randomization"
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
    assert TITLE in text
    assert "2106.09269" in text
    assert (
        "no code of the paper's authors" in text or "without code of its auth" in text
    )


def test_the_citation_is_of_this_version_and_refers_to_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["type"] == "software"
    for field, ours in {"title": "name", "version": "version"}.items():
        assert citation[field] == PROJECT[ours]
    assert citation["license"] == PROJECT["license"]
    assert all(author["name"] for author in citation["authors"])
    paper = citation["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert paper["title"] == TITLE
    assert tuple(author["family-names"] for author in paper["authors"]) == AUTHORS
    assert all(author["given-names"] for author in paper["authors"])
    assert paper["year"] == 2021
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2106.09269"}]
    assert paper["url"].endswith("arxiv.org/abs/2106.09269")
