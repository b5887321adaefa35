"""The interface: what is public, that it is documented, and that it has an example.

Public is what stands in `__all__` of the modules on the API page.
"""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import iterand_jax
from tests.helpers import printed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()
MODULES = re.findall(r"automodule:: (\S+)", PAGE)


def functions():
    """(name, function) of every public function and method of a public class."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            member = getattr(module, name)
            if inspect.isclass(member):
                of_ours = [c for c in member.__mro__ if "iterand_jax" in c.__module__]
                attributes = [pair for c in of_ours for pair in vars(c).items()]
                for method, function in attributes:
                    function = getattr(function, "__func__", function)  # of classes
                    is_field = method in getattr(member, "__dataclass_fields__", ())
                    public = not (is_field or method.startswith("_"))
                    if inspect.isfunction(function) and public:
                        yield f"{module.__name__}.{name}.{method}", function
            elif inspect.isroutine(inspect.unwrap(member)):
                yield f"{module.__name__}.{name}", member


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_says_what_is_public(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__) > 0
    for member in module.__all__:
        assert not callable(getattr(module, member)) or getattr(module, member).__doc__


def test_the_page_has_the_rooms_of_the_method():
    assert set(MODULES) >= {
        f"iterand_jax{part}"
        for part in ("", ".masks", ".distributions", ".subnetwork", ".layers")
    } | {f"iterand_jax.{part}" for part in ("linen", "methods", "networks", "theory")}


@pytest.mark.parametrize(
    "function", [pytest.param(f, id=name) for name, f in functions()]
)
def test_a_public_function_has_an_example(function):
    assert ">>> " in inspect.getdoc(function)


def test_the_examples_are_found():
    names = dict(functions())
    assert len(names) > 90
    assert "iterand_jax.subnetwork.Subnetwork.rerandomize" in names
    assert "iterand_jax.subnetwork.Subnetwork.rule_of" in names  # of a base class
    assert "iterand_jax.theory.pruned_network" in names


def test_the_page_has_a_table_of_what_the_package_exports():
    section = re.search(r"\n## The package\n(.*?)\n## ", PAGE, flags=re.DOTALL)
    rows = [line.split("|")[1] for line in section[1].splitlines() if "|" in line]
    named = re.findall(r"`(\w+)`", "".join(rows))
    assert sorted(named) == sorted(iterand_jax.__all__)


def test_the_marker_of_types_is_packaged():
    assert (Path(iterand_jax.__file__).parent / "py.typed").exists()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs the extra docs")
    printed("-m", "sphinx", "-W", "-b", "html", "docs", tmp_path)
    page = (tmp_path / "api.html").read_text()
    for name, function in functions():
        assert re.search(rf'id="iterand_jax[\w.]*\.{function.__name__}"', page), name
    for source in (ROOT / "docs").rglob("*.md"):
        built = tmp_path / source.relative_to(ROOT / "docs").with_suffix(".html")
        assert "<h1>" in built.read_text(), built
