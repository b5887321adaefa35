"""What made a result: library versions, commit, device."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import jax

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
    """The commit of the checkout this package lies in, "+changes" if it has any.

    "unknown" outside a checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    revision = _git(root, "rev-parse", "HEAD")
    if not revision:
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return revision + ("+changes" if changed else "")


def device() -> str:
    """The devices of the run: how many of which kind; for CPUs, how many cores.

    Of several processes, also how many.
    """
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"{platform.machine()} CPU of {os.cpu_count()} cores"
    shared = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{len(devices)} x {kind}{shared}"


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
