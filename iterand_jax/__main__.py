"""The commands: `python -m iterand_jax` lists them, and runs one by its name.

python -m iterand_jax COMMAND [FLAGS]
python -m iterand_jax COMMAND --help
"""

import ast
import importlib
import sys
from pathlib import Path

from iterand_jax.runtime import cli

COMMANDS = (
    *("main", "evaluate", "analyze", "export", "convert", "launch"),
    "data.prepare",
)


def run() -> None:
    """Runs the command that the first argument names; ends the process.

    Without one, or with --help, it lists the commands.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "-help", "--help", "help"):
        with cli.printing():
            print(_list())
            raise SystemExit(0)
    if name not in COMMANDS:
        cli.fail(f"unknown command {name!r}; possible: {', '.join(COMMANDS)}")
    del sys.argv[1]
    importlib.import_module(f"iterand_jax.{name}").run()


def _list() -> str:
    """The commands, with the first line of each file."""
    folder = Path(__file__).parent
    lines = ["python -m iterand_jax COMMAND [FLAGS]", ""]
    for name in COMMANDS:
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines.append(f"  {name:<14}{text.splitlines()[0]}")
    return "\n".join([*lines, "", "python -m iterand_jax COMMAND --help shows more."])


if __name__ == "__main__":
    run()
