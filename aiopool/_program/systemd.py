"""`SystemdNotifier`: what systemd is told about this program (`Type=notify`), or whoever else has set `NOTIFY_SOCKET`.

    READY=1              its services run, its pool is open: `systemctl start` returns
    STATUS=…             one line for `systemctl status`
    WATCHDOG=1           the event loop turns; at half of the time that `WatchdogSec=` allows
    STOPPING=1           it is on its way out
    EXTEND_TIMEOUT_USEC  how long that may take: systemd kills no sooner, whatever `TimeoutStopSec=` says

The pings hang on a timer of the event loop, and on nothing else: a loop that a job holds up sends none, and systemd
does what the unit says. The protocol is a datagram for each message, so no library is needed for it.

A listener that does not read fills its queue. What does not fit then is kept, the newest value of each field, and sent
as soon as there is room: a READY=1 that got lost would have systemd wait for it in vain.

What this module refuses to know: pools, services, signals.

Invariant: nothing here ever raises, or waits. That a message cannot be sent is told once, in the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import final

__all__ = ["SystemdNotifier"]

logger = logging.getLogger("aiopool.run")

# Seconds until a message that did not fit is tried again.
_RETRY = 0.1

# Far less than a datagram may hold; `systemctl status` shows one line.
_LONGEST_STATUS = 500


@final
class SystemdNotifier:
    """Tells one listener how the program is; silent, if the environment names none.

    Args:
        environment: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are looked for. It is left as it is:
            children inherit it, and systemd does not listen to them (`NotifyAccess=main`).
    """

    # The mutable state of a notifier is its socket, the timer of the next ping, what did not fit and the timer of its
    # next try, and whether it has complained.
    __slots__ = ("_address", "_complained", "_interval", "_loop", "_retry", "_socket", "_timer", "_unsent")

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._complained = False
        self._address = self._find(environment.get("NOTIFY_SOCKET", ""))
        self._interval = _interval(environment) if self._address is not None else None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: dict[str, str] = {}
        self._retry: asyncio.TimerHandle | None = None

    def _find(self, name: str) -> str | None:
        if not name:
            return None
        if name[0] not in "/@" or len(name) < 2 or not hasattr(socket, "AF_UNIX"):
            self._warn(f"NOTIFY_SOCKET={name!r} is neither a path nor an abstract socket (@name)")
            return None
        return "\0" + name[1:] if name[0] == "@" else name

    @property
    def listening(self) -> bool:
        """Whether anybody is told."""
        return self._address is not None

    def notify(self, status: str | None = None, **fields: int) -> None:
        """Send one message: a line for `systemctl status`, and fields such as `READY=1`."""
        if self._address is None:
            return
        message = self._unsent | {name: str(value) for name, value in fields.items()}
        if status is not None:
            # In one line, for a line feed would begin another field.
            message["STATUS"] = " ".join(status.split())[:_LONGEST_STATUS]
        self._send(message)

    def _send(self, message: dict[str, str]) -> None:
        if self._address is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in message.items())
        self._unsent = {}
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(text.encode(errors="backslashreplace"), self._address)
        except OSError as error:
            self._warn(f"could not tell NOTIFY_SOCKET={self._address!r} {', '.join(message)}: {error}")
            if isinstance(error, BlockingIOError):
                self._unsent = message
                self._send_later()

    def _send_later(self) -> None:
        if self._retry is None and self._loop is not None and not self._loop.is_closed():
            self._retry = self._loop.call_later(_RETRY, self._send_again)

    def _send_again(self) -> None:
        self._retry = None
        if self._unsent:
            self._send(self._unsent)

    def start_watchdog(self, loop: asyncio.AbstractEventLoop) -> None:
        """While the event loop turns, ping the watchdog, if there is one, and try again what did not fit."""
        self._loop = loop
        if self._interval is not None:
            self._ping(loop, self._interval)

    def _ping(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self.notify(WATCHDOG=1)
        self._timer = loop.call_later(interval, self._ping, loop, interval)

    def close(self) -> None:
        """Say no more."""
        if self._unsent:
            self._send(self._unsent)
        self._address = None
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        self._timer = self._retry = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _warn(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("%s", text)


def _interval(environment: Mapping[str, str]) -> float | None:
    """Seconds between two pings: half of what is allowed; None if the watchdog watches nobody, or somebody else."""
    try:
        allowed = int(environment.get("WATCHDOG_USEC", "0"))
        whom = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return allowed / 2_000_000 if allowed > 0 and whom == os.getpid() else None
