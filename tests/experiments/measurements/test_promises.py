"""The page of promises has what the records of the campaigns say."""

import json

import pytest

from tests.helpers import ROOT

RECORDS = sorted((ROOT / "results/faults").glob("*.json"))
ROWS = (ROOT / "docs/promises.md").read_text().splitlines()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_was_kept_whole_and_is_in_the_row_that_links_it(path):
    record = json.loads(path.read_text())
    assert (record["kept"], record["broken"]) == (record["trials"], [])
    assert record["campaign"] == path.stem
    (row,) = [row for row in ROWS if f"(../results/faults/{path.name})" in row]
    assert f"`{path.stem}`" in row
    assert f"{record['count']:,}" in row.split("|")[3]
