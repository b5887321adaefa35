"""Unfinished runs travel whole, or nothing is written."""

import functools
import hashlib
import io
import json
import random
import shutil
import signal
import tarfile

import pytest

from experiments.measurements.faults import mutators
from experiments.sweeps import packing, work
from experiments.sweeps.runs import jobs_of, runs_of
from iterand_jax.training import provenance
from iterand_jax.training.config_json import to_json
from tests import helpers
from tests.experiments.conftest import TINY

RUN = runs_of(TINY.cells(), [0])[0]


def begin(workdirs, run=RUN, precision="float32"):
    """An unfinished run's files, as a stopped sweep leaves them."""
    workdir = workdirs / run.folder / f"seed_{run.seed}"
    record = workdir / "checkpoints" / "40" / "record" / "metadata"
    record.parent.mkdir(parents=True)
    part = {"device": "1 x GPU", "precision": precision}
    record.write_text(json.dumps({"parts": [part]}))
    (workdir / "config.json").write_text(to_json(run.config))
    (workdir / "metrics.jsonl").write_text('{"step": 10}\n')
    (workdir / "lock").touch()
    workdir.with_suffix(".txt").write_text("compiling ...\n")
    return workdir


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".packed")
    }


@pytest.fixture
def archive(tmp_path):
    """The folder of workdirs with one unfinished run, and the file it is packed in."""
    workdirs, file = tmp_path / "here", tmp_path / "runs.tar"
    begin(workdirs)
    packing.pack(workdirs, file)
    return workdirs, file


def test_what_is_packed_is_unpacked_with_all_files_and_claims_move(archive, tmp_path):
    here, file = archive
    there = tmp_path / "there"
    printed = packing.unpack(there, file)
    assert f"{RUN.folder}/seed_0: 40 steps on 1 x GPU" in printed
    expected = contents(here)
    del expected[f"{RUN.folder}/seed_0/lock"]
    assert contents(there) == expected
    # Here it is claimed: a sweep leaves it alone, until it comes back.
    workdir = here / RUN.folder / "seed_0"
    assert "packed into runs.tar, SHA-256" in packing.packed(workdir)
    sweep = work.Sweep("tiny", False, here, tmp_path / "results" / "a.jsonl", None)
    ended = work.work_through([[RUN]], sweep)
    assert ended[work.ELSEWHERE] == [[RUN]]
    with pytest.raises(ValueError, match="no unfinished run"):
        packing.pack(here, tmp_path / "again.tar")
    progress = there / RUN.folder / "seed_0" / "metrics.jsonl"
    progress.write_text('{"step": 20}\n')
    packing.pack(there, tmp_path / "back.tar")
    packing.unpack(here, tmp_path / "back.tar")
    assert packing.packed(workdir) == ""
    assert (workdir / "metrics.jsonl").read_text() == '{"step": 20}\n'


def test_finished_runs_stay_and_a_run_in_progress_is_refused(tmp_path):
    workdir = begin(tmp_path / "here")
    lock = workdir.with_suffix(".lock")
    file = tmp_path / "runs.tar"
    refused = pytest.raises(ValueError, match=r"trains in .*seed_0: stop it first")
    with packing.alone_or_refused(lock, refusal="held"), refused:
        packing.pack(tmp_path / "here", file)
    assert not file.exists()
    (workdir / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="no unfinished run"):
        packing.pack(tmp_path / "here", file)


def rewritten(file, change):
    """Writes an archive again with its (TarInfo, bytes) changed."""
    with tarfile.open(file) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(file, "w:") as archive:
        for member, content in change(members):
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def outside(members):
    extra = tarfile.TarInfo(f"{RUN.folder}/seed_0/../../../evil")
    return [*members, (extra, b"x")]


def link(members):
    member, _ = members[-1]
    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
    return members


def flipped(members):
    *others, (member, content) = members
    return [*others, (member, bytes([content[0] ^ 1]) + content[1:])]


def with_manifest(change):
    """A change of the manifest, which is named by its own SHA-256 again."""

    def changed(members):
        (head, content), *others = members
        content = change(json.loads(content))
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        head.name = f"manifest_{hashlib.sha256(content).hexdigest()}.json"
        return [(head, content), *others]

    return changed


def of_a_run(**facts):
    def change(manifest):
        manifest["runs"] = {k: v | facts for k, v in manifest["runs"].items()}
        return manifest

    return with_manifest(change)


def only_a_log(members):
    """A run whose only file is the log beside its folder."""
    head, *others = members
    others = [(m, content) for m, content in others if m.name.endswith("seed_0.txt")]

    def change(manifest):
        names = {member.name for member, _ in others}
        manifest["files"] = {n: manifest["files"][n] for n in names}
        return manifest

    return with_manifest(change)([head, *others])


def forged(members):
    """Another run in the manifest, which is in another folder and has no files."""
    (head, content), *others = members
    manifest = json.loads(content)
    manifest["runs"]["../victim/seed_0"] = manifest["runs"][f"{RUN.folder}/seed_0"]
    content = json.dumps(manifest).encode()
    head.name = f"manifest_{hashlib.sha256(content).hexdigest()}.json"
    return [(head, content), *others]


