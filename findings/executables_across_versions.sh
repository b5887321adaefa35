#!/usr/bin/env bash
# Question: does a jax refuse an executable (jax.experimental.serialize_executable) or an
#   entry of a compilation cache that another version wrote?
# Guess: both: an executable has no promise beyond its own version.
# Seen: (28 November 2026, jax 0.10.2, 0.11.1, 0.12.0.1, CPU) a cache has no hit for
#   another version. But newer versions load and run an older one's executable, and
#   0.11.1 a newer one's, without an error or a warning; only 0.10.2 fails on newer ones,
#   by chance, at a renamed field of a sharding. Who stores executables has to store and
#   compare versions. Part of "Programs and files that travel".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TF_CPP_MIN_LOG_LEVEL=3
cat > write.py <<'PYTHON'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax import monitoring
from jax.experimental import serialize_executable

shape = jax.ShapeDtypeStruct((4, 8), "float32")
program = jax.jit(lambda x: jnp.tanh(x @ jnp.ones((8, 8))).sum(1)).lower(shape)
with open(sys.argv[1], "wb") as file:
    pickle.dump(serialize_executable.serialize(program.compile()), file)
jax.config.update("jax_compilation_cache_dir", "cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jnp.tanh(x @ x))(jax.numpy.ones((8, 8)))
hits = sum(name.endswith("cache_hits") for name in events)
print(f"jax {jax.__version__} {sys.argv[2]}: {hits} hits in the cache")
assert (hits > 0) == (sys.argv[2] == "again")
PYTHON
cat > read.py <<'PYTHON'
import pickle
import sys

import jax
import numpy as np
from jax.experimental import serialize_executable

writer = sys.argv[1].removesuffix(".pickle")
try:
    with open(sys.argv[1], "rb") as file:
        loaded = serialize_executable.deserialize_and_load(*pickle.load(file))
    seen = f"gives {float(loaded(np.ones((4, 8), np.float32))[0])}"
except Exception as error:
    seen = f"{type(error).__name__}"
print(f"the executable of jax {writer} in jax {jax.__version__}: {seen}")
fails = jax.__version__ == "0.10.2" and writer != "0.10.2"
assert seen == ("TypeError" if fails else "gives 8.0")
PYTHON
"${PYTHON:-python3.13}" -m venv 0.10.2
0.10.2/bin/pip install --quiet jax==0.10.2 jaxlib==0.10.1 numpy==2.4.6
"${PYTHON:-python3.13}" -m venv 0.11.1
0.11.1/bin/pip install --quiet jax==0.11.1 jaxlib==0.11.1 numpy==2.4.6
"${PYTHON:-python3.13}" -m venv 0.12.0.1
0.12.0.1/bin/pip install --quiet jax==0.12.0.1 jaxlib==0.12.0.1 numpy==2.4.6
for jax in 0.10.2 0.11.1 0.12.0.1; do
  "$jax/bin/python" write.py "$jax.pickle" first
done
0.12.0.1/bin/python write.py 0.12.0.1.pickle again
for writer in 0.10.2 0.11.1 0.12.0.1; do
  for reader in 0.10.2 0.11.1 0.12.0.1; do
    "$reader/bin/python" read.py "$writer.pickle" 2> errors || { cat errors; exit 1; }
  done
done
