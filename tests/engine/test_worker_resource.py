"""Workers that hold a resource: it is open before the first job, one for each worker, and closed whatever happens."""

import asyncio
import contextlib
import logging

import anyio
import pytest
from helpers import double, forever, now

import aiopool
from aiopool import Job, Pool, PoolStatus, Restart, Retry
from aiopool.errors import RestartLimitError
from aiopool.testing import advance, explore, settle, wait_until

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))
real = pytest.mark.loops("real", long=("eager",))
both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


class Client:
    """Something that is opened, used, and closed."""

    def __init__(self, number):
        self.number = number
        self.uses = 0
        self.open = False


class Clients:
    """Opens clients, and remembers them."""

    def __init__(self, *, opening=0.0, closing=0.0, failures=0):
        self.made = []
        self.opening = opening
        self.closing = closing
        self.failures = failures

    @contextlib.asynccontextmanager
    async def connect(self):
        client = Client(len(self.made) + 1)
        self.made.append(client)
        await asyncio.sleep(self.opening)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody answers")
        client.open = True
        try:
            yield client
        finally:
            client.open = False
            await asyncio.sleep(self.closing)

    @property
    def open(self):
        return [client.number for client in self.made if client.open]


async def use(seconds=0.0):
    """Return which client this job has; nobody else has it at the same time."""
    client = aiopool.current_worker(Client).resource
    assert client.open
    client.uses += 1
    await asyncio.sleep(seconds)
    assert client.open
    return client.number


# -- open ------------------------------------------------------------------------------------------------------------


@both
async def test_each_worker_has_its_own_and_keeps_it(new_pool):
    """Jobs that run at once have different clients; those that follow have the same ones; all are closed at the end."""
    clients = Clients()
    async with new_pool(3, worker_context=clients.connect) as pool:
        first = await pool.map(use, [0.01] * 3).collect()
        second = await pool.map(use, [0.01] * 6).collect()
        assert sorted(first) == [1, 2, 3]
        assert set(second) == {1, 2, 3}
        assert clients.open == [1, 2, 3]
        assert sum(client.uses for client in clients.made) == 9
    assert clients.open == []


@virtual
async def test_no_more_are_opened_than_jobs_wait(new_pool):
    """One job opens one client, in a pool of ten; more jobs while it opens open more."""
    clients = Clients(opening=1.0)
    async with new_pool(10, worker_context=clients.connect) as pool:
        job = await pool.submit(use)
        await advance(0.5)
        assert len(clients.made) == 1
        assert job.status == "queued"
        await pool.submit(use, 5)
        await pool.submit(use, 5)
        await advance(0.1)
        assert len(clients.made) == 3
        assert await job == 1
        for _ in range(3):
            await pool.run(use)
        assert len(clients.made) == 3


@virtual
async def test_jobs_wait_in_their_order_while_the_resource_opens(new_pool):
    """The job that came while it opened and is more urgent starts first; none is lost."""
    clients, ran = Clients(opening=1.0), []

    async def note(name):
        ran.append(name)

    async with new_pool(1, worker_context=clients.connect) as pool:
        for name in "ab":
            await pool.submit(note, name)
        await advance(0.5)
        await pool.with_options(priority=-1).submit(note, "urgent")
        gone = await pool.submit(note, "gone")
        gone.cancel()
    assert ran == ["urgent", "a", "b"]


@virtual
async def test_a_job_that_is_cancelled_while_its_worker_opens_leaves_an_idle_worker(new_pool):
    """What was opened for nobody is there for the next."""
    clients = Clients(opening=1.0)
    async with new_pool(1, worker_context=clients.connect) as pool:
        job = await pool.submit(use)
        await advance(0.5)
        await pool.cancel(job.id)
        await advance(1.0)
        assert [worker.state for worker in pool.workers()] == ["idle"]
        assert await pool.run(use) == 1


@both
async def test_a_plain_context_manager_will_do(new_pool):
    """`with` or `async with`; a class that is both is entered as the latter."""
    left = []

    @contextlib.contextmanager
    def plain():
        yield "plain"
        left.append("plain")

    class Both(contextlib.ExitStack, contextlib.AsyncExitStack):
        async def __aenter__(self):
            return "async"

        async def __aexit__(self, *_):
            left.append("async")

    def resource():
        return aiopool.current_worker().resource

    async with new_pool(worker_context=plain) as pool:
        assert await pool.run(resource) == "plain"  # in a thread
    async with new_pool(worker_context=Both) as pool:
        assert await pool.run(resource) == "async"
    assert left == ["plain", "async"]


