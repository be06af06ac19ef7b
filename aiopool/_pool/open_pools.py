"""The pools of this process that are open, for whoever looks at them from outside.

A pool is held weakly: being listed keeps none alive. Pools open in any thread, so a lock guards the list.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["call_on_open", "list_pool", "open_pools", "unlist_pool"]

_lock = threading.Lock()
_pools: dict[int, weakref.ref[Any]] = {}
_on_open: tuple[Callable[[], object], ...] = ()


def list_pool(pool: Any) -> None:
    """A pool has opened."""
    with _lock:
        _pools.pop(id(pool), None)  # it opens once more: the newest comes last
        _pools[id(pool)] = weakref.ref(pool)
    for call in _on_open:
        call()


def unlist_pool(pool: Any) -> None:
    """A pool has closed."""
    with _lock:
        _pools.pop(id(pool), None)


def open_pools() -> list[Any]:
    """Return the open pools, the oldest first."""
    with _lock:
        found = [(key, ref()) for key, ref in _pools.items()]
        for key, pool in found:
            if pool is None:
                del _pools[key]
    return [pool for _, pool in found if pool is not None]


def call_on_open(call: Callable[[], object]) -> None:
    """Have something called whenever a pool opens, in its loop."""
    global _on_open
    _on_open = (*_on_open, call)


def _after_fork() -> None:
    """Whoever held the lock is gone, and the loops of the pools run in the parent."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch: Windows has no fork, and no tests run there
    os.register_at_fork(after_in_child=_after_fork)
