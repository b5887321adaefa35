"""What the commands share: flags, --help, errors in one line without a traceback."""

import contextlib
import functools
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from iterand_jax.runtime import (
    compilation,
    early,
    flag_text,
    hosts,
    modes,
    streams,
    user_code,
)
from iterand_jax.runtime.signals import InterruptedRunError

FAILED = 1
BAD_INPUT = 2
STOPPED = 75  # the system's code for "try again": a scheduler may restart it
INTERRUPTED = early.INTERRUPTED
# What parsing flags raises: ConfigDict has errors of many kinds for a value.
_BAD_FLAGS = (
    flags.Error,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    SyntaxError,
    OSError,
)
IMPORTED = time.perf_counter()


def define_path(
    name: str, default: str | None, help_text: str, *, several: bool = False
) -> None:
    """Defines a flag for a path or URL, or several; ~ expands to the home directory."""
    define: Callable[..., Any] = flags.DEFINE_multi if several else flags.DEFINE
    define(
        parser=flag_text.PathParser(),
        serializer=flags.ArgumentSerializer(),
        name=name,
        default=default,
        help=help_text,
    )


def define_config(load: Callable[[str], ConfigDict], default: str) -> None:
    """Defines --config=NAME_OR_FILE, and --config.FIELD=VALUE for every field.

    Args:
      load: returns the config of a name or file, and raises ValueError in one line.
      default: the name without the flag.
    """
    config_flags.DEFINE_config_file(
        "config",
        None,
        "the name of a config, or a Python file with get_config(); "
        f"default: {default}. --config.FIELD=VALUE sets a field of it, as "
        "--config.network.width=0.25",
    )
    flags.FLAGS["config"].parser = flag_text.ConfigParser(load)
    flags.FLAGS.set_default("config", default)


def define_data_dir() -> None:
    """Defines --data_dir=PATH."""
    define_path(
        "data_dir",
        None,
        "folder of datasets; default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets",
    )


def define_hosts() -> None:
    """Defines the flags of a run of several processes, which `join_hosts` reads."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, for a run of several processes; this and the next two "
        "are detected under srun, mpirun and on TPU pods",
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
        "all exit if one sends no heartbeat for this long",
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

    Where /proc is not available, when this module was imported.
    """
    try:  # Linux
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        born = int(ticks) / os.sysconf("SC_CLK_TCK")  # seconds after the system's boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - born
    except (AttributeError, OSError):
        return IMPORTED
    return time.perf_counter() - age


