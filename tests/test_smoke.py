"""The smoke tests, which take less than a minute, cover every subpackage."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MARK = re.compile(r"^@pytest\.mark\.smoke$|marks=pytest\.mark\.smoke\b", re.M)


@pytest.mark.parametrize(
    "room", sorted({path.parent for path in TESTS.rglob("test_*.py")}), ids=str
)
def test_a_room_has_smoke_tests(room):
    assert any(MARK.search(path.read_text()) for path in room.glob("test_*.py"))
