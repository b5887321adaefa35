"""Several processes that train one run together: one per host, or a few on one machine.

Each runs the same program, and `jax.distributed` joins their devices to one mesh. Only
the first process reads and writes the workdir and prints. What a single process knows
(a file, a signal, an error) reaches the others by the collective functions here, which
all processes must call. With one process none of them communicates.
"""

import collections
import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

PyTree = Any

_MESSAGE_BYTES = 1000
_STDOUT = 1
_PARTING_SECONDS = 5.0
_met = threading.Event()  # set after the first exchange between processes


class DifferingProcessesError(ValueError):
    """The processes of a run hold different values."""


def cores() -> int:
    """The cores of this host that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 100,
) -> None:
    """Joins the other processes of the run, if any; call it before any use of JAX.

    What is not given is taken from $JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and
    $JAX_PROCESS_ID, and then from what started the process: srun with several tasks,
    mpirun with several, or the TPU that JAX is about to use, which may be one of
    several hosts. Without any of these the process is alone and opens no connection.

    Args:
      coordinator: "host:port" of process 0; the port is free there.
      processes: how many there are.
      process_id: which this is, from 0.
      heartbeat_seconds: all end after one of them was silent for so long.

    Raises:
      ValueError: one of these is missing or impossible.
    """
    given = (
        coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None,
        _number(processes, "JAX_NUM_PROCESSES"),
        _number(process_id, "JAX_PROCESS_ID"),
    )
    started_by = _launcher()
    if started_by is None and given == (None, None, None):
        return
    _check(*given, detected=started_by is not None)
    # Its SIGTERM handler would replace ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *given,
            # Detection may find a cluster that the user does not mean.
            cluster_detection_method=None if None in given else "deactivate",
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except ValueError as error:
        if started_by == "tpu" and given == (None, None, None):
            return  # a single-host TPU that no environment variable describes
        raise ValueError(
            f"{started_by} started this process, but JAX cannot find the others "
            f"({error}); give coordinator, processes and process_id"
        ) from error
    devices = collections.Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        each = ", ".join(str(number) for _, number in sorted(devices.items()))
        raise ValueError(
            f"the processes have {each} devices; possible: as many on each"
        )


def _check(
    coordinator: str | None,
    processes: int | None,
    process_id: int | None,
    *,
    detected: bool,
) -> None:
    if not detected and None in (coordinator, processes, process_id):
        raise ValueError(
            "coordinator, processes and process_id are needed together; got "
            f"{coordinator}, {processes}, {process_id}"
        )
    if coordinator is not None and ":" not in coordinator:
        raise ValueError(
            f"coordinator {coordinator!r} has no port; possible: HOST:PORT"
        )
    if processes is not None and process_id is not None and process_id >= processes:
        raise ValueError(
            f"process_id {process_id} of {processes} processes; possible: 0 to "
            f"{processes - 1}"
        )


def _number(given: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if given is not None or not text:
        return given
    if not text.isdecimal():
        raise ValueError(f"${variable} is {text!r}; possible: a number from 0")
    return int(text)


def _launcher() -> str | None:
    """The launcher that started this process as one of several, None if none did."""
    # Of the step: a shell in an allocation has the variables of the whole job.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "srun"
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "mpirun"
    # JAX sets this if it finds a TPU and no other platform was chosen.
    config: Any = jax.config  # its fields have no types
    return "tpu" if (config.jax_platforms or "").split(",")[0] == "tpu" else None


def are_alone() -> bool:
    """Whether this is the only process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_first() -> bool:
    """Whether this is the process that writes and prints, as an only process does."""
    return jax.process_index() == 0


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """Discards what other processes print inside, C++ libraries included.

    Their stderr is kept, so that an error of any process is shown.
    """
    if is_first():
        yield
        return
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), _STDOUT)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises an error inside, on any process, on all of them.

    Inside, a process must not wait for another. The process with the error raises it,
    the others raise a ValueError that names the process.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if jax.process_count() > 1:
        text = "" if failure is None else str(failure).strip() or repr(failure)
        message = np.zeros(_MESSAGE_BYTES, np.uint8)
        encoded = np.frombuffer(text.encode()[:_MESSAGE_BYTES], np.uint8)
        message[: len(encoded)] = encoded
        messages = multihost_utils.process_allgather(message)
        failed = np.flatnonzero(messages.any(axis=1))
        if failure is None and failed.size:
            said = messages[failed[0]].tobytes().rstrip(b"\0").decode(errors="replace")
            raise ValueError(f"process {failed[0]}: {said}")
    if failure is not None:
        raise failure


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function on the first process only; returns its result on all, as JSON.

    An error in it is raised on all processes.
    """
    value = None
    with together():
        if is_first():
            value = function()
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    padded = np.frombuffer(text.ljust(largest(len(text))), np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())


def arrays_of_first(tree: PyTree) -> PyTree:
    """The first process's NumPy arrays; the others pass arrays of the same shapes."""
    if jax.process_count() == 1:
        return tree

    def of_first(leaf):
        # As bytes: the broadcast is a sum, which would turn -0.0 into 0.0.
        data = np.frombuffer(leaf.tobytes(), np.uint8)
        received = multihost_utils.broadcast_one_to_all(data).tobytes()
        return np.frombuffer(received, leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(of_first, tree)


def largest(number: int) -> int:
    """The maximum over processes of a number, an int32."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_same(held: Mapping[str, Any]) -> None:
    """Checks that all processes hold the same values, by SHA-256.

    Args:
      held: {name: array or text}, with the same names on all processes.

    Raises:
      DifferingProcessesError: names the first value that differs, and the processes.
    """
    if jax.process_count() == 1:
        return
    digests = [
        np.frombuffer(hashlib.sha256(_bytes(held[name])).digest(), np.uint8)
        for name in sorted(held)
    ]
    gathered = multihost_utils.process_allgather(np.stack(digests))
    _met.set()
    differing = (gathered != gathered[0]).any(axis=2)
    for index, name in enumerate(sorted(held)):
        if differing[:, index].any():
            others = ", ".join(map(str, np.flatnonzero(differing[:, index])))
            names = int(differing.any(axis=0).sum())
            more = f" ({names} differ in all)" if names > 1 else ""
            raise DifferingProcessesError(
                f"{name} is not the same on process {others} as on process 0{more}"
            )


def _bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else np.ascontiguousarray(value)


def reports_a_lost_process(error: Exception) -> bool:
    """Whether an error is a failed collective because another process ended.

    Processes that never exchanged anything, as over a wrong network, have lost none.
    """
    collective = isinstance(error, jax.errors.JaxRuntimeError) and _met.is_set()
    return collective and any(library in str(error) for library in ("Gloo", "NCCL"))


def leave(status: int, *, at_once: bool = False) -> NoReturn:
    """Ends the process with a nonzero status, whatever the others do.

    An orderly shutdown waits for all processes; this waits a few seconds, or not at
    all.
    """
    if not jax.distributed.is_initialized():
        raise SystemExit(status)
    if not at_once:
        parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        parting.start()
        parting.join(_PARTING_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
