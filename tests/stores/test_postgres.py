"""What is PostgreSQL's own: the caller's transaction, migrations, connections that break, deaths that are noticed.

Each test runs on the server of a package, and, marked `long`, on the machine's own, which may be stopped as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fleet import jobs
from pg_server import machine_server, package_server, why_not_machine, why_not_package

from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores import _postgres_link, _postgres_rows, _postgres_schema
from aiopool.stores._open import open_store
from aiopool.stores._rows import Incarnation, LimitRow, Settlement, StoredStatus
from aiopool.testing import wait_until

asyncpg = pytest.importorskip("asyncpg")
from aiopool.stores._postgres import Postgres  # noqa: E402 (it needs asyncpg)


@pytest.fixture(params=["package", pytest.param("machine", marks=pytest.mark.long)])
def url(request: pytest.FixtureRequest) -> str:
    """A server."""
    why_not = why_not_package if request.param == "package" else why_not_machine
    if (why := why_not()) is not None:
        pytest.skip(why)
    return package_server() if request.param == "package" else machine_server().url


@pytest_asyncio.fixture
async def admin(url: str) -> AsyncIterator[Any]:
    """A connection of the test's own."""
    conn = await asyncpg.connect(url)
    yield conn
    await conn.close()


@pytest_asyncio.fixture
async def schema(admin: Any) -> AsyncIterator[str]:
    """The name of a schema that is removed at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    await admin.execute(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {name} CASCADE")


class Opened:
    """Stores that are open."""

    def __init__(self, url: str, schema: str) -> None:
        self.url, self.schema = url, schema
        self.wakes: list[str] = []
        self._stack = contextlib.AsyncExitStack()

    async def __call__(self, *, keeper: bool = False, runs_jobs: bool = True, **options: Any) -> Postgres:
        store = Postgres(options.pop("url", self.url), schema=self.schema, **options)
        await store.open("q", Incarnation(uuid.uuid4().hex, "host", os.getpid(), runs_jobs), self.wakes.append)
        self._stack.push_async_callback(store.close)
        if keeper:
            kept = store.keeper()
            await kept.open()
            self._stack.push_async_callback(kept.close)
        return store

    async def close(self) -> None:
        await self._stack.aclose()


@pytest_asyncio.fixture
async def opened(url: str, schema: str) -> AsyncIterator[Opened]:
    """Opens stores in one schema, and closes them."""
    made = Opened(url, schema)
    yield made
    await made.close()


def mine(store: Postgres, *ids: str, **options: Any) -> list[Any]:
    return [job._replace(submitter=store._opened().id) for job in jobs(*ids, **options)]


# -- URLs --------------------------------------------------------------------------------------------------------------


def test_a_url_has_options_of_ours_and_of_the_driver() -> None:
    """Options of ours are taken out of the query, the others go on; a password is shown nowhere."""
    store = open_store("postgresql://me:secret@h:5433/db?schema=mine&lease=9&sslmode=disable&keep=5")
    assert isinstance(store, Postgres)
    assert store.lease == 9.0
    assert store._target.dsn == "postgresql://me:secret@h:5433/db?sslmode=disable"
    assert store.url == "postgresql://me@h:5433/db?schema=mine"


@pytest.mark.parametrize("query", ["lease=x", "lease=0", "schema=A-b", "durability=ram", "keep=-1", "pooler=2"])
def test_an_option_that_cannot_be_is_refused(query: str) -> None:
    """A value that an option cannot have is refused before anything is connected, without the password."""
    with pytest.raises(ValueError) as caught:
        open_store(f"postgresql://me:secret@h/db?{query}")
    assert "secret" not in str(caught.value)


@pytest.mark.long
async def test_nobody_there() -> None:
    """A server that cannot be reached is unavailable, and says so in bounded time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        store = Postgres(f"postgresql://me:secret@127.0.0.1:{probe.getsockname()[1]}/db")
        with pytest.raises(StoreUnavailableError) as caught:
            await asyncio.wait_for(store.open("q", Incarnation("i", "h", 1, True), lambda wake: None), 20)
    assert "secret" not in str(caught.value)


# -- migrations --------------------------------------------------------------------------------------------------------


