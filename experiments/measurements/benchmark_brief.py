"""What decides most about a step on an accelerator, within a deadline.

`python -m experiments.benchmark --seconds=N` runs it. Of a small network and a large
one it times, in alternation, steps of IteRand and of SGD and of three seeds in one
program (of the small one), and whole runs of the command, with the start and the loop
beside the program; masks, the re-randomization and a copy of as many bytes; steps of
ResNet50 on images of ImageNet's size; whether a deterministic run that is killed ends
with the same bits; then the steps by the options of `benchmark_parts.GRAPHS`, profiles,
and PyTorch's. At the end it says which of the targets are met.

Each line is printed and written when it is measured. A part is left out, and named,
where it would end after the deadline by what it is expected to take (`EXPECTED`); later
ones that take less follow. What still runs at the deadline is given up.
"""

import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.measurements import benchmark_parts as parts
from experiments.measurements import records, synthetic
from experiments.measurements.benchmark_report import (
    accelerator_targets,
    target_table,
)
from experiments.measurements.benchmark_runs import (
    CACHES,
    RUNS,
    same_bits,
    whole_run,
)
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.hosts import cores

Written = Callable[[Mapping[str, Any]], None]

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "conv6": ("cifar_conv6", {"network.width": 0.25}),
    "resnet18": ("cifar_resnet18", {}),
    "resnet50": ("imagenet_resnet50", {"batch_size": 256}),
}
DTYPE = "bfloat16"  # of all but the digits, whose config says float32
TINY = {"network.width": 1 / 16, "batch_size": 8, "sizes": {"train": 100, "test": 10}}
EXPECTED: Mapping[str, float] = {
    "conv6: steps": 30,
    "resnet18: steps": 40,
    "resnet18: phases": 10,
    "resnet18: profile": 20,
    "digits: runs, without a cache": 30,
    "conv6: runs, without a cache": 50,
    "conv6: profile": 10,
    "digits: runs, with a cache": 20,
    "resnet18: runs, without a cache": 80,
    "resnet18: runs, with a cache": 45,
    "resnet50: imagenet": 60,
    "conv6: runs, with a cache": 35,
    "conv6: same bits": 75,
    "conv6: graphs": 30,
    "resnet18: graphs": 40,
    "conv6: peer": 40,
    "resnet18: peer": 60,
}
"""Seconds of each part on an H200 with 16 cores, in the order of what decides most.

Measured there, by versions whose start was longer: without a cache 50 s to the first
step of Conv6, of which 26 were its programs, one after another, and a loop of 0.22 s an
epoch (docs/benchmarks.md); 68 s to the first step of ResNet18, 25 s of the digits.
The others are guesses from these: a start with a cache as half of one without, programs
of a part as compiled side by side. What remains is scaled by what the parts of the same
kind, runs or programs, have taken.
"""

GRACE = 5.0
"""Seconds that what runs at the deadline gets to end."""

QUICK: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "conv2": ("cifar_conv2", TINY),
    "vgg11": ("cifar_vgg11", TINY),
}
"""For tests: without and with normalization, as above, and compiled in less time."""


class Part(NamedTuple):
    """What is measured at a time.

    Attributes:
      name: in what is printed.
      place: the keys in the record below which its results are.
      kind: "runs" or "programs", whose parts are expected to be slow together.
      expected: seconds.
      measure: (report, seconds left) -> results; those that it reported before are
        kept, too.
    """

    name: str
    place: Sequence[str]
    kind: str
    expected: float
    measure: Callable[[parts.Report, float], Mapping[str, Any]]


def run(
    seconds: float,
    out: Path | None,
    *,
    quick: bool,
    peer: Any = None,
    started: float | None = None,
) -> None:
    """`measure`, whose record is written to a file as it grows."""
    networks = QUICK if quick else NETWORKS
    of_steps = {name: _of_steps(*network) for name, network in networks.items()}
    origin = records.origin() | {"cores": cores(), "quick": quick}
    origin |= {"configs of steps": of_steps, "configs of runs": RUNS}

    def written(record: Mapping[str, Any]) -> None:
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, json.dumps(origin | dict(record), indent=1) + "\n")

    record = measure(
        seconds=seconds, written=written, quick=quick, peer=peer, started=started
    )
    print(target_table(accelerator_targets(record)), flush=True)
    if record["given_up"]:  # a thread compiles still, and the end would wait for it
        sys.stderr.flush()
        os._exit(0)


