"""The verb `settings`: how a pool is set, as far as it is known to the pool itself."""

from __future__ import annotations

from typing import Any

from aiopool._control.arguments import Arguments
from aiopool._control.store_views import fleet_of
from aiopool._control.verbs import Access, inside
from aiopool._control.watched import Watched
from aiopool._jobs.json_values import json_value
from aiopool.metrics import observed

__all__: list[str] = []

# Options of `Pool(...)` that are plain values, by the words that a program writes.
PLAIN = (
    "queue_size",
    "isolation",
    "aging",
    "cancel_grace",
    "on_leak",
    "max_threads",
    "max_processes",
    "shutdown_timeout",
    "recycle_after",
    "count_by_worker",
    "watchdog",
)
OF_JOBS = ("priority", "timeout", "queue_timeout", "total_timeout", "retry", "offload")


@inside(Access.READ)
async def settings(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how the pool is set: the options of Pool(...), and what was switched on since."""
    arguments.end()
    pool = watch.pool
    state, found = pool._state, fleet_of(pool)
    options = {"name": pool.name, "size": json_value(pool._first_size)}
    options |= {name: json_value(getattr(pool, f"_{name}")) for name in PLAIN}
    options |= {"overflow": state.overflow, "start_method": state.start_method}
    return {
        "options": options,
        "jobs": {name: _plain(getattr(state.options, name)) for name in OF_JOBS},
        "now": {
            "size": pool.size,
            "workers": len(pool.workers()),
            "measuring": observed(pool) is not None,
            "keeps_finished": state.observers.finished is not None,
            "store": None if found is None else type(found.store).__name__,
        },
    }


def _plain(value: object) -> Any:
    """A number that has a name is shown as a number."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else json_value(value)