@both
async def test_scopes_and_task_groups_may_stand_in_a_resource(new_pool):
    """It is entered and left in one task, around the jobs: neither the pool nor anyio minds."""
    beats = []

    @contextlib.asynccontextmanager
    async def beating():
        async def beat():
            while True:
                beats.append(1)
                await asyncio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            with anyio.CancelScope():
                yield group
            group.cancel_scope.cancel()

    async with new_pool(2, worker_context=beating) as pool:
        await pool.map(asyncio.sleep, [0.02] * 6).collect()
        stubborn = await pool.submit(forever)
        await asyncio.sleep(0.01)
        await pool.cancel(stubborn.id)
        await pool.run(double, 1)
        assert len(pool.workers()) == 2
        assert pool.statistics().restarts == 0
    assert len(beats) > 2


# -- fail ------------------------------------------------------------------------------------------------------------


@virtual
async def test_a_resource_that_cannot_be_opened_is_a_crash_with_backoff(new_pool, caplog):
    """It is tried again after longer and longer; the job waits, and is lost no more than its place."""
    clients = Clients(failures=3)
    async with new_pool(1, worker_context=clients.connect, restart=Restart(delay=1.0)) as pool:
        began = now()
        first, second = await pool.submit(use), await pool.submit(use)
        assert await first == await second == 4
        assert now() - began == pytest.approx(1 + 2 + 4)
        assert pool.statistics().restarts == 3
    assert "nobody answers" in caplog.text
    assert "connect" in caplog.text


@virtual
async def test_those_that_fail_together_count_as_one_crash(new_pool):
    """A server that is away for a moment does not use up the restarts of a large pool."""
    clients = Clients(opening=0.1, failures=20)
    async with new_pool(10, worker_context=clients.connect, restart=Restart(max_restarts=2, delay=1.0)) as pool:
        assert len(await pool.map(use, [0.1] * 20).collect()) == 20
        assert len(clients.made) == 30


@virtual
async def test_jobs_that_come_in_a_backoff_do_not_cut_it_short(new_pool):
    """The worker that waits to be restarted stands for the job that waits for it."""
    clients = Clients(failures=1)
    async with new_pool(4, worker_context=clients.connect, restart=Restart(delay=5.0)) as pool:
        job = await pool.submit(use)
        await advance(1.0)
        assert len(clients.made) == 1
        job.cancel()
        await pool.submit(use)
        await advance(1.0)
        assert len(clients.made) == 1
        await pool.join()


@virtual
async def test_a_resource_that_never_opens_ends_the_pool_visibly(isolation):
    """Past the limit of restarts the jobs fail, and so does the block."""
    with pytest.raises(RestartLimitError) as caught:
        async with Pool(2, worker_context=lambda: 7, isolation=isolation, restart=Restart(max_restarts=2)) as pool:
            job = await pool.submit(use)
            await job.wait()
            await pool.wait_closed()
    assert "worker_context" in str(caught.value.__cause__)
    assert "asynccontextmanager" in str(caught.value.__cause__)
    assert job.done()


@virtual
async def test_a_coroutine_is_no_context_manager(isolation):
    """`async def` where `@asynccontextmanager` was forgotten: the error says so, and no coroutine is left."""

    async def connect():
        return 7

    with pytest.raises(RestartLimitError) as caught:
        async with Pool(2, worker_context=connect, isolation=isolation, restart=Restart(max_restarts=0)) as pool:
            await (await pool.submit(use)).wait()
    assert "returned coroutine, which is no context manager: write a function" in str(caught.value.__cause__)


@virtual
async def test_a_worker_whose_job_left_cancels_behind_closes_in_a_clean_task(isolation):
    """A resource that closes in a scope or a timeout would be cut short by them."""
    closed = []

    @contextlib.asynccontextmanager
    async def connect():
        yield closed
        async with asyncio.timeout(5):
            await asyncio.sleep(1)
        assert asyncio.current_task().cancelling() == 0
        closed.append(True)

    async def leaves_cancels():
        asyncio.current_task().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)

    async with Pool(1, worker_context=connect, isolation=isolation) as pool:
        await (await pool.submit(leaves_cancels)).wait()
    assert closed == [True]


