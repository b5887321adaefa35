import platform

import pytest

from iterand_jax import hosts
from iterand_jax.training import provenance


@pytest.mark.parametrize(
    ("flags", "told"),
    [("fpu avx2 avx512f", " (AVX-512)"), ("fpu avx avx2", " (AVX2)"), ("fpu", "")],
)
def test_cpus_are_told_apart_by_their_vectors(tmp_path, monkeypatch, flags, told):
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(provenance, "CPU_INFORMATION", information)
    cores = f"{platform.machine()} CPU of {hosts.cores()} cores"
    assert provenance.device().endswith(f" x {cores}{told}")


def test_a_system_that_does_not_tell_has_a_shorter_name(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CPU_INFORMATION", tmp_path / "none")
    assert provenance.device().endswith(" cores")
