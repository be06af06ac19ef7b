"""`Redis`: jobs on a Redis or a Valkey server, for a fleet of machines. Each verb is one script and one round trip.

What is always true:

- All keys of a queue share one hash tag, `{prefix:queue}`; `_redis_lua` says which there are.
- What a script does is done wholly or not at all, and sending it again does no harm.
- A process is alive while its lease is: `keeper()` renews it from a thread. After a restart of the server everybody has
  another lease, as nobody could renew it while the server was down.
- `durability` says what the server is set to, not what was wished for.

This file is the life of a store and the way of a job. What an operator asks is in `_redis_admin`, how to talk to the
server in `_redis_client`, what it is like in `_redis_facts`, what happens there in the scripts (`_redis_scripts`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._protocol import Keeper, Wake
from aiopool.stores._redis_admin import Admin
from aiopool.stores._redis_client import Client, split_url, without_secrets
from aiopool.stores._redis_facts import durability_of, look, warnings_of
from aiopool.stores._redis_keeper import RedisKeeper
from aiopool.stores._redis_rows import as_text, dump, parse, settlement_arguments, submit_arguments
from aiopool.stores._rows import (
    CancelAnswer,
    Claim,
    Claimed,
    Incarnation,
    NewJob,
    Settlement,
    Submitted,
    SweepReport,
)

__all__ = ["Redis"]

_log = logging.getLogger("aiopool.store")

_FORMAT: Final = 1
_DAY: Final = 86400.0
_OUTCOMES: Final[dict[int, Literal["queued", "running", "same_id", "same_unique", "tick_over"]]] = {
    ord("q"): "queued",
    ord("r"): "running",
    ord("i"): "same_id",
    ord("u"): "same_unique",
    ord("t"): "tick_over",
}
_TAKEN: Final = frozenset(("queued", "running"))
_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "durability": str,
    "prefix": str,
    "lease": float,
    "keep": float,
    "keep_failed": float,
    "max_payload": int,
    "timeout": float,
    "allow_eviction": lambda text: text.lower() in ("1", "true", "yes", "on"),
}


class Redis(Admin):
    """Keep jobs on a Redis (from 6.2 on) or a Valkey server.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://`, `valkey://`, or `unix:///path?db=0`.
        durability: `"process"`: what the server's own settings give. `"power"`: each submission and each end is on the
            server's disk when it counts (WAITAOF; Redis 7.2 or Valkey, with its append-only file).
        prefix: of all keys.
        lease: seconds for which a process lives after its last heartbeat.
        keep: seconds for which jobs that succeeded are kept in the history.
        keep_failed: seconds for which all others are kept there.
        max_payload: bytes that the arguments, or the result, of a job may have.
        timeout: seconds after which a server that does not answer counts as unreachable.
        allow_eviction: open a server that may evict keys, and jobs with them, too.

    Raises:
        ValueError: an option is out of range.

    Example:
        pool = Pool(store="redis://localhost:6379/0?durability=power", handlers=handlers)
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        durability: str = "process",
        prefix: str = "aiopool",
        lease: float = 15.0,
        keep: float = _DAY,
        keep_failed: float = 7 * _DAY,
        max_payload: int = 1_048_576,
        timeout: float = 5.0,
        allow_eviction: bool = False,
    ) -> None:
        if durability not in ("process", "power"):
            raise ValueError(f"durability={durability!r}: write 'process' or 'power'")
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(f"prefix={prefix!r}: it must be a text without braces, which mark the tag of a cluster")
        for option, value in (("lease", lease), ("timeout", timeout)):
            if not 0 < value < 1e9:
                raise ValueError(f"{option}={value!r}: it must be a number of seconds above 0")
        for option, value in (("keep", keep), ("keep_failed", keep_failed), ("max_payload", max_payload)):
            if not value >= 0:
                raise ValueError(f"{option}={value!r}: it must be a number from 0 up")
        self._address, unknown = split_url(url)
        if unknown:
            raise ValueError(f"url={without_secrets(url)!r}: options stand in a URL only for Redis.from_url()")
        self.url = without_secrets(url)
        self.durability = durability
        self.poll = 1.0
        self.sweep_every = 0.5
        self.lease: float | None = lease
        self.max_payload = max_payload
        self._lease = lease
        self._power = durability == "power"
        self._prefix = prefix
        self.keep = (keep, keep_failed)
        self._timeout = timeout
        self._allow_eviction = allow_eviction
        self._sync = max(1, int(timeout * 800)) if self._power else 0
        self._clock_offset = 0.0
        self._client: Client | None = None
        self._base = ""
        self._me: Incarnation | None = None
        self._unsure: set[tuple[str, int]] = set()  # the ends whose answer was lost
        self._on_wake: Callable[[Wake], object] = lambda _: None

    @classmethod
    def from_url(cls, url: str) -> Redis:
        """Return the store that a URL names, with its options: `redis://host:6379/0?durability=power&lease=30`.

        Raises:
            ValueError: an option is unknown, or out of range.
        """
        address, texts = split_url(url)
        options: dict[str, Any] = {}
        for option, text in texts.items():
            if option not in _OPTIONS:
                known = ", ".join(_OPTIONS)
                raise ValueError(f"store={without_secrets(url)!r}: no option {option!r}; there are {known}")
            try:
                options[option] = _OPTIONS[option](text)
            except ValueError:
                raise ValueError(f"store={without_secrets(url)!r}: {option}={text!r} is no number") from None
        return cls(address, **options)

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    async def open(self, queue: str, me: Incarnation, on_wake: Callable[[Wake], object]) -> None:
        """Connect and register. See `Store.open`."""
        if self._client is not None:
            raise StoreError(f"{self.url} was opened a second time: one object is one incarnation; make another one")
        client = Client(self._address, self.url, timeout=self._timeout)
        self._base = "{" + f"{self._prefix}:{queue.replace('{', '(').replace('}', ')')}" + "}"
        client.of(self._base, self._clock_offset, me.id)
        try:
            server = await look(client)
            if server.evicts and not self._allow_eviction:
                raise StoreError(
                    f"{self.url}: maxmemory-policy is {server.policy}: the server may throw jobs away when its memory "
                    f"is full; set it to noeviction, or add ?allow_eviction=1 to the URL"
                )
            if self._power and (problem := server.without_power()) is not None:
                raise StoreError(f"{self.url}: durability='power': {problem}")
            self.durability = durability_of(server, self._power)
            for warning in warnings_of(server, self._power):
                _log.warning("%s: %s", self.url, warning)
            self._me, self._on_wake = me, on_wake
            member = dump([me.host, me.pid, me.runs_jobs])
            answer = await client.run("open", member, repr(self._lease), str(_FORMAT))
            if answer != b"ok":
                raise StoreError(
                    f"{self.url}: the keys of {queue!r} have the format {as_text(answer)}, written by a newer aiopool; "
                    f"this one knows {_FORMAT}: bring it up to date"
                )
            await client.listen(self._heard, self._lost_hints)
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def close(self) -> None:
        """Unregister and disconnect. See `Store.close`."""
        client, self._client = self._client, None
        if client is None:
            return
        self._unsure.clear()
        try:
            while not await client.run("close"):
                pass
        except StoreUnavailableError as error:
            _log.warning("%s; what this process still holds is rescued when its lease is over", error)
        finally:
            await client.close()

    def keeper(self) -> Keeper | None:
        """Return what renews the lease of this incarnation."""
        me = self._me
        if me is None:
            return None
        return RedisKeeper(
            self._address, self.url, self._timeout, self._lease, lambda: (self._base, self._clock_offset, me.id)
        )

    async def now(self) -> float:
        """Return the time by the server's clock: seconds since 1970."""
        seconds, micro = await self._opened().command("TIME")
        return int(seconds) + int(micro) / 1e6 + self._clock_offset

    def _set_clock(self, offset: float) -> None:
        """Let the server's clock be so many seconds ahead, for this object; for tests."""
        self._clock_offset = offset
        if self._client is not None and self._me is not None:
            self._client.of(self._base, offset, self._me.id)

    def _heard(self, message: Sequence[Any]) -> None:
        by, work, finished, cancels = message
        me = self._me.id if self._me is not None else ""
        if work and by != me:
            self._on_wake("work")
        if me in finished:
            self._on_wake("finished")
        if me in cancels:
            self._on_wake("cancel")

    def _lost_hints(self) -> None:
        kinds: tuple[Wake, ...] = "work", "finished", "cancel"
        for kind in kinds:
            self._on_wake(kind)

    # -- the way of a job ----------------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[Submitted]:
        """Take jobs in. See `Store.submit`."""
        if within is not None:
            raise TypeError(f"within={within!r}: {self.url} has no transactions; leave it out")
        if not jobs:
            return []
        rows, texts = submit_arguments(jobs)
        letters, others = await self._run("submit", rows, *texts, sync=self._sync)
        answers = [
            Submitted(_OUTCOMES[letter], job.id, job.submitter) for letter, job in zip(letters, jobs, strict=True)
        ]
        if others != b"[]":
            rest = iter(parse(others))
            answers = [one if one.outcome in _TAKEN else Submitted(one.outcome, *next(rest)) for one in answers]
        return answers

    async def claim(self, limit: int) -> Claim:
        """Take the best jobs that may start. See `Store.claim`."""
        jobs, cancels, next_in, more, paused = parse(await self._run("claim", max(0, min(limit, 1000))))
        claimed = [
            Claimed(id, name, payload, priority, attempt, crashes, fence, age, time_left, *others)
            for (id, name, payload, priority, *others), attempt, crashes, fence, age, time_left in jobs
        ]
        return Claim(claimed, [(id, fence, reason) for id, fence, reason in cancels], next_in, more, paused)

    async def settle(self, ends: Sequence[Settlement]) -> list[bool]:
        """Write ends. See `Store.settle`."""
        if not ends:
            return []
        again = bool(self._unsure) and not self._unsure.isdisjoint((end.id, end.fence) for end in ends)
        rows, results = settlement_arguments(ends, again)
        try:
            done = await self._run("settle", rows, *results, sync=self._sync)
        except (StoreUnavailableError, asyncio.CancelledError):
            self._unsure.update((end.id, end.fence) for end in ends)
            raise
        self._unsure.clear()
        return [one == 49 for one in done]  # a "1" each

    async def cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        """Cancel jobs. See `Store.cancel`."""
        answers = await self._run("cancel", dump(list(ids)), dump(reason)) if ids else []
        return [CancelAnswer(id, as_text(was)) for id, was in zip(ids, answers, strict=True)]  # type: ignore[arg-type]

    async def report_progress(self, rows: Sequence[tuple[str, int, float, str]]) -> None:
        """Note how far jobs are. See `Store.report_progress`."""
        if rows:
            await self._run("progress", dump([(id, fence, json.dumps(rest)) for id, fence, *rest in rows]))

    async def sweep(self, names: Sequence[str]) -> SweepReport:
        """Rescue, end what is late, bring back what was parked, purge. See `Store.sweep`."""
        answer = await self._run("sweep", dump(list(names)), *map(repr, self.keep))
        rescued, dead, timed_out, purged, unparked, more = answer
        return SweepReport(rescued, dead, timed_out, purged, unparked, bool(more))

    async def owned(self) -> list[tuple[str, int]]:
        """Return (id, fence) of all that this incarnation holds."""
        flat = await self._run("owned")
        return [(as_text(id), int(fence)) for id, fence in zip(flat[::2], flat[1::2], strict=True)]
