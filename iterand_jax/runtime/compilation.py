"""Compiler options, and the user's persistent compilation cache.

JAX's cache key covers all that a compiled program depends on: the program, versions,
options, and the features of the processor or accelerator. The commands switch the cache
on; a library leaves the choice to the program that imports it.
"""

import contextlib
import dataclasses
import functools
import glob
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

MIN_SECONDS = 0.1  # of compilation; JAX's own 1.0 leaves out most of a small run
_FAILED_ENTRY = re.compile(
    r"Error (?P<done>reading|writing) persistent compilation cache entry for "
    r"'(?P<name>[\w.-]+)':"
)


def folder() -> Path:
    """The user's cache: $XDG_CACHE_HOME/iterand_jax, or ~/.cache/iterand_jax.

    Raises:
      RuntimeError: there is no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "iterand_jax"


def enable() -> None:
    """Caches programs in `folder()`.

    Chooses no folder if one is set already, as by JAX_COMPILATION_CACHE_DIR, if
    JAX_ENABLE_COMPILATION_CACHE=false disables it, or if the folder is not writable.
    In any folder, entries that a full disk cuts are removed, and programs are loaded
    without a line for each.
    """
    config: Any = jax.config  # its fields have no types
    if not config.jax_enable_compilation_cache:
        return
    _mend_entries()
    older = tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11)
    if older and config.jax_logging_level == "NOTSET":
        # It mistakes tuning flags of the compiler for missing processor features, and
        # logs a long line for every program that it loads.
        config.update("jax_logging_level", "CRITICAL")
    if config.jax_compilation_cache_dir is not None:
        return
    try:
        path = folder()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    if not os.access(path, os.W_OK | os.X_OK):
        return
    config.update("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def _mend_entries() -> None:
    """Removes entries of the cache that JAX could not write or read.

    JAX leaves a cut entry where the disk is full, and from then on warns at each start
    that it cannot be read, and never replaces it. It reports both as warnings with the
    program's name, which its entries' names begin with.
    """
    begun, show = time.time(), warnings.showwarning
    if getattr(show, "mends_entries", False):
        return

    def mending(message: Warning | str, *arguments: Any, **options: Any) -> None:
        found = _FAILED_ENTRY.match(str(message))
        if found is None:
            show(message, *arguments, **options)
        else:
            since = begun if found["done"] == "writing" else 0.0
            _remove_entries(found["name"], since)

    mending.mends_entries = True  # type: ignore[attr-defined]
    warnings.showwarning = mending
    # By default one text is shown once, though entries of a program may be several.
    warnings.filterwarnings("always", _FAILED_ENTRY.pattern, UserWarning)


def _remove_entries(program: str, since: float) -> None:
    """Removes the entries of a program that were written since a time."""
    config: Any = jax.config
    cache = Path(config.jax_compilation_cache_dir or os.devnull)
    for path in cache.glob(f"{glob.escape(program)}-*-cache"):
        with contextlib.suppress(OSError):  # another process has removed it
            if path.stat().st_mtime >= since - 1:  # clocks of file systems are coarse
                path.unlink()


def compiler_options(dtype: str, *, deterministic: bool = False) -> dict[str, Any]:
    """Options for the compilation of programs that compute in a dtype.

    On CPU, jaxlib 0.12.0 fuses chains of bfloat16 matrix products and returns garbage
    (seen with three products and 360 rows); this switches that fusion off.

    Args:
      dtype: of the activations.
      deterministic: whether the same program has the same bits every time. On GPUs XLA
        chooses kernels by timing them in each compilation, and adds up scatters in any
        order; this chooses without timing and orders them. CPUs and TPUs need nothing.
    """
    if deterministic and jax.default_backend() == "gpu":
        return {"xla_gpu_deterministic_ops": True}
    version = tuple(map(int, jax.__version__.split(".")[:2]))
    if dtype != "bfloat16" or jax.default_backend() != "cpu" or version < (0, 11):
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": ""}


@dataclasses.dataclass
class Times:
    """What JAX did to make programs.

    Attributes:
      lowered: the seconds until XLA's program was there.
      compiled: the seconds until the device's was, or until it was read from the cache.
      cached: whether one came from the cache.
    """

    lowered: float = 0.0
    compiled: float = 0.0
    cached: bool = False


_current = threading.local()
_listening = threading.Lock()


@contextlib.contextmanager
def timed() -> Iterator[Times]:
    """Measures what this thread compiles inside."""
    with _listening:  # the cache alone lets two threads begin at once
        _listen()
    times = _current.times = Times()
    try:
        yield times
    finally:
        _current.times = None


@functools.cache
def _listen() -> None:
    """Hears of JAX's compilations, which it reports in the thread that does them."""

    def add(event: str, duration_secs: float, **_: Any) -> None:
        times = getattr(_current, "times", None)
        if times is not None and event.endswith("jaxpr_to_mlir_module_duration"):
            times.lowered += duration_secs
        elif times is not None and event.endswith("backend_compile_duration"):
            times.compiled += duration_secs

    def note(event: str, **_: Any) -> None:
        times = getattr(_current, "times", None)
        if times is not None and event.endswith("compilation_cache/cache_hits"):
            times.cached = True

    jax.monitoring.register_event_duration_secs_listener(add)
    jax.monitoring.register_event_listener(note)
