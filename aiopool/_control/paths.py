"""Where the sockets are: a directory that is ours alone, and in it `<pid>.sock` for each program."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["own_directory", "socket_path", "sockets"]

# Of an address of a Unix socket; the shortest limit of a system is 104.
MAX_PATH = 100


def own_directory(*, make: bool) -> Path:
    """Return the directory of this user's sockets.

    Args:
        make: make it, if it is not there.

    Raises:
        PermissionError: it is there, and somebody else could have put a socket into it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime):
        path = Path(runtime) / "aiopool"
    else:
        path = Path(tempfile.gettempdir()) / f"aiopool-{os.getuid()}"
    if make:
        path.mkdir(mode=0o700, exist_ok=True)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return path
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} is not a directory of this user alone: remove it, or set XDG_RUNTIME_DIR to one that is"
        )
    return path


def socket_path(pid: int) -> Path:
    """Return the socket of a process of this user; its directory is made.

    Raises:
        PermissionError: see `own_directory`.
        OSError: the path is longer than a socket's may be.
    """
    path = own_directory(make=True) / f"{pid}.sock"
    if len(os.fsencode(path)) > MAX_PATH:
        raise OSError(
            f"{path} is longer than the {MAX_PATH} bytes of an address: set XDG_RUNTIME_DIR to a shorter directory"
        )
    return path


def sockets() -> list[Path]:
    """Return this user's sockets, those of dead processes included.

    Raises:
        PermissionError: see `own_directory`.
    """
    directory = own_directory(make=False)
    return sorted(directory.glob("*.sock"), key=lambda path: (len(path.name), path.name)) if directory.is_dir() else []
