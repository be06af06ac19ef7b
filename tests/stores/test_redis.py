"""What is the Redis store's own: its server's faults, its settings, its leases, its keys. The rest is elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis_servers import REDIS, VALKEY, Server, shared, why_not

from aiopool.errors import StoreError, StoreUnavailableError
from aiopool.stores._open import open_store
from aiopool.stores._rows import Incarnation, LimitRow, NewJob, Settlement, StoredStatus

if (_why := why_not(VALKEY)) is not None:
    pytest.skip(_why, allow_module_level=True)

from aiopool.stores._redis import Redis
from aiopool.stores._redis_rows import rank

ENGINES = [VALKEY, pytest.param(REDIS, marks=pytest.mark.long)]


def job(id: str, **options: Any) -> NewJob:
    return NewJob(id, "work", "[[],{}]", **options)


def me(runs_jobs: bool = True) -> Incarnation:
    return Incarnation(uuid.uuid4().hex, "host", 1, runs_jobs)


class Opened:
    """Opens stores, and closes them at the end."""

    def __init__(self) -> None:
        self.prefix = f"own-{uuid.uuid4().hex[:8]}"
        self._stores: list[Redis] = []

    async def __call__(self, server: Server, on_wake: Any = lambda kind: None, **options: Any) -> Redis:
        store = Redis(server.url, **{"prefix": self.prefix, "timeout": 2.0, **options})
        await store.open("queue", me(), on_wake)
        self._stores.append(store)
        return store

    async def close(self) -> None:
        for store in self._stores:
            with contextlib.suppress(StoreError):
                await store.close()


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[Opened]:
    made = Opened()
    yield made
    await made.close()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    engine: str = request.param
    if (why := why_not(engine)) is not None:
        pytest.skip(why)
    return engine


@pytest.fixture
def server(engine: str) -> Server:
    """The one that all tests share."""
    return shared(engine)


@pytest.fixture
def own(engine: str) -> Iterator[Server]:
    """One that a test may break."""
    made = Server(engine)
    yield made
    made.remove()


async def again(verb: Any) -> Any:
    """Call a verb until the server can be reached."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await verb()
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_url_has_options():
    """The options of the store stand in its URL, and take effect."""
    store = open_store("redis://host:1234/2?durability=power&lease=30&keep=5&max_payload=10")
    assert (store.durability, store.lease, store.max_payload) == ("power", 30.0, 10)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host?colour=red",
        "redis://host?lease=soon",
        "redis://host?lease=0",
        "redis://host?keep=-1",
        "redis://host?durability=always",
        "redis://host?prefix=a{b",
        "redis:///0",
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url):
    """What is unknown or out of range is refused before anything is connected."""
    with pytest.raises(ValueError):
        open_store(url)


async def test_a_password_is_shown_nowhere(own, opened):
    """Neither the URL nor an error shows it."""
    own.command("CONFIG", "SET", "requirepass", "hush-hush")
    address = own.url.replace("redis://", "redis://:other-word@")
    store = Redis(address)
    assert "other-word" not in store.url
    with pytest.raises(StoreError, match="user or password") as raised:
        await store.open("queue", me(), lambda kind: None)
    assert not isinstance(raised.value, StoreUnavailableError)
    assert "other-word" not in str(raised.value)
    with pytest.raises(ValueError, match="colour") as refused:
        Redis.from_url("redis://u:other-word@host?colour=1")
    assert "other-word" not in str(refused.value)


async def test_a_server_that_is_not_there_is_unavailable():
    """Opening says so, in bounded time."""
    with pytest.raises(StoreUnavailableError):
        await Redis("redis://127.0.0.1:1/0", timeout=1).open("queue", me(), lambda kind: None)


async def test_without_a_file_it_warns_and_says_nothing_survives(own, opened, caplog):
    """A server without an append-only file gets one loud warning, and `durability` tells the truth."""
    own.command("CONFIG", "SET", "appendonly", "no")
    with caplog.at_level(logging.WARNING, "aiopool.store"):
        store = await opened(own)
    assert store.durability == "nothing"
    assert ["appendonly yes" in record.getMessage() for record in caplog.records] == [True]
    assert (await store.facts())["warnings"]


