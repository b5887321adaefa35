"""What decides most about a step on an accelerator, within a deadline.

`python -m experiments.benchmark --seconds=N` runs it. Of a small network and a large
one it times, in alternation, steps of IteRand and of SGD and of three seeds in one
program (of the small one), and whole runs of the command, with the start and the loop
beside the program; masks, the re-randomization and a copy of as many bytes; steps of
ResNet50 on images of ImageNet's size; then the steps by the options of `GRAPHS`,
profiles, and PyTorch's. At the end it says which of the targets are met.
Each line is printed and written when it is measured. A part is left out, and named,
where it would end after the deadline by what it is expected to take (`EXPECTED`); later
ones that take less follow. What still runs at the deadline is given up.
"""

import collections
import functools
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.measurements import benchmark_programs as programs
from experiments.measurements import records, synthetic
from experiments.measurements.benchmark_report import (
    accelerator_targets,
    target_table,
)
from experiments.measurements.benchmark_runs import CACHES, RUNS, whole_run
from iterand_jax.runtime.files import write_atomically
from iterand_jax.runtime.hosts import cores
from iterand_jax.runtime.timing import Times, interleaved
from iterand_jax.training import parallel
from iterand_jax.training.programs import steps as steps_of
from iterand_jax.training.run import DataRun

Build = Callable[..., DataRun]
Written = Callable[[Mapping[str, Any]], None]
Tell = Callable[[Mapping[str, Any]], None]
"""Gets lines of a part before it is done."""

LAUNCHED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONVOLUTION"
GRAPHS: Mapping[str, Mapping[str, str]] = {
    "as it is": {},
    "one graph": {"xla_gpu_enable_command_buffer": f"{LAUNCHED},WHILE,CONDITIONAL"},
    "convolutions in graphs": {"xla_gpu_enable_command_buffer": LAUNCHED},
}
"""Compiler options by name: what XLA launches as CUDA graphs.

By default convolutions and loops are launched one by one. "one graph" is the whole loop
of steps in one launch. In XLA_FLAGS, "+CONVOLUTION,+WHILE,+CONDITIONAL" says the same.
"""

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "conv6": ("cifar_conv6", {"network.width": 0.25}),
    "resnet18": ("cifar_resnet18", {}),
    "resnet50": ("imagenet_resnet50", {"batch_size": 256}),
}
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
      measure: (tell, seconds left) -> results; those that it told before are kept, too.
    """

    name: str
    place: Sequence[str]
    kind: str
    expected: float
    measure: Callable[[Tell, float], Mapping[str, Any]]


def run(
    seconds: float,
    out: Path | None,
    *,
    quick: bool,
    peer: Any = None,
    started: float | None = None,
) -> None:
    """`measure`, whose record is written to a file as it grows."""
    origin = records.origin() | {"cores": cores(), "quick": quick}

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

    def tell(part: Part, found: Mapping[str, Any]) -> None:
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
                part.measure, functools.partial(tell, part), left
            )
            try:
                found = _within(left + GRACE, measured)
            except TimeoutError:
                tell(part, {"error": f"given up after {passed() - begun:.0f} s"})
                record["given_up"].append(part.name)
                continue
            except Exception as error:  # memory, or what this version of JAX lacks
                found = {"error": f"{type(error).__name__}: {error}"[:500]}
            if "error" not in found:
                took[part.kind] = expected + part.expected, real + passed() - begun
            tell(part, found)
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
        "steps": _steps,
        "phases": _phases,
        "imagenet": _imagenet,
        "graphs": _graphs,
        "profile": _profile,
        "peer": functools.partial(_peer, peer),
    }
    expected = EXPECTED
    if quick:  # the large ones compile for minutes, and test what the small do
        small, large = QUICK
        runs = (f"digits: runs, {cache}" for cache in CACHES)
        names = [f"{small}: steps", *runs, f"{small}: graphs"]
        names += [f"{network}: profile" for network in (large, small)]
        names += [f"{large}: phases"]
        names += [f"{network}: peer" for network in (small, large)]
        expected = dict.fromkeys(names, 20.0)
    for name, cost in expected.items():
        network, what = name.split(": ")
        what, _, cache = what.partition(", ")
        if what == "peer" and not peer:
            continue
        if what == "runs":
            one = functools.partial(_runs, network, cache, record, folder / network)
            yield Part(name, (f"{network}: runs", cache), "runs", cost, one)
            continue
        config, fields = networks[network]
        build = functools.partial(
            synthetic.build, config, **{"dtype": "bfloat16", **fields}
        )
        timed = functools.partial(programs_of[what], build)
        yield Part(name, (name,), "programs", cost, timed)


def _runs(
    network: str,
    cache: str,
    record: Mapping[str, Any],
    folder: Path,
    tell: Tell,
    left: float,
) -> dict[str, Any]:
    """The start and the loop of the command, beside the program measured before."""
    del tell
    first, second = CACHES
    before = record.get(f"{network}: runs", {}).get(first, {})
    if cache == second and "first step (s)" not in before:
        raise RuntimeError("no run has filled its cache")
    folder.mkdir(exist_ok=True)
    steps = record.get(f"{network}: steps", {})
    program = steps.get("iterand, as it is", {})
    config, fields = RUNS[network]
    step = program.get("median")
    return whole_run(config, fields, folder, step=step, most=left)


def _steps(build: Build, tell: Tell, left: float) -> dict[str, Any]:
    """Seconds of a step of IteRand, also deterministic, of SGD and of three seeds."""
    del left
    return _timed(build, tell, ("as it is",), same_bits=True)


def _imagenet(build: Build, tell: Tell, left: float) -> dict[str, Any]:
    """Seconds of a step of IteRand and SGD that takes a tenth of a second."""
    del left
    return _timed(build, tell, ("as it is",), most=5)


def _graphs(build: Build, tell: Tell, left: float) -> dict[str, Any]:
    """The same by the other options: apart, as these are not XLA's defaults."""
    del left
    return _timed(build, tell, ("one graph", "convolutions in graphs"))