async def test_many_open_new_tables_at_once(opened: Opened, admin: Any, schema: str) -> None:
    """Processes that open a new database at once do not meet: one makes the tables."""
    await asyncio.gather(*[opened() for _ in range(6)])
    assert await admin.fetchval(f"SELECT count(*) FROM {schema}.migrations") == _postgres_schema.VERSION


async def test_newer_tables_are_refused(opened: Opened, admin: Any, schema: str) -> None:
    """Tables that need a newer aiopool are refused; newer ones that this one can use are used."""
    await opened()
    await admin.execute(f"INSERT INTO {schema}.migrations VALUES (998, {_postgres_schema.VERSION})")
    await opened()
    await admin.execute(f"INSERT INTO {schema}.migrations VALUES (999, 999)")
    with pytest.raises(StoreError, match="upgrade aiopool"):
        await opened()


# -- the transaction of the caller -------------------------------------------------------------------------------------


async def test_within_a_transaction_of_asyncpg(opened: Opened, admin: Any) -> None:
    """Jobs become true with the transaction in which they were submitted, or not at all; their ids are known before."""
    store = await opened()
    with contextlib.suppress(ZeroDivisionError):
        async with admin.transaction():
            assert (await store.submit(mine(store, "no"), within=admin))[0].outcome == "queued"
            raise ZeroDivisionError
    async with admin.transaction():
        await store.submit(mine(store, "yes"), within=admin)
        assert (await store.claim(10)).jobs == []
    assert [job.id for job in (await store.claim(10)).jobs] == ["yes"]


async def test_within_a_transaction_of_psycopg(opened: Opened, url: str) -> None:
    """The same through a connection of psycopg."""
    psycopg = pytest.importorskip("psycopg")
    store = await opened()
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await store.submit(mine(store, "no", lanes=("a", "b")), within=conn)
        await conn.rollback()
        await store.submit(mine(store, "yes", lanes=("a", "b"), metadata="{}"), within=conn)
        assert (await store.claim(10)).jobs == []
        await conn.commit()
    assert [job.id for job in (await store.claim(10)).jobs] == ["yes"]


@pytest.mark.parametrize("dialect", ["asyncpg", "psycopg"])
async def test_within_a_transaction_of_sqlalchemy(opened: Opened, url: str, dialect: str) -> None:
    """The same through connections and sessions of SQLAlchemy."""
    sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio")
    pytest.importorskip(dialect)
    store = await opened()
    engine = sqlalchemy.create_async_engine(url.replace("postgresql://", f"postgresql+{dialect}://"))
    try:
        async with engine.connect() as conn:
            await store.submit(mine(store, "no"), within=conn)
            await conn.rollback()
            await store.submit(mine(store, "one"), within=conn)
            assert (await store.claim(10)).jobs == []
            await conn.commit()
        async with sqlalchemy.AsyncSession(engine) as session:
            await store.submit(mine(store, "no"), within=session)
            await session.rollback()
            await store.submit(mine(store, "two"), within=session)
            await session.commit()
    finally:
        await engine.dispose()
    assert [job.id for job in (await store.claim(10)).jobs] == ["one", "two"]


async def test_within_something_else(opened: Opened) -> None:
    """What is no connection is refused, with what would be one."""
    store = await opened()
    with pytest.raises(TypeError, match=r"asyncpg\.Connection"):
        await store.submit(mine(store, "a"), within=object())


async def test_within_a_transaction_that_failed(opened: Opened, admin: Any) -> None:
    """A transaction that has failed before is named as the reason."""
    store = await opened()
    transaction = admin.transaction()
    await transaction.start()
    with contextlib.suppress(asyncpg.PostgresError):
        await admin.execute("SELECT 1/0")
    with pytest.raises(StoreError, match="roll it back"):
        await store.submit(mine(store, "a"), within=admin)
    await transaction.rollback()


# -- connections that break --------------------------------------------------------------------------------------------


async def _end_backends(admin: Any) -> None:
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'aiopool' AND datname = current_database()"
    )


async def test_verbs_go_on_after_their_connections_were_ended(opened: Opened, admin: Any) -> None:
    """Each verb connects anew when its connection was ended, and hints come again."""
    store, other = await opened(), await opened()
    await _end_backends(admin)
    await store.submit(mine(store, "a"))
    await _end_backends(admin)
    (job,) = (await store.claim(1)).jobs
    await _end_backends(admin)
    assert await store.settle([Settlement(job.id, job.fence, "succeeded", result="1")]) == [True]
    assert [end.result for end in await store.finished(["a"])] == ["1"]
    await other.sweep([])
    opened.wakes.clear()
    await store.submit(mine(store, "b"))
    await wait_until(lambda: "work" in opened.wakes)