@virtual
async def test_a_resource_that_breaks_by_itself_is_a_crash(new_pool, caplog):
    """A task group in it that fails cancels the worker; the next job has another one."""
    breaks = asyncio.Event()
    opened = []

    @contextlib.asynccontextmanager
    async def fragile():
        async def watch():
            await breaks.wait()
            breaks.clear()
            raise ConnectionResetError("the other side hung up")

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            opened.append(1)
            yield len(opened)
            group.cancel_scope.cancel()

    async def number():
        return aiopool.current_worker().resource

    async with new_pool(1, worker_context=fragile, restart=Restart(delay=1.0)) as pool:
        assert await pool.run(number) == 1
        breaks.set()
        await settle()
        assert await pool.run(number) == 2
        assert pool.statistics().restarts == 1
    assert "the other side hung up" in caplog.text


@virtual
async def test_a_failure_to_close_is_logged_and_no_crash(new_pool, caplog):
    """The worker has ended well, its resource has not."""

    @contextlib.asynccontextmanager
    async def bad_end():
        yield 1
        raise OSError("no goodbye")

    async with new_pool(1, worker_context=bad_end, recycle_after=1) as pool:
        await pool.run(double, 1)
        await pool.run(double, 1)
        await settle()
        assert caplog.text.count("no goodbye") >= 2
        assert pool.statistics().restarts == 0
        await pool.run(double, 1)
    assert caplog.text.count("OSError: no goodbye") == 3


# -- close -----------------------------------------------------------------------------------------------------------


@both
async def test_a_worker_is_recycled_after_so_many_attempts(new_pool):
    """Three attempts each, retries included; jobs wait for the next worker in their order."""
    clients, ran = Clients(closing=0.01, opening=0.01), []

    async def flaky(n):
        ran.append(n)
        if ran.count(n) == 1:
            raise OSError
        return await use()

    async with new_pool(1, worker_context=clients.connect, recycle_after=3) as pool:
        retrying = pool.with_options(retry=Retry(attempts=2, delay=0, jitter=0))
        jobs = [await retrying.submit(flaky, n) for n in range(6)]
        numbers = [await job for job in jobs]
        assert len(ran) == 12
        await wait_until(lambda: not clients.open)
        assert len(clients.made) == 4
        assert sum(client.uses for client in clients.made) == len(numbers) == 6
    assert clients.open == []


@virtual
async def test_a_job_may_have_its_worker_recycled(new_pool):
    """It found its client broken: the next job has another; a plain function may do so in its thread."""
    clients = Clients()

    async def broken():
        aiopool.current_worker().recycle()

    def broken_in_thread():
        aiopool.current_worker().recycle()

    async with new_pool(1, worker_context=clients.connect) as pool:
        assert await pool.run(use) == await pool.run(use) == 1
        await pool.run(broken)
        assert await pool.run(use) == 2
    async with new_pool(1, worker_context=clients.connect) as pool:
        await pool.run(broken_in_thread)
        assert await pool.run(use) == 4


@virtual
async def test_a_smaller_pool_closes_what_it_has_too_many(new_pool):
    """Idle ones at once, busy ones with their jobs; a size of 0 closes all."""
    clients = Clients()
    async with new_pool(4, worker_context=clients.connect) as pool:
        jobs = [await pool.submit(use, seconds) for seconds in (1, 1, 2, 3)]
        await advance(0.5)
        assert len(clients.open) == 4
        pool.resize(2)
        await advance(1.0)
        assert len(clients.open) == 2
        await advance(2.0)
        assert len(clients.open) == 2
        pool.resize(0)
        await settle()
        assert clients.open == []
        pool.resize(1)
        assert await pool.run(use) == 5
        assert [job.status for job in jobs] == ["succeeded"] * 4


@virtual
async def test_a_worker_that_a_job_left_dirty_closes_its_resource(isolation):
    """A job swallows its cancel: where a new worker comes for that, the old one's client is closed."""
    clients = Clients()

    async def swallows():
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            pass

    async with Pool(1, worker_context=clients.connect, isolation=isolation) as pool:
        job = await pool.submit(swallows)
        await settle()
        job.cancel()
        await job.wait()
        assert await pool.run(use) in (1, 2)
        assert len(clients.open) == 1
    assert clients.open == []


@virtual
async def test_a_worker_that_foreign_code_cancels_closes_its_resource(new_pool):
    """As a sweep over all tasks does; it is replaced."""
    clients = Clients()
    async with new_pool(1, worker_context=clients.connect, restart=Restart(delay=0.5)) as pool:
        assert await pool.run(use) == 1
        [task] = [task for task in asyncio.all_tasks() if "worker" in task.get_name()]
        task.cancel()
        await settle()
        assert clients.open == []
        assert await pool.run(use) == 2


