"""All scripts of the Redis store, by verb: what each begins with (`_redis_lua`, `_redis_lanes`), and what it does."""

from __future__ import annotations

from typing import Final

from aiopool.stores._redis_chores import CHORES
from aiopool.stores._redis_lanes import LANES
from aiopool.stores._redis_lua import BASE, PLACES
from aiopool.stores._redis_moves import STEERING
from aiopool.stores._redis_questions import QUESTIONS
from aiopool.stores._redis_way import WAY

__all__ = ["SCRIPTS"]

SCRIPTS: Final[dict[str, str]] = {
    verb: BASE + LANES + PLACES + script for verb, script in (WAY | CHORES | QUESTIONS | STEERING).items()
}
"""By verb: the text of its script."""
