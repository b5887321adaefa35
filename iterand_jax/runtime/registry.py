"""Registries: looking up built-in and user-defined objects by name.

A `Registry` resolves two forms of names. A plain name ("conv6") is built in or was
registered. "module:Name" ("my_networks:Mixer") is the attribute Name of a module, and
needs no registration.

A name can come from an untrusted file, such as a ticket, so resolving it imports a
module only if the caller asks for that; otherwise the module must have been imported
already.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry")

_PLAIN = re.compile(r"[^\s:/]+")
_QUALIFIED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Registry(Generic[Entry]):
    """A table of objects of one kind, which users can extend.

    Iteration yields the plain names, and `in` tests for one of them.

    Attributes:
      what: the kind of object in error messages, such as "network".
      table: the entries by plain name.

    >>> def as_number(value):
    ...     if not isinstance(value, (int, float)):
    ...         raise ValueError(f"{value!r} is not a number")
    ...     return value
    >>> constants = Registry("constant", {"zero": 0}, as_entry=as_number)
    >>> constants.register("one", 1)
    >>> constants.names()
    ('zero', 'one')
    >>> constants.get("math:pi", importing=True)
    3.141592653589793
    >>> constants.get("two")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: unknown constant 'two'; possible: zero, one, module:Name, or ...
    """

    def __init__(
        self,
        what: str,
        table: Mapping[str, Entry],
        *,
        as_entry: Callable[[Any], Entry],
    ):
        """A registry with the entries of a table.

        Args:
          what: the kind of object, a noun.
          table: the built-in entries.
          as_entry: converts a registered object, or the attribute that "module:Name"
            names, to an entry; raises ValueError with a one-line reason.
        """
        self.what = what
        self.table: dict[str, Entry] = dict(table)
        self._as_entry = as_entry

    def __iter__(self) -> Iterator[str]:
        """The plain names."""
        return iter(self.table)

    def __contains__(self, name: object) -> bool:
        """Whether it is a plain name of the table."""
        return name in self.table

    def names(self) -> tuple[str, ...]:
        """The plain names, in the order in which they were registered."""
        return tuple(self.table)

    def register(self, name: str, value: Any) -> None:
        """Adds an entry; adding the same entry again is allowed.

        Raises:
          ValueError: the name is taken or has spaces, colons or slashes, or the value
            is not of the registry's kind.
        """
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise ValueError(
                f"invalid name {name!r} of a {self.what}; possible: "
                f"characters other than spaces, ':' and '/'"
            )
        entry = self._entry(name, value)
        if name in self.table and self.table[name] != entry:
            raise ValueError(
                f"there is another {self.what} {name!r} already; registered names: "
                f"{', '.join(self.table)}"
            )
        self.table.setdefault(name, entry)

    def get(self, name: str, *, importing: bool = False) -> Entry:
        """The entry of a name.

        Args:
          name: a registered name, or "module:Name".
          importing: whether to import a module that has not been imported yet. Only for
            names from the user, never for names from a file.

        Raises:
          ValueError: an unknown name, a module that is not imported or not found, or an
            attribute that is missing or not of the registry's kind.
        """
        if name in self.table:
            return self.table[name]
        if not isinstance(name, str) or not _QUALIFIED.fullmatch(name):
            raise ValueError(
                f"unknown {self.what} {name!r}; possible: {', '.join(self.table)}, "
                f"module:Name, or a name that --import registers"
            )
        module, _, attribute = name.partition(":")
        if importing:
            self._import(name, module)
        if module not in sys.modules:
            raise ValueError(
                f"the {self.what} {name!r} is defined in the module {module}, which is "
                f"not imported; import it with --import={module}"
            )
        try:
            value = getattr(sys.modules[module], attribute)
        except AttributeError:
            raise ValueError(
                f"the {self.what} {name!r}: the module {module} has no {attribute}"
            ) from None
        return self._entry(name, value)

    def _import(self, name: str, module: str) -> None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if module != missing and not module.startswith(f"{missing}."):
                raise self._failed(name, module, error) from error  # one it imports
            raise ValueError(
                f"the {self.what} {name!r}: there is no module {missing} in "
                f"{', '.join(path or '.' for path in sys.path)}"
            ) from error
        except Exception as error:  # of any kind: the module's own code
            raise self._failed(name, module, error) from error
        except SystemExit as ended:
            raise ValueError(
                f"the {self.what} {name!r}: importing {module} ends the process, by "
                f"sys.exit() or the like"
            ) from ended

    def _failed(self, name: str, module: str, error: Exception) -> ValueError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return ValueError(f"the {self.what} {name!r}: importing {module}: {reason}")

    def _entry(self, name: str, value: Any) -> Entry:
        try:
            return self._as_entry(value)
        except ValueError as error:
            raise ValueError(f"the {self.what} {name!r}: {error}") from error
