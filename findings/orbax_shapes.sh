#!/usr/bin/env bash
# Question: what does Orbax restore when the target has another shape or dtype?
# Guess: an error, at least for ShapeDtypeStruct; for NumPy the shape that was saved.
# Seen: (28 November 2026, orbax-checkpoint 0.12.8) only an array of jax as the target
#   has its shape compared. With NumPy arrays and with ShapeDtypeStruct, which is what
#   jax.eval_shape gives, the saved shape comes back without an error. A target of
#   integers makes integers of saved fractions. Part of "Programs and files that travel".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv venv
venv/bin/pip install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.1
venv/bin/python - "$folder/saved" <<'PYTHON'
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

logging.disable(logging.WARNING)
saved = np.array([[0.7, 1.7, 2.7], [3.7, 4.7, 5.7]], np.float32)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(sys.argv[1], {"kernel": saved})


def restored(target):
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            found = checkpointer.restore(sys.argv[1], {"kernel": target})["kernel"]
        except ValueError as error:
            return str(error).split(".")[0]
    return f"{found.shape} {found.dtype} {np.asarray(found).ravel().tolist()[:2]}"


seen = {
    "NumPy (3, 3)": restored(np.zeros((3, 3), np.float32)),
    "NumPy (6,)": restored(np.zeros(6, np.float32)),
    "ShapeDtypeStruct (3, 3)": restored(jax.ShapeDtypeStruct((3, 3), np.float32)),
    "ShapeDtypeStruct (2, 2)": restored(jax.ShapeDtypeStruct((2, 2), np.float32)),
    "jax (3, 3)": restored(jnp.zeros((3, 3))),
    "jax int32 (2, 3)": restored(jnp.zeros((2, 3), jnp.int32)),
    "NumPy int32 (2, 3)": restored(np.zeros((2, 3), np.int32)),
}
for target, found in seen.items():
    print(f"target {target}: {found}")
for target in list(seen)[:4]:
    assert seen[target].startswith("(2, 3) float32"), target
assert "not compatible with the stored shape" in seen["jax (3, 3)"]
assert seen["jax int32 (2, 3)"] == "(2, 3) int32 [0, 1]"
assert seen["NumPy int32 (2, 3)"] == "(2, 3) int32 [0, 1]"
PYTHON
