#!/usr/bin/env bash
# Question: which kernels does XLA make of selections, scatters, loops, several seeds and many
#           leaves for an H100, and which have no deterministic form of their own?
# Guess:    top_k of half the numbers is a sort, sums by scatter have no deterministic
#           form and get a sort, seeds under vmap cost what one does, an unrolled loop
#           has fewer kernels: all right. None for small k, integers and donated trees.
# Seen:     jax 0.10.2 with its CUDA 13 plugin, compiled without a GPU, 28 November 2026.
#           top_k is a kernel up to k = 16 and a sort from 17 on. Sums of floats by scatter
#           have no deterministic form: asked for one, XLA sorts the updates first, 2
#           kernels become 5, the gradient of an embedding 11; integers stay at 2. Several
#           seeds: the same count. The order of donated trees decides about 0 to 120 copies.
#           Counts are of fusions and library calls of the optimized program, no times.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 \
  jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2 numpy==2.4.6
cd "$folder"
export CUDA_VISIBLE_DEVICES=-1 JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 JAX_PLATFORMS=cpu,cuda
venv/bin/python -W ignore - <<'END' 2> errors || { tail -n 20 errors; exit 1; }
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies

TARGET = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
 shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
 block_dim_limit_z: 65535 memory_bandwidth: 3350000000000 l2_cache_size: 52428800
 clock_rate_ghz: 1.98 device_memory_size: 85000000000 shared_memory_per_block_optin: 232448
 cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
 registers_per_block_limit: 65536 } platform_name: "CUDA"
 dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }
 device_description_str: "NVIDIA H100 80GB HBM3" """
device = topologies.get_topology_desc(
    platform="cuda", topology_name="", target_config=TARGET, topology="1x1x1"
).devices
mesh = jax.sharding.Mesh(np.array(device), ("all",))
WHOLE = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
FUSED, LAST = r" fusion\(", "\n}"
LAUNCHED = r" (fusion|custom-call|copy|sort|scatter|reduce|dot)\("


def array(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=WHOLE)


def kernels(function, *arguments, options=None, **jit):
    """(kernels outside loops, kernels of a loop's body, its trips) of the program."""
    lowered = jax.jit(function, **jit).trace(*arguments).lower(lowering_platforms=("cuda",))
    compiled = lowered.compile(compiler_options=options)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    entry = text[text.index("\nENTRY") :]
    found = [len(re.findall(LAUNCHED, entry.split("\n}")[0]))]
    passed = memory.argument_size_in_bytes + memory.output_size_in_bytes
    costs.append(
        f"{len(re.findall(FUSED, entry.split(LAST)[0]))} fusions, "
        f"{passed - memory.alias_size_in_bytes:,} bytes in and out, "
        f"{memory.temp_size_in_bytes:,} between"
    )
    for body, rest in re.findall(r" while\(.*?body=%?([\w.\-]+)(.*)", entry):
        start = re.search(rf"\n%?{re.escape(body)} ", text).start()
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
        inside = text[start:].split("\n}")[0]
        found += [len(re.findall(LAUNCHED, inside)), trips and int(trips[1])]
    return tuple(found)


def segment_sum(x, i):
    return jax.ops.segment_sum(x, i, 50, indices_are_sorted=True)


def row_gradient(table, tokens, cotangents):
    return jax.vjp(lambda table: table[tokens], table)[1](cotangents)[0]


def loop(trips, unroll=False):
    return lambda x: lax.fori_loop(
        0, trips, lambda i, x: jnp.sin(x) * 0.5 + x.sum(), x, unroll=unroll
    )


def in_order(params, momentum, gradients):
    momentum = [0.9 * m + g for m, g in zip(momentum, gradients)]
    return [p - 0.1 * m for p, m in zip(params, momentum)], momentum


def swapped(*trees):
    return in_order(*trees)[::-1]


def pairs(*trees):
    return list(zip(*in_order(*trees)))


costs = []
N, EXACT = 1 << 14, {"xla_gpu_exclude_nondeterministic_ops": True}
numbers, places = array(N), array(N, dtype="int32")
rows = array(2_000, 100), array(32, 200, dtype="int32"), array(32, 200, 100)
images = array(128, 32, 32, 64)
tree = [array(256, 256)] * 60


def pooled(x):
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID").sum()


seen = {
    "top_k, k = 16": kernels(lambda x: lax.top_k(x, 16), numbers),
    "top_k, k = 17": kernels(lambda x: lax.top_k(x, 17), numbers),
    "sum by segments": kernels(segment_sum, numbers, places),
    "sum by segments, exact": kernels(segment_sum, numbers, places, options=EXACT),
    "sum of integers, exact": kernels(segment_sum, places, places, options=EXACT),
    "gradient of rows": kernels(row_gradient, *rows),
    "gradient of rows, exact": kernels(row_gradient, *rows, options=EXACT),
    "gradient of max pooling": kernels(jax.grad(pooled), images),
    "gradient of max pooling, exact": kernels(jax.grad(pooled), images, options=EXACT),
    "loop of 1": kernels(loop(1), numbers),
    "loop of 8": kernels(loop(8), numbers),
    "loop of 8, unrolled": kernels(loop(8, unroll=True), numbers),
    "sum by segments, 8 seeds": kernels(
        jax.vmap(segment_sum), array(8, N), array(8, N, dtype="int32")
    ),
    "cumsum": kernels(jnp.cumsum, array(1 << 20)),
    "nonzero": kernels(lambda x: jnp.nonzero(x > 0, size=N), array(1 << 20)),
    "60 leaves, in order": kernels(in_order, tree, tree, tree, donate_argnums=(0, 1)),
    "60 leaves, swapped": kernels(swapped, tree, tree, tree, donate_argnums=(0, 1)),
    "60 leaves, pairs": kernels(pairs, tree, tree, tree, donate_argnums=(0, 1)),
    "60 leaves, joined": kernels(
        lambda tree: jnp.concatenate([x.ravel() for x in tree]), tree
    ),
}
for (name, counts), cost in zip(seen.items(), costs, strict=True):
    loop_of = f" and {counts[1]} in a loop of {counts[2]}" if len(counts) > 1 else ""
    print(f"{name}: {counts[0]}{loop_of}; {cost}")
assert seen["top_k, k = 16"] == (1,)
assert seen["top_k, k = 17"][0] > 1
assert seen["sum by segments"] == seen["sum by segments, 8 seeds"] == (2,)
assert seen["sum by segments, exact"][0] > 3
assert seen["sum of integers, exact"] == (2,)
assert seen["gradient of rows, exact"][0] > 3 * seen["gradient of rows"][0]
assert seen["gradient of max pooling, exact"][0] > 2 * seen["gradient of max pooling"][0]
assert len(seen["loop of 1"]) == 1
assert seen["loop of 8"][2] == 8
assert seen["loop of 8, unrolled"][0] < sum(seen["loop of 8"][1:2]) * 8
assert seen["60 leaves, in order"] == (60,)
assert seen["60 leaves, swapped"] == (180,)
assert seen["60 leaves, pairs"][0] > 100
assert seen["60 leaves, joined"] == (1,)
END
