"""Whether a folder's locks keep processes on other machines out, too."""

from pathlib import Path

MOUNTS = Path("/proc/self/mounts")

_NFS_LOCAL = {"nolock", "local_lock=all", "local_lock=flock"}


def local_locks(folder: Path, mounts: str | None = None) -> str | None:
    """Why locks in a folder hold on this machine alone; None if nothing says so.

    NFS passes them on to the server unless it is mounted otherwise, Lustre only if it
    is mounted with "flock"; the file systems of buckets, which are FUSE's, never do.

    Args:
      folder: need not exist yet.
      mounts: in the format of /proc/mounts; by default this system's, if it tells.

    >>> mounts = "server:/home /home nfs rw,nolock 0 0"
    >>> local_locks(Path("/home/me/results"), mounts)
    'locks in /home (nfs, nolock) hold on this machine alone'
    """
    if mounts is None:
        if not MOUNTS.exists():
            return None
        mounts = MOUNTS.read_text()
    folder = folder.absolute()
    found: tuple[int, str, str, set[str]] = (0, "", "", set())
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        # Of two mounts in one place the later one hides the other.
        if folder.is_relative_to(point) and len(point) >= found[0]:
            found = len(point), point, kind, set(options.split(","))
    _, point, kind, given = found
    if kind.startswith("nfs"):
        why = ", ".join(sorted(given & _NFS_LOCAL))
    elif kind == "lustre":
        why = "" if "flock" in given else "not mounted with flock"
    else:
        why = "a bucket or another of FUSE's" if kind.startswith("fuse.") else ""
    return (
        f"locks in {point} ({kind}, {why}) hold on this machine alone" if why else None
    )