def _timed(
    build: Build,
    tell: Tell,
    graphs: Sequence[str],
    *,
    most: int = 50,
    same_bits: bool = False,
) -> dict[str, Any]:
    """Times by the options of `GRAPHS`, with at most so many steps in a call.

    Each program is told when it has run, by one call alone; all alternate at the end.
    """
    runs = {method: build(method=method) for method in ("iterand", "sgd")}
    chosen = [("iterand", 1), ("sgd", 1)]
    if runs["iterand"].config.network.width < 1:  # one that does not fill a GPU
        chosen.append(("iterand", 3))
    kinds = {
        f"{method}{f' x {seeds}' if seeds > 1 else ''}, {name}": (
            *(runs[method], seeds, GRAPHS[name]),
        )
        for name in graphs
        for method, seeds in chosen
    }
    if same_bits:
        run = build(method="iterand", deterministic=True)
        kinds["iterand, deterministic"] = run, 1, {}
    calls: dict[str, Callable[[], Any]] = {}
    units, refused = {}, {}

    def add(kind: str, made: Callable[[], tuple[Callable[[], Any], int]]) -> None:
        try:
            call, units[kind] = made()
            jax.block_until_ready(call())
            begun = time.perf_counter()
            jax.block_until_ready(call())
            milliseconds = 1e3 * (time.perf_counter() - begun) / units[kind]
            calls[kind] = call
            tell({f"{kind}, one call alone (ms)": round(milliseconds, 4)})
        except Exception as error:  # an option that this version lacks
            refused[kind] = f"{type(error).__name__}: {error}"[:300]

    # The first one tunes the convolutions, which are those of all others.
    first, *others = kinds
    add(first, lambda: training(*kinds[first], most))
    with ThreadPoolExecutor(cores()) as pool:
        futures = {kind: pool.submit(training, *kinds[kind], most) for kind in others}
        for kind, future in futures.items():
            add(kind, future.result)
    times = _plain(interleaved(calls, 7, units))
    return {**times, "batch_size": runs["sgd"].config.batch_size, "refused": refused}


