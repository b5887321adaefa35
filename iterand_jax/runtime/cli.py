"""What the commands share: flags, and errors in one line without a traceback."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from iterand_jax.runtime import compilation, hosts
from iterand_jax.runtime.signals import InterruptedRunError

FAILED = 1
BAD_INPUT = 2
STOPPED = 75  # the system's code for "try again": a scheduler may start it anew
INTERRUPTED = 130
IMPORTED = time.perf_counter()


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


def define_hosts() -> None:
    """Defines the flags of a run of several processes, which `join_hosts` reads."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, for a run of several processes; this and the next two "
        "are found out by srun, mpirun and on TPU pods",
    )
    flags.DEFINE_integer(
        "processes", None, "how many processes train together", lower_bound=1
    )
    flags.DEFINE_integer(
        "process_id", None, "which of them this is, from 0", lower_bound=0
    )
    flags.DEFINE_integer(
        "heartbeat_seconds",
        100,
        "they end when one was silent for so long",
        lower_bound=1,
    )


def join_hosts() -> None:
    """Joins the processes of the flags, or of what started them; before JAX is used."""
    values = flags.FLAGS
    hosts.join(
        values.coordinator,
        values.processes,
        values.process_id,
        heartbeat_seconds=values.heartbeat_seconds,
    )


def started() -> float:
    """When this process began, on the clock of time.perf_counter().

    Where the system does not tell, when this module was imported.
    """
    try:  # Linux
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        born = int(ticks) / os.sysconf("SC_CLK_TCK")  # seconds after the system's boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - born
    except (AttributeError, OSError):
        return IMPORTED
    return time.perf_counter() - age


def run(
    main: Callable[..., None],
    define_flags: Callable[[], None],
    *,
    positional: int = 0,
) -> None:
    """Defines and parses the flags and calls main; ends the process.

    Main is called with the arguments that are no flags, at most `positional` of them.

    Compiled programs are kept for the next time, see `compilation.enable`.

    Bad input (ValueError, or a flag or config field that does not exist) is one line on
    stderr and exit status 2. A run that stopped after saving ends with status 75 for
    SIGTERM and the end of its terminal, and with 130 for Ctrl-C, each with a line that
    says what was saved. Of a run of several processes, one that loses another ends with
    status 75 too.
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
        for unknown in rest[1 + positional :]:
            _fail(f"unknown argument {unknown!r}; flags start with --")
        return rest

    def guarded(arguments: list[str]) -> None:
        compilation.enable()
        try:
            main(*arguments[1:])
        except Exception as error:
            status = _tell(error)
            if status is None:
                if hosts.are_alone():
                    raise
                traceback.print_exc()
            hosts.leave(
                FAILED if status is None else status,
                at_once=hosts.tells_of_a_lost_process(error),
            )

    try:
        app.run(guarded, flags_parser=parse)
    except KeyboardInterrupt:
        print(
            "interrupted; the same command continues from the last checkpoint",
            file=sys.stderr,
        )
        hosts.leave(INTERRUPTED)


def _tell(error: Exception) -> int | None:
    """Prints an error in one line, and returns the exit status, if a line will do."""
    if isinstance(error, InterruptedRunError):
        with contextlib.suppress(OSError):  # the terminal may be what ended it
            print(error, file=sys.stderr, flush=True)
        return INTERRUPTED if error.number == signal.SIGINT else STOPPED
    if isinstance(error, OSError) or (
        isinstance(error, ValueError) and _is_ours(error)
    ):
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    if hosts.tells_of_a_lost_process(error):
        print(
            f"another process of this run has ended ({_one_line(error)}); the same "
            "command on all of them continues from the last checkpoint",
            file=sys.stderr,
        )
        return STOPPED
    return None


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it: others' ValueErrors deserve their traceback."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    package = Path(__file__).parents[1]
    ours = (package, package.parent / "experiments")
    return any(raised_in.is_relative_to(folder) for folder in ours)


def _fail(error: Exception | str) -> NoReturn:
    print(f"error: {_one_line(error)}", file=sys.stderr)
    raise SystemExit(BAD_INPUT)


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
