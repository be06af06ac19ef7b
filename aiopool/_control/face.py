"""`control`: open the door into this program; what it needs is loaded when it is opened."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from pathlib import Path
from typing import Any, final

from aiopool._pool.open_pools import call_on_open
from aiopool._runtime.faults import log_fault

__all__ = ["Control", "control", "open_as_told"]

logger = logging.getLogger("aiopool.control")


@final
class Control:
    """The open door of a program; `control()` makes it.

    Attributes:
        path: the socket.
        read_only: whether who connects may only look.
    """

    __slots__ = ("_server", "path", "read_only")

    def __init__(self, server: Any, path: Path, *, read_only: bool) -> None:
        self._server = server
        self.path = path
        self.read_only = read_only

    def close(self) -> None:
        """Close the door, and remove the socket. It may be opened again."""
        global _open
        if _open is self:
            _open = None
        atexit.unregister(self._server.close)
        self._server.close()

    def __repr__(self) -> str:
        return f"<Control {os.fspath(self.path)}{' read-only' if self.read_only else ''}>"


_open: Control | None = None


def control(*, read_only: bool = False) -> Control:
    """Open a door into this program, for `aiopool ps`, `aiopool top`, `aiopool ctl` and `aiopool web`.

    It is a Unix socket that only this user and root can reach, with a thread of its own: it answers while the event
    loop is blocked, and says who blocks it. All pools of the program are seen through it, those that are open and
    those to come. Nobody can run code through it: what can be asked is a closed list. Arguments and results of jobs are
    not shown. The same is done by `AIOPOOL_CONTROL=1` in the environment of the program.

    A second call returns what the first one has returned. In a child that is forked the door is closed; it may call
    this again. At the end of the program the socket is removed.

    Args:
        read_only: nobody may steer anything through it.

    Raises:
        OSError: the socket cannot be made; the text says why.
        RuntimeError: this system has no Unix sockets, or the door is open and `read_only` differs.

    Example:
        aiopool.control()
        aiopool.run(main, pool=Pool(8, name="mail", keep_finished=1000))
    """
    global _open
    if _open is not None:
        if _open.read_only != read_only:
            raise RuntimeError(f"the door is open, with read_only={_open.read_only}: close it first: control().close()")
        return _open
    if sys.platform == "win32":
        raise RuntimeError("control() needs Unix sockets, and Python has none on Windows")
    from aiopool._control.paths import socket_path
    from aiopool._control.server import Server
    from aiopool._control.verbs import Access

    server = Server(socket_path(os.getpid()), Access.READ if read_only else Access.ADMIN)
    server.start()
    _open = Control(server, server.path, read_only=read_only)
    atexit.register(server.close)
    logger.debug("the control socket is %s", server.path)
    return _open


def _after_fork() -> None:
    global _open
    if _open is not None:
        _open._server.abandon()
        _open = None


if hasattr(os, "register_at_fork"):  # pragma: no branch: Windows has no fork, and no tests run there
    os.register_at_fork(after_in_child=_after_fork)


def open_as_told(*, read_only: bool) -> None:
    """Open the door, if it is closed, because the settings or the environment say so.

    The program goes on without, if need be: its work is more important.
    """
    if _open is None:
        try:
            control(read_only=read_only)
        except Exception as error:
            log_fault(logger, "the control socket cannot be opened, and the settings ask for it", error=error)


_told = os.environ.get("AIOPOOL_CONTROL", "").lower()
if _told not in ("", "0", "no", "false", "off"):
    call_on_open(lambda: open_as_told(read_only=_told == "read"))
