"""Registered names, and names of the form module:Name."""

import sys

import pytest

from iterand_jax.runtime.registry import Registry

MODULE = "a_module_of_the_users"
CODE = """
from decimal import Decimal as Number
two, text = 2, "two"
"""


def as_number(value):
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is not an integer")
    return value


@pytest.fixture
def numbers():
    return Registry("number", {"zero": 0}, as_entry=as_number)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be imported, and is not yet."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield MODULE
    sys.modules.pop(MODULE, None)


def test_what_is_registered_is_found(numbers):
    numbers.register("one", 1)
    assert numbers.names() == tuple(numbers) == ("zero", "one")
    assert numbers.get("one") == 1
    assert "one" in numbers
    assert "two" not in numbers


def test_tables_of_two_registries_are_apart(numbers):
    table = {"zero": 0}
    first, second = (Registry("number", table, as_entry=as_number) for _ in range(2))
    first.register("one", 1)
    assert second.names() == tuple(table) == ("zero",)


def test_a_taken_name_is_refused_but_the_same_entry_is_no_other(numbers):
    with pytest.raises(ValueError, match="another number 'zero' already"):
        numbers.register("zero", 1)
    numbers.register("zero", 0)
    assert numbers.get("zero") == 0


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a/b", None, 3])
def test_a_name_that_is_not_possible_is_refused(numbers, name):
    with pytest.raises(ValueError, match=r"invalid name .* of a number; possible: "):
        numbers.register(name, 1)


def test_what_is_no_entry_is_refused(numbers):
    with pytest.raises(ValueError, match="the number 'one': 'x' is not an integer"):
        numbers.register("one", "x")
    assert "one" not in numbers


@pytest.mark.parametrize("name", ["two", "a:", ":a", "a:b:c", "a-b:c", "..a:c", None])
def test_unknown_names_are_reported_with_the_known_ones(numbers, name):
    with pytest.raises(ValueError, match="possible: zero, module:Name, or"):
        numbers.get(name, importing=True)


def test_a_module_is_imported_only_if_that_is_asked_for(numbers, module):
    name = f"{module}:two"
    with pytest.raises(ValueError, match=f"import it with --import={module}$"):
        numbers.get(name)
    assert module not in sys.modules
    assert numbers.get(name, importing=True) == 2
    assert numbers.get(name) == 2  # now it is imported
    assert name not in numbers.names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{MODULE}:three", f"the module {MODULE} has no three"),
        (f"{MODULE}:text", "'two' is not an integer"),
        ("no_such_module:two", "there is no module no_such_module in"),
        (f"{MODULE}.inner:two", f"there is no module {MODULE}.inner in"),
    ],
)
def test_what_cannot_be_resolved_is_reported_in_a_line(numbers, module, name, message):
    with pytest.raises(ValueError, match=message) as error:
        numbers.get(name, importing=True)
    assert "\n" not in str(error.value)


def test_a_module_that_fails_to_import_another_is_one_line(numbers, module, tmp_path):
    (tmp_path / f"{module}.py").write_text("import no_such_module\n")
    message = "importing .*: ModuleNotFoundError: No module named 'no_such_module'"
    with pytest.raises(ValueError, match=message):
        numbers.get(f"{module}:two", importing=True)
