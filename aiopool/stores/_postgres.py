"""`Postgres`: jobs of a fleet in PostgreSQL.

It knows: which statement is which verb, and which of its connections it takes. The statements are functions in the
server (`_postgres_functions.py`); how connections heal is in `_postgres_link.py`.

Rule 1: three connections for each process: one for what comes in (submit, cancel), one for what is worked on (claim,
settle), one that listens, and sweeps and reads. The keeper has a fourth one, in its thread.

Rule 2: every verb may be sent twice, as a connection may break while its answer is on the way.

Rule 3: hints come by LISTEN; behind a pooler none come, and asking again every `poll` seconds is all there is.
"""

# ruff: noqa: S608 (what goes into statements is the name of the schema, which is checked, and constants)
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from aiopool._runtime.ending import end_tasks
from aiopool.errors import StoreError
from aiopool.stores import _postgres_rows as rows_
from aiopool.stores._postgres_admin import Admin
from aiopool.stores._postgres_keeper import PostgresKeeper
from aiopool.stores._postgres_link import Link, Target, driver, translate
from aiopool.stores._postgres_moves import Moves
from aiopool.stores._postgres_schema import check_schema_name, migrate
from aiopool.stores._postgres_url import read_url, shown
from aiopool.stores._postgres_within import fetch_within
from aiopool.stores._protocol import Keeper, Wake
from aiopool.stores._rows import (
    CancelAnswer,
    Claim,
    Incarnation,
    NewJob,
    Settlement,
    Submitted,
    SweepReport,
)

__all__ = ["Postgres"]

_TURNS: Final = 20  # calls for one claim: another one follows when a lane has to be waited for, or has called somebody
_SETTLED: Final = 2.0  # seconds after a reconnect in which nobody is taken for dead


