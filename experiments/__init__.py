"""The paper's tables and figures, their sweeps and reports, and measurements."""

# First: Ctrl-C while JAX is imported, in a process that is a command of this package.
from iterand_jax.runtime import early as _early  # noqa: F401
