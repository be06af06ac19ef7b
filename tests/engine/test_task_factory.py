"""The loop's task factory, and asyncio's helpers that take tasks: a job is as much a task as they ask for."""

import asyncio
import contextlib
import contextvars
import sys

import pytest
from engine.cancel_support import at_rest
from helpers import assert_counters_balance

from aiopool import JobCancelledError, JobTimeoutError, Pool, Restart, Retry, current_job
from aiopool._engine.engine import Engine
from aiopool.testing import run_virtual, wait_until

pytestmark = pytest.mark.both_isolations

TAGS = contextvars.ContextVar("tags", default=None)


class Factory:
    """Of the shape that tracers set: it wraps each coroutine, and gives it a scope of its own."""

    def __init__(self, *, context=True):
        self.names = []
        if not context:
            self.__class__ = OldFactory

    def __call__(self, loop, coroutine, **options):
        self.names.append(coroutine.__qualname__)
        return asyncio.Task(self.scoped(coroutine), loop=loop, **options)

    async def scoped(self, coroutine):
        TAGS.set({})
        return await coroutine


class OldFactory(Factory):
    """One that was written before tasks took a context."""

    def __call__(self, loop, coroutine):
        return super().__call__(loop, coroutine)


class Slow(Factory):
    """One whose tasks cannot be begun at once: it hands the work to a task of its own."""

    def __call__(self, loop, coroutine, **options):
        async def later():
            await asyncio.sleep(0)
            return await coroutine

        return super().__call__(loop, later(), **options)


FACTORIES = {"today's": Factory, "old": lambda: Factory(context=False), "slow": Slow}
if sys.version_info >= (3, 12):
    FACTORIES["eager"] = lambda: asyncio.eager_task_factory
    FACTORIES["eager, of one's own"] = lambda: lambda *args, **options: asyncio.eager_task_factory(*args, **options)


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]()


def run(factory, main):
    async def inside():
        asyncio.get_running_loop().set_task_factory(factory)
        return await asyncio.wait_for(main(), 20)

    return asyncio.run(inside())


@pytest.mark.parametrize("kind", ["today's", "old"])
def test_each_job_is_a_task_of_the_factory(kind):
    """Each job has the scope that the factory gives to a task: 30 jobs at once see their own tags and no others."""
    factory = FACTORIES[kind]()

    async def work(n):
        TAGS.get()["n"] = n
        await asyncio.sleep(0.001)
        return TAGS.get()["n"]

    async def instant(n):
        TAGS.get()["n"] = n
        return TAGS.get()

    async def main():
        TAGS.set({"n": "the submitter's"})
        async with Pool(5) as pool:
            assert await pool.map(work, range(30)).collect() == list(range(30))
            found = await pool.map(instant, range(30)).collect()
            assert found == [{"n": n} for n in range(30)]
            assert len({id(tags) for tags in found}) == 30
        assert TAGS.get() == {"n": "the submitter's"}

    run(factory, main)
    assert sum("work" in name for name in factory.names) == 30
    assert sum("instant" in name for name in factory.names) == 30


def test_a_job_of_a_factory_starts_at_once_where_it_can():
    """A job that never suspends costs no turn of the loop under a factory that wraps, either."""
    turns = 0

    async def main():
        nonlocal turns
        async with Pool(1) as pool:

            def tick():
                nonlocal turns
                turns += 1
                if turns < 1000:
                    asyncio.get_running_loop().call_soon(tick)

            tick()
            jobs = [pool.submit_nowait(nothing) for _ in range(100)]
            await asyncio.wait(jobs)
            assert turns < 20

    async def nothing():
        pass

    run(Factory(), main)


