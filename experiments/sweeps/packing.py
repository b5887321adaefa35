"""Unfinished runs in one file, to continue them on another machine.

The file is a tar archive. Its first member is a manifest, named by its own SHA-256,
with the SHA-256 and size of every other file and what each run has done. Nothing is
written before all of it is verified. The workdirs that were packed stay, with a claim
beside them that keeps sweeps here from training them a second time. Packing and
unpacking can be killed at any moment: the same command completes them, and until then
claims keep sweeps from the runs.
"""

import contextlib
import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sweeps import manifests
from experiments.sweeps.plan import begun
from iterand_jax.runtime.files import check_written, replace, write_atomically
from iterand_jax.runtime.locks import alone_or_refused
from iterand_jax.training import provenance
from iterand_jax.training.saved import one_line, read_config

MANIFEST = re.compile(r"manifest_([0-9a-f]{64})\.json")
MEMBER = re.compile(r"(?P<run>[\w.+-]+/seed_\d+)(\.txt|(/[\w.+=-]+)+)")
LARGEST_MANIFEST = 1 << 26


def packed(workdir: Path) -> str:
    """What the claim beside a packed workdir says; "" without one."""
    claim = _claim(workdir)
    return claim.read_text().strip() if claim.exists() else ""


def pack(workdirs: Path, file: Path) -> str:
    """Writes all unfinished runs of a folder of workdirs to a file; returns a summary.

    Raises:
      ValueError: there is none, one is being trained, or the file exists.
    """
    check_written(file)
    if file.exists():
        raise ValueError(f"{file} exists: choose another file for --pack")
    # An earlier call that was killed has left this, maybe with claims, and no file.
    partial = file.with_name(f"{file.name}.partial")
    check_written(partial)
    unsent = _packed_into(file, _digest(partial)) if partial.exists() else ""
    found = [
        path.parent
        for path in sorted(workdirs.glob("*/seed_*/config.json"))
        if not (path.parent / "result.json").exists()
        and packed(path.parent) in ("", unsent)
    ]
    if not found:
        raise ValueError(f"{workdirs} has no unfinished run to pack")
    with _alone(found):
        for workdir in found:
            _claim(workdir).unlink(missing_ok=True)
        _write(workdirs, found, partial)
        digest = _digest(partial)
        for workdir in found:
            write_atomically(_claim(workdir), _packed_into(file, digest) + "\n")
        replace(partial, file)
    names = "\n".join(f"  {_described(workdir)}" for workdir in found)
    return f"{len(found)} unfinished runs in {file} (SHA-256 {digest}):\n{names}"


def _packed_into(file: Path, digest: str) -> str:
    return f"packed into {file.name}, SHA-256 {digest}; --unpack brings it back"


