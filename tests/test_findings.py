"""The scripts in findings/ have one form, and each is in the table; none is run."""

import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def test_the_table_has_every_script_and_no_other():
    rows = re.findall(
        r"^\| \[(\S+)\]\(\1\) \|", (FOLDER / "README.md").read_text(), re.M
    )
    assert sorted(rows) == [path.name for path in SCRIPTS]
    assert len(rows) >= 8


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_does_and_runs_pinned_packages_alone(path):
    text = path.read_text()
    for part in ("Question", "Guess", "Seen"):
        assert len(re.findall(rf"^# {part}: ", text, re.M)) == 1, part
    assert "2026" in text.split("# Seen:")[1]
    assert "set -euo pipefail" in text
    assert "mktemp -d" in text
    assert "iterand" not in text
    command = text.split("install --quiet ", 1)[1].replace("\\\n", " ")
    packages = command.splitlines()[0].split()
    assert packages
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+", name) for name in packages)
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111, "executable"