# By the slow factory, as without a pool.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_that_a_job_may_do(factory, isolation):
    """Results, errors, retries, limits, cancels before and after the first step, children: all as without a factory."""

    async def value(n):
        await asyncio.sleep(0)
        assert current_job().worker_id
        assert asyncio.current_task() is not None
        return n

    async def fail():
        raise KeyError("mine")

    tries = []

    async def flaky():
        tries.append(1)
        await asyncio.sleep(0)
        if len(tries) < 3:
            raise OSError

    async def main():
        async with Pool(2, isolation=isolation, retry=None) as pool:

            async def parent():
                return await pool.run(value, 2)

            assert await pool.map(value, range(20)).collect() == list(range(20))
            assert await asyncio.gather(*(pool.run(parent) for _ in range(4))) == [2] * 4
            with pytest.raises(KeyError, match="mine"):
                await pool.run(fail)
            await pool.with_options(retry=Retry(attempts=3, delay=0)).run(flaky)
            with pytest.raises(JobTimeoutError):
                await pool.with_options(timeout=0).run(asyncio.sleep, 100)
            with pytest.raises(JobTimeoutError):
                await pool.with_options(timeout=0.01).run(asyncio.sleep, 100)
            jobs = [await pool.submit(asyncio.sleep, 100) for _ in range(2)]
            await wait_until(lambda: all(job.status == "running" for job in jobs))
            for job in jobs:
                assert job.cancel("enough")
                with pytest.raises(JobCancelledError, match="enough"):
                    await job
            assert await pool.run(value, 3) == 3
            await wait_until(lambda: pool.statistics().busy == 0)
            assert_counters_balance(pool)
            assert pool.statistics().restarts == 0

    run(factory, main)


def test_the_loop_is_as_it_was(factory, isolation):
    """Nothing of ours is left on the loop."""

    async def main():
        loop = asyncio.get_running_loop()
        before = set(loop.__dict__)
        async with Pool(2, isolation=isolation) as pool:
            await pool.map(asyncio.sleep, [0] * 10).collect()
            assert set(loop.__dict__) == before

    run(factory, main)


class Late(Factory):
    """One whose tasks begin a turn later; what is cancelled before that is never begun."""

    async def scoped(self, coroutine):
        try:
            await asyncio.sleep(0)
        except BaseException:
            coroutine.close()
            raise
        return await coroutine


def test_a_fault_behind_a_job_that_never_began_replaces_the_worker(monkeypatch, caplog):
    """A job is cancelled before its task begins, and to end it fails: it ends all the same, and the next one runs."""
    original, faults = Engine.attempt_ended, []

    def fails_once(*args):
        if not faults:
            faults.append(OSError("in the engine"))
            raise faults[0]
        return original(*args)

    async def main():
        async with Pool(1, restart=Restart(delay=0.01)) as pool:
            job = await pool.submit(asyncio.sleep, 100)
            await asyncio.sleep(0)
            assert job.status == "running"
            assert job.cancel()
            await job.wait()
            assert job.exception() is faults[0]
            assert await pool.run(asyncio.sleep, 0, "next") == "next"
            assert pool.statistics().restarts == 1
            assert_counters_balance(pool)

    monkeypatch.setattr(Engine, "attempt_ended", fails_once)
    run(Late(), main)
    assert any("crashed" in record.message for record in caplog.records)


class Failing(Factory):
    """One that makes no task for a worker."""

    def __call__(self, loop, coroutine, **options):
        if coroutine.__name__ == "run":
            raise MemoryError("no task")
        return super().__call__(loop, coroutine, **options)


def test_a_worker_for_which_the_factory_makes_no_task_has_one_of_asyncio(isolation):
    """The jobs run all the same, and no worker counts as crashed."""

    async def main():
        async with Pool(1, isolation=isolation) as pool:
            assert await pool.map(asyncio.sleep, [0, 0]).collect() == [None, None]
            assert pool.statistics().restarts == 0

    run(Failing(), main)


class Exiting(Factory):
    """One whose workers' tasks end the program with their last step."""

    async def scoped(self, coroutine):
        value = await coroutine
        if coroutine.__name__ == "run":
            raise SystemExit("the last step")
        return value