def run(
    main: Callable[..., int | None],
    define_flags: Callable[[], None],
    *,
    required: Sequence[str] = (),
    positional: int | None = 0,
    more_help: Callable[[], str] = str,
    again: str = "continues from the last checkpoint",
    loads: Sequence[str] = (),
    prints_result: bool = True,
    cached: bool = True,
    unwinds: bool = False,
) -> None:
    """Defines and parses the flags and calls main; ends the process.

    Main is called with the arguments that are not flags, at most `positional` of them
    (None: any number), if the `required` flags are given. What it returns is the exit
    status.

    Every command has --import=MODULE_OR_FILE, which is imported before main is called,
    and --help: the text at the head of main's file, the flags, and `more_help()`.

    The modules that it `loads` are imported before main is called, which they would
    delay. Ctrl-C ends the process at once, with one line (`early`), but for a run that
    trains, which stops by itself, and but for a command that `unwinds`: it has to
    remove a folder or to end processes first, and gets a KeyboardInterrupt.

    Where stdout cannot be written, being full or closed, what is printed from there on
    is dropped, and a line on stderr says so at the end. The status is then 1 for a
    command that `prints_result`; one whose result is in files, as a run, has status 0.

    Compiled programs are cached on disk, see `compilation.enable`, but for a command
    that measures compilation or compiled programs (`cached=False`).

    Bad input (ValueError, or a flag or config field that does not exist) is one line on
    stderr and exit status 2. A run that stopped after saving ends with status 75 for
    SIGTERM and SIGHUP, and with 130 for Ctrl-C, each with a line that says what was
    saved; any other command that Ctrl-C ends prints what running it again does
    (`again`), and ends with 130 too. A process of a multi-process run that loses
    another one ends with status 75.
    """
    logging.set_verbosity(logging.WARNING)
    interrupted = f"interrupted; the same command {again}"

    def help_text(own: list[str]) -> str:
        return flag_text.help_text(main, own, required, more_help())

    parse = functools.partial(_parsed, define_flags, help_text, required, positional)

    def guarded(arguments: list[str]) -> int | None:
        if cached:
            compilation.enable()
        with _ending():
            _import(loads)
            early.ready(interrupted)
            undoing = early.unwinding() if unwinds else contextlib.nullcontext()
            with undoing, modes.fixed():
                return main(*arguments[1:])

    try:
        with printing(result=prints_result):
            try:
                app.run(guarded, flags_parser=parse)
            except KeyboardInterrupt:
                print(interrupted, file=sys.stderr)
                hosts.leave(INTERRUPTED)
    except SystemExit as ended:
        early.decided(ended.code)
        raise


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Ends the process for an error inside, in one line where it has one."""
    try:
        yield
    except Exception as error:
        status = _report_error(error)
        if status is None:
            if hosts.are_alone():
                raise
            traceback.print_exc()
        hosts.leave(
            FAILED if status is None else status,
            at_once=hosts.reports_a_lost_process(error),
        )


@contextlib.contextmanager
def printing(*, result: bool = True) -> Iterator[None]:
    """Reports in one line, when a command ends, that stdout could not be written.

    Args:
      result: whether what is printed is the result, so that the command has failed.
    """
    with streams.guarded() as out:
        try:
            yield
        except SystemExit as ended:
            out.flush()
            if out.failure is None or (ended.code and result):
                raise
            message = f"stdout cannot be written: {out.failure.strerror or out.failure}"
            if result:
                raise SystemExit(report(message, FAILED)) from ended
            print(f"{message}; what was printed is lost", file=sys.stderr)
            raise


def _parsed(
    define: Callable[[], None],
    help_text: Callable[[list[str]], str],
    required: Sequence[str],
    positional: int | None,
    arguments: list[str],
) -> list[str]:
    """The arguments that are not flags; ends the process in one line for bad ones.

    Args:
      define: defines the command's flags.
      help_text: of the names of those that are defined; printed if it is asked for.
      required: as in `run`, and positional.
      arguments: all of them.
    """
    known = {*flags.FLAGS}

    def own() -> list[str]:
        return [flag for flag in flags.FLAGS if flag not in known]

    _define_imports()
    if flag_text.asks_for_help(arguments):
        del sys.argv[1:]  # the other arguments are ignored
        define()
        print(help_text(own()))
        raise SystemExit(0)
    try:
        # Defining --config reads the file and applies its overrides already.
        define()
        rest = flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        fail(flag_text.unknown_flag(error.flagname, own()))
    except (AttributeError, KeyError) as error:
        fail(flag_text.unknown_field(arguments, error))
    except _BAD_FLAGS as error:
        fail(flag_text.group_as_value(arguments, error) or error)
    wrong = flag_text.unknown_argument(rest, positional) or flag_text.missing(required)
    if wrong:
        fail(wrong)
    return rest


def _import(loads: Sequence[str]) -> None:
    """Imports what --import names, and then the modules of a command."""
    for name in imports():
        user_code.import_named(name)
    for name in loads:
        importlib.import_module(name)


def _define_imports() -> None:
    flags.DEFINE_multi_string(
        "import",
        [],
        "a module or a file FILE.py to import first, which registers networks, methods "
        "or datasets; several: separated by commas, or repeat the flag",
    )


def imports() -> list[str]:
    """What --import names."""
    given: list[str] = flags.FLAGS["import"].value or []
    return [name for name in ",".join(given).split(",") if name]


def _report_error(error: Exception) -> int | None:
    """Prints an error in one line; returns the exit status, None for a traceback."""
    if isinstance(error, InterruptedRunError):
        with contextlib.suppress(OSError):  # the terminal may be what ended it
            print(error, file=sys.stderr, flush=True)
        return INTERRUPTED if error.number == signal.SIGINT else STOPPED
    if isinstance(error, OSError) or (
        isinstance(error, ValueError) and _is_ours(error)
    ):
        return report(error)
    if hosts.reports_a_lost_process(error):
        print(
            f"another process of this run has ended ({flag_text.one_line(error)}); the "
            "same command on all of them continues from the last checkpoint",
            file=sys.stderr,
        )
        return STOPPED
    return None


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it: others' ValueErrors keep their traceback."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    package = Path(__file__).parents[1]
    ours = (package, package.parent / "experiments")
    return any(raised_in.is_relative_to(folder) for folder in ours)


def report(error: Exception | str, status: int = BAD_INPUT) -> int:
    """Prints an error in one line on stderr; returns the exit status that is given."""
    print(f"error: {flag_text.one_line(error)}", file=sys.stderr)
    return status


def fail(error: Exception | str) -> NoReturn:
    """Ends the process with one line on stderr and the exit status of bad input."""
    raise SystemExit(report(error))
