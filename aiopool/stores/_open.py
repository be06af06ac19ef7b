"""`open_store`: the store that a URL names. A store is imported when it is asked for, with the client that it needs."""

from __future__ import annotations

import importlib
from typing import Any

from aiopool.stores._protocol import Store

__all__ = ["open_store"]

# By scheme: the module and the class. Each has `from_url(url)`, which connects to nothing yet.
_KINDS = {
    "memory": ("aiopool.stores._memory", "Memory"),
    "sqlite": ("aiopool.stores._sqlite", "SQLite"),
    "postgresql": ("aiopool.stores._postgres", "Postgres"),
    "postgres": ("aiopool.stores._postgres", "Postgres"),
    "redis": ("aiopool.stores._redis", "Redis"),
    "rediss": ("aiopool.stores._redis", "Redis"),
    "valkey": ("aiopool.stores._redis", "Redis"),
}


def open_store(url: str) -> Store:
    """Return the store that a URL names, not yet opened.

    Args:
        url: `sqlite:///jobs.db`, `postgresql://user@host/database`, `redis://host:6379/0` or `memory://`. Options of
            the store stand behind a `?`, as in `sqlite:///jobs.db?durability=process&keep=3600`.

    Raises:
        ValueError: no store has this scheme, or an option is unknown to it.
        RuntimeError: the client library of the store is not installed.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in _KINDS:
        known = ", ".join(f"{name}://" for name in _KINDS)
        raise ValueError(f"store={url!r}: it begins with none of {known}; write store='sqlite:///jobs.db'")
    module, name = _KINDS[scheme]
    kind: Any = getattr(importlib.import_module(module), name)
    store: Store = kind.from_url(url)
    return store
