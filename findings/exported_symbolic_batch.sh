#!/usr/bin/env bash
# Question: which versions of jax read the programs that others serialized by jax.export,
#   if all have the calling convention 10?
# Guess: each reads all of the others, as the convention is the same.
# Seen: (28 November 2026, jax 0.10.2, 0.11.1, 0.12.0.1) newer ones read older ones. Of
#   0.12.0.1's programs 0.10.2 reads those of a fixed batch, also with typed keys, sorts
#   and bfloat16, and refuses a symbolic batch, a Cholesky and a QR decomposition: their
#   custom calls have a newer form in StableHLO. 0.11.1 reads them. Part of "Programs and
#   files that travel".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > write.py <<'PYTHON'
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

kernel = np.linspace(-1, 1, 640, dtype=np.float32).reshape(64, 10)
(batch,) = export.symbolic_shape("batch")
shape, key = jax.ShapeDtypeStruct, jax.eval_shape(lambda: jax.random.key(0))
programs = {
    "dense": (lambda x: jnp.tanh(x @ kernel), shape((4, 64), np.float32)),
    "dense, symbolic": (lambda x: jnp.tanh(x @ kernel), shape((batch, 64), np.float32)),
    "dense, bfloat16": (lambda x: jnp.tanh(x @ kernel), shape((4, 64), jnp.bfloat16)),
    "top_k": (lambda x: jax.lax.top_k(x, 3), shape((4, 8), np.float32)),
    "normal of a typed key": (lambda k: jax.random.normal(k, (4,)), key),
    "split of a typed key": (lambda k: jax.random.split(k)[1], key),
    "cholesky": (lambda x: jnp.linalg.cholesky(jnp.eye(3) + x @ x.T), shape((3, 3), np.float32)),
    "qr": (lambda x: jnp.linalg.qr(x)[1], shape((3, 3), np.float32)),
}
convention = export.maximum_supported_calling_convention_version
assert convention == 10, convention
made = {n: bytes(export.export(jax.jit(f))(a).serialize()) for n, (f, a) in programs.items()}
with open(sys.argv[1], "wb") as file:
    pickle.dump(made, file)
PYTHON
cat > read.py <<'PYTHON'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax import export

with open(sys.argv[1], "rb") as file:
    made = pickle.load(file)
refused = []
for name, serialized in made.items():
    try:
        program = export.deserialize(bytearray(serialized))
        of_key = jnp.issubdtype(program.in_avals[0].dtype, jax.dtypes.prng_key)
        sizes = [n if isinstance(n, int) else 5 for n in program.in_avals[0].shape]
        ones = lambda: jnp.ones(sizes, program.in_avals[0].dtype)
        program.call(jax.random.key(1) if of_key else ones())
    except Exception:
        refused.append(name)
print(f"{sys.argv[1]} read by jax {jax.__version__}: refused {refused or 'nothing'}")
older = (sys.argv[1], jax.__version__) == ("0.12.0.1.pickle", "0.10.2")
assert refused == (["dense, symbolic", "cholesky", "qr"] if older else []), refused
PYTHON
"${PYTHON:-python3.13}" -m venv 0.10.2
0.10.2/bin/pip install --quiet jax==0.10.2 jaxlib==0.10.1 numpy==2.4.6 \
  flatbuffers==25.9.23
"${PYTHON:-python3.13}" -m venv 0.11.1
0.11.1/bin/pip install --quiet jax==0.11.1 jaxlib==0.11.1 numpy==2.4.6 \
  flatbuffers==25.9.23
"${PYTHON:-python3.13}" -m venv 0.12.0.1
0.12.0.1/bin/pip install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 numpy==2.4.6 \
  flatbuffers==25.9.23
for jax in 0.10.2 0.11.1 0.12.0.1; do
  "$jax/bin/python" write.py "$jax.pickle"
done
for writer in 0.10.2 0.11.1 0.12.0.1; do
  for reader in 0.10.2 0.11.1 0.12.0.1; do
    "$reader/bin/python" read.py "$writer.pickle" 2> errors || { cat errors; exit 1; }
  done
done
