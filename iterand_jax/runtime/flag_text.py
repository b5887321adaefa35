"""What flags are: paths and configs, the text of --help, and mistakes in one line."""

import difflib
import inspect
import os
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

_REPEAT = ";\n    repeat this option"  # absl's help for a repeatable flag
_MOST_FIELDS = 4  # of a group that a line names
_LONGEST = 70  # characters of the possible values on the line of a flag itself


class PathParser(flags.ArgumentParser):
    """A path or URL as text; shells do not expand a ~ after =."""

    def parse(self, argument: str) -> str:
        """The text with the home directory for a ~ at its head."""
        return os.path.expanduser(argument)


class ConfigParser(flags.ArgumentParser):
    """A config by its name or file.

    Attributes:
      loaded: the last config, from before any of its fields was set.
    """

    def __init__(self, load: Callable[[str], ConfigDict]):
        """`load` returns the config of a name or file."""
        self._load = load
        self.loaded = ConfigDict()

    def parse(self, argument: str | ConfigDict) -> ConfigDict:
        """The config of a name or file, or the config that is given."""
        if isinstance(argument, str):
            self.loaded = self._load(argument)
            return self.loaded
        return argument


def asks_for_help(arguments: Iterable[str]) -> bool:
    """Whether --help is among the arguments."""
    for argument in arguments:
        if argument == "--":  # what follows is for another command
            return False
        if argument in ("-h", "-help", "--help"):
            return True
    return False


def help_text(
    main: Callable[..., Any],
    names: Iterable[str],
    required: Collection[str],
    more: str,
) -> str:
    """The text at the head of main's file, the flags of these names, and more."""
    parts = [inspect.cleandoc(main.__globals__["__doc__"] or ""), "Flags:"]
    for name in names:
        flag = flags.FLAGS[name]
        text = (flag.help or "").split(_REPEAT)[0]
        if isinstance(flag.parser, flags.EnumParser):
            text = text.partition(">: ")[2]
            if _form(flag).endswith("=NAME"):
                text += f"; possible: {', '.join(flag.parser.enum_values)}"
        is_known = flag.default in (None, [], "") or "default: " in text
        if not is_known and flag.default is not False:
            text += f"; default: {flag.default}"
        if name in required:
            text += "; required"
        parts[-1] += f"\n  {_form(flag)}\n" + indented(text, 6)
    return "\n\n".join(filter(None, [*parts, more]))


def _form(flag: flags.Flag) -> str:
    """How a flag is written, such as "--step=N"."""
    if flag.boolean:
        return f"--[no]{flag.name}"
    kinds = {
        PathParser: "PATH",
        ConfigParser: "NAME_OR_FILE",
        flags.IntegerParser: "N",
        flags.FloatParser: "X",
    }
    value = kinds.get(type(flag.parser), "TEXT")
    if isinstance(flag.parser, flags.EnumParser):
        every = "|".join(flag.parser.enum_values)
        value = every if len(every) <= _LONGEST else "NAME"
    return f"--{flag.name}={value}"


def unknown_argument(rest: Sequence[str], positional: int | None) -> str | None:
    """One line for the first of too many arguments that are no flags, or None."""
    if positional is None or len(rest) <= 1 + positional:
        return None
    return f"unknown argument {rest[1 + positional]!r}; flags start with --"


def missing(required: Iterable[str]) -> str:
    """What to give of the required flags, in one line; nothing if all are given."""
    absent = [flags.FLAGS[name] for name in required if flags.FLAGS[name].value is None]
    return f"give {' and '.join(map(_form, absent))}" if absent else ""


def unknown_flag(name: str, names: Iterable[str]) -> str:
    """What to say of a flag that is none of these names."""
    closest = _closest(name, names, "--")
    return f"unknown flag --{name}{closest}; --help lists all"


def unknown_field(arguments: Iterable[str], error: Exception) -> str:
    """What to say of the first --config.FIELD=VALUE whose field does not exist.

    If all exist, as where one is in a group that another sets to None, what the error
    says.
    """
    parser: Any = flags.FLAGS["config"].parser
    known = [*_fields(parser.loaded)]
    given = (argument.lstrip("-").partition("=")[0] for argument in arguments)
    fields = (name[7:] for name in given if name.startswith("config."))
    name = next((field for field in fields if field not in known), str(error))
    return f"unknown config field {name!r}{_closest(name, known)}; --help lists all"


def group_as_value(arguments: Iterable[str], error: Exception) -> str | None:
    """What to say of a --config.GROUP=VALUE that an error is of; None if there is none.

    ConfigDict's own words show its parser's objects by their addresses.
    """
    if "config" not in flags.FLAGS:
        return None
    parser: Any = flags.FLAGS["config"].parser
    for argument in arguments:
        name, _, value = argument.lstrip("-").removeprefix("config.").partition("=")
        found: Any = parser.loaded
        for part in name.split("."):
            found = found.get(part) if isinstance(found, ConfigDict) else None
        if isinstance(found, ConfigDict) and f"config.{name}=" in str(error):
            inner = [f"--config.{name}.{field}=VALUE" for field in _fields(found)]
            more = ", ..." if len(inner) > _MOST_FIELDS else ""
            return (
                f"--config.{name}={value:.40} sets a group of fields; possible: one of "
                f"them, {', '.join(inner[:_MOST_FIELDS])}{more}"
            )
    return None


def _fields(config: ConfigDict) -> Iterator[str]:
    for name, value in config.items():
        yield name
        if isinstance(value, ConfigDict):
            yield from (f"{name}.{inner}" for inner in _fields(value))


def _closest(name: str, names: Iterable[str], before: str = "") -> str:
    found = difflib.get_close_matches(name, [*names], n=3)
    return f"; closest: {', '.join(before + n for n in found)}" if found else ""


def indented(text: str, columns: int) -> str:
    """The text in lines of at most 88 characters, all indented."""
    indent = " " * columns
    return textwrap.fill(
        text,
        88,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def one_line(error: Exception | str) -> str:
    """What an error says; of names in files and folders of others it may be anything.

    >>> print(one_line("the file" + chr(10) + "a" + chr(27) + "[2J"))
    the file a\\x1b[2J
    """
    words = " ".join(str(error).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
