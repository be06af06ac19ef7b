"""Files that somebody else may have written: read them without being held up, and say who could change them.

What a file says is believed as far as its writer is. A file is as safe as the most open part of its path: whoever may
write to the file itself, to one of the directories above it, or to a symbolic link on the way decides what is read. The
ones who may are root and the user of this program; anybody else is named by `who_can_change`.

A directory with the sticky bit (`/tmp`) lets nobody replace the files of others, and on a file system that is mounted
read-only (the ConfigMap of a Kubernetes pod, whose directories have mode 0777) nobody replaces anything. A group counts
as somebody else, unless it is root's, or the owner's private one (named like the user, with no other member), which
many systems give to each user together with a umask that lets the group write.

Access lists are seen as far as the kernel shows them in the mode (it does so on Linux). On Windows nothing is checked:
a mode says nothing about others there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["read_regular_file", "who_can_change", "who_can_write"]

_POSIX = os.name == "posix"
_MAX_LINKS = 40  # as the kernel has it


def read_regular_file(path: Path, *, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return the content of a regular file, and what the system says about it; never wait for a writer.

    Args:
        path: where.
        max_bytes: refuse a file that is longer.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no regular file, or too long, or its name has a NUL; the text says so, beginning with "it".
    """
    if "\0" in os.fspath(path):
        raise ValueError("it cannot be opened: its name has a NUL")
    # Opening a FIFO would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("it is a directory" if stat.S_ISDIR(info.st_mode) else "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes // 1024} KiB")
    return content, info


def who_can_change(path: Path) -> str | None:
    """Return who else decides what a reader of this path finds, as a clause; None if nobody does.

    Looks at the whole way to the file, symbolic links included. What is missing is no fault: nobody has made it yet.

    Raises:
        OSError: the way cannot be followed.
    """
    if not _POSIX:  # pragma: no cover: Windows, where no tests run
        return None
    links = 0
    where, todo = Path("/"), [*reversed(path.absolute().parts[1:])]  # ".." and all, as the kernel goes
    clause = who_can_write(where, os.lstat(where))
    while clause is None and todo:
        part = todo.pop()
        if part == "..":
            where = where.parent
            continue
        step = where / part
        try:
            info = os.lstat(step)
        except FileNotFoundError:
            return None
        clause = who_can_write(step, info)
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(f"too many symbolic links on the way to {os.fspath(path)!r}")
            target = Path(os.readlink(step))
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            where = Path("/") if target.is_absolute() else where
        else:
            where = step
    return clause


def who_can_write(path: Path, info: os.stat_result) -> str | None:
    """Return who else can write to this one file, directory or link, as a clause; None if nobody can."""
    if not _POSIX:  # pragma: no cover: Windows, where no tests run
        return None
    name = os.fspath(path)
    if info.st_uid not in (0, os.geteuid()):
        return f"{name!r} belongs to {_user(info.st_uid)}"
    if stat.S_ISLNK(info.st_mode) or (stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX):
        return None
    if not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or os.statvfs(path).f_flag & os.ST_RDONLY:
        return None
    if info.st_mode & stat.S_IWOTH:
        return f"{name!r} can be changed by everybody on this machine"
    if _is_private_group(info.st_gid, info.st_uid):
        return None
    return f"{name!r} can be changed by its group, {_group(info.st_gid)}"


def _is_private_group(gid: int, uid: int) -> bool:
    if gid == 0:
        return True
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid).pw_name
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def _user(uid: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
