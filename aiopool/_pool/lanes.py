"""`Lanes`: a limit for keys that come and go, each with a lane of its own."""

from __future__ import annotations

from typing import final

from aiopool._jobs.limits import LaneKey, Limit, LimitRule, check_limit
from aiopool._jobs.options import id_key
from aiopool._pool.state import PoolState

__all__ = ["Lanes"]


@final
class Lanes:
    """A limit of each of many keys; made by `pool.lanes(limit)`."""

    __slots__ = ("_rule", "_state")

    def __init__(self, state: PoolState, limit: Limit) -> None:
        check_limit("limit", limit)
        self._rule = LimitRule("lanes", limit)
        self._state = state

    @property
    def limit(self) -> Limit:
        """The limit of each key."""
        return self._rule.limit

    def __getitem__(self, key: str | int) -> LaneKey:
        """Return a key for `with_options(key=…)`; as with ids, `7` and `"7"` are one key.

        Raises:
            TypeError: it is neither a text nor a number.
        """
        return LaneKey(self._rule, id_key(key))

    def __len__(self) -> int:
        """Return how many lanes there are now: of keys that have jobs, or whose last start still counts."""
        engine = self._state.engine
        return 0 if engine is None else engine.lanes.count(self._rule)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Lanes {self._rule.limit!r} {len(self)} now>"