async def test_an_answer_that_was_lost(opened: Opened) -> None:
    """A settlement whose answer was lost is sent again, and is known as done."""
    store = await opened()
    await store.submit(mine(store, "a"))
    (job,) = (await store.claim(1)).jobs
    link: Any = store._work
    conn: Any = link._conn
    fetchrow = conn.fetchrow

    async def lost(*args: Any) -> Any:
        await fetchrow(*args)
        conn.terminate()
        raise ConnectionResetError("the answer was lost")

    link._conn = _Proxy(conn, fetchrow=lost)
    assert await store.settle([Settlement(job.id, job.fence, "succeeded")]) == [True]
    assert await store.settle([Settlement(job.id, job.fence, "succeeded")]) == [False]


async def test_a_submission_whose_answer_was_lost(opened: Opened) -> None:
    """It is sent again, and is taken: it is not told that its id is taken, which only it has."""
    store = await opened()
    link: Any = store._write
    conn: Any = link._conn
    fetch = conn.fetch

    async def lost(*args: Any) -> Any:
        await fetch(*args)
        conn.terminate()
        raise ConnectionResetError("the answer was lost")

    link._conn = _Proxy(conn, fetch=lost)
    assert [answer.outcome for answer in await store.submit(mine(store, "a", "b"))] == ["queued", "queued"]
    assert [answer.outcome for answer in await store.submit(mine(store, "a"))] == ["same_id"]
    assert [job.id for job in (await store.claim(5)).jobs] == ["a", "b"]


class _Proxy:
    """A connection of which one call does not answer."""

    def __init__(self, conn: Any, **calls: Any) -> None:
        self._conn = conn
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


@pytest.mark.long
async def test_a_restart_of_the_server() -> None:
    """After an immediate stop and a start every verb goes on, what was accepted is there, and nobody was rescued."""
    if (why := why_not_machine()) is not None:
        pytest.skip(why)
    server = machine_server()
    opened = Opened(server.url, f"test_{uuid.uuid4().hex[:12]}")
    store, other = await opened(keeper=True), await opened(keeper=True)
    await store.submit(mine(store, "running", "waiting"))
    (job,) = (await store.claim(1)).jobs
    await asyncio.to_thread(server.stop)
    submitting = asyncio.create_task(store.submit(mine(store, "new")))
    with pytest.raises(StoreUnavailableError):
        await other._side.call(_select, patience=0.5)  # type: ignore[union-attr]
    await asyncio.to_thread(server.start)
    assert [answer.outcome for answer in await submitting] == ["queued"]
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        assert (await other.sweep([])).rescued == 0
        await asyncio.sleep(0.1)
    assert await store.owned() == [(job.id, job.fence)]
    assert await store.settle([Settlement(job.id, job.fence, "succeeded")]) == [True]
    assert [job.id for job in (await other.claim(10)).jobs] == ["waiting", "new"]
    await opened.close()


async def _select(conn: Any, again: bool) -> None:
    await conn.fetchval("SELECT 1")


@pytest.mark.long
async def test_a_lock_that_somebody_holds(opened: Opened, admin: Any, schema: str) -> None:
    """A verb that waits for a lock of somebody else's gives up in bounded time; sent again, it goes through."""
    store = await opened()
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {schema}.jobs")
        with pytest.raises(StoreUnavailableError):
            await asyncio.wait_for(store.submit(mine(store, "a")), 15)
    assert [answer.outcome for answer in await store.submit(mine(store, "a"))] == ["queued"]


async def test_a_statement_timeout(opened: Opened) -> None:
    """A timeout of the server's is `StoreUnavailableError`, and the connection is good afterwards."""
    store = await opened()
    link: Any = store._work

    async def slow(conn: Any, again: bool) -> None:
        await conn.execute("SET LOCAL statement_timeout = 10; SELECT pg_sleep(5)")

    with pytest.raises(StoreUnavailableError):
        await link.call(slow)
    assert (await store.claim(1)).jobs == []


