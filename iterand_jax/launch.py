"""Trains with several processes on this machine's CPU, as if on several hosts.

python -m iterand_jax.launch [--processes=N] [--devices_per_process=N] -- FLAGS

FLAGS are those of iterand_jax.main, such as --config=cifar_conv6. Each line of output
is prefixed with the index of its process. Ctrl-C, SIGTERM and SIGHUP are forwarded to
all. The command exits with the status of the first process that fails (128 plus the
signal's number if a signal killed it) and reports which that was; the others then have
as long as the heartbeat to exit by themselves. The children of a process are killed
when it exits, and everything is killed if this command is.
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import IO

from absl import flags

from iterand_jax.runtime import cli
from iterand_jax.runtime.signals import heeded

COMMAND = (sys.executable, "-m", "iterand_jax.main")
_PARTING_SECONDS = 10  # beyond the heartbeat, for an exit by oneself
_READING_SECONDS = 10  # for the last lines of processes that have ended
# A separate process, since this one cannot handle SIGKILL: its stdin is closed when we
# end, for any reason. Unlike Linux's parent-death signal it also reaches the children's
# children, and it works on other systems.
_WATCHDOG = 'while read -r id; do all="$all -$id"; done; kill -s KILL -- $all'


def define_flags() -> None:
    """Defines the flags of this command."""
    for name, default, meaning in (
        ("processes", 2, "number of processes"),
        ("devices_per_process", 1, "CPU devices of each process"),
        ("heartbeat_seconds", 10, "all exit if one sends no heartbeat for this long"),
    ):
        flags.DEFINE_integer(name, default, meaning, lower_bound=1)


def main(*given: str) -> int:
    """Runs processes with these flags until all have exited; returns the status."""
    early: list[int] = []  # signals that arrive before the processes have started
    _handle_signals(early.append)
    with _Output() as output, _watchdog() as ids:
        processes = _start(given, ids)
        _handle_signals(lambda number: _send(processes, number))
        for number in early:
            _send(processes, number)
        output.say("processes " + ", ".join(str(p.pid) for p in processes))
        limit = flags.FLAGS.heartbeat_seconds + _PARTING_SECONDS
        status = _follow(processes, output, limit=limit)
        for number in heeded():  # no process is left to forward to: a signal ends us
            signal.signal(number, signal.SIG_DFL)
        return status


def _handle_signals(handle: Callable[[int], None]) -> None:
    for number in heeded():
        signal.signal(number, lambda number, _: handle(number))


@contextlib.contextmanager
def _watchdog() -> Iterator[IO[str]]:
    """A file to write process ids to, one per line: they are killed if this one dies.

    Each id is also that of its process group, and the whole group is killed.
    """
    with subprocess.Popen(
        ["sh", "-c", _WATCHDOG],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as watchdog:
        assert watchdog.stdin is not None
        yield watchdog.stdin
        watchdog.kill()  # all have ended, and ids may be reused


def _start(given: Sequence[str], ids: IO[str]) -> list[subprocess.Popen[str]]:
    chosen = flags.FLAGS
    command = [
        *COMMAND,
        f"--coordinator=localhost:{free_port()}",
        f"--processes={chosen.processes}",
        f"--heartbeat_seconds={chosen.heartbeat_seconds}",
        *(f"--import={name}" for name in cli.imports()),
        *given,
    ]
    processes = []
    for index in range(chosen.processes):
        process = subprocess.Popen(
            [*command, f"--process_id={index}"],
            env=environment(chosen.devices_per_process),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C comes once, from here
        )
        processes.append(process)
        print(process.pid, file=ids, flush=True)
    return processes


def environment(devices: int) -> dict[str, str]:
    """The environment of a process with this number of CPU devices."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """A port of this machine that is currently free."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _send(processes: Sequence[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        process.send_signal(number)  # a no-op if it has ended


def _follow(
    processes: Sequence[subprocess.Popen[str]], output: "_Output", *, limit: float
) -> int:
    """Prints the processes' output until all have ended.

    Returns the status of the first that fails, or 0.
    """
    status = 0
    # Started by the first failure: the others have this long to exit by themselves.
    stopping = threading.Timer(limit, _stop_all, [processes, output])
    # Each process has a thread that reads its output and one that waits for its exit:
    # two threads, since a child that outlives the process can keep the output open.
    reading = [
        threading.Thread(target=_read_all, args=(*each, output), daemon=True)
        for each in enumerate(processes)
    ]
    for thread in reading:
        thread.start()
    with futures.ThreadPoolExecutor(len(processes)) as threads:
        following = {threads.submit(_wait, p): i for i, p in enumerate(processes)}
        for done in futures.as_completed(following):  # in the order of their exits
            index, ended = following[done], done.result()
            if ended and not status:
                status = ended if ended > 0 else 128 - ended
                how = (
                    f"status {ended}" if ended > 0 else f"{signal.Signals(-ended).name}"
                )
                reading[index].join(1)  # so that its last lines are printed first
                output.say(f"process {index} failed first: {how}")
                stopping.start()
    # All have exited, and `_wait` has killed their children, so the outputs end too.
    # The limit is for a child that left its process group and holds an output open.
    stopping.cancel()
    for thread in reading:
        thread.join(_READING_SECONDS)
    return status


def _wait(process: subprocess.Popen[str]) -> int:
    """Waits for a process and kills what is left of its group; returns its status."""
    status = process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return status


def _read_all(index: int, process: subprocess.Popen[str], output: "_Output") -> None:
    """Copies the lines of a process to our output, prefixed with its index, to EOF."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            output.write(sys.stdout, f"[{index}] {line.rstrip()}\n")


def _stop_all(processes: Sequence[subprocess.Popen[str]], output: "_Output") -> None:
    """Kills the processes that are still running, and logs which."""
    running = [i for i, process in enumerate(processes) if process.poll() is None]
    if running:
        names = ", ".join(map(str, running))
        output.say(f"killing what is still running: process {names}")
    _send(processes, signal.SIGKILL)


class _Output:
    """A queue of output lines and a thread that writes them: callers never block.

    So a slow reader of our output blocks neither the processes, whose own pipes would
    fill up, nor the wait for them. Leaving the context waits until all is written. When
    the pipe or the terminal is closed, lines are dropped and training continues.
    """

    def __init__(self):
        self._lines: queue.SimpleQueue[tuple[IO[str], str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, daemon=True)

    def __enter__(self) -> "_Output":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.put(None)
        self._thread.join()

    def write(self, stream: IO[str], line: str) -> None:
        """Queues a line for a stream, after those before it."""
        self._lines.put((stream, line))

    def say(self, line: str) -> None:
        """Queues a line for stderr that is from this command, not from a process."""
        self.write(sys.stderr, f"launch: {line}\n")

    def _write_all(self) -> None:
        while (one := self._lines.get()) is not None:
            stream, line = one
            try:
                stream.write(line)
                stream.flush()
            except OSError:  # EIO of a terminal, EPIPE of a pipe
                # The stream's buffer still holds the line, so every later flush,
                # also the one at exit, would fail too: redirect it to /dev/null.
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, positional=None, prints_result=False)


if __name__ == "__main__":
    run()