class Postgres(Admin, Moves):
    """Keep jobs in PostgreSQL 12 or later, for any number of processes on any number of machines.

    Args:
        dsn: `postgresql://user:password@host:5432/database`, with options of asyncpg behind a `?`.
        schema: where the tables are; made when the store is opened the first time.
        lease: seconds for which a process lives that was not heard of. On a direct connection a death is noticed after
            about a second.
        keep: seconds for which jobs that succeeded are kept in the history.
        keep_failed: seconds for which all others are kept there.
        durability: `"power"`: what is accepted is on the disk; `"process"`: the last moments before a crash of the
            server may be lost.
        max_payload: bytes that the arguments, or the result, of a job may have.
        pooler: a pooler in transaction mode, as pgbouncer, stands between; None: it is found out.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: asyncpg is not installed.

    Example:
        pool = Pool(store="postgresql://app@db.example/app?schema=jobs", handlers=handlers)
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "aiopool",
        lease: float = 30.0,
        keep: float = 86400.0,
        keep_failed: float = 604800.0,
        durability: Literal["power", "process"] = "power",
        max_payload: int = 1048576,
        pooler: bool | None = None,
    ) -> None:
        driver()
        if durability not in ("power", "process"):
            raise ValueError(f"durability={durability!r}: it is 'power' or 'process'")
        for option, value, least in (
            ("keep", keep, 0),
            ("keep_failed", keep_failed, 0),
            ("max_payload", max_payload, 1),
        ):
            if not value >= least:
                raise ValueError(f"{option}={value!r}: it must be a number from {least} up")
        if not 1.0 <= lease <= 86400.0:
            raise ValueError(f"lease={lease!r}: from 1 to 86400 seconds; 30 is usual")
        self.url = shown(dsn, schema)
        self.durability: str = durability
        self.poll = 1.0
        self.sweep_every = 0.4
        self.lease: float | None = lease
        self.max_payload = max_payload
        self._lease = lease
        self.keep = (float(keep), float(keep_failed))
        self._schema = check_schema_name(schema)
        self._target = Target(dsn, self.url, pooler, durability == "process")
        self._me: Incarnation | None = None
        self._queue = 0
        self._on_wake: Callable[[Wake], object] = _nobody
        self._write: Link | None = None
        self._work: Link | None = None
        self._side: Link | None = None
        self._staying: asyncio.Task[None] | None = None

    @classmethod
    def from_url(cls, url: str) -> Postgres:
        """Return the store that a URL names: `postgresql://user@host/database?schema=jobs&lease=10`.

        Raises:
            ValueError: an option of ours has a value that it cannot have.
        """
        dsn, options = read_url(url)
        return cls(dsn, **options)

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    async def open(self, queue: str, me: Incarnation, on_wake: Callable[[Wake], object]) -> None:
        """Connect, bring the tables up to date, and register. See `Store.open`."""
        if self._write is not None:
            raise StoreError(f"{self.url} is open already: close it first, or make another object")
        self._me, self._on_wake = me, on_wake
        self._write = Link(self._target)
        self._work = Link(self._target)
        self._side = Link(self._target, self._listen)

        async def register(conn: Any, again: bool) -> int:
            version = conn.get_server_version()
            if version.major < 12:
                raise StoreError(f"{self.url} is PostgreSQL {version.major}: at least 12 is needed; upgrade the server")
            await migrate(conn, self._schema)
            await conn.execute(
                f"INSERT INTO {self._schema}.queues (name) SELECT $1::text WHERE NOT EXISTS (SELECT 1 FROM "
                f"{self._schema}.queues WHERE name = $1::text) ON CONFLICT DO NOTHING",
                queue,
            )
            number: int = await conn.fetchval(f"SELECT no FROM {self._schema}.queues WHERE name = $1::text", queue)
            await conn.execute(
                f"INSERT INTO {self._schema}.workers (queue, id, host, pid, runs_jobs, started_at, seen_at, "
                "lease_until) SELECT $1::int, $2::text, $3::text, $4::int, $5::bool, t, t, t + $6::float8 "
                f"FROM (SELECT {self._schema}.clock() AS t) c ON CONFLICT DO NOTHING",
                number,
                me.id,
                me.host,
                me.pid,
                me.runs_jobs,
                self._lease,
            )
            return number

        try:
            self._queue = await self._write.call(register)
            await self._side.call(_nothing)
        except BaseException:
            await self._disconnect()
            raise
        self._staying = asyncio.create_task(self._stay())

    async def close(self) -> None:
        """Unregister and disconnect. See `Store.close`."""
        if self._me is None or self._write is None:
            return
        staying, self._staying = self._staying, None
        await end_tasks(staying)
        with contextlib.suppress(StoreError):  # if it does not go through, the lease ends by itself
            while await self._write.call(self._leave, patience=5.0):
                pass
        await self._disconnect()

    async def _leave(self, conn: Any, again: bool) -> bool:
        """Give back some of what is held; whether there is more."""
        back: bool = await conn.fetchval(
            f"SELECT {self._schema}.leave($1::int, $2::text)", self._queue, self._opened().id
        )
        return back

    async def _disconnect(self) -> None:
        links = self._write, self._work, self._side
        self._write = self._work = self._side = None
        for link in links:
            if link is not None:
                await link.close()

    def keeper(self) -> Keeper:
        """Return what keeps the leases of this incarnation. See `Store.keeper`."""
        me = self._opened()
        digest = hashlib.blake2b(f"{self._schema}/{self._queue}/{me.id}".encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "big", signed=True)
        return PostgresKeeper(self._target, self._schema, self._queue, me.id, key, self._lease)

    def _opened(self) -> Incarnation:
        if self._me is None or self._write is None:
            raise StoreError(f"{self.url} is not open: call `await store.open(...)` first, and nothing after `close()`")
        return self._me

    async def _call(self, link: Link | None, sql: str, *args: Any) -> list[Any]:
        """Run a statement of which `{s}` is the schema, and whose first two arguments are the queue and who asks."""
        me = self._opened()
        assert link is not None
        text = sql.replace("{s}", self._schema)

        async def work(conn: Any, again: bool) -> list[Any]:
            return list(await conn.fetch(text, self._queue, me.id, *args))

        return await link.call(work)

    async def _read(self, sql: str, *args: Any) -> list[Any]:
        return await self._call(self._side, sql, *args)

    async def _change(self, sql: str, *args: Any) -> list[Any]:
        return await self._call(self._write, sql, *args)

    def _wake_work(self) -> None:
        if self._me is not None and self._me.runs_jobs:
            self._on_wake("work")

    # -- hints ---------------------------------------------------------------------------------------------------------

    async def _listen(self, conn: Any) -> None:
        if not self._target.pooler:
            await conn.add_listener(f"{self._schema}_{self._queue}", self._heard)
            if self._side is not None and self._side.connects > 1:  # something was said while nobody listened
                self._wake_work()
                self._on_wake("finished")

    def _heard(self, conn: object, pid: int, channel: str, payload: object) -> None:
        me = self._me
        sender, _, rest = str(payload).partition("|")
        work, _, rest = rest.partition("|")
        finished, _, cancels = rest.partition("|")
        if me is None or sender == me.id:
            return
        if work and me.runs_jobs:
            self._on_wake("work")
        if finished == "*" or me.id in finished.split(","):
            self._on_wake("finished")
        if cancels == "*" or me.id in cancels.split(","):
            self._on_wake("cancel")

    async def _stay(self) -> None:
        """See now and then that somebody listens; and keep the row of one that runs no jobs, and so has no keeper."""
        while True:
            await asyncio.sleep(min(self._lease / 3, 5.0))
            with contextlib.suppress(StoreError):
                if self._me is not None and not self._me.runs_jobs:
                    await self._read(
                        "UPDATE {s}.workers SET seen_at = {s}.clock(), lease_until = {s}.clock() + $3::float8 "
                        "WHERE queue = $1::int AND id = $2::text",
                        self._lease,
                    )
                elif self._side is not None:
                    await self._side.call(_ping)

    # -- the way of a job ----------------------------------------------------------------------------------------------

    async def submit(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[Submitted]:
        """Take jobs in. See `Store.submit`."""
        self._opened()
        answers: list[Submitted] = []
        for part in rows_.parts_of(jobs) if jobs else ():
            answers += await (self._submit(part) if within is None else self._submit_within(part, within))
        return answers

    async def _submit(self, jobs: Sequence[NewJob]) -> list[Submitted]:
        me, sql = self._opened(), _SUBMIT.replace("{s}", self._schema)
        may_start = me.runs_jobs
        answers: list[Submitted] = []
        pending = list(range(len(jobs)))
        assert self._write is not None
        for _ in range(5):
            batch = [jobs[index] for index in pending]
            values = rows_.new_jobs(batch, may_start=may_start)
            sent_again = False

            async def work(conn: Any, again: bool, values: Any = values) -> list[Any]:
                nonlocal sent_again
                sent_again = again
                return list(await conn.fetch(sql, self._queue, me.id, *values))

            found = await self._write.call(work)
            part, again = rows_.submitted(batch, found)
            if sent_again:  # what is there under the name of its submitter is what was sent before
                part = [
                    answer._replace(outcome="queued")
                    if answer.outcome == "same_id" and answer.submitter == job.submitter
                    else answer
                    for job, answer in zip(batch, part, strict=True)
                ]
            if answers:
                for index, answer in zip(pending, part, strict=True):
                    answers[index] = answer
            else:
                answers = part
            pending = [pending[index] for index in again]
            if not pending:
                return answers
        # Each time another job had the `unique`, and had ended before it could be named.
        return answers

    async def _submit_within(self, jobs: Sequence[NewJob], within: object) -> list[Submitted]:
        columns = [self._queue, self._opened().id, *rows_.new_jobs(jobs, may_start=False)]
        try:
            found = await fetch_within(within, _SUBMIT.replace("{s}", self._schema), columns)
        except (StoreError, TypeError):
            raise
        except Exception as error:
            raise translate(error, self.url) from error
        return rows_.submitted(jobs, found)[0]

    async def claim(self, limit: int) -> Claim:
        """Take the best jobs that may start. See `Store.claim`."""
        sql = "SELECT * FROM {s}.claim($1::int, $2::text, $3::int, $4::bool)"
        taken: list[Any] = []
        rest: list[Any] = []
        for turn in range(_TURNS):
            try:
                found = await self._call(self._work, sql, max(0, limit - len(taken)), turn == 0)
            except StoreError:
                if not taken:
                    raise
                break  # what was given is ours
            if found[-1][7]:
                self._on_wake("finished")  # it met jobs whose time was over; those may have been our own
            taken += [row for row in found if row[0] == "job"]
            rest = [row for row in found if row[0] != "job"]
            if not found[-1][5]:
                break
        return rows_.claim([*taken, *rest])

    async def settle(self, ends: Sequence[Settlement]) -> list[bool]:
        """Write ends. See `Store.settle`."""
        self._opened()
        if not ends:
            return []
        first: dict[str, int] = {}  # a second end of the same job comes too late
        for index, end in enumerate(ends):
            other = first.setdefault(end.id, index)
            if other != index and end.fence > ends[other].fence:
                first[end.id] = index
        settled: set[str] = set()
        # In one order, so that nobody waits in a circle.
        for part in rows_.parts_of_ends([ends[first[id]] for id in sorted(first)]):
            settled |= await self._settle(part)
        return [end.id in settled and first[end.id] == index for index, end in enumerate(ends)]

    async def _settle(self, chosen: Sequence[Settlement]) -> set[str]:
        me = self._opened()
        columns = (
            [end.id for end in chosen],
            [end.fence for end in chosen],
            [end.outcome for end in chosen],
            [end.delay for end in chosen],
            [end.result for end in chosen],
            [end.error for end in chosen],
            [rows_.plain(end.reason) for end in chosen],
        )
        sql = _SETTLE.replace("{s}", self._schema)

        async def work(conn: Any, again: bool) -> Any:
            return await conn.fetchrow(sql, self._queue, me.id, *columns, again)

        assert self._work is not None
        done, back = await self._work.call(work)
        if back:
            self._wake_work()
        return set(done or ())

    async def cancel(self, ids: Sequence[str], reason: str | None) -> list[CancelAnswer]:
        """Cancel jobs. See `Store.cancel`."""
        found = await self._change(
            "SELECT * FROM {s}.cancel($1::int, $2::text, $3::text[], $4::text)",
            sorted(set(ids)),
            rows_.plain(reason),
        )
        was = dict(found)
        if self._me is not None and self._me.runs_jobs and "running" in was.values():
            self._on_wake("cancel")
        return [CancelAnswer(id, was[id]) for id in ids]

    async def report_progress(self, rows: Sequence[tuple[str, int, float, str]]) -> None:
        """Note how far jobs are. See `Store.report_progress`."""
        if rows:
            last = {(id, fence): (fraction, message) for id, fence, fraction, message in rows}
            await self._read(
                "UPDATE {s}.jobs j SET progress = p.fraction, message = p.message FROM (SELECT $2::text) me, "
                "unnest($3::text[], $4::bigint[], $5::float8[], $6::text[]) p(id, fence, fraction, message) "
                "WHERE j.queue = $1::int AND j.id = p.id AND j.fence = p.fence AND j.status = 'running'",
                [id for id, _ in last],
                [fence for _, fence in last],
                [fraction for fraction, _ in last.values()],
                [rows_.plain(message) for _, message in last.values()],
            )

    async def sweep(self, names: Sequence[str]) -> SweepReport:
        """Rescue, end what is late, bring back what was parked, purge. See `Store.sweep`."""
        self._opened()
        side = self._side
        trust = side is not None and bool(side.since) and time.monotonic() - side.since > _SETTLED
        numbers = [0] * 6
        for _ in range(3):
            [part] = await self._read(
                "SELECT * FROM {s}.sweep($1::int, $2::text, $3::text[], $4::float8, $5::float8, $6::bool)",
                list(names),
                *self.keep,
                trust,
            )
            numbers = [one + other for one, other in zip(numbers, part, strict=True)]
            if not part[0]:  # one that rescues does nothing else
                break
        rescued, dead, timed_out, purged, unparked, back = numbers
        if back:
            self._wake_work()
        if rescued or timed_out:
            self._on_wake("finished")  # those may have been our own
        more = max(rescued, timed_out, purged, unparked) >= 1000
        return SweepReport(rescued, dead, timed_out, purged, unparked, more)


_SUBMIT = "SELECT * FROM {s}.submit($1::int, $2::text, " + (
    ", ".join(f"${number}::{kind}" for number, kind in enumerate(rows_.SUBMIT_TYPES, 3)) + ")"
)
_SETTLE = (
    "SELECT * FROM {s}.settle($1::int, $2::text, $3::text[], $4::bigint[], $5::text[], $6::float8[], $7::text[], "
    "$8::text[], $9::text[], $10::bool)"
)


def _nobody(wake: Wake) -> None:
    """Before anybody listens."""


async def _nothing(conn: Any, again: bool) -> None:
    """To be connected is enough."""


async def _ping(conn: Any, again: bool) -> None:
    await conn.fetchval("SELECT 1")