@virtual
async def test_one_that_does_not_close_is_cancelled_and_at_last_left_behind(new_pool, caplog):
    """After a grace, twice `cancel_grace`, and after another: then it takes no worker's place any more."""
    ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def clinging():
        yield
        while not ended.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await ended.wait()

    async with new_pool(1, worker_context=clinging, recycle_after=1, cancel_grace=1.0) as pool:
        began = now()
        await pool.run(double, 1)
        assert await pool.run(double, 2) == 4
        assert now() - began == pytest.approx(4.0)
        assert "is left behind" in caplog.text
        ended.set()
        await settle()
        assert len(pool.workers()) <= 1


# -- shutdown --------------------------------------------------------------------------------------------------------


@virtual
async def test_a_shutdown_waits_for_resources_in_its_grace(isolation):
    """Closing takes a second: it has it, and all close at the same time."""
    clients = Clients(closing=1.0)
    pool = await Pool(3, worker_context=clients.connect, isolation=isolation).__aenter__()
    await pool.map(use, [0.1] * 3).collect()
    report = await pool.shutdown(grace=5)
    assert report.seconds == pytest.approx(1.0)
    assert report.clean
    assert clients.open == []


@virtual
async def test_a_resource_that_hangs_does_not_hold_up_a_shutdown(isolation, caplog):
    """The end comes in the time that was set: the grace, as for a job."""
    hung = []

    @contextlib.asynccontextmanager
    async def hanging():
        try:
            yield
        finally:
            try:
                await asyncio.sleep(999)
            except asyncio.CancelledError:
                hung.append("cancelled")
                raise

    pool = await Pool(2, worker_context=hanging, isolation=isolation).__aenter__()
    await pool.map(double, range(4)).collect()
    report = await pool.shutdown(timeout=5, grace=1)
    assert report.seconds <= 1.0 + 1e-6
    assert hung == ["cancelled"] * len(hung)
    assert hung


@virtual
async def test_an_idle_worker_closes_while_others_have_their_grace(isolation):
    """A stubborn job takes all of the grace; the idle worker's resource is closed meanwhile."""
    clients, closed = Clients(closing=0.5), []

    async def stubborn():
        until = now() + 3.0
        with anyio.CancelScope(shield=True):
            while now() < until:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(until - now())

    pool = await Pool(2, worker_context=clients.connect, isolation=isolation).__aenter__()
    await pool.submit(use, 0.1)
    await pool.submit(stubborn)
    await asyncio.sleep(0.2)
    shutdown = asyncio.ensure_future(pool.shutdown(timeout=0, grace=1))
    await advance(0.6)
    assert len(clients.open) == 1
    report = await shutdown
    assert report.seconds <= 1.0 + 1e-6
    assert len(report.leaked) == 1
    await asyncio.sleep(5)  # then its own client is closed, too
    assert clients.open == closed == []


@virtual
async def test_a_shutdown_does_not_wait_for_what_opens(isolation):
    """There is no job for it any more: opening is cancelled at once."""
    clients = Clients(opening=99)
    pool = await Pool(2, worker_context=clients.connect, isolation=isolation).__aenter__()
    job = await pool.submit(use)
    await advance(1.0)
    report = await pool.shutdown(timeout=0)
    assert report.seconds == pytest.approx(0.0)
    assert report.never_started == 1
    assert job.cancelled()
    assert clients.made
    assert clients.open == []
    assert pool.status is PoolStatus.CLOSED


@virtual
async def test_leaving_the_block_finishes_the_jobs_that_wait_for_a_worker(new_pool):
    """Workers open, too, while the pool is left."""
    clients = Clients(opening=1.0)
    async with new_pool(2, worker_context=clients.connect) as pool:
        jobs = [await pool.submit(use) for _ in range(4)]
    assert [job.result() for job in jobs]
    assert clients.open == []


@real
@pytest.mark.leaves_behind("the loop is closed with the pool open")
def test_a_loop_that_ends_closes_them(isolation):
    """`asyncio.run` ends, with the pool open: its workers are cancelled, and close."""
    clients = Clients()

    async def main():
        pool = await Pool(2, worker_context=clients.connect, isolation=isolation).__aenter__()
        await pool.run(use)
        assert len(clients.open) == 1
        return pool

    pool = asyncio.run(main())
    assert clients.open == []
    pool._state.status = PoolStatus.CLOSED  # no warning: that it was dropped open is what is tested


