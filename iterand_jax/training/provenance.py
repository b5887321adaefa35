"""What made a result: library versions, commit, device."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from iterand_jax.runtime import hosts

LIBRARIES = (
    "iterand_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "grain",
    "opencv-python-headless",
)
CPU_INFORMATION = Path("/proc/cpuinfo")

UNKNOWN = "unknown"
UNKNOWN_PART: Mapping[str, Any] = {
    "device": "unknown device",
    "precision": UNKNOWN,
    "versions": {},
    "commit": UNKNOWN,
}
"""What computed the steps of a checkpoint that does not say it."""


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit of the checkout this package is in, plus "+changes" if it is dirty.

    Records in `results/` do not count: each run of a sweep adds a line to them.
    "unknown" outside a checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return UNKNOWN
    revision = _git(root, "rev-parse", "HEAD")
    if not revision:
        return UNKNOWN
    code = ("--untracked-files=no", "--", ".", ":!results")
    changed = _git(root, "status", "--porcelain", *code)
    return revision + ("+changes" if changed else "")


def device() -> str:
    """The number and kind of the run's devices.

    For CPUs with the number of cores and, for x86 on Linux, the widest SIMD extension,
    which determines the speed: "1 x x86_64 CPU of 2 cores (AVX-512)". With several
    processes, also their number.
    """
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        cores = f"{hosts.cores()} core{'s' if hosts.cores() > 1 else ''}"
        kind = f"{platform.machine()} CPU of {cores}{_vectors()}"
    shared = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {kind}{shared}"


def precision(dtype: str, matmul_precision: str) -> str:
    """What products and convolutions compute in on this run's devices.

    Args:
      dtype: of the activations.
      matmul_precision: the config's field.

    Returns:
      "bfloat16" for such activations. Of float32 ones "float32" or, on NVIDIA GPUs of
      compute capability 8.0 or more unless matmul_precision is "highest",
      "tensorfloat32" (10 bits of mantissa); on other accelerators, such as
      "float32 (tpu, default)", whose meaning is the device's.
    """
    device = jax.devices()[0]
    if dtype != "float32" or device.platform == "cpu" or matmul_precision == "highest":
        return dtype
    if "cuda" in device.client.platform_version.lower():
        capability = getattr(device, "compute_capability", "8.0")
        return "tensorfloat32" if float(capability) >= 8 else "float32"
    return f"{dtype} ({device.platform}, {matmul_precision})"


def _vectors() -> str:
    information = CPU_INFORMATION.read_text() if CPU_INFORMATION.exists() else ""
    flags = set(information.split())
    for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")):
        if flag in flags:
            return f" ({name})"
    return ""


def _git(root: Path, *arguments: str) -> str:
    # Nothing is written: on a full disk, `git status` leaves a lock that stops git.
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