DAMAGE = {
    "a run outside": (forged, "has no files of its run '../victim/seed_0'"),
    "a file outside": (outside, "is no file of its runs"),
    "a file twice": (lambda m: [*m, m[-1]], "is not as in its manifest"),
    "a link": (link, "is not as in its manifest"),
    "a flipped bit": (flipped, "is damaged: .* has another SHA-256"),
    "a file too few": (lambda m: m[:-1], "is cut short: it lacks"),
    "no manifest": (lambda m: m[1:], "it has no manifest"),
    "only a log": (only_a_log, "has no files of its run"),
    "a manifest that is a list": (with_manifest(lambda m: [m]), "is not a JSON object"),
    "a manifest of text": (with_manifest(lambda m: b"no JSON"), "is not JSON"),
    "a manifest that is deep": (
        with_manifest(lambda m: b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}"),
        "is not JSON|nests deeper",
    ),
    "another format": (with_manifest(lambda m: m | {"format": 2}), "has format 2, not"),
    "no runs": (
        with_manifest(lambda m: {k: v for k, v in m.items() if k != "runs"}),
        "manifest of .* has no runs",
    ),
    "runs that are a list": (with_manifest(lambda m: m | {"runs": [1]}), "has no runs"),
    "files without sizes": (
        with_manifest(lambda m: m | {"files": dict.fromkeys(m["files"], "a")}),
        r"not as --pack writes it: files\..* is 'a'",
    ),
    "a dtype that is none": (of_a_run(dtype=[]), r"runs\..*seed_0 is"),
    "steps of text": (of_a_run(steps="40"), r"runs\..*seed_0 is"),
    "devices of numbers": (of_a_run(devices=[[1, 2]]), r"runs\..*seed_0 is"),
    "another manifest": (
        lambda m: [(m[0][0], m[0][1].replace(b"40", b"41")), *m[1:]],
        "is damaged: its manifest",
    ),
}


@pytest.mark.parametrize(("change", "words"), DAMAGE.values(), ids=DAMAGE)
def test_nothing_is_written_of_a_file_that_is_not_whole(
    change, words, archive, tmp_path
):
    _, file = archive
    rewritten(file, change)
    with pytest.raises(ValueError, match=words):
        packing.unpack(tmp_path / "there", file)
    assert not (tmp_path / "there").exists()
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "victim").exists()


def test_any_bytes_as_packed_runs_are_one_line(archive, tmp_path):
    _, file = archive
    draw, whole = random.Random(1), file.read_bytes()
    refused = []
    for _ in range(200):
        file.write_bytes(mutators.changed_bytes(whole, draw)[1])
        try:
            packing.unpack(tmp_path / "there", file)
        except ValueError as error:
            refused.append(str(error))
        else:  # what was changed is between its members
            shutil.rmtree(tmp_path / "there")
        assert not list(tmp_path.glob("there/*/*"))
    assert len(refused) > 100
    assert all("\n" not in text and str(file) in text for text in refused)


class Killed(BaseException):
    """Raised where a process is killed."""


def killed_at(monkeypatch, number):
    """Raises Killed instead of the change of the disk that has this number, from 0."""
    left = [number]

    def counted(function):
        @functools.wraps(function)
        def call(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "write_bytes", "mkdir"):
        monkeypatch.setattr(packing.Path, name, counted(getattr(packing.Path, name)))
    monkeypatch.setattr(packing, "write_atomically", counted(packing.write_atomically))


def is_killed_at(monkeypatch, number, function, *arguments):
    """Whether a call ends at its change of the disk of this number."""
    with monkeypatch.context() as patched:
        killed_at(patched, number)
        try:
            function(*arguments)
        except Killed:
            return True
    return False


OTHER = runs_of(TINY.cells(), [1])[0]


def claimed(workdirs, run):
    return bool(packing.packed(workdirs / run.folder / f"seed_{run.seed}"))


def test_unpacking_that_is_killed_anywhere_is_completed_by_the_same_command(
    tmp_path, monkeypatch
):
    here, file = tmp_path / "here", tmp_path / "runs.tar"
    begin(here)
    begin(here, OTHER)
    expected = {n: c for n, c in contents(here).items() if not n.endswith("/lock")}
    packing.pack(here, file)
    for number in range(100):
        there = tmp_path / str(number)
        killed = is_killed_at(monkeypatch, number, packing.unpack, there, file)
        for run in (RUN, OTHER):  # what could be trained has all its files
            if not claimed(there, run) and (there / run.folder).exists():
                own = {n: c for n, c in expected.items() if f"seed_{run.seed}" in n}
                found = contents(there)
                assert {n: found[n] for n in own if n in found} in ({}, own)
        if not killed:
            break
        packing.unpack(there, file)
        assert contents(there) == expected
        assert not any(claimed(there, run) for run in (RUN, OTHER))
    assert 10 < number < 99


