#!/usr/bin/env bash
# Question: to how many bits do the readers of one ONNX file agree with float64?
# Guess: ONNX Runtime, the reference evaluator and OpenVINO to about 20 bits.
# Seen: (28 November 2026, jax2onnx 0.17.1, ONNX Runtime 1.32.0, onnx 1.23.2, OpenVINO
#   2026.4.1) jax, ONNX Runtime and the reference to 22 bits of the largest logit. On a
#   CPU with bfloat16 OpenVINO computes a float32 network in bfloat16 unless it is asked
#   for float32: 8 bits, and 21 with the hint "f32". Part of "Programs and files that
#   travel".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv venv
venv/bin/pip install --quiet jax2onnx==0.17.1 jax==0.12.0.1 jaxlib==0.12.0.1 \
  onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
venv/bin/python -W ignore - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import openvino
from jax2onnx import to_onnx
from onnx.reference import ReferenceEvaluator

rng = np.random.default_rng(0)


def pruned(*shape):  # half of the weights, signed constants
    signs = rng.choice([-1, 0, 1], shape, p=[0.25, 0.5, 0.25])
    return (signs * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)


conv, hidden, out = pruned(3, 3, 1, 16), pruned(1024, 128), pruned(128, 10)
images = rng.random((360, 8, 8, 1), np.float32)


def network(x):
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, conv, (1, 1), "SAME", dimension_numbers=numbers)
    x = jax.nn.relu(x).reshape(x.shape[0], -1)
    return jax.nn.relu(x @ hidden) @ out


padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
taps = [(i, j) for i in range(3) for j in range(3)]
exact = sum(padded[:, i : i + 8, j : j + 8] * conv[i, j, 0].astype(float) for i, j in taps)
exact = np.maximum(exact, 0).reshape(360, -1) @ hidden.astype(float)
exact = np.maximum(exact, 0) @ out.astype(float)

onnx.save(to_onnx(network, [("B", 8, 8, 1)]), "network.onnx")
runtime = onnxruntime.InferenceSession("network.onnx")
reference = ReferenceEvaluator("network.onnx")
core = openvino.Core()
graph = core.read_model("network.onnx")
asked = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
logits = {
    "jax": jax.jit(network)(images),
    "ONNX Runtime": runtime.run(None, {runtime.get_inputs()[0].name: images})[0],
    "onnx.reference": reference.run(None, {reference.input_names[0]: images})[0],
    "OpenVINO": core.compile_model(graph, "CPU")(images)[0],
    "OpenVINO, f32": asked(images)[0],
}
bits = {}
for name, found in logits.items():
    gap = np.abs(np.asarray(found) - exact).max() / np.abs(exact).max()
    bits[name] = -np.log2(gap)
    print(f"{name}: {bits[name]:.1f} bits")
in_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
default = bits.pop("OpenVINO")
assert (default < 10) == in_bfloat16, default
assert min(bits.values()) > 19, bits
PYTHON
