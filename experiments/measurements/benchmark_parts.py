"""The parts of a brief benchmark that time programs on an accelerator.

Each takes (build, report, left): `build` gives the run of the part's network with other
fields, `report` gets lines before the part is done, `left` are the seconds left.
"""

import collections
import functools
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from experiments.measurements import benchmark_programs as programs
from experiments.measurements import synthetic
from iterand_jax.runtime.hosts import cores
from iterand_jax.runtime.timing import interleaved
from iterand_jax.training.run import DataRun

Build = Callable[..., DataRun]
Report = Callable[[Mapping[str, Any]], None]
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


def steps(build: Build, report: Report, left: float) -> dict[str, Any]:
    """Seconds of a step of IteRand, also deterministic, of SGD and of three seeds."""
    del left
    return _timed(build, report, ("as it is",), same_bits=True)


def imagenet(build: Build, report: Report, left: float) -> dict[str, Any]:
    """Seconds of a step of IteRand and SGD that takes a tenth of a second."""
    del left
    return _timed(build, report, ("as it is",), most=5)


def graphs(build: Build, report: Report, left: float) -> dict[str, Any]:
    """The same by the other options, and the seeds under vmap.

    Apart, as these are not XLA's defaults and not what the trainer does.
    """
    del left
    options = ("one graph", "convolutions in graphs")
    return _timed(build, report, options, mapped=True)


def _timed(
    build: Build,
    report: Report,
    graphs: Sequence[str],
    *,
    most: int = 50,
    same_bits: bool = False,
    mapped: bool = False,
) -> dict[str, Any]:
    """Times by the options of `GRAPHS`, with at most so many steps in a call.

    Each program is reported when it has run, by one call; all alternate at the end.
    """
    runs = {method: build(method=method) for method in ("iterand", "sgd")}
    chosen = [("iterand", 1), ("sgd", 1)]
    if runs["iterand"].config.network.width < 1:  # one that does not fill a GPU
        chosen.append(("iterand", 3))
    kinds = {
        f"{method}{f' x {seeds}' if seeds > 1 else ''}, {name}": functools.partial(
            training, runs[method], seeds, GRAPHS[name], most
        )
        for name in graphs
        for method, seeds in chosen
    }
    if same_bits:
        run = build(method="iterand", deterministic=True)
        kinds["iterand, deterministic"] = functools.partial(training, run, 1, {}, most)
    if mapped:
        kinds |= {
            f"{method} x {seeds}, under vmap": functools.partial(
                under_vmap, runs[method], seeds, most
            )
            for method, seeds in chosen
            if seeds > 1
        }
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
            report({f"{kind}, one call alone (ms)": round(milliseconds, 4)})
        except Exception as error:  # an option that this version lacks
            refused[kind] = f"{type(error).__name__}: {error}"[:300]

    # The first one tunes the convolutions, which are those of all others.
    first, *others = kinds
    add(first, kinds[first])
    with ThreadPoolExecutor(cores()) as pool:
        futures = {kind: pool.submit(kinds[kind]) for kind in others}
        for kind, future in futures.items():
            add(kind, future.result)
    times = programs.plain(interleaved(calls, 7, units))
    return {**times, "batch_size": runs["sgd"].config.batch_size, "refused": refused}


def training(
    run: DataRun, seeds: int, options: Mapping[str, str], most: int = 50
) -> tuple[Callable[[], Any], int]:
    """`benchmark_programs.training` on a random batch, from the first state."""
    batch = synthetic.batch(run.feed.train_shapes()[0])
    state = programs.first_state(run)
    return programs.training(
        run, state, batch, replicas=seeds, options=options, most=most
    )


def under_vmap(
    run: DataRun, seeds: int, most: int = 50
) -> tuple[Callable[[], Any], int]:
    """`benchmark_programs.under_vmap` in the same way."""
    batch = synthetic.batch(run.feed.train_shapes()[0])
    return programs.under_vmap(run, programs.first_state(run), batch, seeds, most=most)


def phases(build: Build, report: Report, left: float) -> dict[str, Any]:
    """Seconds of all masks, of a re-randomization, and of a copy of as many bytes."""
    del report, left
    run = build()
    weights, sparsity = run.weights(run.abstract), run.config.sparsity
    calls = programs.pruning(weights, sparsity=sparsity, both_ways=False)
    return programs.plain(interleaved(calls, 7))


def peer(peer: Any, build: Build, report: Report, left: float) -> dict[str, Any]:
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
            report({f"{name}, one call alone (ms)": round(milliseconds, 4)})
        except Exception as error:  # no compiler for torch.compile
            refused[name] = f"{type(error).__name__}: {error}"[:300]
            del calls[name]
    times = interleaved(calls, 5, dict.fromkeys(calls, peer.CALLS))
    return {**programs.plain(times), "refused": refused}


def profile(build: Build, report: Report, left: float) -> dict[str, Any]:
    """The kernels of a step: how many, how long each runs, and what is launched.

    While it profiles, XLA launches kernels one by one and not as graphs, so the time
    that the device is busy counts, and not how long the steps took.
    """
    del report, left
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
