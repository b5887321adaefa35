import platform
import subprocess

import pytest

from iterand_jax.runtime import hosts
from iterand_jax.training import provenance


@pytest.mark.parametrize(
    ("flags", "told"),
    [("fpu avx2 avx512f", " (AVX-512)"), ("fpu avx avx2", " (AVX2)"), ("fpu", "")],
)
def test_cpus_are_told_apart_by_their_vectors(tmp_path, monkeypatch, flags, told):
    information = tmp_path / "cpuinfo"
    information.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(provenance, "CPU_INFORMATION", information)
    monkeypatch.setattr(hosts, "cores", lambda: 3)
    kind = f"{platform.machine()} CPU of 3 cores"
    assert provenance.device().endswith(f" x {kind}{told}")


def test_a_system_that_does_not_tell_has_a_shorter_name(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "CPU_INFORMATION", tmp_path / "none")
    monkeypatch.setattr(hosts, "cores", lambda: 1)
    assert provenance.device().endswith(" CPU of 1 core")


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
