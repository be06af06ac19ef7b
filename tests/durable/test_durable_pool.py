"""A pool with a store: what works in memory works here, and the jobs are there for every pool of the fleet."""

import asyncio
import dataclasses
import datetime
import enum
import uuid

import process_jobs
import pytest

import aiopool
import aiopool.layers
from aiopool import (
    Handlers,
    JobCancelledError,
    JobTimeoutError,
    Limit,
    Pool,
    PoolClosedError,
    Retry,
    RetryAfter,
    current_job,
)
from aiopool.errors import JobDeadError, PayloadError, RecordedError, StoreError, UnknownJobError
from aiopool.stores import Incarnation, StoredStatus
from aiopool.testing import wait_until

handlers = Handlers()
calls = []
gates = {}


@pytest.fixture(autouse=True)
def clean():
    calls.clear()
    gates.clear()


def gate(name="gate"):
    return gates.setdefault(name, asyncio.Event())


@handlers.register("add")
async def add(a: int, b: int = 1) -> int:
    calls.append((a, b))
    return a + b


@handlers.register("wait")
async def wait(name: str = "gate") -> str:
    calls.append(name)
    try:
        await gate(name).wait()
    except asyncio.CancelledError:
        calls.append(f"cancelled {name}")
        raise
    return name


@handlers.register("flaky", retry=Retry(attempts=3, delay=0, jitter=0))
async def flaky(failures: int) -> int:
    calls.append(current_job().attempt)
    if current_job().attempt <= failures:
        raise ValueError(f"attempt {current_job().attempt}")
    return current_job().attempt


@handlers.register("fail")
async def fail(text: str) -> None:
    raise KeyError(text)


class OurError(Exception):
    """An error of the program's own."""


@handlers.register("fail_our_way")
async def fail_our_way() -> None:
    raise OurError("by design")


@handlers.register("note")
async def note(text: str) -> None:
    calls.append(text)


@handlers.register("about")
async def about() -> dict:
    job = current_job()
    return {
        "id": job.id,
        "key": job.key,
        "group": job.group,
        "metadata": dict(job.metadata),
        "parent": job.parent,
        "idempotency_key": job.idempotency_key,
        "priority": job.priority,
    }


@handlers.register("plain")
def plain(text: str) -> str:
    return text.upper()


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    number: uuid.UUID
    lines: list[tuple[str, int]]
    at: datetime.datetime
    colour: Colour = Colour.RED


@handlers.register("typed")
async def typed(order: Order, data: bytes, *rest: int, **names: float) -> tuple[Order, bytes, tuple[int, ...], float]:
    assert isinstance(order, Order)
    assert isinstance(order.colour, Colour)
    return order, data[::-1], rest, sum(names.values())


@handlers.register("nest")
async def nest(depth: int) -> int:
    if depth == 0:
        return 0
    return 1 + await nest_in(depth - 1)


pools = {}


async def nest_in(depth):
    return await pools["pool"].run(nest, depth)


# -- the way of a job --------------------------------------------------------------------------------------------------


async def test_a_job_is_submitted_run_and_awaited(new_pool):
    """`submit` returns a job that is committed; awaiting it gives the result, as in memory."""
    async with new_pool(handlers) as pool:
        job = await pool.submit(add, 2, b=3)
        assert isinstance(job.id, str)
        assert await job == 5
        assert (job.status, job.attempt, job.done(), job.result()) == ("succeeded", 1, True, 5)
        assert await pool.run(add, 1) == 2
        outcome = job.outcome()
        assert (outcome.ok, outcome.value, outcome.name) == (True, 5, "add")


async def test_a_result_is_what_every_process_gets(new_pool):
    """Arguments and results go through JSON and come back as they are annotated, also in the process that ran it."""
    order = Order(uuid.uuid4(), [("nut", 3)], datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC))
    async with new_pool(handlers) as pool:
        found = await pool.run(typed, order, b"\xff\x00\x01", 1, 2, x=1.5, y=float("inf"))
        assert found == (order, b"\x01\x00\xff", (1, 2), float("inf"))
        assert found[0] is not order


async def test_a_plain_function_runs_in_a_thread(new_pool):
    """As in memory."""
    async with new_pool(handlers) as pool:
        assert await pool.run(plain, "text") == "TEXT"


async def test_producer_and_worker_are_two_pools(new_pool):
    """A producer runs nothing; a worker of the same name does; the result comes back by the store."""
    async with new_pool(handlers, role="producer") as producer:
        job = await producer.submit(add, 1, 2)
        assert (await producer.fleet.find(job.id)).status is StoredStatus.QUEUED
        async with new_pool(handlers, role="worker") as worker:
            assert await job == 3
            assert producer.statistics().submitted == 0
            assert worker.statistics().succeeded == 1