async def test_tables_that_were_removed(opened: Opened, admin: Any, schema: str) -> None:
    """Tables that somebody has removed are not made again behind anybody's back."""
    store = await opened()
    await admin.execute(f"SET client_min_messages = error; DROP SCHEMA {schema} CASCADE")
    with pytest.raises(StoreError, match="open the store again") as caught:
        await store.claim(1)
    assert not isinstance(caught.value, StoreUnavailableError)


# -- who is dead -------------------------------------------------------------------------------------------------------

_CHILD = """
import asyncio, sys
from aiopool.stores._postgres import Postgres
from aiopool.stores._rows import Incarnation

async def main():
    store = Postgres(sys.argv[1], schema=sys.argv[2])
    await store.open("q", Incarnation("child", "host", 1, True), lambda wake: None)
    keeper = store.keeper()
    await keeper.open()
    claim = await store.claim(2)
    print(",".join(job.id for job in claim.jobs), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.long
async def test_a_killed_process_is_noticed(opened: Opened, url: str, schema: str) -> None:
    """The jobs of a process that was killed go on long before its lease is over; those of the living stay."""
    store = await opened(keeper=True)
    await store.submit(mine(store, "a", "b", "c"))
    (kept,) = (await store.claim(1)).jobs
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(_CHILD), url, schema, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert (await child.stdout.readline()).decode().strip() == "b,c"
    await wait_until(lambda: store._side is not None and time.monotonic() - store._side.since > 2.1, timeout=10)
    assert (await store.sweep([])).rescued == 0
    child.send_signal(signal.SIGKILL)
    await child.wait()
    async with asyncio.timeout(20):
        while (await store.sweep([])).rescued != 2:
            await asyncio.sleep(0.1)
    assert [(job.id, job.crashes) for job in (await store.claim(10)).jobs] == [("b", 1), ("c", 1)]
    assert await store.owned() != []
    assert kept.id in [id for id, _ in await store.owned()]


@pytest.mark.long
async def test_a_keeper_whose_connection_was_ended_is_alive(opened: Opened, admin: Any) -> None:
    """A keeper that loses its connection connects anew before anybody takes its incarnation for dead."""
    store, other = await opened(keeper=True), await opened(keeper=True)
    await store.submit(mine(store, "a"))
    assert len((await store.claim(1)).jobs) == 1
    await wait_until(lambda: other._side is not None and time.monotonic() - other._side.since > 2.1, timeout=10)
    for _ in range(3):
        await admin.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1"
        )
        for _ in range(10):
            assert (await other.sweep([])).rescued == 0
            await asyncio.sleep(0.1)
    assert len(await store.owned()) == 1


async def test_whoever_was_rescued_learns_it(opened: Opened, admin: Any, schema: str) -> None:
    """An incarnation whose lease was lost hears of it at the next beat, and gets no more jobs."""
    store, other = await opened(), await opened()
    keeper = store.keeper()
    await keeper.open()
    assert (await keeper.beat()).alive
    await store.submit(mine(store, "a", "b"))
    assert len((await store.claim(1)).jobs) == 1
    await admin.execute(f"UPDATE {schema}.workers SET lease_until = 0 WHERE id = $1", store._opened().id)
    assert (await other.sweep([])).rescued == 1
    assert not (await keeper.beat()).alive
    assert (await store.claim(5)).jobs == []
    assert [job.id for job in (await other.claim(5)).jobs] == ["a", "b"]
    await keeper.close()


# -- batches and moves -------------------------------------------------------------------------------------------------


async def test_a_batch_is_not_larger_than_a_server_takes(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with more text than one call may have is sent in parts, with the same answers in the same order."""
    monkeypatch.setattr(_postgres_rows, "_MOST_TEXT", 100)
    store = await opened()
    batch = [job._replace(payload="x" * 60) for job in mine(store, *"abcde")]
    assert [answer.id for answer in await store.submit(batch)] == list("abcde")
    assert [job.id for job in (await store.claim(5)).jobs] == list("abcde")
    ends = [Settlement(id, 1, "succeeded", result="y" * 60) for id in "edcba"]
    assert await store.settle([*ends, Settlement("x", 1, "failed")]) == [True] * 5 + [False]


