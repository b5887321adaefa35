#!/usr/bin/env bash
# Question: on a CPU, does the gradient of a kernel cost more when its layer is called with
#           (texts, words, features) than with the same numbers as (texts * words, features)?
# Guess:    no: both are one product, and the reshape is free.
# Seen:     jax 0.10.2, CPU with AVX2, one core, 30 November 2026: 1.3 to 3.3 times as much, the
#           more the fewer the input features. The program writes the gradients of all
#           outputs once more, transposed, before it multiplies; of two axes it does not.
#           The same in jax 0.12.0.1 (1.3 to 3.4). The times are printed, not compared.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cd "$folder"
cat > of_axes.py <<'END'
import statistics
import time

import jax
import jax.numpy as jnp

SHAPES = {
    "projection of an LSTM's words": (256, 64, 100, 1024),
    "first layer of a transformer's MLP": (8, 128, 768, 3072),
    "of a smaller one": (64, 64, 192, 768),
}


def three(x, kernel):
    return x @ kernel


def flat(x, kernel):
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:2], -1)


def of_kernel(layer, x, kernel, upstream):
    return jax.vjp(lambda kernel: layer(x, kernel), kernel)[1](upstream)[0]


print("jax", jax.__version__)
for name, (a, b, inputs, outputs) in SHAPES.items():
    given = jnp.ones((a, b, inputs)), jnp.ones((inputs, outputs))
    given = *given, jnp.ones((a, b, outputs))
    programs, seconds = [], [[], []]
    for layer in (three, flat):
        program = jax.jit(of_kernel, static_argnums=0).lower(layer, *given)
        programs.append(program.compile())
    for _ in range(7):
        for program, took in zip(programs, seconds):
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            took.append(time.perf_counter() - start)
    ratio = statistics.median(seconds[0]) / statistics.median(seconds[1])
    # Whether the program writes all gradients of outputs once more, transposed.
    transposed = f"f32[{outputs},{a * b}]"
    copies = [transposed in program.as_text() for program in programs]
    print(f"{name}, {a} x {b} x {inputs} to {outputs}: {copies}, {ratio:.2f} times")
    assert copies == [True, False], "whether three axes and two have the copy"
END
JAX_PLATFORMS=cpu venv/bin/python of_axes.py