async def test_pools_of_other_names_see_nothing_of_each_other(new_pool):
    """The name of a pool is its queue."""
    async with new_pool(handlers, name="a", role="producer") as a, new_pool(handlers, name="b") as b:
        await a.submit(note, "for a")
        await b.run(note, "for b")
        assert calls == ["for b"]
        assert (await b.fleet.statistics()).live.get(StoredStatus.QUEUED, 0) == 0


async def test_jobs_wait_in_the_store_for_the_next_pool(new_pool):
    """Leaving a pool finishes what runs; what waits stays, and the next one runs it, in order of priority."""
    async with new_pool(handlers, role="producer") as pool:
        for text, priority in (("c", 5), ("a", 1), ("d", 5), ("b", 3)):
            await pool.with_options(priority=priority).submit(note, text)
    async with new_pool(handlers, size=1) as pool:
        await wait_until(lambda: len(calls) == 4)
    assert calls == ["a", "b", "c", "d"]


async def test_an_order_holds_also_for_what_could_start_at_once(new_pool):
    """A submission with a free slot does not overtake jobs that wait."""
    async with new_pool(handlers, size=1) as pool:
        job = await pool.submit(wait)
        await wait_until(lambda: calls == ["gate"])
        waiting = [await pool.submit(note, str(i)) for i in range(5)]
        gate().set()
        await job
        late = [await pool.submit(note, str(i)) for i in range(5, 10)]
        for one in waiting + late:
            await one
    assert calls == ["gate", *map(str, range(10))]


async def test_never_more_than_size_run(new_pool):
    """Whatever comes out of the store."""
    async with new_pool(handlers, size=3) as pool:
        jobs = [await pool.submit(wait) for _ in range(10)]
        await wait_until(lambda: len(calls) >= 3)
        await asyncio.sleep(0.05)
        assert pool.statistics().running == 3
        gate().set()
        for job in jobs:
            await job


async def test_nested_jobs_do_not_wait_for_each_other_for_ever(new_pool):
    """A job that awaits another one of the pool lends its slot, also with a store between them."""
    async with new_pool(handlers, size=1) as pool:
        pools["pool"] = pool
        assert await pool.run(nest, 4) == 4


async def test_what_a_job_knows_of_itself(new_pool):
    """Its id, key, group, metadata and parent travel with it; its idempotency key is its id."""
    async with new_pool(handlers) as pool:
        view = pool.with_options(id="order-7", key=("t", 7), group="g", metadata={"a": [1]}, priority=2)
        found = await view.run(about)
        assert found == {
            "id": "order-7",
            "key": ["t", 7],
            "group": "g",
            "metadata": {"a": [1]},
            "parent": None,
            "idempotency_key": "order-7",
            "priority": 2,
        }


async def test_map_groups_and_threads_take_the_same_way(new_pool):
    """Streams, blocks, `once` and other threads hand their jobs to the store, too."""
    async with new_pool(handlers) as pool:
        assert await pool.map(add, range(20)).collect() == list(range(1, 21))
        async with pool.group("import") as group:
            jobs = [await group.submit(add, i) for i in range(5)]
        assert [job.result() for job in jobs] == [1, 2, 3, 4, 5]
        with pytest.raises(ExceptionGroup):
            async with pool.group() as group:
                await group.submit(fail, "no")
                await group.submit(wait)
        assert await asyncio.to_thread(pool.from_thread.run, add, 1) == 2
        assert await pool.once("key").run(add, 4) == 5
        done = [job.result() async for job in pool.as_completed([await pool.submit(add, 1), await pool.submit(add, 2)])]
        assert sorted(done) == [2, 3]


async def test_callbacks_and_waits_of_handles(new_pool):
    """`add_done_callback`, `asyncio.wait` and `job.wait` know how a job of the fleet ended."""
    told = []
    async with new_pool(handlers, role="producer") as producer, new_pool(handlers, role="worker"):
        job = await producer.submit(add, 1)
        job.add_done_callback(lambda job: told.append(job.result()))
        assert await job.wait()
        await wait_until(lambda: told == [2])
        slow = await producer.submit(wait)
        assert not await slow.wait(timeout=0.05)
        gate().set()
        await asyncio.wait([asyncio.ensure_future(slow)])
        assert slow.result() == "gate"


# -- failures and retries ----------------------------------------------------------------------------------------------


