"""The verb `settings`: how a pool is set, as far as it is known to the pool itself."""

from __future__ import annotations

from typing import Any

from aiopool._control.arguments import Arguments
from aiopool._control.store_views import fleet_of
from aiopool._control.verbs import Access, inside
from aiopool._control.watched import Watched
from aiopool._jobs.json_values import json_value
from aiopool.inspection import options
from aiopool.metrics import observed

__all__: list[str] = []

# Of those of `Pool(...)`, the options of its jobs.
OF_JOBS = ("priority", "timeout", "queue_timeout", "total_timeout", "retry", "offload")


@inside(Access.READ)
async def settings(watch: Watched, arguments: Arguments) -> dict[str, Any]:
    """Show how the pool is set: the options of Pool(...), and what was switched on since."""
    arguments.end()
    pool = watch.pool
    given, found = options(pool), fleet_of(pool)
    return {
        "options": {name: _plain(value) for name, value in given.items() if name not in OF_JOBS},
        "jobs": {name: _plain(given[name]) for name in OF_JOBS},
        "now": {
            "size": pool.size,
            "workers": len(pool.workers()),
            "measuring": observed(pool) is not None,
            "keeps_finished": given["keep_finished"] is not None,
            "store": None if found is None else type(found.store).__name__,
        },
    }


def _plain(value: object) -> Any:
    """A number that has a name is shown as a number."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else json_value(value)