async def test_power_needs_a_file(own, opened):
    """`durability="power"` is refused where nothing gets to the disk."""
    own.command("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(StoreError, match="appendonly yes"):
        await opened(own, durability="power")


async def test_power_waits_for_the_disk(engine, own, opened):
    """With `durability="power"` a flush is on the server's disk, or refused where a server cannot say so."""
    own.command("CONFIG", "SET", "appendfsync", "always")
    if engine == REDIS and "redis_version:7.0" in own.command("INFO", "server").decode():
        with pytest.raises(StoreError, match=r"7\.2"):
            await opened(own, durability="power")
        return
    store = await opened(own, durability="power")
    assert store.durability == "power"
    assert [answer.outcome for answer in await store.submit([job("a")])] == ["queued"]
    assert [answer.outcome for answer in await store.submit([job("a")])] == ["same_id"]
    (claimed,) = (await store.claim(1)).jobs
    assert await store.settle([Settlement("a", claimed.fence, "succeeded")]) == [True]
    assert (await store.facts())["commit_seconds"] > 0


async def test_a_server_that_evicts_is_refused(own, opened):
    """A policy that throws keys away is refused, unless it is allowed."""
    own.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreError, match="noeviction"):
        await opened(own)
    store = await opened(own, allow_eviction=True)
    assert any("allkeys-lru" in warning for warning in (await store.facts())["warnings"])


async def test_what_may_not_be_asked_is_unknown(own, opened):
    """A user who may not read the settings can use the store; what is not known is said to be unknown."""
    own.command("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", "-config", "-info")
    store = Redis(own.url.replace("redis://", "redis://app:word@"))
    await store.open("queue", me(), lambda kind: None)
    try:
        assert store.durability == "unknown"
        assert (await store.statistics()).size is None
        await store.sweep([])
    finally:
        await store.close()


async def test_a_newer_format_is_refused(server, opened):
    """Keys that a newer version wrote are not touched."""
    store = await opened(server)
    server.command("HSET", f"{store._base}:numbers", "format", "99")
    with pytest.raises(StoreError, match="99"):
        await opened(server)


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_all_keys_have_one_tag(server, opened):
    """All keys of a queue share one hash tag, so that they live on one node of a cluster."""
    store = await opened(server)
    await store.submit([job("a", unique="u", lanes=("r",)), job("b", delay=9), job("c", total_timeout=5)])
    await store.claim(2)
    keys = server.command("KEYS", f"*{opened.prefix}*")
    assert keys
    assert all(key.startswith(f"{{{opened.prefix}:queue}}:".encode()) for key in keys)


async def test_nothing_is_left_of_jobs_that_are_forgotten(server, opened):
    """When the history is removed, no key of any job stays, nor of their lanes and names."""
    store = await opened(server)
    for n in range(3):
        await store.submit([job(f"{n}-{i}", unique=f"{n}-{i}", lanes=("r",), queue_timeout=99) for i in range(30)])
    await store.submit([job("late", delay=99), job("odd")])
    await store.cancel(["late"], None)
    while claimed := (await store.claim(10)).jobs:
        await store.settle([Settlement(one.id, one.fence, "succeeded", result="1") for one in claimed])
    assert await store.forget_history(0) == 92
    keys = {key.decode().rpartition("}:")[2] for key in server.command("KEYS", f"*{opened.prefix}*")}
    assert keys == {"numbers", "members", "leases"}


def test_a_rank_sorts_as_its_priority():
    """The bytes of ranks sort as whole numbers of any size do."""
    numbers = [random.Random(7).randint(-(10**size), 10**size) for size in range(60) for _ in range(5)]
    numbers += [0, 1, -1, 9, 10, -9, -10, 2**63, -(2**63), 10**40]
    assert sorted(numbers, key=rank) == sorted(numbers)


