"""What the commands share: flags, and errors in one line without a traceback."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

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


def run(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Defines and parses the flags and calls main; ends the process.

    Bad input (ValueError, or a flag or config field that does not exist) is one line on
    stderr and exit status 2; Ctrl-C is one line and status 130.
    """
    logging.set_verbosity(logging.WARNING)

    def parse(arguments: list[str]) -> list[str]:
        try:
            # Defining --config reads the file and applies its overrides already.
            define_flags()
            rest = flags.FLAGS(arguments)
            # A config file that cannot be read says so when it is first looked at.
            if "config" in flags.FLAGS:
                flags.FLAGS.config.to_dict()
        except (AttributeError, KeyError) as error:
            cause = error.args[0]
            inner = cause.args[0] if isinstance(cause, KeyError) else cause
            _fail(f"unknown config field {inner}")
        except (flags.Error, ValueError, OSError) as error:
            _fail(error)
        if len(rest) > 1:
            _fail(f"unknown argument {rest[1]!r}; flags start with --")
        return rest

    def guarded(arguments: list[str]) -> None:
        del arguments
        try:
            main()
        except (ValueError, OSError) as error:
            if isinstance(error, ValueError) and not _is_ours(error):
                raise
            _fail(error)

    try:
        app.run(guarded, flags_parser=parse)
    except KeyboardInterrupt:
        print(
            "interrupted; the same command continues from the last checkpoint",
            file=sys.stderr,
        )
        raise SystemExit(INTERRUPTED) from None


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it: others' ValueErrors deserve their traceback."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(raised_in).is_relative_to(Path(__file__).parent)


def _fail(error: Exception | str) -> NoReturn:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)