async def test_a_failure_comes_back_as_itself(new_pool):
    """Python's own exceptions as themselves, others as a record with their name and their traceback."""
    async with new_pool(handlers) as pool:
        with pytest.raises(KeyError, match="missing") as caught:
            await pool.run(fail, "missing")
        assert caught.value.args == ("missing",)
        with pytest.raises(RecordedError, match="OurError: by design") as recorded:
            await pool.run(fail_our_way)
        assert recorded.value.kind == "OurError"
        assert "fail_our_way" in recorded.value.traceback


@pytest.mark.long
async def test_a_failed_attempt_is_tried_again(new_pool):
    """Attempts are counted over the fleet, and the retry holds no slot."""
    async with new_pool(handlers) as pool:
        job = await pool.submit(flaky, 2)
        assert await job == 3
        assert (calls, job.attempt) == ([1, 2, 3], 3)
        numbers = pool.statistics()
        assert (numbers.retries, numbers.given_back, numbers.succeeded) == (2, 2, 1)
        with pytest.raises(ValueError, match="attempt 3"):
            await pool.run(flaky, 5)


async def test_a_retry_survives_its_process(new_pool):
    """The next attempt waits in the store, not in the pool that made the first."""
    async with new_pool(handlers) as pool:
        view = pool.with_options(retry=Retry(attempts=3, delay=60, jitter=0))
        job = await view.submit(flaky, 1)
        await wait_until(lambda: calls == [1])
        await wait_until(lambda: pool.statistics().given_back == 1)
        id = job.id
    async with new_pool(handlers, role="producer") as pool:
        found = await pool.fleet.find(id)
        assert (found.status, found.attempt) == (StoredStatus.SCHEDULED, 1)
        assert 50 < found.run_at - await pool.fleet.store.now() <= 60
        assert "attempt 1" in found.error


async def test_options_of_a_view_travel_with_the_job(new_pool):
    """A time limit and a number of attempts that a view sets hold in the process that runs the job."""
    async with new_pool(handlers, role="producer") as producer, new_pool(handlers, role="worker"):
        with pytest.raises(JobTimeoutError, match=r"0\.05") as caught:
            await producer.with_options(timeout=0.05).run(wait)
        assert (caught.value.limit, caught.value.seconds) == ("timeout", 0.05)
        with pytest.raises(ValueError, match="attempt 1"):
            await producer.with_options(retry=None).run(flaky, 1)


async def test_total_and_queue_timeouts_hold_over_the_fleet(new_pool):
    """From submission to the end, wherever the job waits or runs."""
    async with new_pool(handlers, role="worker", size=1) as worker, new_pool(handlers, role="producer") as producer:
        with pytest.raises(JobTimeoutError) as caught:
            await producer.with_options(total_timeout=0.1).run(wait)
        assert caught.value.limit == "total_timeout"
        blocker = await producer.submit(wait, "block")
        await wait_until(lambda: "block" in calls)
        with pytest.raises(JobTimeoutError) as caught:
            await producer.with_options(queue_timeout=0.05).run(note, "never")
        assert caught.value.limit == "queue_timeout"
        gate("block").set()
        await blocker
        assert "never" not in calls
        del worker


async def test_what_cannot_be_written_is_refused_before_it_is_accepted(new_pool):
    """A payload that is no JSON, or too big, raises in `submit`, and nothing is in the store."""
    async with new_pool(handlers, store_options={"max_payload": 1000}) as pool:
        with pytest.raises(PayloadError, match="object"):
            await pool.submit(add, object())
        with pytest.raises(PayloadError, match="1,000"):
            await pool.submit(note, "x" * 2000)
        await pool.run(note, "a\0b \\u0000 \U0001f600")
        assert calls == ["a\0b \\u0000 \U0001f600"]
        for options in ({"id": "a\0"}, {"unique": "\ud800"}, {"group": "x" * 300}, {"key": "a\0"}):
            with pytest.raises(ValueError, match="200"):
                await pool.with_options(**options).submit(add, 1)
        with pytest.raises(PayloadError, match="metadata"):
            await pool.with_options(metadata={"a": object()}).submit(add, 1)
        assert (await pool.fleet.statistics()).live.get(StoredStatus.QUEUED, 0) == 0
        assert [row async for row in pool.fleet.jobs()] == []


async def test_a_result_that_cannot_be_written_fails_the_job_once(new_pool):
    """The job has run, so it has failed: it is not run again."""
    own = Handlers()
    runs = []

    @own.register("bad")
    async def bad() -> object:
        runs.append(1)
        return object()

    async with new_pool(own) as pool:
        with pytest.raises(PayloadError, match="cannot be written as JSON"):
            await pool.run(bad)
        assert runs == [1]