def measure(
    *,
    seconds: float,
    written: Written,
    quick: bool = False,
    peer: Any = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Measures what there is time for, in at most `seconds` and `GRACE`.

    Args:
      seconds: after which nothing goes on, from `started`.
      written: gets the record after each part.
      quick: tiny networks and sizes, for tests.
      peer: the module `benchmark_peer`, if PyTorch's step is to be measured.
      started: by time.perf_counter(); None for now.
    """
    start = time.perf_counter() if started is None else started

    def passed() -> float:
        return time.perf_counter() - start

    def say(what: str) -> None:
        print(f"[{passed():5.0f} s] {what}", flush=True)

    record: dict[str, Any] = {"seconds": 0, "left_out": [], "given_up": []}

    def report(part: Part, found: Mapping[str, Any]) -> None:
        if part.name in record["given_up"]:
            return
        for text in _lines(found):
            say(f"{part.name}: {text}")
        place: dict[str, Any] = record
        for key in part.place:
            place = place.setdefault(key, {})
        place |= found
        record["seconds"] = round(passed(), 1)
        written(record)

    took = {kind: (0.0, 0.0) for kind in ("runs", "programs")}  # expected, and real
    with tempfile.TemporaryDirectory() as folder:
        for part in _parts(quick, peer, record, Path(folder)):
            expected, real = took[part.kind]
            cost = part.expected * (real / expected if expected else 1)
            if passed() + cost > seconds:
                record["left_out"].append(part.name)
                say(f"{part.name}: left out, as it is expected to take {cost:.0f} s")
                continue
            begun, left = passed(), seconds - passed()
            measured = functools.partial(
                part.measure, functools.partial(report, part), left
            )
            try:
                found = _within(left + GRACE, measured)
            except TimeoutError:
                report(part, {"error": f"given up after {passed() - begun:.0f} s"})
                record["given_up"].append(part.name)
                continue
            except Exception as error:  # memory, or what this version of JAX lacks
                found = {"error": f"{type(error).__name__}: {error}"[:500]}
            if "error" not in found:
                took[part.kind] = expected + part.expected, real + passed() - begun
            report(part, found)
    written(record)
    return record


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """The result of a function, which a thread calls.

    Raises:
      TimeoutError: it is not there in time. The thread, which nothing can stop while it
        compiles, goes on.
    """
    done: dict[str, Any] = {}

    def call() -> None:
        try:
            done["result"] = function()
        except Exception as error:
            done["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in done:
        raise done["error"]
    if "result" not in done:
        raise TimeoutError
    return done["result"]


def _parts(
    quick: bool, peer: Any, record: Mapping[str, Any], folder: Path
) -> Iterator[Part]:
    """What is measured, what decides most first; the record has the parts before."""
    networks = QUICK if quick else NETWORKS
    programs_of: dict[str, Callable[..., Mapping[str, Any]]] = {
        "steps": parts.steps,
        "phases": parts.phases,
        "imagenet": parts.imagenet,
        "graphs": parts.graphs,
        "profile": parts.profile,
        "peer": functools.partial(parts.peer, peer),
    }
    expected = EXPECTED
    if quick:  # the large ones compile for minutes, and test what the small do
        small, large = QUICK
        runs = (f"digits: runs, {cache}" for cache in CACHES)
        names = [f"{small}: steps", *runs, "digits: same bits", f"{small}: graphs"]
        names += [f"{network}: profile" for network in (large, small)]
        names += [f"{large}: phases"]
        names += [f"{network}: peer" for network in (small, large)]
        expected = dict.fromkeys(names, 20.0)
    for name, cost in expected.items():
        network, what = name.split(": ")
        what, _, cache = what.partition(", ")
        if what == "peer" and not peer:
            continue
        if what == "same bits":
            bits = functools.partial(_same_bits, network, folder / "bits")
            yield Part(name, (name,), "runs", cost, bits)
            continue
        if what == "runs":
            one = functools.partial(_runs, network, cache, record, folder / network)
            yield Part(name, (f"{network}: runs", cache), "runs", cost, one)
            continue
        config, fields = _of_steps(*networks[network])
        build = functools.partial(synthetic.build, config, **fields)
        timed: Callable[..., Any] = functools.partial(programs_of[what], build)
        if what == "profile":
            timed = functools.partial(_profile, timed, network, record)
        yield Part(name, (name,), "programs", cost, timed)


def _of_steps(config: str, fields: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The config of a network's steps, and the fields set in it."""
    return config, {"dtype": DTYPE, **fields}


def _profile(
    profiled: Callable[[parts.Report, float], Mapping[str, Any]],
    network: str,
    record: Mapping[str, Any],
    report: parts.Report,
    left: float,
) -> dict[str, Any]:
    """The kernels of a step, and the share of the step before in which they run."""
    found = profiled(report, left)
    step = _step(network, record)
    share = {"busy / step": round(found["busy_ms"] / (1e3 * step), 3)} if step else {}
    return {**share, **found}


def _step(network: str, record: Mapping[str, Any]) -> float | None:
    """The seconds of IteRand's step that were measured before, if they were."""
    steps = record.get(f"{network}: steps", {})
    return steps.get("iterand, as it is", {}).get("median")


def _runs(
    network: str,
    cache: str,
    record: Mapping[str, Any],
    folder: Path,
    report: parts.Report,
    left: float,
) -> dict[str, Any]:
    """The start and the loop of the command, beside the program measured before."""
    del report
    first, second = CACHES
    before = record.get(f"{network}: runs", {}).get(first, {})
    if cache == second and "first step (s)" not in before:
        raise RuntimeError("no run has filled its cache")
    folder.mkdir(exist_ok=True)
    config, fields = RUNS[network]
    step = _step(network, record)
    return whole_run(config, fields, folder, step=step, most=left)


def _same_bits(
    network: str, folder: Path, report: parts.Report, left: float
) -> dict[str, Any]:
    """Whether a run that is killed and compiles again has the bits of a whole one."""
    del report
    folder.mkdir()
    return same_bits(*RUNS[network], folder, most=left)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What a part found, by line."""
    for name, value in found.items():
        if isinstance(value, Mapping) and "median" in value:
            times = (1e3 * value[k] for k in ("median", "fastest", "slowest"))
            median, fastest, slowest = times
            yield f"{name:<36}{median:>9.4f} ms  ({fastest:.4f} to {slowest:.4f})"
        elif isinstance(value, Mapping):
            for key, inner in [*value.items()][:24]:
                yield f"{name}: {key}: {inner}"
        else:
            yield f"{name}: {value}"
