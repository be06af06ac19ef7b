"""The URL of a store in PostgreSQL: options of ours, options of the driver, and what may be shown of it.

It knows: how both are written. It refuses to know what an option does.

Always true: what is shown holds no password, and no option that may hold one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["read_url", "shown"]

_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "schema": str,
    "lease": float,
    "keep": float,
    "keep_failed": float,
    "durability": str,
    "max_payload": int,
    "pooler": lambda text: {"1": True, "0": False}[text],
}


def read_url(url: str) -> tuple[str, dict[str, Any]]:
    """Return what the driver gets, and the options of ours.

    Raises:
        ValueError: an option of ours has a value that it cannot have.
    """
    parts = urlsplit(url)
    ours: dict[str, Any] = {}
    theirs: list[tuple[str, str]] = []
    for option, text in parse_qsl(parts.query, keep_blank_values=True):
        if option not in _OPTIONS:
            theirs.append((option, text))
            continue
        try:
            ours[option] = _OPTIONS[option](text)
        except (ValueError, KeyError):
            raise ValueError(f"store={shown(url, None)!r}: {option}={text!r} is no value for it") from None
    return urlunsplit(parts._replace(query=urlencode(theirs), fragment="")), ours


def shown(dsn: str, schema: str | None) -> str:
    """Return a URL without its password, and without options that may hold one."""
    parts = urlsplit(dsn)
    user, at, host = parts.netloc.rpartition("@")
    query = [] if schema in (None, "aiopool") else [("schema", str(schema))]
    places = [(option, value) for option, value in parse_qsl(parts.query) if option in ("host", "port")]
    return urlunsplit((parts.scheme, user.partition(":")[0] + at + host, parts.path, urlencode(places + query), ""))
