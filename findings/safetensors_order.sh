#!/usr/bin/env bash
# Question: what does safetensors write of a NumPy array that is transposed?
# Guess: its numbers in C order, as numpy.save does; or an error.
# Seen: (28 November 2026) 0.7.0 writes C order; 0.8.0 writes the memory as it lies, so
#   the file has the right shape and other numbers, without an error or a warning.
#   Arrays of jax are right in both. Part of the table "Programs and files that travel".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv 0.7.0
"${PYTHON:-python3.13}" -m venv 0.8.0
0.7.0/bin/pip install --quiet safetensors==0.7.0 numpy==2.4.6
0.8.0/bin/pip install --quiet safetensors==0.8.0 numpy==2.4.6
for version in 0.7.0 0.8.0; do
  "$version/bin/python" - "$version" <<'PYTHON'
import sys

import numpy as np
from safetensors import numpy as safetensors

version = sys.argv[1]
kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
every_second = np.arange(6, dtype=np.float32)[::2]
ordered = np.ascontiguousarray(kernel.T)
arrays = {"kernel": kernel.T, "bias": every_second, "ordered": ordered}
found = safetensors.load(safetensors.save(arrays))
for name, array in arrays.items():
    print(f"safetensors {version}, {name}: {found[name].tolist()} of {array.tolist()}")
assert all(found[name].shape == array.shape for name, array in arrays.items())
same = {name: bool((found[name] == array).all()) for name, array in arrays.items()}
right = version == "0.7.0"
assert same == {"kernel": right, "bias": right, "ordered": True}, same
PYTHON
done
