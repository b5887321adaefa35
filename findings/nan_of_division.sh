#!/usr/bin/env bash
# Question: where do a sort, top_k and partition of JAX place a NaN that came from 0 / 0?
# Guess:    top_k places it last and jnp.nan first, sort both last, argmax stops at the
#           first: right. None for partition.
# Seen:     jax 0.10.1, CPU, 28 November 2026. 0 / 0 is a NaN whose sign bit is set on x86.
#           sort and argsort place every NaN last; lax.top_k places the one with a sign
#           below -inf and the one without above inf; jnp.partition (made of top_k) puts
#           the first at the front and the second at the back of one array; argmax stops
#           at the first NaN of either kind. PyTorch and NumPy treat both alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.1 jaxlib==0.10.1 numpy==2.4.6
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'END'
import jax
import jax.numpy as jnp
import numpy as np

signed = np.copysign(np.float32(np.nan), np.float32(-1))  # as 0 / 0 gives it on x86
divided = np.asarray(jax.jit(lambda zero: zero / zero)(jnp.float32(0)))
x = jnp.array([signed, np.nan, 1, 2, -np.inf], jnp.float32)
seen = {
    "argsort": jnp.argsort(x).tolist(),
    "top_k": jax.lax.top_k(x, 5)[1].tolist(),
    "partition": np.isnan(jnp.partition(x, 2)).tolist(),
    "NumPy's partition": np.isnan(np.partition(np.asarray(x), 2)).tolist(),
    "argmax": [int(jnp.argmax(x)), int(jnp.argmax(x[::-1]))],
}
print("0 / 0 has a sign here:", bool(np.signbit(divided)))
for name, value in seen.items():
    print(name, value)
assert seen == {
    "argsort": [4, 2, 3, 0, 1],
    "top_k": [1, 3, 2, 4, 0],
    "partition": [True, False, False, True, False],
    "NumPy's partition": [False, False, False, True, True],
    "argmax": [0, 3],
}
END