async def test_what_somebody_says_harms_no_other_row(opened: Opened) -> None:
    """Words that the server cannot keep, a NUL or half a character, are kept as well as can be."""
    store = await opened()
    await store.submit(mine(store, "a", "b"))
    a, b = (await store.claim(2)).jobs
    await store.report_progress([("a", a.fence, 0.5, "\0\ud800"), ("b", b.fence, 0.5, "half")])
    assert [job.progress for job in sorted(await store.find(["a", "b"]))] == [(0.5, "\ufffd\ufffd"), (0.5, "half")]
    ends = [Settlement("a", a.fence, "cancelled", reason="\0"), Settlement("b", b.fence, "cancelled", reason="ü🎉")]
    assert await store.settle(ends) == [True, True]
    assert {end.reason for end in await store.finished(["a", "b"])} == {"\ufffd", "ü🎉"}
    await store.submit(mine(store, "c"))
    await store.cancel(["c"], "\ud800\0")


async def test_positions_never_go_back(opened: Opened) -> None:
    """What arrives from another store, whatever its place, leaves what is submitted at the same time in order."""
    store, other = await opened(), await opened()
    await store.submit(mine(store, *[f"old{number}" for number in range(20)]))
    moving = await store.export(20)
    await store.forget_moved([job.id for job in moving])
    far = [job._replace(position=job.position + 1000 * number) for number, job in enumerate(moving)]

    async def produce() -> list[int]:
        for number in range(20):
            await store.submit(mine(store, f"new{number}"))
        return [job.position for job in await store.find([f"new{number}" for number in range(20)])]

    async def arrive() -> None:
        for job in reversed(far):
            await other.restore([job])

    new, _ = await asyncio.gather(produce(), arrive())
    assert len(set(new)) == 20
    found = {job.id: job.position for job in await store.find([f"new{number}" for number in range(20)])}
    assert sorted(found, key=found.__getitem__) == [f"new{number}" for number in range(20)]
    await store.submit(mine(store, "last"))
    [last] = await store.find(["last"])
    assert last.position > max(job.position for job in far)


async def test_a_job_arrives_while_its_unique_is_being_taken(opened: Opened, admin: Any) -> None:
    """A job is not lost on its way if a transaction that takes its `unique` commits meanwhile: it comes without it."""
    store, other = await opened(), await opened()
    await store.submit(mine(store, "moved", unique="u"))
    [job] = await store.export(5)
    await store.forget_moved(["moved"])
    async with admin.transaction():
        await store.submit(mine(store, "here", unique="u"), within=admin)
        arriving = asyncio.create_task(other.restore([job]))
        waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        while not await admin.fetchval(waits):
            await asyncio.sleep(0.01)
    await arriving
    assert {job.id: job.unique for job in await store.find(["moved", "here"])} == {"moved": None, "here": "u"}


async def test_a_job_that_was_put_back_may_wait_as_long_as_at_first(opened: Opened) -> None:
    """A retry in between takes nothing from the time for which a job may wait once it is put back."""
    store = await opened()
    await store.submit(mine(store, "a", queue_timeout=100.0))
    [job] = (await store.claim(1)).jobs
    await store.settle([Settlement("a", job.fence, "retry", 50.0)])
    await store.cancel(["a"], None)
    assert await store.requeue(["a"], None) == 1
    [row] = await store.find(["a"])
    assert row.queue_until is not None
    assert row.queue_until - row.created_at == pytest.approx(100.0, abs=0.01)


async def test_pages_of_jobs_with_many_priorities(opened: Opened) -> None:
    """Live jobs of all kinds come in pages, the newest first, whatever their priorities are."""
    store = await opened()
    for number in range(30):
        delay = 100.0 if number % 7 == 0 else 0.0
        await store.submit(mine(store, f"{number:02}", priority=number * 5 % 9, delay=delay, name="fg"[number % 2]))
    running = [job.id for job in (await store.claim(4)).jobs]
    expected = [f"{number:02}" for number in reversed(range(30))]

    async def pages(**options: Any) -> list[str]:
        seen: list[str] = []
        cursor = None
        while True:
            page, cursor = await store.page(limit=4, cursor=cursor, **options)
            seen += [job.id for job in page]
            if cursor is None:
                return seen

    assert await pages() == expected
    assert await pages(name="f") == expected[1::2]
    late = [id for id in expected if int(id) % 7 == 0]
    assert await pages(status=StoredStatus.SCHEDULED) == late
    assert await pages(status=StoredStatus.RUNNING) == sorted(running, reverse=True)
    assert await pages(status=StoredStatus.QUEUED) == [id for id in expected if id not in {*late, *running}]
    assert await pages(status=StoredStatus.MOVING) == []


