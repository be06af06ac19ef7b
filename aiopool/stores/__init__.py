"""Stores: where jobs survive the process that submitted them.

    Memory      the reference: nothing survives; for tests
    SQLite      one machine; nothing to install
    Postgres    a fleet of machines; the extra `postgres`
    Redis       the same on Redis or Valkey; the extra `redis`

`Pool(store="sqlite:///jobs.db", handlers=handlers)` opens one by its URL; `Pool(store=SQLite("jobs.db"), ...)` is the
same. Whoever writes another store implements `Store`, and runs `tests/stores/` on it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aiopool.stores._open import open_store
from aiopool.stores._protocol import Keeper, Store, Wake
from aiopool.stores._rows import (
    Beat,
    CancelAnswer,
    Claim,
    Claimed,
    Finished,
    Incarnation,
    LimitRow,
    NewJob,
    ScheduleRow,
    Settlement,
    StoredJob,
    StoredStatus,
    StoreStatistics,
    Submitted,
    SweepReport,
    WorkerRow,
)

if TYPE_CHECKING:  # each comes with the client that it needs
    from aiopool.stores._memory import Memory as Memory
    from aiopool.stores._postgres import Postgres as Postgres
    from aiopool.stores._redis import Redis as Redis
    from aiopool.stores._sqlite import SQLite as SQLite

__all__ = [
    "Beat",
    "CancelAnswer",
    "Claim",
    "Claimed",
    "Finished",
    "Incarnation",
    "Keeper",
    "LimitRow",
    "Memory",
    "NewJob",
    "Postgres",
    "Redis",
    "SQLite",
    "ScheduleRow",
    "Settlement",
    "Store",
    "StoreStatistics",
    "StoredJob",
    "StoredStatus",
    "Submitted",
    "SweepReport",
    "Wake",
    "WorkerRow",
    "open_store",
]

_LATE = {"Memory": "_memory", "SQLite": "_sqlite", "Postgres": "_postgres", "Redis": "_redis"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(f"aiopool.stores.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