async def test_functions_are_known_by_registered_names_only(new_pool):
    """A function that is not registered is refused, with the line to write."""

    async def stranger() -> None: ...

    async with new_pool(handlers) as pool:
        with pytest.raises(TypeError, match=r'@handlers.register\("stranger"\)'):
            await pool.submit(stranger)
        with pytest.raises(TypeError, match="name"):
            await pool.with_options(name="other").submit(add, 1)
        with pytest.raises(TypeError, match="retry"):
            await pool.with_options(retry=Retry(on=KeyError)).submit(add, 1)
        with pytest.raises(TypeError, match="layers"):
            await pool.with_options(layers=[aiopool.layers.log_calls()]).submit(add, 1)
        with pytest.raises(RuntimeError, match=r"await pool\.submit"):
            pool.submit_nowait(add, 1)


async def test_a_name_that_nobody_knows_is_parked(new_pool):
    """It is neither lost nor failed: it runs when a process comes that knows it."""
    newer = Handlers()
    newer.include(handlers)

    @newer.register("new")
    async def new() -> str:
        return "here"

    async with new_pool(newer, role="producer") as producer:
        job = await producer.submit(new)
        async with new_pool(handlers, role="worker") as old:
            await wait_until_async(lambda: status_of(producer, job.id), StoredStatus.PARKED)
            assert await producer.submit(add, 1)
            del old
        async with new_pool(newer, role="worker"):
            assert await job == "here"


async def test_arguments_of_another_version_are_given_up(new_pool):
    """A row that this version cannot read is `dead`, with the reason; the worker goes on."""
    older = Handlers()

    @older.register("add")
    async def add_texts(first: str) -> str:
        return first

    async with new_pool(older, role="producer") as producer, new_pool(handlers, role="worker") as worker:
        job = await producer.submit(add_texts, "x")
        with pytest.raises(PayloadError, match="another version"):
            await job
        row = await producer.fleet.find(job.id)
        assert row.status is StoredStatus.DEAD
        assert await worker.run(add, 1) == 2


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_a_queued_job_is_cancelled_for_good(new_pool):
    """When `cancel` returns it will never start."""
    async with new_pool(handlers, role="producer") as producer:
        job = await producer.submit(note, "never")
        report = await producer.cancel(job.id, "changed my mind")
        assert (bool(report), report.was, report.status) == (True, "queued", "cancelled")
        with pytest.raises(JobCancelledError, match="changed my mind"):
            await job
        again = await producer.cancel(job.id)
        assert not again
        assert again.status == "cancelled"
        assert (await producer.cancel("nobody")).was is None
        async with new_pool(handlers, role="worker") as worker:
            await worker.run(note, "after")
    assert calls == ["after"]


async def test_a_running_job_is_cancelled_in_another_process(new_pool):
    """Its scope is cancelled where it runs, and `cancel` returns when it has ended."""
    async with new_pool(handlers, role="producer") as producer, new_pool(handlers, role="worker") as worker:
        job = await producer.submit(wait)
        await wait_until(lambda: calls == ["gate"])
        report = await producer.cancel(job.id, "enough")
        assert (report.was, report.status) == ("running", "cancelled")
        assert calls == ["gate", "cancelled gate"]
        with pytest.raises(JobCancelledError, match="enough"):
            await job
        await wait_until(lambda: worker.statistics().cancelled == 1)