# -- the current worker ------------------------------------------------------------------------------------------------


@both
async def test_the_current_worker_is_known_where_the_job_is(new_pool):
    """In its task, in a task that it made, and in its thread; its number is that of events."""
    clients = Clients()

    async def everywhere():
        async def child():
            return aiopool.current_worker(Client)

        mine, childs = aiopool.current_worker(), await asyncio.create_task(child())
        assert mine.resource is childs.resource
        return mine.id

    def in_thread():
        return aiopool.current_worker().id

    async with new_pool(1, worker_context=clients.connect) as pool:
        assert await pool.run(everywhere) == await pool.run(in_thread) == pool.workers()[0].id


@both
async def test_what_is_not_there_is_said_with_the_line_to_write(new_pool):
    """Outside of a job, after its end, without a resource, and of another class."""
    late = []

    async def leaves_a_task():
        async def child():
            await asyncio.sleep(0.01)
            aiopool.current_worker()

        late.append(asyncio.create_task(child()))

    async def plain():
        return aiopool.current_worker().resource

    async def wrong():
        return aiopool.current_worker(Job)

    with pytest.raises(RuntimeError, match=r"outside of any job.*pool\.submit"):
        aiopool.current_worker()
    async with new_pool(1) as pool:
        with pytest.raises(RuntimeError, match=r"Pool\(worker_context=open_client\)"):
            await pool.run(plain)
        await pool.run(leaves_a_task)
        with pytest.raises(RuntimeError, match="while the job runs"):
            await late[0]
    async with new_pool(1, worker_context=Clients().connect) as pool:
        with pytest.raises(TypeError, match=r"current_worker\(Job\).*Client"):
            await pool.run(wrong)


@pytest.mark.parametrize("wrong", [7, "client", contextlib.nullcontext(), Clients().connect()])
def test_a_context_manager_is_no_function_that_makes_one(wrong, isolation):
    """It is refused where it is given, with the line to write."""
    with pytest.raises(TypeError, match=r"not Pool\(worker_context=open_client\(\)\)"):
        Pool(worker_context=wrong, isolation=isolation)


def test_recycle_after_is_a_count():
    """Zero attempts would never run a job."""
    with pytest.raises(ValueError, match="recycle_after"):
        Pool(recycle_after=0)


# -- beside other features --------------------------------------------------------------------------------------------


@virtual
async def test_a_job_that_waits_for_another_keeps_its_resource(new_pool):
    """It lends its slot, and the job that it waits for has a worker, and a client, of its own."""
    clients = Clients()

    async def parent(pool):
        mine = aiopool.current_worker(Client).resource
        inner = await (await pool.submit(use))
        assert mine.open
        return mine.number, inner

    async with new_pool(1, worker_context=clients.connect) as pool:
        assert await pool.run(parent, pool) == (1, 2)


@virtual
async def test_a_paused_pool_opens_nothing(new_pool):
    """No job starts, so no worker is needed."""
    clients = Clients()
    async with new_pool(2, worker_context=clients.connect) as pool:
        pool.pause()
        job = await pool.submit(use)
        await settle()
        assert clients.made == []
        pool.resume()
        assert await job == 1


def test_each_job_finds_its_client_open_on_many_schedules(isolation):
    """Jobs that end and are cancelled at any moment, workers that are recycled and fail to open: none is shared."""

    async def scenario():
        clients = Clients(opening=0.1, closing=0.1, failures=2)
        options = {"worker_context": clients.connect, "isolation": isolation, "recycle_after": 3}
        async with Pool(3, restart=Restart(delay=0.1), on_error=lambda *_: None, **options) as pool:
            jobs = [await pool.submit(use, 0.1) for _ in range(12)]
            await asyncio.sleep(0.35)
            jobs[-1].cancel()
            await pool.restart_worker(pool.workers()[0].id, graceful=False)
            pool.resize(2)
            assert sum(job.status == "succeeded" for job in await wait_all(jobs)) >= 10
            assert len(clients.open) <= 3
        assert clients.open == []

    explore(scenario, seeds=range(30))


async def wait_all(jobs):
    for job in jobs:
        await job.wait()
    return jobs


@virtual
async def test_logs_of_the_openings_have_a_traceback(isolation, caplog):
    """The log says which worker, which function, and why."""
    caplog.set_level(logging.ERROR)
    async with Pool(1, worker_context=Clients(failures=1).connect, isolation=isolation) as pool:
        await pool.run(use)
    assert "worker 1 was opening its resource" in caplog.text
