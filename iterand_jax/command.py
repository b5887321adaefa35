"""What the commands share: flags, and errors in one line without a traceback."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

BAD_INPUT = 2
INTERRUPTED = 130


def define_config(default: Path) -> None:
    """Defines --config=FILE and an override --config.FIELD=VALUE for every field."""
    config_flags.DEFINE_config_file(
        "config", str(default), "a file with get_config()", lock_config=True
    )


def define_data_dir() -> None:
    """Defines --data_dir=DIR."""
    flags.DEFINE_string(
        "data_dir", None, "where datasets lie; default: $TFDS_DATA_DIR or TFDS's own"
    )


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls main; ends the process.

    Bad input (ValueError, or a flag or config field that does not exist) is one line on
    stderr and exit status 2; Ctrl-C is one line and status 130.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(lambda _: _guarded(main), flags_parser=_parse)
    except KeyboardInterrupt:
        _interrupted()


def _parse(arguments: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, ValueError, OSError) as error:
        _fail(error)
    if len(rest) > 1:
        _fail(ValueError(f"unknown argument {rest[1]!r}; flags start with --"))
    return rest


def _guarded(main: Callable[[], None]) -> None:
    try:
        main()
    except ValueError as error:
        _fail(error)
    except KeyboardInterrupt:
        _interrupted()


def _fail(error: Exception) -> None:
    # str() of a KeyError quotes its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)


def _interrupted() -> None:
    print(
        "interrupted; the same command continues from the last checkpoint",
        file=sys.stderr,
    )
    raise SystemExit(INTERRUPTED)
