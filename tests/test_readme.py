"""The README is short and its code runs. test_docs has the tests of all pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_example_finds_a_subnetwork(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    shares = re.findall(r"([\d.]+)% of the digits", capsys.readouterr().out)
    assert len(shares) == 10
    assert float(shares[-1]) > 90


def test_the_example_is_on_the_first_screen():
    first = README.split("```python")[0].splitlines()
    assert len(first) < 20


def test_every_page_is_linked():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    linked = set(re.findall(r"\(docs/(\w+\.md)\)", README))
    assert pages - linked == {"index.md", "ledger.md"}
