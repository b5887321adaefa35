import os
import platform
import signal
import subprocess
from types import SimpleNamespace

import jax
import pytest

from iterand_jax.runtime import hosts
from iterand_jax.training import provenance
from iterand_jax.training.train import train_config
from tests import helpers


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512f", " (AVX-512)"), ("fpu avx avx2", " (AVX2)"), ("fpu", "")],
)
def test_cpus_are_distinguished_by_their_vectors(
    tmp_path, monkeypatch, flags, expected
):
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(provenance, "CPU_INFORMATION", information)
    monkeypatch.setattr(hosts, "cores", lambda: 3)
    kind = f"{platform.machine()} CPU of 3 cores"
    assert provenance.device().endswith(f" x {kind}{expected}")


def test_a_system_without_that_information_has_a_shorter_name(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CPU_INFORMATION", tmp_path / "none")
    monkeypatch.setattr(hosts, "cores", lambda: 1)
    assert provenance.device().endswith(" CPU of 1 core")


@pytest.mark.parametrize(
    ("platform", "version", "capability", "dtype", "chosen", "expected"),
    [
        ("cpu", "", "", "float32", "default", "float32"),
        ("cpu", "", "", "bfloat16", "default", "bfloat16"),
        ("gpu", "cuda 12090", "9.0", "float32", "default", "tensorfloat32"),
        ("gpu", "cuda 12090", "9.0", "float32", "high", "tensorfloat32"),
        ("gpu", "cuda 12090", "9.0", "float32", "highest", "float32"),
        ("gpu", "cuda 12090", "9.0", "bfloat16", "highest", "bfloat16"),
        ("gpu", "cuda 12090", "7.5", "float32", "default", "float32"),
        ("gpu", "rocm 60300", "gfx942", "float32", "high", "float32 (gpu, high)"),
        ("tpu", "libtpu", "", "float32", "default", "float32 (tpu, default)"),
    ],
)
def test_precision_is_what_the_device_makes_of_float32(
    platform, version, capability, dtype, chosen, expected, monkeypatch
):
    device = SimpleNamespace(
        platform=platform,
        client=SimpleNamespace(platform_version=f"PJRT C API\n{version}"),
        compute_capability=capability,
    )
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert provenance.precision(dtype, chosen) == expected


def test_a_commit_is_changed_by_code_and_not_by_results(tmp_path, monkeypatch):
    def git(*arguments):
        author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", tmp_path, *author, *arguments], check=True)

    package = tmp_path / "iterand_jax" / "training" / "provenance.py"
    package.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package))
    assert provenance.commit() == "unknown"
    git("init", "-q")
    ledger = tmp_path / "results" / "table3.jsonl"
    ledger.parent.mkdir()
    for file in (package, ledger):
        file.write_text("before")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    revision = provenance.commit()
    assert len(revision) == 40
    ledger.write_text("a line more")
    assert provenance.commit() == revision
    package.write_text("after")
    assert provenance.commit() == f"{revision}+changes"


@pytest.mark.slow
def test_a_result_names_every_device_that_trained_it(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config(epochs=2)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(provenance, "device", lambda: "1 x GPU")
        elsewhere.setattr(provenance, "precision", lambda *fields: "tensorfloat32")
        with helpers.signalled(15, signal.SIGTERM):
            train_config(config, str(tmp_path))
    result = train_config(config, str(tmp_path))
    assert result["device"] == f"1 x GPU, then {provenance.device()}"
    assert result["precision"] == "tensorfloat32, then float32"


def test_asking_for_the_commit_writes_nothing(tmp_path, monkeypatch):
    """A `git status` that refreshes the index leaves a lock where the disk is full."""
    package = tmp_path / "iterand_jax" / "training" / "provenance.py"
    package.parent.mkdir(parents=True)
    package.write_text("before")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *author, *arguments], check=True)
    os.utime(package, (1, 1))
    monkeypatch.setattr(provenance, "__file__", str(package))
    index = (tmp_path / ".git" / "index").read_bytes()
    assert not provenance.commit().endswith("+changes")
    assert (tmp_path / ".git" / "index").read_bytes() == index
