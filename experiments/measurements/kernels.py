"""The kernels of a training step on a GPU, counted without one.

    pip install jax-cuda13-plugin==X jax-cuda13-pjrt==X    # X: the version of jaxlib
    python -m experiments.measurements.kernels

XLA compiles the step of IteRand, in the loop in which it is dispatched, for a described
chip; neither a GPU nor CUDA is needed. Every fusion, library call, copy or the like is
a kernel, and those of an inner loop count once for each of its trips. A profile on an
H200 had 440 kernels where this count had 397, and 172 where it had 154: cuDNN adds some
of its own. Convolution algorithms are not tuned here, so this says nothing about times;
counts, temporary memory and what is fused are those of the chip.
"""

import collections
import dataclasses
import itertools
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.measurements import records, synthetic
from iterand_jax.runtime import cli
from iterand_jax.training import programs
from iterand_jax.training.building import open_feed
from iterand_jax.training.config import DTYPES
from iterand_jax.training.run import DataRun

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "cifar_conv6": {"network.width": 0.25},
    "cifar_resnet18": {},
}
"""The fields set in the configs that are counted by default."""

COMMON = """
threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
registers_per_core_limit: 65536 registers_per_block_limit: 65536 clock_rate_ghz: 1.98
driver_version: "13.0.0" cuda_compute_capability { major: 9 }"""
CHIPS = {  # bytes per second, bytes of the L2 cache and of memory
    "h100": (3_350_000_000_000, 52_428_800, 85_000_000_000),
    "h200": (4_800_000_000_000, 62_914_560, 150_000_000_000),
}
WITHOUT_A_GPU = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu,cuda",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
"""Settings under which the plugin loads; JAX reads them before its first array."""

LAUNCHED = (
    *("fusion", "custom-call", "copy", "call", "conditional"),
    *("sort", "scatter", "reduce", "dot"),
)
"""The instructions of an optimized program that are kernels."""


class Loop(NamedTuple):
    """The kernels of one trip of a loop, without those of the loops inside.

    Attributes:
      kernels: how many of each kind.
      trips: how many, None where the program does not say.
      inside: the loops within.
    """

    kernels: Mapping[str, int]
    trips: int | None
    inside: Sequence["Loop"]

    @property
    def total(self) -> int:
        """The kernels of one trip; a loop inside without known trips counts once."""
        return sum(self.kernels.values()) + sum(
            (loop.trips or 1) * loop.total for loop in self.inside
        )


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_list(
        *("configs", [*CONFIGS]),
        f"names of configs, separated by commas; default: {','.join(CONFIGS)}",
    )
    flags.DEFINE_enum("chip", "h200", [*CHIPS], "what to compile for")
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "of the activations")
    flags.DEFINE_boolean(
        "deterministic", False, "also with the config's field deterministic"
    )
    cli.define_path("before", None, "a record to print the change against")
    records.define_out()


def main() -> None:
    """Counts, prints a table and writes the record."""
    values = flags.FLAGS
    os.environ |= WITHOUT_A_GPU
    before = (
        json.loads(Path(values.before).read_text())["rows"] if values.before else []
    )
    found = []
    print(HEAD)
    modes: Sequence[Mapping[str, Any]] = [{}]
    if values.deterministic:
        modes = [{}, {"deterministic": True}]
    for name, mode in itertools.product(values.configs, modes):
        found.append(row(name, values.chip, values.dtype, mode))
        print(line(found[-1], before), flush=True)
    versions = records.origin()
    del versions["device"]  # no number depends on it
    records.write(values.out, {"rows": found, **versions})


class NoCompilerError(ValueError):
    """The compiler for GPUs is not installed, or is of another version."""


HEAD = (
    f"{'config':<38}{'chip':<6}{'dtype':<10}{'kernels':>8}{'before':>8}"
    f"{'fusions':>9}{'calls':>7}  {'in loops':<10}{'temporary':>11}{'compiled':>10}"
)