async def test_nobody_waits_in_a_circle(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who claim jobs of many lanes, with rates that open and several lanes to a job, meet no deadlock."""
    stores = [await opened() for _ in range(4)]
    await stores[0].set_limits([LimitRow("rate", None, 50.0, 2), LimitRow("few", 2, None, 1)])
    lanes = [f"rate\x1f{number}" for number in range(60)] + [f"few\x1f{number}" for number in range(20)]
    for part in range(6):
        batch = mine(stores[0], *[f"{part}-{number}" for number in range(100)])
        await stores[0].submit(
            [
                job._replace(lanes=tuple(lanes[(number * step + part) % 80] for step in (7, 31, 53)[: 1 + number % 3]))
                for number, job in enumerate(batch)
            ]
        )
    states: list[str] = []
    state = _postgres_link._state
    monkeypatch.setattr(_postgres_link, "_state", lambda error: states.append(state(error)) or state(error))
    ended: set[str] = set()

    async def work(store: Postgres) -> None:
        while len(ended) < 600:
            claimed = (await store.claim(30)).jobs
            assert await store.settle([Settlement(job.id, job.fence, "succeeded") for job in claimed]) == [True] * len(
                claimed
            )
            assert not ended & {job.id for job in claimed}
            ended.update(job.id for job in claimed)
            if not claimed:
                await asyncio.sleep(0.02)

    await asyncio.gather(*[work(store) for store in stores])
    assert states == []


# -- what a doctor asks, and poolers -----------------------------------------------------------------------------------


async def test_facts(opened: Opened, admin: Any, url: str) -> None:
    """The facts name the version and the time of a commit, and warn of a snapshot that has been open for long."""
    facts = await (await opened()).facts()
    assert facts["engine"] == "postgresql"
    assert facts["commit_seconds"] > 0
    assert facts["pooler"] is False
    assert facts["warnings"] == []


@pytest_asyncio.fixture
async def pooler(url: str, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of pgbouncer in transaction mode, before the server."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("the machine has no pgbouncer")
    from urllib.parse import parse_qs, urlsplit

    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npostgres = host={host} port={parts.port or 5432} user=postgres\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\n"
    )
    # Nobody runs it as root; and who owns the directory of the server's socket may look into it.
    owner = os.stat(host).st_uid if host.startswith("/") else pwd.getpwnam("nobody").pw_uid
    user = {"user": owner} if os.getuid() == 0 else {}
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    log = tmp_path / "pgbouncer.log"
    with log.open("w") as output:
        process = subprocess.Popen([program, str(settings)], **user, stdout=output, stderr=output)  # type: ignore[call-overload]
    pooled = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        try:
            async with asyncio.timeout(60):
                while True:
                    if process.poll() is not None:
                        pytest.skip(f"pgbouncer does not start here: {log.read_text()[-500:]}")
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        await writer.wait_closed()
                        break
                    await asyncio.sleep(0.05)
                # It takes connections before it has got one of the server's, and tells what it lacks only then.
                conn = await asyncpg.connect(pooled, statement_cache_size=0)
                await conn.close()
        except (TimeoutError, asyncpg.PostgresError, OSError) as error:
            pytest.skip(f"pgbouncer gives no connection here ({error!r}): {log.read_text()[-500:]}")
        yield pooled
    finally:
        process.kill()
        process.wait()


async def test_behind_a_pooler(pooler: str, opened: Opened) -> None:
    """A pooler in transaction mode is found out; all verbs work, jobs are in order, and the facts say what it costs."""
    store, direct = await opened(url=pooler, keeper=True), await opened()
    assert store._target.pooler is True
    for turn in range(8):  # more often than a statement is sent before it is prepared
        await store.submit(mine(store, f"{turn}a", f"{turn}b"))
        claimed = (await store.claim(2)).jobs
        assert [job.id for job in claimed] == [f"{turn}a", f"{turn}b"]
        assert await store.settle([Settlement(job.id, job.fence, "succeeded") for job in claimed]) == [True, True]
        await store.sweep([])
    assert (await direct.sweep([])).rescued == 0
    assert any("pooler" in text for text in (await store.facts())["warnings"])