async def test_priorities_and_positions_are_exact(server, opened):
    """Neighbouring priorities and positions that no float can hold both of keep their order."""
    store = await opened(server)
    server.command("HSET", f"{store._base}:numbers", "position", str(2**52))
    big = 10**30
    await store.submit([job("c", priority=big + 1), job("a", priority=big), job("b", priority=big)])
    await store.submit([job("z", priority=-big), job("y", priority=-big - 1)])
    claimed = (await store.claim(10)).jobs
    assert [one.id for one in claimed] == ["y", "z", "a", "b", "c"]
    assert claimed[-1].priority == big + 1


async def test_odd_texts_come_back_as_they_are(server, opened):
    """Texts with any characters, lone surrogates too, are kept, and harm no other row."""
    store = await opened(server)
    odd = "\x00\x1f\ud800\u2028/\\\"'{}é😀"
    await store.submit([job(odd, group=odd, unique=odd, metadata=odd), job("plain")])
    assert [one.id for one in (await store.claim(5)).jobs] == [odd, "plain"]
    (found,) = await store.find([odd])
    assert (found.group, found.unique, found.metadata) == (odd, odd, odd)


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_a_cancel_in_the_middle_of_a_call_is_never_swallowed(server, opened):
    """At whichever turn of the loop it comes. With the library's own time limits, Python 3.11 lost every third one."""
    store = await opened(server)
    chance = random.Random(7)
    await store.now()
    for _ in range(500):
        call = asyncio.ensure_future(store.now())
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        if call.cancel():
            await asyncio.wait([call])
            assert call.cancelled()
    assert await store.now() > 0


async def test_a_lease_that_is_over_is_rescued_and_its_owner_learns_it(server, opened):
    """Without heartbeats the jobs go back after a lease; a heartbeat after that says so, and claims get nothing."""
    lost, other = await opened(server, lease=0.3), await opened(server, lease=60)
    keeper = lost.keeper()
    await keeper.open()
    await lost.submit([job("a")])
    (claimed,) = (await lost.claim(1)).jobs
    async with asyncio.timeout(10):
        while not (await other.sweep([])).rescued:
            await asyncio.sleep(0.02)
    assert (await keeper.beat()).alive is False
    await keeper.close()
    assert (await lost.claim(1)).jobs == []
    assert await lost.settle([Settlement("a", claimed.fence, "succeeded")]) == [False]
    assert [one.id for one in (await other.claim(1)).jobs] == ["a"]


async def test_heartbeats_keep_what_is_held(server, opened):
    """While its heart beats nobody takes its jobs, for longer than a lease."""
    store, other = await opened(server, lease=1.0), await opened(server, lease=60)
    keeper = store.keeper()
    await keeper.open()
    await store.submit([job("a")])
    await store.claim(1)
    start = await store.now()
    while await store.now() < start + 1.5:
        assert (await keeper.beat()).alive
        assert (await other.sweep([])).rescued == 0
        await asyncio.sleep(0.05)
    await keeper.close()


async def test_everybody_has_another_lease_after_a_restart(own, opened):
    """While the server was down nobody could live on: after its start the living have time for a heartbeat."""
    store, other = await opened(own, lease=1.5), await opened(own, lease=1.5)
    await store.submit([job("a")])
    (claimed,) = (await store.claim(1)).jobs
    end = await store.now() + 1.6
    own.command("WAITAOF", 1, 0, 2000) if "valkey" in str(own._binary) else await asyncio.sleep(1.1)
    own.kill()
    await asyncio.to_thread(own.start)
    while await again(store.now) < end:
        await asyncio.sleep(0.02)
    report = await again(lambda: other.sweep([]))
    if report.rescued == 0:  # a machine that stands still for a lease is no counter-example
        assert await store.settle([Settlement("a", claimed.fence, "succeeded")]) == [True]


# -- faults ------------------------------------------------------------------------------------------------------------