def unpack(workdirs: Path, file: Path) -> str:
    """Verifies a file that `pack` wrote, and puts its runs into a folder of workdirs.

    All runs are claimed before the first is moved to its place, and freed when all are
    there. So a call that is killed leaves none that could be trained twice, and the
    same call again completes it.

    Returns:
      A summary.

    Raises:
      ValueError: the file is damaged or not of `pack`; a run is there already, or was
        begun in another precision than this machine's. Nothing is written then.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            digest, manifest = _verified(archive, file)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"cannot read {file}: {one_line(error)}") from error
    targets = [workdirs / name for name in sorted(manifest["runs"])]
    claim = f"--unpack={file.name} was interrupted: the same again completes it"
    claim = f"{claim} (SHA-256 of its manifest {digest})"
    _check_precisions(manifest, file)
    _left(targets, claim, file)  # refuses before anything is written
    with _alone(targets):
        left = _left(targets, claim, file)
        folder = workdirs / f".unpacking-{digest}"
        shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
        try:
            _extract(file, manifest, folder)
            for target in left:
                write_atomically(_claim(target), claim + "\n")
            for target in left:
                _put(Path(folder, target.relative_to(workdirs)), target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for target in left:
            _claim(target).unlink()
    names = "\n".join(f"  {_described(target)}" for target in targets)
    return f"{len(targets)} unfinished runs from {file} in {workdirs}:\n{names}"


def _extract(file: Path, manifest: Mapping[str, Any], folder: Path) -> None:
    with tarfile.open(file, "r:") as archive:
        for name in manifest["files"]:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_content(archive, name))


def _put(source: Path, target: Path) -> None:
    """Moves an extracted run, and its log, to its place."""
    shutil.rmtree(target, ignore_errors=True)
    source.rename(target)
    log = source.with_suffix(".txt")
    if log.exists():
        log.replace(target.with_suffix(".txt"))


def _left(targets: Sequence[Path], claim: str, file: Path) -> list[Path]:
    """The runs that are still to be put in place.

    Raises:
      ValueError: one is there that is no packed one and not from this file.
    """
    # Claims are written from the first run to the last, and removed in the same order:
    # where the last has this file's, runs without one have been put in place.
    interrupted = packed(targets[-1]) == claim
    left = [t for t in targets if packed(t) or not interrupted]
    for target in left:
        if target.exists() and not packed(target):
            raise ValueError(f"{target} exists: move it away before --unpack={file}")
    return left


def _claim(workdir: Path) -> Path:
    return workdir.with_suffix(".packed")


def _described(workdir: Path) -> str:
    done = begun(workdir)
    on = ", then ".join(device for device, _ in done.devices)
    text = f"{workdir.parent.name}/{workdir.name}: {done.steps:,} steps"
    return f"{text} on {on}" if on else text


@contextlib.contextmanager
def _alone(workdirs: Sequence[Path]) -> Iterator[None]:
    """Keeps sweeps from the workdirs, which none may be training."""
    with contextlib.ExitStack() as claims:
        for workdir in workdirs:
            lock = workdir.with_suffix(".lock")
            refusal = f"another process trains in {workdir}: stop it first"
            claims.enter_context(alone_or_refused(lock, refusal=refusal))
        yield


def _write(workdirs: Path, found: Sequence[Path], partial: Path) -> None:
    paths = [
        path
        for workdir in found
        for path in [workdir.with_suffix(".txt"), *sorted(workdir.rglob("*"))]
        if path.is_file() and path.name != "lock"
    ]
    names = {path.relative_to(workdirs).as_posix(): path for path in paths}
    for name in names:
        if not MEMBER.fullmatch(name):
            raise ValueError(f"{workdirs / name} is no file of a run: move it away")
    manifest = {
        "format": manifests.FORMAT,
        "runs": {w.relative_to(workdirs).as_posix(): _facts(w) for w in found},
        "files": {n: [p.stat().st_size, _digest(p)] for n, p in names.items()},
    }
    content = json.dumps(manifest, indent=1, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    with tarfile.open(partial, "w:", dereference=True) as archive:  # links as files
        head = tarfile.TarInfo(f"manifest_{digest}.json")
        head.size = len(content)
        archive.addfile(head, io.BytesIO(content))
        for name, path in names.items():
            archive.add(path, name)


def _facts(workdir: Path) -> dict[str, Any]:
    done = begun(workdir)
    config = read_config(workdir / "config.json")
    fields = {"dtype": config["dtype"], "matmul_precision": config["matmul_precision"]}
    return {"steps": done.steps, "devices": done.devices, **fields}


def _verified(archive: tarfile.TarFile, file: Path) -> tuple[str, Mapping[str, Any]]:
    """(digest, manifest), once every member is the file that the manifest lists."""
    head = archive.next()
    named = MANIFEST.fullmatch(head.name) if head else None
    if head is None or not named or not head.isreg() or head.size > LARGEST_MANIFEST:
        raise ValueError(f"{file} is not a file that --pack wrote: it has no manifest")
    content = _content(archive, head.name)
    if hashlib.sha256(content).hexdigest() != named[1]:
        raise ValueError(f"{file} is damaged: its manifest has another SHA-256")
    manifest = manifests.parsed(content, file)
    missing, empty = dict(manifest["files"]), set(manifest["runs"])
    for member in archive:
        if member.name == head.name:
            continue
        parts = MEMBER.fullmatch(member.name)
        run = parts["run"] if parts else None
        folders = member.name.split("/")
        if run not in manifest["runs"] or "." in folders or ".." in folders:
            raise ValueError(f"{file}: {member.name!r} is no file of its runs")
        if parts and parts[2] != ".txt":  # which is beside its folder
            empty.discard(run)
        size, digest = missing.pop(member.name, (None, None))
        if not member.isreg() or member.issparse() or member.size != size:
            raise ValueError(f"{file}: {member.name!r} is not as in its manifest")
        if hashlib.sha256(_content(archive, member)).hexdigest() != digest:
            raise ValueError(f"{file} is damaged: {member.name!r} has another SHA-256")
    if missing:
        raise ValueError(f"{file} is cut short: it lacks {min(missing)!r}")
    if empty:  # whose name no file has shown to be one in the folder
        raise ValueError(f"{file} has no files of its run {min(empty)!r}")
    return named[1], manifest


def _check_precisions(manifest: Mapping[str, Any], file: Path) -> None:
    for name, facts in manifest["runs"].items():
        here = provenance.precision(facts["dtype"], facts["matmul_precision"])
        for device, precision in facts["devices"]:
            if precision not in (here, provenance.UNKNOWN):
                raise ValueError(
                    f"{file}: {name} was begun in {precision} on {device}, "
                    f"and this machine computes in {here}"
                )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo | str) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
