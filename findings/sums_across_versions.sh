#!/usr/bin/env bash
# Question: which functions of jax give other bits on one CPU in other versions of jax?
# Guess: none of jax.random with the default generator; matrix products, sums and
#   transcendental functions all differ.
# Seen: (28 November 2026, jax 0.10.2, 0.11.1, 0.12.0.1) right for jax.random. But also
#   softmax, gelu, sin and erf_inv have the same bits. A matrix product has others in
#   0.12.0.1, 85 % of its values, and so have one in a hundred normal numbers of the
#   generator "rbg", although its bits are the same. A sum of 100,003 numbers depends on
#   the version and on the number of cores. So two versions start a network alike and
#   part in its first layer. Part of "Numbers of one network".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > write.py <<'PYTHON'
import sys

import jax
import jax.numpy as jnp
import numpy as np

key, rbg = jax.random.key(7), jax.random.key(7, impl="rbg")
x, positive = jnp.linspace(-5, 5, 1000), jnp.linspace(0.1, 5, 1000)
many, square = jnp.linspace(-5, 5, 100_003), jnp.linspace(-1, 1, 4096).reshape(64, 64)
functions = {
    "bits": lambda: jax.random.bits(key, (1000,)),
    "uniform": lambda: jax.random.uniform(key, (1000,)),
    "normal": lambda: jax.random.normal(key, (1000,)),
    "truncated normal": lambda: jax.random.truncated_normal(key, -2, 2, (1000,)),
    "permutation": lambda: jax.random.permutation(key, 1000),
    "choice": lambda: jax.random.choice(key, 1000, (100,), replace=False),
    "orthogonal": lambda: jax.random.orthogonal(key, 16),
    "rbg bits": lambda: jax.random.bits(rbg, (100,)),
    "rbg normal": lambda: jax.random.normal(rbg, (100,)),
    "matrix product": lambda: square @ square,
    "softmax": lambda: jax.nn.softmax(x),
    "gelu": lambda: jax.nn.gelu(x),
    "sin": lambda: jnp.sin(10 * x),
    "erf_inv": lambda: jax.scipy.special.erfinv(x / 6),
    "exp": lambda: jnp.exp(x),
    "log": lambda: jnp.log(positive),
    "sum": lambda: jnp.sum(many),
}
np.savez(sys.argv[1], **{n: np.asarray(jax.jit(f)()) for n, f in functions.items()})
PYTHON
"${PYTHON:-python3.13}" -m venv 0.10.2
0.10.2/bin/pip install --quiet jax==0.10.2 jaxlib==0.10.1 numpy==2.4.6
"${PYTHON:-python3.13}" -m venv 0.11.1
0.11.1/bin/pip install --quiet jax==0.11.1 jaxlib==0.11.1 numpy==2.4.6
"${PYTHON:-python3.13}" -m venv 0.12.0.1
0.12.0.1/bin/pip install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 numpy==2.4.6
for jax in 0.10.2 0.11.1 0.12.0.1; do
  "$jax/bin/python" write.py "$jax.npz"
done
0.12.0.1/bin/python - <<'PYTHON'
import numpy as np

first, second, third = (np.load(f"{v}.npz") for v in ("0.10.2", "0.11.1", "0.12.0.1"))
differ = set()
for name in third.files:
    shares = [float((other[name] != third[name]).mean()) for other in (first, second)]
    print(f"{name}: other than in 0.12.0.1 are {shares[0]:.1%} in 0.10.2 and "
          f"{shares[1]:.1%} in 0.11.1")
    if any(shares):
        differ.add(name)
assert differ - {"exp", "log", "sum"} == {"rbg normal", "matrix product"}, differ
PYTHON
