"""What a worker is told: by its arguments, else by the environment, else by default; read once, checked at once.

Knows names and numbers, no network. Everything that is wrong is told in one `SettingsError`.
"""

from __future__ import annotations

import math
import os
import re
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final
from urllib.parse import urlsplit

from aiopool.errors import SettingsError, SettingsProblem

__all__ = ["WorkerSettings", "read_settings"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings of one worker.

    Attributes:
        orchestrator_url: without a slash at its end.
        worker_id, worker_token, worker_type: who it is; the token is also the key of its signatures.
        heartbeat_interval, poll_interval: seconds.
        max_concurrent_tasks: how many handlers may run at once.
        orchestrator_secret: with it, the signature of each task is checked; empty: none is.
    """

    orchestrator_url: str
    worker_id: str
    worker_token: str
    worker_type: str
    heartbeat_interval: float
    poll_interval: float
    max_concurrent_tasks: int
    orchestrator_secret: str

    def __repr__(self) -> str:
        return f"<WorkerSettings {self.worker_id!r} at {self.orchestrator_url}>"  # never the token


@dataclass(frozen=True, slots=True)
class _Setting:
    variable: str
    default: Callable[[], Any]
    read: Callable[[Any], Any]  # raises ValueError: what is allowed


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it must be a text that is not empty")
    return value


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be a text")
    return value


def _url(value: Any) -> str:
    parts = urlsplit(_text(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be an address such as http://localhost:8000")
    return str(value).rstrip("/")


def _identifier(value: Any) -> str:
    # What the orchestrator takes as an id.
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", _text(value)):
        raise ValueError("it must be 1 to 128 letters, digits, hyphens and underscores")
    return str(value)


def _token(value: Any) -> str:
    if not value:
        raise ValueError("there is none: write Worker(worker_token=...), or set WORKER_TOKEN")
    if not re.fullmatch(r"[\x21-\x7e]+", _text(value)):
        raise ValueError("it is sent as a header, so it must be ASCII without spaces")
    return str(value)


def _seconds(value: Any) -> float:
    allowed = "it must be a number of seconds above 0"
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise ValueError(allowed) from None
    if not 0 < number < math.inf:
        raise ValueError(allowed)
    return number


def _count(value: Any) -> int:
    allowed = "it must be a whole number of at least 1"
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError(allowed) from None
    if isinstance(value, bool) or number < 1 or (not isinstance(value, str) and number != value):
        raise ValueError(allowed)
    return number


def _new_id() -> str:
    # Two workers of one id would take each other's tasks, so the host's name alone will not do.
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:100] or "worker"
    return f"{host}-{uuid.uuid4().hex[:8]}"


_SETTINGS: Final = {
    "orchestrator_url": _Setting("ORCHESTRATOR_URL", lambda: "http://localhost:8000", _url),
    "worker_id": _Setting("WORKER_ID", _new_id, _identifier),
    "worker_token": _Setting("WORKER_TOKEN", str, _token),
    "worker_type": _Setting("WORKER_TYPE", lambda: "generic", _text),
    "heartbeat_interval": _Setting("HEARTBEAT_INTERVAL", lambda: 30.0, _seconds),
    "poll_interval": _Setting("POLL_INTERVAL", lambda: 1.0, _seconds),
    "max_concurrent_tasks": _Setting("MAX_CONCURRENT_TASKS", lambda: 10, _count),
    "orchestrator_secret": _Setting("ORCHESTRATOR_SECRET_KEY", str, _any_text),
}
_SECRETS: Final = frozenset(("worker_token", "orchestrator_secret"))


def read_settings(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> tuple[WorkerSettings, bool]:
    """Read the settings of a worker, and whether somebody named it: else its id is another one each time.

    Args:
        given: its arguments; None where one was not given.
        environ: the environment. A variable that is empty counts as not set.

    Raises:
        SettingsError: one or more cannot be used; it lists all of them.
    """
    values: dict[str, Any] = {}
    problems = []
    for name, setting in _SETTINGS.items():
        if given.get(name) is not None:
            value, source = given[name], "argument"
        elif environ.get(setting.variable):
            value, source = environ[setting.variable], f"environment variable {setting.variable}"
        else:
            value, source = setting.default(), "default"
        try:
            values[name] = setting.read(value)
        except ValueError as error:
            shown = None if name in _SECRETS else repr(value)
            problems.append(SettingsProblem(name, shown, source, str(error)))
    if problems:
        raise SettingsError(
            "\n".join(["the worker cannot be set up:", *(f"  {problem}" for problem in problems)]), tuple(problems)
        )
    named = given.get("worker_id") is not None or bool(environ.get("WORKER_ID"))
    return WorkerSettings(**values), named