def test_what_was_put_in_place_before_a_kill_is_not_put_there_again(
    archive, tmp_path, monkeypatch
):
    here, _ = archive
    file, there = tmp_path / "two.tar", tmp_path / "there"
    shutil.rmtree(here)
    begin(here)
    begin(here, OTHER)
    packing.pack(here, file)
    unlink = packing.Path.unlink

    def second(path, **options):
        if path.name == "seed_1.packed":
            raise Killed
        unlink(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(packing.Path, "unlink", second)
        with pytest.raises(Killed):
            packing.unpack(there, file)
    assert not claimed(there, RUN)
    log = there / RUN.folder / "seed_0" / "metrics.jsonl"
    log.write_text("trained since")
    packing.unpack(there, file)
    assert log.read_text() == "trained since"
    assert not claimed(there, OTHER)
    with pytest.raises(ValueError, match="seed_0 exists: move it away"):
        packing.unpack(there, file)


def test_packing_that_is_killed_anywhere_is_completed_by_the_same_command(
    tmp_path, monkeypatch
):
    for number in range(100):
        here, file = tmp_path / str(number), tmp_path / f"{number}.tar"
        begin(here)
        begin(here, OTHER)
        killed = is_killed_at(monkeypatch, number, packing.pack, here, file)
        if file.exists():  # it may travel: nothing that it has is trained here
            assert claimed(here, RUN)
            assert claimed(here, OTHER)
        if not killed:
            break
        if not file.exists():
            packing.pack(here, file)
        assert not file.with_name(f"{file.name}.partial").exists()
        printed = packing.unpack(tmp_path / f"{number} there", file)
        assert printed.startswith("2 unfinished runs")
    assert 2 < number < 99


def test_links_are_packed_as_the_files_that_they_are_of(tmp_path):
    workdir = begin(tmp_path / "here")
    (workdir / "best").mkdir()
    (workdir / "best" / "hard").hardlink_to(workdir / "metrics.jsonl")
    (workdir / "best" / "soft").symlink_to(workdir / "metrics.jsonl")
    packing.pack(tmp_path / "here", tmp_path / "runs.tar")
    packing.unpack(tmp_path / "there", tmp_path / "runs.tar")
    for name in ("hard", "soft"):
        found = tmp_path / "there" / RUN.folder / "seed_0" / "best" / name
        assert found.read_bytes() == b'{"step": 10}\n'
        assert not found.is_symlink()


def test_a_file_that_is_none_and_a_run_that_is_there_are_refused(archive, tmp_path):
    _, file = archive
    begin(tmp_path / "there")
    with pytest.raises(ValueError, match=r"seed_0 exists: move it away"):
        packing.unpack(tmp_path / "there", file)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(ValueError, match=r"cannot read .*text"):
        packing.unpack(tmp_path / "there", tmp_path / "text")
    with pytest.raises(ValueError, match=r"cannot read .*none"):
        packing.unpack(tmp_path / "there", tmp_path / "none")
    with pytest.raises(ValueError, match=r"runs\.tar exists"):
        packing.pack(tmp_path / "there", file)


def test_a_run_begun_in_another_precision_is_refused(tmp_path, capsys):
    begin(tmp_path / "here", precision="tensorfloat32")
    file = tmp_path / "runs.tar"
    sweep = work.Sweep(
        "tiny", False, tmp_path / "here", tmp_path / "results" / "a.jsonl", None
    )
    ended = work.work_through([[RUN]], sweep)
    assert ended[work.FAILED] == [[RUN]]
    assert "begun in another precision (tensorfloat32 on" in capsys.readouterr().err
    packing.pack(tmp_path / "here", file)
    with pytest.raises(ValueError, match="begun in tensorfloat32 on 1 x GPU"):
        packing.unpack(tmp_path / "there", file)


@pytest.mark.slow
def test_what_ends_elsewhere_has_the_same_bits_and_records_both_devices(
    tmp_path, monkeypatch
):
    (job,) = jobs_of([RUN], together=False)

    def sweep(name):
        ledger_file = tmp_path / "results" / name / "tiny.jsonl"
        return work.Sweep("tiny", False, tmp_path / name, ledger_file, None)

    def line(name):
        (found,) = work.ledger.read(tmp_path / "results" / name)
        return found

    work.work_through([job], sweep("whole"))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(provenance, "device", lambda: "1 x other CPU")
        with helpers.signalled(25, signal.SIGTERM):
            work.work_through([job], sweep("first"))
    packing.pack(tmp_path / "first", tmp_path / "runs.tar")
    packing.unpack(tmp_path / "second", tmp_path / "runs.tar")
    work.work_through([job], sweep("second"))
    assert line("second")["state_sha256"] == line("whole")["state_sha256"]
    whole, moved = (line(name)["validation_accuracies"] for name in ("whole", "second"))
    assert whole == moved
    assert len(whole) == TINY.overrides["epochs"]
    assert line("second")["device"] == f"1 x other CPU, then {provenance.device()}"
