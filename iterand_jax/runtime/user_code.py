"""Loading user code: config files, and the modules named by --import."""

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def errors_in_one_line(what: str, path: Path | None = None) -> Iterator[None]:
    """Converts an exception of user code to a one-line ValueError.

    Code that ends the process, as a script that is no module does with sys.exit(),
    would end the command without a word, and with a status of its own.

    Args:
      what: the name of the code in the message.
      path: its file, whose line number is added to the message.
    """
    try:
        yield
    except SystemExit as ended:
        raise ValueError(
            f"{what} ends the process, by sys.exit({_code(ended)}) or the like"
            f"{_where(ended, path)}; possible: code under if __name__ == '__main__'"
        ) from ended
    except Exception as error:  # of any kind
        raise ValueError(f"{what} fails: {_in_one_line(error, path)}") from error


def run_file(path: Path, name: str, what: str) -> ModuleType:
    """Runs a Python file as a module with the given name.

    Raises:
      ValueError: the file is not a Python file, or it fails; `what` names the file in
        the message.
    """
    if path.is_dir():
        raise ValueError(f"{what} is a folder; it must be a Python file")
    if not path.exists():
        raise ValueError(f"{what}: there is no file {path}")
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{what} is no regular file; it must be a Python file")
    if path.suffix != ".py":
        raise ValueError(f"{what} is not a Python file: its name must end in .py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a name in .py has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes inside look for it
    try:
        with errors_in_one_line(what, path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_named(name: str) -> ModuleType:
    """Imports a module, or a file FILE.py as the module FILE.

    The current folder, or the folder of the file, is added to the import path.

    Raises:
      ValueError: the module does not exist, fails, or has the name of another module.
    """
    what = f"--import={name}"
    if not name.endswith(".py"):
        _find_modules_in(Path.cwd())
        with errors_in_one_line(what):
            return importlib.import_module(name)
    path = Path(os.path.expanduser(name)).absolute()
    imported = sys.modules.get(path.stem)
    if imported is not None:
        own = getattr(imported, "__file__", None)
        if own is None or not path.exists() or not path.samefile(own):
            raise ValueError(
                f"{what}: there is another module {path.stem} already, "
                f"{own or 'built into Python'}; rename the file"
            )
        return imported
    _find_modules_in(path.parent)
    return run_file(path, path.stem, what)


def _find_modules_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _in_one_line(error: Exception, path: Path | None) -> str:
    """The type and message of an error, and the line of the file that raised it."""
    message = " ".join(str(error).split())
    # ml_collections appends all existing fields.
    message = message.split(" Other fields present:")[0].removeprefix("'")
    return f"{type(error).__name__}: {message}{_where(error, path)}"


def _where(error: BaseException, path: Path | None) -> str:
    """The last line of a file that an error came through, in brackets."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if path is not None and frame.filename == str(path)
    ]
    return f" ({path}, line {lines[-1]})" if lines else ""


def _code(ended: SystemExit) -> str:
    """What a process was ended with, in a line."""
    text = "" if ended.code is None else repr(ended.code)
    return text if len(text) <= 100 else f"{text:.97}..."