async def test_a_caller_of_run_that_is_cancelled_takes_the_job_along(new_pool):
    """As in memory."""
    async with new_pool(handlers, role="producer") as producer, new_pool(handlers, role="worker"):
        task = asyncio.create_task(producer.run(wait))
        await wait_until(lambda: calls == ["gate"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: "cancelled gate" in calls)


async def test_the_handle_cancels_too(new_pool):
    """`job.cancel()` asks, and the job ends."""
    async with new_pool(handlers) as pool:
        job = await pool.submit(wait)
        await wait_until(lambda: calls == ["gate"])
        assert job.cancel("by hand")
        with pytest.raises(JobCancelledError, match="by hand"):
            await job
        assert not job.cancel()


async def test_many_are_cancelled_by_group(new_pool):
    """`fleet.cancel_all(group=...)` spares the others."""
    async with new_pool(handlers, role="producer") as pool:
        for _ in range(5):
            await pool.with_options(group="old").submit(note, "old")
        kept = await pool.submit(note, "kept")
        assert await pool.fleet.cancel_all("over", group="old") == 5
        async with new_pool(handlers, role="worker"):
            await kept
    assert calls == ["kept"]


# -- unique, ids, delays -----------------------------------------------------------------------------------------------


async def test_unique_gives_the_job_that_is_there(new_pool):
    """A second submission returns the live job; after its end the text is free again."""
    async with new_pool(handlers) as pool:
        view = pool.with_options(unique="welcome-42")
        first = await view.submit(wait)
        second = await view.submit(wait)
        assert second is first
        async with new_pool(handlers, role="producer") as other:
            third = await other.with_options(unique="welcome-42").submit(wait)
            assert third.id == first.id
            gate().set()
            assert await third == "gate"
        await first
        assert (await view.submit(wait)).id != first.id


async def test_an_id_that_is_taken_is_refused(new_pool):
    """By a live job, or one that is remembered."""
    async with new_pool(handlers) as pool:
        await pool.with_options(id="a").run(add, 1)
        with pytest.raises(ValueError, match="id='a' is taken"):
            await pool.with_options(id="a").submit(add, 1)
        assert await pool.with_options(id=17).run(add, 1) == 2
        job = await pool.fleet.job(17)
        assert await job == 2
        with pytest.raises(UnknownJobError, match="nobody"):
            await pool.fleet.job("nobody")


async def test_delays_and_moments(new_pool):
    """A job does not start before its delay is over, or its moment has come."""
    async with new_pool(handlers) as pool:
        began = asyncio.get_running_loop().time()
        await pool.with_options(delay=0.2).run(note, "delayed")
        assert asyncio.get_running_loop().time() - began >= 0.19
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=0.2)
        await pool.with_options(run_at=soon).run(note, "at")
        assert datetime.datetime.now(datetime.UTC) >= soon
        far = await pool.with_options(delay=3600).submit(note, "far")
        assert far.status == "scheduled"
        assert (await pool.fleet.find(far.id)).status is StoredStatus.SCHEDULED


async def test_each_moment_has_one_job_in_the_fleet(new_pool):
    """However many processes have the same schedule."""
    async with new_pool(handlers) as a, new_pool(handlers) as b, new_pool(handlers) as c:
        periodics = [pool.every(0.1, note, "tick") for pool in (a, b, c)]
        await wait_until(lambda: sum(one.runs for one in periodics) >= 3)
        for one in periodics:
            one.cancel()
        await a.join()
        await b.join()
        await c.join()
        rows = [row async for row in a.fleet.jobs("succeeded", name="note")]
        assert len(rows) == len(calls) == sum(one.runs for one in periodics)
        assert sum(one.elsewhere for one in periodics) >= 2


# -- limits, pause, looking --------------------------------------------------------------------------------------------


async def test_limits_hold_over_the_fleet(new_pool):
    """Two pools share a limit of one: their jobs never run at once; others are not held up."""
    running, most = [], []
    own, several_may_run, two_run = Handlers(), asyncio.Event(), asyncio.Event()

    @own.register("one")
    async def one() -> None:
        running.append(1)
        most.append(len(running))
        if len(running) > 1:
            two_run.set()
        await (two_run.wait() if several_may_run.is_set() else asyncio.sleep(0.01))
        running.pop()

    @own.register("free")
    async def free() -> None: ...

    limits = {"one": Limit(max_at_once=1)}
    async with new_pool(own, limits=limits) as a, new_pool(own, limits=limits) as b:
        jobs = [await (a, b)[i % 2].submit(one) for i in range(12)]
        await asyncio.wait_for(a.run(free), 5)
        for job in jobs:
            await job
        assert max(most) == 1
        await a.fleet.set_limit("one", Limit(max_at_once=3))
        several_may_run.set()
        for job in [await a.submit(one) for _ in range(12)]:
            await job
        assert 1 < max(most) <= 3


@pytest.mark.long
async def test_each_key_has_its_limit(new_pool):
    """`key_limit` holds for each key of its own."""
    running, most = {}, {}
    own, all_are_there = Handlers(), asyncio.Event()

    @own.register("one")
    async def one(tenant: str) -> None:
        running[tenant] = running.get(tenant, 0) + 1
        most[tenant] = max(most.get(tenant, 0), running[tenant])
        await all_are_there.wait()
        await asyncio.sleep(0)
        running[tenant] -= 1

    async with new_pool(own, key_limit=Limit(max_at_once=2)) as pool:
        jobs = [await pool.with_options(key=f"t{i % 3}").submit(one, f"t{i % 3}") for i in range(18)]
        await wait_until(lambda: max(most.values(), default=0) == 2)
        all_are_there.set()
        for job in jobs:
            await job
    assert max(most.values()) == 2


