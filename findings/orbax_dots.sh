#!/usr/bin/env bash
# Question: do keys with dots or slashes come back from an Orbax checkpoint?
# Guess: "a.b" beside {"a": {"b": ...}} is refused, or one of them is kept; a slash is
#   refused.
# Seen: (28 November 2026, orbax-checkpoint 0.12.8) the names of arrays are the keys
#   joined by dots, so both leaves come back with the same numbers, without an error. A
#   slash is no problem. A tuple comes back as a list, an integer key as a string. Part
#   of "Programs and files that travel".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3.13}" -m venv venv
venv/bin/pip install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.1
venv/bin/python - "$folder" <<'PYTHON'
import logging
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

logging.disable(logging.WARNING)
one, two = np.float32([1]), np.float32([2])
trees = {
    "dot": {"a.b": one, "a": {"b": two}},
    "slash": {"a/b": one, "a": {"b": two}},
    "tuple": {"a": (one, two)},
    "integers": {0: one, 1: two},
}
seen = {}
for name, tree in trees.items():
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{sys.argv[1]}/{name}", tree)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(f"{sys.argv[1]}/{name}")
    seen[name] = jax.tree.map(lambda leaf: float(leaf[0]), found)
    print(f"{name}: {jax.tree.map(lambda leaf: float(leaf[0]), tree)} -> {seen[name]}")
assert seen["dot"]["a.b"] == seen["dot"]["a"]["b"]
assert seen["slash"] == {"a/b": 1, "a": {"b": 2}}
assert seen["tuple"] == {"a": [1, 2]}
assert seen["integers"] == {"0": 1, "1": 2}
PYTHON