def line(found: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> str:
    """One row of the table, with the kernels of the same row of an older record."""
    same = ("config", "fields", "chip", "dtype")
    old = [r["kernels"] for r in before if all(r[k] == found[k] for k in same)]
    loops = " + ".join(f"{k} x {trips}" for k, trips in found["loops"]) or "none"
    name = found["config"] + (
        ", same bits" if "deterministic" in found["fields"] else ""
    )
    return (
        f"{name:<38}{found['chip']:<6}{found['dtype']:<10}"
        f"{found['kernels']:>8}{old[0] if old else '':>8}"
        f"{found['by_kind'].get('fusion', 0):>9}"
        f"{found['by_kind'].get('custom-call', 0):>7}  {loops:<10}"
        f"{found['temporary_mib']:>7} MiB{found['seconds']:>8.0f} s"
    )


def row(name: str, chip: str, dtype: str, mode: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of one config's step, with further fields of the config."""
    fields = {**CONFIGS.get(name, {}), **mode}
    start = time.perf_counter()
    lowered = lower(on_chip(synthetic.build(name, dtype=dtype, **fields), chip))
    compiled = lowered.compile()
    program, memory = compiled.as_text(), compiled.memory_analysis()
    assert program is not None
    assert memory is not None
    (steps,) = loops_of(program).inside
    return {
        "config": name,
        "fields": fields,
        "chip": chip,
        "dtype": dtype,
        "kernels": steps.total,
        "by_kind": dict(steps.kernels),
        "loops": [(loop.total, loop.trips) for loop in steps.inside],
        "temporary_mib": round(memory.temp_size_in_bytes / 2**20),
        "seconds": round(time.perf_counter() - start, 1),
        "operations": operations(lowered.as_text()),
    }


def on_chip(run: DataRun, chip: str) -> DataRun:
    """The run on a chip that is only described: its programs can be compiled.

    Raises:
      NoCompilerError: the plugin for CUDA is not there.
    """
    from jax.experimental import topologies

    bandwidth, cache, memory = CHIPS[chip]
    target = f"""gpu_device_info {{ {COMMON}
        memory_bandwidth: {bandwidth} l2_cache_size: {cache}
        device_memory_size: {memory} }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }}
        runtime_version {{ major: 13 }}
        device_description_str: "NVIDIA {chip.upper()}" """
    try:
        devices = topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=target, topology="1x1x1"
        ).devices
    except RuntimeError as error:  # every error of a missing plugin is one
        version = jax.lib.__version__
        raise NoCompilerError(
            f"no compiler for CUDA here ({error}); possible: pip install "
            f"jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version}"
        ) from None
    mesh = jax.sharding.Mesh(np.array(devices), run.mesh.axis_names)
    feed = open_feed(run.config, run.dataset, run.source, mesh)
    return dataclasses.replace(
        run, mesh=mesh, feed=feed, train_inputs=feed.train_inputs
    )


def lower(run: DataRun) -> jax.stages.Lowered:
    """The loop of a run's steps as a program for CUDA, not yet optimized."""
    whole = jax.sharding.NamedSharding(run.mesh, jax.sharding.PartitionSpec())

    def placed(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree
        )

    # What the networks of a process with a GPU choose when they are traced.
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        state = jax.eval_shape(run.init_state, run.root)
        count = jax.ShapeDtypeStruct((), jnp.int32)
        arguments = state, run.feed.train_shapes()[0], run.root
        each = [(tree,) for tree in placed(arguments)]
        with jax.default_matmul_precision(run.config.matmul_precision):
            traced = programs.steps(run, looped=True).trace(*each, placed(count))
        return traced.lower(lowering_platforms=("cuda",))


def operations(program: str) -> dict[str, int]:
    """How many of each kind of operation a lowered program has.

    These need no plugin: if they change, the record is of another step.

    >>> operations("%2 = stablehlo.add %0, %1  %3 = stablehlo.abs %2")
    {'abs': 1, 'add': 1}
    """
    found = collections.Counter(re.findall(r"= \"?stablehlo\.(\w+)", program))
    return dict(sorted(found.items()))


def loops_of(program: str) -> Loop:
    """The kernels of an optimized program, outside of loops and in each loop."""
    bodies = {}
    for part in re.split(r"\n(?=%|ENTRY)", program):
        if found := re.match(r"(ENTRY )?%?([\w.\-]+)", part):
            bodies["ENTRY" if found[1] else found[2]] = part.splitlines()

    def of(name: str, trips: int | None) -> Loop:
        lines = [x for x in bodies[name] if x.lstrip().startswith(("%", "ROOT"))]
        kinds = re.findall(r" ([a-z][a-z\-]+)\(", "\n".join(lines))
        inside = []
        for text in lines:
            if " while(" in text:
                known = re.search(r'known_trip_count":{"n":"(\d+)"', text)
                body = re.search(r"body=%([\w.\-]+)", text)
                assert body
                inside.append(of(body[1], int(known[1]) if known else None))
        kernels = collections.Counter(kind for kind in kinds if kind in LAUNCHED)
        return Loop(dict(sorted(kernels.items())), trips, inside)

    return of("ENTRY", 1)


def run() -> None:
    """Runs the command; ends the process."""
    cli.run(main, define_flags, again="starts again", cached=False)


if __name__ == "__main__":
    run()
