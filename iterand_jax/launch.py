"""Trains with several processes on the CPU of this machine, as on several hosts.

    python -m iterand_jax.launch --processes=2 --devices_per_process=2 -- \\
        --config=configs/cifar_conv6.py

What stands after -- are the flags of iterand_jax.main. Each line of output is preceded
by the number of its process. Ctrl-C and SIGTERM are handed on to all. The command ends
with the status of the first process that fails, 128 more than its signal if that killed
it, and says which that was; the others then have as long as the heartbeat to end by
themselves.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent import futures

_PARTING_SECONDS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the processes and follows them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m iterand_jax.launch")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices_per_process", type=int, default=1)
    parser.add_argument(
        "--heartbeat_seconds", type=int, default=10, help="all end when one is silent"
    )
    parser.add_argument("flags", nargs="*", help="-- and flags of iterand_jax.main")
    chosen = parser.parse_args(arguments)
    for name in ("processes", "devices_per_process", "heartbeat_seconds"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} is {getattr(chosen, name)}; possible: from 1")
    processes = _start(chosen)
    _say("processes " + ", ".join(str(process.pid) for process in processes))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: _send(processes, number))
    return _follow(processes, limit=chosen.heartbeat_seconds + _PARTING_SECONDS)


def _start(chosen: argparse.Namespace) -> list[subprocess.Popen[str]]:
    command = [
        *(sys.executable, "-m", "iterand_jax.main"),
        f"--coordinator=localhost:{free_port()}",
        f"--processes={chosen.processes}",
        f"--heartbeat_seconds={chosen.heartbeat_seconds}",
        *chosen.flags,
    ]
    return [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            env=environment(chosen.devices_per_process),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C comes once, from here
        )
        for index in range(chosen.processes)
    ]


def environment(devices: int) -> dict[str, str]:
    """The environment of a process that sees so many devices on this machine's CPU."""
    flag = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _send(processes: Sequence[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        process.send_signal(number)  # nothing, if it has ended


def _follow(processes: Sequence[subprocess.Popen[str]], *, limit: float) -> int:
    """Prints what processes print until all have ended; the first failure's status."""
    status = 0
    stopping = threading.Timer(limit, _stop_all, [processes])
    with futures.ThreadPoolExecutor(len(processes)) as threads:
        following = {
            threads.submit(_print_all, index, process): index
            for index, process in enumerate(processes)
        }
        for done in futures.as_completed(following):
            ended = done.result()
            if ended and not status:
                status = ended if ended > 0 else 128 - ended
                how = (
                    f"status {ended}" if ended > 0 else f"{signal.Signals(-ended).name}"
                )
                _say(f"process {following[done]} ended first, by {how}")
                stopping.start()
    stopping.cancel()
    return status


def _print_all(index: int, process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            # In one piece: lines of several processes come at once.
            sys.stdout.write(f"[{index}] {line.rstrip()}\n")
            sys.stdout.flush()
    return process.wait()


def _stop_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    running = [i for i, process in enumerate(processes) if process.poll() is None]
    if running:
        _say(f"stopping what still runs: process {', '.join(map(str, running))}")
    _send(processes, signal.SIGKILL)


def _say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