async def test_acknowledged_jobs_survive_the_death_of_the_server(own, opened):
    """Killed in the middle of the work and started again, the server has each job that was accepted, once."""
    own.command("CONFIG", "SET", "appendfsync", "always")
    store = await opened(own)
    accepted: set[str] = set()
    done: set[str] = set()

    async def produce() -> None:
        for n in range(40):
            rows = [job(f"{n}-{i}") for i in range(25)]
            answers = await again(lambda rows=rows: store.submit(rows))
            accepted.update(answer.id for answer in answers)

    async def work() -> None:
        async with asyncio.timeout(60):
            while len(done) < 1000:
                await again(lambda: store.claim(50))
                for id, fence in await again(store.owned):
                    await again(lambda id=id, fence=fence: store.settle([Settlement(id, fence, "succeeded")]))
                    done.add(id)

    async def break_it() -> None:
        for _ in range(2):
            while len(done) < 100:
                await asyncio.sleep(0.01)
            own.kill()
            await asyncio.to_thread(own.start)

    await asyncio.gather(produce(), work(), break_it())
    statistics = await store.statistics()
    assert len(accepted) == 1000
    assert statistics.ended[StoredStatus.SUCCEEDED] == 1000
    assert sum(statistics.live.values()) == 0


class Deaf:
    """Stands between a store and its server, and can lose an answer: the server has done it, and nobody hears of it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lose = False

    async def __aenter__(self) -> Deaf:
        self._proxy = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._proxy.close()

    def lose_one(self) -> None:
        self._lose = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
        deaf = False

        async def ask() -> None:
            nonlocal deaf
            while data := await reader.read(65536):
                if self._lose and b"EVALSHA" in data:
                    self._lose, deaf = False, True
                to_server.write(data)
            to_server.close()

        async def answer() -> None:
            while (data := await there.read(65536)) and not deaf:
                writer.write(data)
            writer.close()

        await asyncio.gather(ask(), answer(), return_exceptions=True)


async def test_an_end_whose_answer_was_lost_is_known_when_it_is_sent_again(server, opened):
    """Settlements that were carried out though nobody heard of it are done, not lost; those of others are not."""
    async with Deaf(server) as deaf:
        store = await opened(server)
        through = Redis(deaf.url, prefix=opened.prefix, timeout=5.0)
        await through.open("queue", me(), lambda kind: None)
        await through.submit([job("a"), job("b"), job("c")])
        a, b, c = (await through.claim(3)).jobs
        ends = [
            Settlement("a", a.fence, "succeeded", result="1"),
            Settlement("b", b.fence, "retry", error="{}"),
            Settlement("c", c.fence + 1, "succeeded", result="1"),
        ]
        assert await store.settle(ends[2:]) == [False]  # the server has the script by now
        deaf.lose_one()
        with pytest.raises(StoreUnavailableError):
            await through.settle(ends)
        assert (await store.statistics()).ended[StoredStatus.SUCCEEDED] == 1
        assert await again(lambda: through.settle(ends)) == [True, True, False]
        assert await through.settle(ends) == [False, False, False]
        assert (await store.find(["b"]))[0].attempt == 1
        await through.close()


async def test_hints_come_back_after_a_restart(own, opened):
    """The line of the hints is connected anew, and whoever waits is told to look."""
    hints: asyncio.Queue[str] = asyncio.Queue()
    await opened(own, on_wake=hints.put_nowait)
    own.kill()
    await asyncio.to_thread(own.start)
    async with asyncio.timeout(20):
        assert {await hints.get() for _ in range(3)} == {"work", "finished", "cancel"}
    other = await opened(own)
    await other.submit([job("a")])
    async with asyncio.timeout(20):
        assert await hints.get() == "work"


async def test_flushed_scripts_are_sent_again(server, opened):
    """A server that has forgotten its scripts gets them again."""
    store = await opened(server)
    server.command("SCRIPT", "FLUSH")
    assert [answer.outcome for answer in await store.submit([job("a")])] == ["queued"]
    server.command("SCRIPT", "FLUSH")
    assert [one.id for one in (await store.claim(1)).jobs] == ["a"]


async def test_a_paused_server_hangs_nobody(own, opened):
    """A server that answers nothing makes a verb raise in bounded time; sent again, it has the effect of once."""
    store = await opened(own, timeout=0.3)
    own.command("CLIENT", "PAUSE", 1500, "ALL")
    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailableError):
            await store.submit([job("a")])
    outcome = (await again(lambda: store.submit([job("a")])))[0].outcome
    assert outcome in ("queued", "same_id")
    assert len((await store.claim(10)).jobs) == 1


async def test_dropped_connections_do_no_harm(own, opened):
    """Connections that are cut in the middle of the work cost time, and no job."""
    store = await opened(own)
    cutting = True

    async def cut() -> None:
        while cutting:
            await asyncio.to_thread(own.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.005)

    cutter = asyncio.create_task(cut())
    for n in range(60):
        rows = [job(f"{n}-{i}") for i in range(5)]
        await again(lambda rows=rows: store.submit(rows))
    cutting = False
    await cutter
    await again(lambda: store.claim(0))
    assert (await again(store.statistics)).live[StoredStatus.QUEUED] == 300


async def test_a_full_memory_refuses_new_jobs_and_lets_the_others_end(own, opened):
    """With `maxmemory` reached a submission is refused, nothing of it is there, and what is there is worked off."""
    store = await opened(own)
    await store.submit([job("a", unique="u"), job("b")])
    own.command("CONFIG", "SET", "maxmemory", "1000000")
    with pytest.raises(StoreUnavailableError):
        await store.submit([job("c", unique="v", tick=("s", 5.0)), job("d")])
    assert await store.find(["c", "d"]) == []
    assert await store.owned() == []
    claimed = (await store.claim(10)).jobs
    assert [one.id for one in claimed] == ["a", "b"]
    assert await store.settle([Settlement(one.id, one.fence, "succeeded", result="1") for one in claimed]) == [True] * 2
    own.command("CONFIG", "SET", "maxmemory", "0")
    assert [one.outcome for one in await store.submit([job("c", unique="v", tick=("s", 5.0))])] == ["queued"]


async def test_a_replica_is_unavailable(own, opened, engine):
    """A server that became a replica takes nothing, and says so as something that passes."""
    store = await opened(own)
    own.command("REPLICAOF", "127.0.0.1", "1")
    for verb in (lambda: store.submit([job("a")]), lambda: store.claim(1), lambda: store.sweep([])):
        with pytest.raises(StoreUnavailableError):
            await verb()
    own.command("REPLICAOF", "NO", "ONE")
    assert [one.outcome for one in await again(lambda: store.submit([job("a")]))] == ["queued"]


async def test_a_cancelled_verb_leaves_the_connection_usable(server, opened):
    """A verb that is cancelled may have been carried out; those after it get their own answers."""
    store = await opened(server)
    for n in range(30):
        task = asyncio.create_task(store.submit([job(f"{n}")]))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [answer.id for answer in await store.submit([job(f"{n}")])] == [f"{n}"]
    claimed = (await store.claim(100)).jobs
    assert sorted(one.id for one in claimed) == sorted(str(n) for n in range(30))


async def test_many_claim_at_once_and_each_job_has_one_owner(server, opened):
    """Claims of several incarnations at the same moment share the jobs; no lane has more than its rule."""
    stores = [await opened(server) for _ in range(4)]
    await stores[0].set_limits([LimitRow("r", 7, None, 1)])
    await stores[0].submit([job(f"{n}", lanes=("r",) if n % 2 else ()) for n in range(400)])
    seen: list[str] = []
    running = 0

    async def work(store: Redis) -> None:
        nonlocal running
        while len(seen) < 400:
            claimed = (await store.claim(5)).jobs
            mine = sum(int(one.id) % 2 for one in claimed)
            running += mine
            assert running <= 7
            seen.extend(one.id for one in claimed)
            running -= mine
            await store.settle([Settlement(one.id, one.fence, "succeeded") for one in claimed])

    async with asyncio.timeout(30):
        await asyncio.gather(*[work(store) for store in stores])
    assert sorted(seen, key=int) == [str(n) for n in range(400)]


async def test_facts_say_what_the_server_is(server, opened, engine):
    """An operator sees the engine, its persistence, its memory, and how long an answer takes."""
    facts = await (await opened(server)).facts()
    assert facts["engine"] == engine
    assert (facts["appendonly"], facts["appendfsync"], facts["durability"]) == (True, "everysec", "process")
    assert facts["maxmemory_policy"] == "noeviction"
    assert facts["role"] == "master"
    assert facts["round_trip_seconds"] > 0
    assert facts["warnings"] == []