async def test_limits_of_one_process_are_refused(new_pool):
    """What a store cannot hold is said at once."""
    with pytest.raises(ValueError, match="cooldown"):
        new_pool(handlers, limits={"add": Limit(max_at_once=1, cooldown=aiopool.Cooldown())})
    with pytest.raises(ValueError, match="fair_keys"):
        new_pool(handlers, fair_keys=True)
    async with new_pool(handlers) as pool:
        lanes = pool.lanes(Limit(max_at_once=1))
        with pytest.raises(PayloadError, match="key_limit"):
            await pool.with_options(key=lanes["a"]).submit(add, 1)


async def test_the_fleet_is_paused(new_pool):
    """No job starts anywhere until it is resumed."""
    async with new_pool(handlers) as pool, new_pool(handlers, role="producer") as other:
        await other.fleet.pause()
        job = await pool.submit(note, "late")
        assert not await job.wait(timeout=0.1)
        assert (await pool.fleet.statistics()).paused
        await other.fleet.resume()
        await job


async def test_progress_is_seen_by_others(new_pool):
    """What a job reports is in its row."""
    own = Handlers()

    @own.register("work")
    async def work() -> None:
        current_job().report_progress(0.25, "quarter")
        await gate().wait()

    async with new_pool(own) as pool, new_pool(own, role="producer") as other:
        job = await other.submit(work)

        async def progress():
            return (await other.fleet.find(job.id)).progress

        await wait_until_async(progress, (0.25, "quarter"))
        gate().set()
        await job
        del pool


@pytest.mark.long
async def test_dead_and_failed_jobs_are_put_back(new_pool):
    """With all of their attempts, under their ids."""
    async with new_pool(handlers) as pool:
        with pytest.raises(ValueError, match="attempt 3"):
            await pool.with_options(id="x").run(flaky, 3)
        calls.clear()
        held = await pool.fleet.job("x")  # a handle tells of one end: this one knows that of before
        with pytest.raises(ValueError, match="attempt 3"):
            await held
        assert await pool.fleet.retry("x") == 1
        with pytest.raises(ValueError, match="attempt 3"):
            await (await pool.fleet.job("x"))
        assert held.done()
        assert calls == [1, 2, 3]
        assert await pool.fleet.requeue_dead("failed") == 1


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_shutdown_gives_running_jobs_back(new_pool):
    """What is cancelled by the shutdown was nobody's wish: it goes back, and its attempt counts for nothing."""
    async with new_pool(handlers, role="producer") as producer:
        job = await producer.submit(wait)
        async with new_pool(handlers, role="worker") as worker:
            await wait_until(lambda: calls == ["gate"])
            report = await worker.shutdown(timeout=0)
            assert report.cancelled == 0
        assert calls == ["gate", "cancelled gate"]
        row = await producer.fleet.find(job.id)
        assert (row.status, row.attempt, row.crashes) == (StoredStatus.QUEUED, 0, 0)
        gate().set()
        async with new_pool(handlers, role="worker"):
            assert await job == "gate"
        assert job.attempt == 1


async def test_a_pool_that_closes_takes_no_jobs(new_pool):
    """As in memory."""
    async with new_pool(handlers) as pool:
        pass
    with pytest.raises(PoolClosedError):
        await pool.submit(add, 1)


async def test_a_pool_is_opened_again(new_pool):
    """The same object, a new incarnation."""
    pool = new_pool(handlers)
    async with pool:
        assert await pool.run(add, 1) == 2
    async with pool:
        assert await pool.run(add, 2) == 3


async def test_join_waits_for_all_that_was_submitted(new_pool):
    """Wherever it runs, whether somebody holds its handle or not; called in a job, it waits for all others."""
    own = Handlers()

    @own.register("last")
    async def last() -> int:
        await pools["pool"].join()
        return len(calls)

    own.include(handlers)
    async with new_pool(own, role="producer") as producer, new_pool(own, role="worker", size=2) as worker:
        for i in range(20):
            await producer.submit(note, str(i))
        await producer.join()
        assert len(calls) == 20
        pools["pool"] = worker
        await producer.fleet.pause()
        job = await producer.with_options(priority=1).submit(last)  # it begins before the others
        for i in range(20):
            await producer.submit(note, str(i))
        await producer.fleet.resume()
        assert await job == 40


async def test_a_retry_that_the_job_asks_for(new_pool):
    """`RetryAfter` sets the delay in the store."""
    own = Handlers()

    @own.register("again", retry=Retry(attempts=2, delay=0))
    async def again() -> int:
        if current_job().attempt == 1:
            raise RetryAfter(0.1)
        return current_job().attempt

    async with new_pool(own) as pool:
        assert await pool.run(again) == 2