def test_a_worker_whose_last_step_raises_takes_no_other(caplog):
    """The step was taken: the worker is replaced as after a crash, and nothing tries to take it again and again."""

    async def main():
        asyncio.get_running_loop().set_task_factory(Exiting())
        async with Pool(2, isolation="scope", restart=Restart(delay=0)) as pool:
            assert await pool.map(asyncio.sleep, [1, 1]).collect() == [None, None]
            pool.resize(1)
            await asyncio.sleep(1)
            assert pool.statistics().restarts == 1
            await at_rest()
            assert await pool.run(asyncio.sleep, 0, "next") == "next"
            assert pool.statistics().restarts == 1

    run_virtual(main)
    assert "SystemExit: the last step" in caplog.text


class Clinging(Factory):
    """One where the task of the second worker outlives its coroutine, whatever it is told."""

    def __init__(self):
        super().__init__()
        self.released = asyncio.Event()

    async def scoped(self, coroutine):
        clings = coroutine.__name__ == "run" and asyncio.current_task().get_name() == "left-worker-2"
        try:
            return await coroutine
        finally:
            while clings and not self.released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.released.wait()


def test_a_worker_that_does_not_end_is_left_behind(caplog):
    """A shutdown does not wait for the task of a worker that does not end: it, and no other, is named in the log."""

    async def main():
        factory = Clinging()
        asyncio.get_running_loop().set_task_factory(factory)
        async with Pool(2, name="left") as pool:
            assert await asyncio.gather(*(pool.run(asyncio.sleep, 0, n) for n in range(2))) == [0, 1]
            workers = {task.get_name(): task for task in asyncio.all_tasks() if "left-worker" in task.get_name()}
        assert {name: task.done() for name, task in workers.items()} == {"left-worker-1": True, "left-worker-2": False}
        assert pool.status == "closed"
        factory.released.set()
        await asyncio.wait(workers.values())

    asyncio.run(asyncio.wait_for(main(), 20))
    assert [record.message for record in caplog.records] == ["left-worker-2 did not end, and is left behind"]


# -- asyncio's helpers -----------------------------------------------------------------------------------------


@pytest.mark.loops("virtual", "real")
async def test_jobs_in_the_helpers_of_asyncio(new_pool):
    """`wait`, `gather`, `as_completed`, `wait_for` and `shield` take jobs, finished ones and others."""
    async with new_pool(4) as pool:
        last = asyncio.Event()

        async def value(n):
            await (last.wait() if n == 3 else asyncio.sleep(0))
            if n == 2:
                raise KeyError(n)
            return n

        jobs = [await pool.submit(value, n) for n in range(4)]
        done, pending = await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
        assert jobs[2] in done
        assert jobs[3] in pending
        with pytest.raises(KeyError):
            jobs[2].result()
        done, pending = await asyncio.wait({jobs[3]}, timeout=0)
        assert pending == {jobs[3]}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(jobs[3], 0.001)
        last.set()
        done, pending = await asyncio.wait(jobs)
        assert (done, pending) == (set(jobs), set())
        assert (await asyncio.wait(jobs))[0] == set(jobs)
        assert all(job._extra is None or not job._extra.callbacks for job in jobs)
        jobs = [await pool.submit(value, n) for n in (0, 1, 3)]
        assert await asyncio.gather(*jobs) == [0, 1, 3]
        assert sorted([await job for job in asyncio.as_completed(jobs)]) == [0, 1, 3]
        job = await pool.submit(value, 3)
        assert await asyncio.wait_for(asyncio.shield(job), 10) == 3


@pytest.mark.loops("virtual")
async def test_done_callbacks_are_taken_back(new_pool):
    """`remove_done_callback` takes back each of equal callbacks, says how many there were, and leaves the others."""
    async with new_pool(1) as pool:
        heard = []
        job = await pool.submit(asyncio.sleep, 1)
        assert job.remove_done_callback(heard.append) == 0
        for _ in range(2):
            job.add_done_callback(heard.append)
        job.add_done_callback(lambda job: heard.append("other"))
        assert job.remove_done_callback(heard.append) == 2
        await job
        assert heard == ["other"]
        assert job.remove_done_callback(heard.append) == 0
