"""The files of a SQLite store: where they may lie, whether they are what they were, how large and how fast they are.

Rule 1: a file that was once a store, and is empty now, is not filled again: that would hide that jobs were lost. The
lock file remembers, with one byte, that the tables were made.

Rule 2: a network file system is refused by its name, in Linux's list of mounts; an unknown one is let through, and
told of by `facts`.

Rule 3: in a child that was forked all stores let go of their files, and the connections are never closed there: SQLite
would write the log back under the parent's feet.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import statistics
import time
import weakref
from pathlib import Path
from typing import Any, Final, Protocol

from aiopool.errors import StoreError

__all__ = ["OPEN", "beside", "check_file", "check_place", "facts", "mark_made", "never_close", "sizes"]


class Forkable(Protocol):
    """What has to let go of its files in a child that was forked."""

    def after_fork(self) -> None:
        """Let go of them; called in the child."""
        ...


OPEN: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "ocfs2"}
    | {"gfs2", "orangefs", "pvfs2", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.s3fs"}
    | {"fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.davfs", "fuse.curlftpfs", "fuse.goofys", "fuse.mount-s3"}
)
_LOCAL: Final = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "overlay", "tmpfs", "apfs", "hfs", "jfs"}
)
_COMMITS: Final = 20


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to a store."""
    return path.with_name(path.name + suffix)


def check_place(path: Path) -> None:
    """Check that a store may lie there.

    Raises:
        StoreError: it may not.
    """
    if not path.parent.is_dir():
        raise StoreError(f"opened {path} as a store, and there is no directory {path.parent}; make it first")
    if path.is_dir():
        raise StoreError(f"opened {path} as a store, and it is a directory; name a file in it")
    kind = file_system(path.parent)
    if kind in _NETWORK:
        raise StoreError(
            f"opened {path} as a store, and it lies on a network file system ({kind}), which has not the locks and the "
            "shared memory that SQLite needs: jobs would be lost; put it on a local disk, or use a Postgres store"
        )


def file_system(directory: Path) -> str:
    """Return the name of the file system of a directory, as mounts name it; empty: unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(directory)
    best, kind = "", ""
    for line in lines:
        fields, _, after = line.partition(" - ")
        mount = fields.split()[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        # The last of those that are mounted on one place is the one that is seen.
        if len(mount) >= len(best) and (real == mount or real.startswith(mount.rstrip("/") + "/")):
            best, kind = mount, after.split()[0]
    return kind


def check_file(path: Path, lock: int) -> None:
    """Check that the file is not one that has lost what was in it. Called under the lock of all writers.

    Raises:
        StoreError: it has.
    """
    size = path.stat().st_size if path.exists() else None
    if size is None and beside(path, "-wal").exists() and beside(path, "-wal").stat().st_size:
        raise StoreError(
            f"opened {path} as a store, and the file is gone, while its log {path.name}-wal is there; put the file "
            "back, or remove the log to begin anew"
        )
    if size == 0 and os.pread(lock, 1, 0):
        raise StoreError(
            f"opened {path} as a store, and the file is empty, though it was one before: its jobs are lost there. Put "
            f"a copy back; or remove it and {path.name}-lock to begin anew"
        )


def mark_made(lock: int) -> None:
    """Remember that the tables were made."""
    if not os.pread(lock, 1, 0):
        os.pwrite(lock, b"1", 0)


def sizes(path: Path) -> dict[str, int]:
    """Return the bytes of the file and of its log."""
    found: dict[str, int] = {}
    for name, each in (("file", path), ("wal", beside(path, "-wal"))):
        try:
            found[name] = each.stat().st_size
        except FileNotFoundError:
            found[name] = 0
    return found


def facts(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Return what there is to know; see `Store.facts`. It commits a few times to a file of its own beside the store."""
    kind = file_system(path.parent)
    size = sizes(path)
    commit = _commit_time(path)
    synchronous = {0: "off", 1: "normal", 2: "full", 3: "extra"}
    warnings: list[str] = []
    if kind and kind not in _LOCAL:
        warnings.append(f"the file system is {kind}: make sure that it is a local disk")
    if kind == "tmpfs":
        warnings.append("the file is in memory (tmpfs): it is gone when the machine restarts")
    if commit is not None and commit > 0.02:
        warnings.append(f"a commit takes {commit * 1000:.0f} ms: the disk is slow, or shared")
    if size["wal"] > 256 << 20:
        warnings.append(f"the log has {size['wal'] >> 20} MB: something has been reading the file for a long time")
    return {
        "engine": "SQLite",
        "version": sqlite3.sqlite_version,
        "path": str(path),
        "file_system": kind or "unknown",
        "journal_mode": connection.execute("PRAGMA journal_mode").fetchone()[0],
        "synchronous": synchronous.get(connection.execute("PRAGMA synchronous").fetchone()[0], "unknown"),
        "commit_seconds": commit,
        "file_bytes": size["file"],
        "wal_bytes": size["wal"],
        "warnings": warnings,
    }


def _commit_time(path: Path) -> float | None:
    """Return how long a commit takes in the middle, with the disk's confirmation; None: it cannot be tried."""
    scratch = beside(path, "-live") / f"commit-{os.getpid()}-{time.monotonic_ns()}"
    times: list[float] = []
    try:
        connection = sqlite3.connect(scratch, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE t (a INTEGER)")
            for number in range(_COMMITS):
                begun = time.perf_counter()
                connection.execute("INSERT INTO t VALUES (?)", (number,))
                times.append(time.perf_counter() - begun)
        finally:
            connection.close()
    except sqlite3.Error:
        return None
    finally:
        for suffix in ("", "-wal", "-shm"):
            beside(scratch, suffix).unlink(missing_ok=True)
    return statistics.median(times)


def never_close(connection: sqlite3.Connection) -> None:
    """Keep a connection from ever being closed in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _after_fork() -> None:
    for opening in list(OPEN):
        opening.after_fork()


os.register_at_fork(after_in_child=_after_fork)