def training(
    run: DataRun, seeds: int, options: Mapping[str, str], most: int = 50
) -> tuple[Callable[[], Any], int]:
    """`benchmark_programs.training`, with compiler options and `most` steps a call."""
    count = min(most, parallel.steps_per_dispatch())
    batch = synthetic.batch(run.feed.train_shapes()[0])
    state = programs.first_state(run)
    states = tuple(jax.tree.map(jnp.copy, state) for _ in range(seeds))
    each = (batch,) * seeds, (run.root,) * seeds
    with jax.default_matmul_precision(run.config.matmul_precision):
        lowered = steps_of(run, looped=count > 1).lower(states, *each, count)
    steps = lowered.compile(compiler_options=dict(options))

    def call():
        nonlocal states
        states = steps(states, *each, count)
        return states[-1].step

    return call, count * seeds


def _phases(build: Build, tell: Tell, left: float) -> dict[str, Any]:
    """Seconds of all masks, of a re-randomization, and of a copy of as many bytes."""
    del tell, left
    run = build()
    weights, sparsity = run.weights(run.abstract), run.config.sparsity
    calls = programs.pruning(weights, sparsity=sparsity, both_ways=False)
    return _plain(interleaved(calls, 7))


def _peer(peer: Any, build: Build, tell: Tell, left: float) -> dict[str, Any]:
    """Seconds of PyTorch's step by IteRand and SGD, eager and compiled."""
    del left
    run = build()
    state = programs.first_state(run)
    batch = synthetic.batch(run.feed.train_shapes()[0])
    calls = peer.on_accelerator(run, state, batch)
    refused = {}
    for name, call in [*calls.items()]:
        try:
            call()
            begun = time.perf_counter()
            call()
            milliseconds = 1e3 * (time.perf_counter() - begun) / peer.CALLS
            tell({f"{name}, one call alone (ms)": round(milliseconds, 4)})
        except Exception as error:  # no compiler for torch.compile
            refused[name] = f"{type(error).__name__}: {error}"[:300]
            del calls[name]
    times = interleaved(calls, 5, dict.fromkeys(calls, peer.CALLS))
    return {**_plain(times), "refused": refused}


def _profile(build: Build, tell: Tell, left: float) -> dict[str, Any]:
    """The kernels of a step: how many, how long each runs, and what is launched.

    While it profiles, XLA launches kernels one by one and not as graphs, so the time
    that the device is busy counts, and not how long the steps took.
    """
    del tell, left
    call, count = training(build(), 1, {})
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        files = [*Path(folder).rglob("*.xplane.pb")]
        data = jax.profiler.ProfileData.from_file(str(files[0]))
        return kernels_of(data, count)


def kernels_of(data: Any, count: int) -> dict[str, Any]:
    """A `jax.profiler.ProfileData` as milliseconds and kernels of one of its steps."""
    times: collections.Counter[str] = collections.Counter()
    numbers: collections.Counter[str] = collections.Counter()
    spans = []
    for plane in data.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = re.sub(r"[._]\d+", "", event.name)[:60]
                times[name] += event.duration_ns
                numbers[name] += 1
                spans.append((event.start_ns, event.start_ns + event.duration_ns))
    busy = _covered(sorted(spans))
    ends = [time for span in spans for time in span] or [0]
    return {
        "kernels": round(sum(numbers.values()) / count, 1),
        "busy_ms": round(busy / count / 1e6, 4),
        "profiled_ms": round((max(ends) - min(ends)) / count / 1e6, 4),
        "by_name": {
            name: [round(numbers[name] / count, 1), round(t / count / 1e3, 2)]
            for name, t in times.most_common(40)
        },
    }


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of a union of intervals, sorted by their begin.

    >>> _covered([(0, 2), (1, 3), (5, 6)])
    4.0
    """
    covered, until = 0.0, float("-inf")
    for begin, end in spans:
        covered += max(0, end - max(begin, until))
        until = max(until, end)
    return covered


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


def _plain(times: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    return {
        name: {k: float(f"{v:.4g}") for k, v in t._asdict().items()}
        for name, t in times.items()
    }