def test_what_a_store_needs_is_said():
    """A pool with a store needs handlers; one without has no use for them."""
    with pytest.raises(TypeError, match="Handlers"):
        Pool(store="memory://")
    with pytest.raises(ValueError, match="store"):
        Pool(handlers=handlers)
    with pytest.raises(ValueError, match=r"sqlite:///jobs\.db"):
        Pool(store="jobs.db", handlers=handlers)
    with pytest.raises(TypeError, match="no store"):
        Pool(store=3, handlers=handlers)
    with pytest.raises(ValueError, match="role"):
        Pool(store="memory://", handlers=handlers, role="boss")
    with pytest.raises(RuntimeError, match="no fleet"):
        _ = Pool().fleet


async def test_options_of_a_store_are_refused_without_one():
    """With the line to write."""
    async with Pool() as pool:
        with pytest.raises(ValueError, match="unique='x' is for the jobs of a store"):
            await pool.with_options(unique="x").submit(add, 1)
        with pytest.raises(ValueError, match="within"):
            pool.with_options(within=object())
        with pytest.raises(TypeError, match="unique"):
            pool.with_options(unique=3)


async def test_a_store_that_cannot_be_opened_closes_the_pool(tmp_path):
    """The error is that of the store, and the pool can be opened again."""
    pool = Pool(store=f"sqlite:///{tmp_path}/missing/jobs.db", handlers=handlers)
    with pytest.raises(StoreError, match="missing"):
        async with pool:
            pass
    assert pool.status == "closed"
    (tmp_path / "missing").mkdir()
    async with pool:
        assert await pool.run(add, 1) == 2


async def status_of(pool, id):
    return (await pool.fleet.find(id)).status


async def wait_until_async(ask, wanted):
    """Ask again until the answer is as wanted."""
    for _ in range(500):
        if await ask() == wanted:
            return
        await asyncio.sleep(0.01)
    assert await ask() == wanted


async def test_a_priority_that_no_store_can_keep_is_refused(new_pool):
    """It is refused where it is given: in a batch it would fail the jobs of others."""
    async with new_pool(handlers) as pool:
        with pytest.raises(ValueError, match="priority"):
            await pool.with_options(priority=2**60).submit(add, 1, 2)
        assert await (await pool.with_options(priority=2**53 - 1).submit(add, 1, 2)) == 3


async def test_cancel_all_is_for_the_whole_fleet(new_pool):
    """As `fleet.cancel_all`; what looks at jobs in memory is refused."""
    async with new_pool(handlers, role="producer") as pool:
        jobs = [await pool.submit(note, str(i)) for i in range(3)]
        with pytest.raises(ValueError, match="fleet"):
            await pool.cancel_all(where=lambda job: True)
        assert await pool.cancel_all("over") == 3
        for job in jobs:
            with pytest.raises(JobCancelledError, match="over"):
                await job
        assert (await pool.fleet.statistics()).unfinished == 0


async def test_jobs_of_the_dead_come_first(new_store):
    """A process that starts takes back what a dead one ran before it takes anything else: the order holds."""
    dead, heard = new_store(), []
    await dead.open("pool", Incarnation("dead", "host", 1, True), heard.append)
    async with Pool(store=new_store(), handlers=handlers, role="producer") as pool:
        first = await pool.submit(note, "first")
        second = await pool.submit(note, "second")
        assert [job.id for job in (await dead.claim(1)).jobs] == [first.id]
        await kill(new_store, dead)
        async with Pool(size=1, store=new_store(), handlers=handlers, role="worker"):
            await first
            await second
    assert calls == ["first", "second"]


def test_what_cannot_be_registered_is_said():
    """A method, and whatever cannot have options."""

    class Mailer:
        async def send(self) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        Handlers().register("send")(Mailer().send)
    with pytest.raises(ValueError, match="overflow"):
        Pool(store="memory://", handlers=handlers, overflow="reject")


async def kill(new_store, store):
    """Let an open store die as SIGKILL would."""
    if hasattr(new_store, "kill"):
        await new_store.kill(store)
    else:
        store.kill()


async def test_a_registered_schedule_runs_in_each_process_that_runs_jobs(new_pool):
    """`register(every=…)` is `pool.every(…)` of each of them: one job for each moment; a producer submits none."""
    own = Handlers()

    @own.register("tick", every=0.05)
    async def tick() -> None:
        calls.append("tick")

    async with new_pool(own, role="producer") as producer:
        assert producer.statistics().submitted == 0
        async with new_pool(own, role="worker"), new_pool(own, role="worker"):
            await wait_until(lambda: len(calls) >= 4)
        rows = [row async for row in producer.fleet.jobs("succeeded")]
        assert len(rows) >= len(calls) - 2  # of the last ones the ends may be on their way


async def test_a_missed_moment_is_made_up_for_once(new_pool):
    """With `missed="once"` the last moment that went by has its job when a process comes; only one of them all."""
    async with new_pool(handlers) as pool, new_pool(handlers) as other:
        first = pool.every(3600, note, "hourly", missed="once")
        await first.job
        second = other.every(3600, note, "hourly", missed="once")
        await wait_until(lambda: second.elsewhere == 1)
        none = other.every(3600, note, "other")
        assert none.job is None
        assert (calls, first.runs, second.runs) == (["hourly"], 1, 0)


def test_missed_is_for_a_store():
    """A pool in memory has missed nothing: it was not there."""

    async def main():
        async with Pool() as pool:
            with pytest.raises(ValueError, match="missed='once'"):
                pool.every(1, note, "x", missed="once")
            with pytest.raises(ValueError, match="skip"):
                pool.every(1, note, "x", missed="all")

    asyncio.run(main())


async def test_max_crashes_is_that_of_the_handler(new_store):
    """With one a job is dead after its first worker died."""
    own = Handlers()

    @own.register("fragile", max_crashes=1)
    async def fragile() -> None: ...

    async with Pool(store=new_store(), handlers=own, role="producer") as pool:
        job = await pool.submit(fragile)
        dead = new_store()
        await dead.open("pool", Incarnation("dead", "host", 1, True), lambda wake: None)
        assert len((await dead.claim(1)).jobs) == 1
        await kill(new_store, dead)
        async with Pool(store=new_store(), handlers=own, role="worker"):
            with pytest.raises(JobDeadError):
                await job


async def test_a_job_within_a_transaction_is_there_when_it_commits(new_pool):
    """`with_options(within=connection)`: rolled back, it never was; another store says that it has no such thing."""
    async with new_pool(handlers) as pool:
        if not pool.fleet.store.url.startswith("postgresql"):
            with pytest.raises(TypeError):
                await pool.with_options(within=object()).submit(note, "x")
            return
        import asyncpg
        import pg_server

        connection = await asyncpg.connect(pg_server.package_server())
        try:
            inside = connection.transaction()
            await inside.start()
            lost = await pool.with_options(within=connection).submit(note, "lost")
            await inside.rollback()
            async with connection.transaction():
                kept = await pool.with_options(within=connection).submit(note, "kept")
                assert await pool.fleet.find(kept.id) is None
            assert await kept is None
            assert await pool.fleet.find(lost.id) is None
            assert calls == ["kept"]
        finally:
            await connection.close()


async def test_a_handler_that_runs_in_processes(new_pool):
    """Its arguments are checked when they are submitted, go through the store, and then to the process."""
    own = Handlers()
    own.register("double", offload="process")(process_jobs.double)  # only here: the function keeps its options
    async with new_pool(own, max_processes=1) as pool:
        assert await pool.run(process_jobs.double, 7) == 14
        with pytest.raises(TypeError, match="double"):
            await pool.submit(process_jobs.double, 1, 2, 3)


async def test_a_map_ends_when_its_pool_closes(new_pool):
    """No item is handed in any more; the consumer hears why."""
    async with new_pool(handlers, size=2) as pool:

        async def numbers():
            for number in range(1000):
                yield number

        stream = pool.map(add, numbers())
        closing = None
        with pytest.raises(PoolClosedError):
            async for result in stream:
                if result == 5:
                    closing = asyncio.create_task(pool.shutdown())
        await closing
        assert len(calls) < 1000


async def test_whoever_waits_is_released_when_the_pool_closes(new_pool):
    """A job that has not ended stays in the store; those who await it here hear that, and nobody hangs."""
    async with new_pool(handlers, role="producer") as pool:
        job = await pool.submit(note, "later")
        held = await pool.submit(note, "held")
        waiting = asyncio.create_task(job.wait())
        running = asyncio.create_task(pool.run(note, "run"))
        await asyncio.sleep(0)
    assert await waiting
    for one in (job, held, running):
        with pytest.raises(PoolClosedError, match="had not ended"):
            await one
    async with new_pool(handlers) as pool:
        assert await (await pool.fleet.job(job.id)) is None
        await pool.join()
    assert sorted(calls) == ["held", "later", "run"]
