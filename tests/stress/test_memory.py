"""Nothing is kept. How many bytes a job takes is a benchmark."""

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref

import pytest
from helpers import echo, nap, virtual

from aiopool import JobCancelledError, Pool, Retry, current_job
from aiopool.testing import advance, settle

pytestmark = pytest.mark.both_isolations


class OwnError(Exception):
    """Unlike a builtin exception it can be referred to weakly."""


class Thing:
    """Something that can be referred to weakly."""

    async def method(self, *args):
        return None

    async def slow(self, *args):
        await asyncio.sleep(1)

    async def bad(self, *args):
        await asyncio.sleep(1)
        raise ValueError(self, current_job().name)

    def plain(self, *args):
        return None


@contextlib.contextmanager
def without_collector():
    """Only reference counts free anything inside the block: a cycle stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("method", ["method", "slow", "bad", "plain"])
def test_a_finished_job_keeps_neither_function_nor_arguments(method):
    """Once a job is done, its function, arguments and context are free, though its handle is kept."""

    @virtual
    async def main(isolation):
        variable = contextvars.ContextVar("variable")
        async with Pool(1, isolation=isolation, retry=Retry(attempts=2, delay=1)) as pool:
            owner, argument, value = Thing(), Thing(), Thing()
            refs = [weakref.ref(thing) for thing in (owner, argument, value)]

            async def submit(owner, argument, value):
                variable.set(value)
                return await pool.submit(getattr(owner, method), argument)

            with without_collector():
                job = await asyncio.create_task(submit(owner, argument, value))
                with contextlib.suppress(ValueError):
                    await job
                await settle()
                if method == "bad":
                    del job  # its error refers to the owner, by the user's own word
                del owner, argument, value
                await settle()
                assert [ref() for ref in refs] == [None] * 3

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_results_and_errors_go_with_the_handle(isolation):
    """The handle is dropped, the pool rests: nothing of result or error is left, no worker holds it."""

    async def make(suspends, fails):
        if suspends:
            await asyncio.sleep(1)
        thing = Thing()
        refs.append(weakref.ref(thing))
        if fails:
            error = OwnError(thing)
            refs.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error  # or this frame and the error would keep each other
        return thing

    def plain(fails):
        thing = Thing()
        refs.append(weakref.ref(thing))
        if fails:
            raise OwnError(thing)
        return thing

    refs = []
    async with Pool(2, isolation=isolation, on_error=lambda job, error: None) as pool:
        with without_collector():
            for fails in (False, True):
                for call in ((make, False, fails), (make, True, fails), (plain, fails)):
                    job = await pool.submit(*call)
                    await job.wait()
                    with contextlib.suppress(OwnError):
                        await job
                    del job
                    await pool.submit(*call)  # and one that nobody awaits
                    await pool.join()
                    await settle()
                    assert [ref() for ref in refs] == [None] * len(refs), call


@virtual
async def test_failures_make_no_garbage(isolation):
    """With the collector off, failing jobs leave no cycle of exception, traceback and frame."""

    async def bad(n):
        if n % 2:
            await asyncio.sleep(0)
        try:
            raise KeyError(n)
        except KeyError as error:
            raise ValueError(n) from error

    retry = Retry(attempts=2, delay=0)
    async with Pool(10, None, isolation=isolation, on_error=lambda job, error: None) as pool:
        with without_collector():
            for n in range(500):
                await pool.submit(bad, n)
                await pool.with_options(retry=retry).submit(bad, n)
                await pool.with_options(timeout=0.5).submit(nap, 1)
                (await pool.submit(nap, 1)).cancel()
                with contextlib.suppress(ValueError):
                    await pool.run(bad, n)
            await pool.join()
            await settle()
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for n in range(200):
                    await pool.submit(bad, n)
                    with contextlib.suppress(ValueError):
                        await pool.run(bad, n)
                    with contextlib.suppress(TimeoutError):
                        await pool.with_options(timeout=0.5).run(nap, 1)
                await pool.join()
                gc.collect()
                ours = [thing for thing in gc.garbage if is_ours(thing)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
            assert not ours, ours[:5]


def is_ours(thing):
    module = type(thing).__module__
    return module.startswith("aiopool") or isinstance(thing, (ValueError, KeyError, TimeoutError, asyncio.Task))


@virtual
async def test_cancelled_jobs_free_their_arguments_at_once(isolation):
    """Cancelling a long queue frees the arguments then and there, not when a worker would have come by."""
    async with Pool(1, None, isolation=isolation) as pool:
        await pool.submit(nap, 1)
        await settle()
        with without_collector():
            things = [Thing() for _ in range(10_000)]
            refs = [weakref.ref(thing) for thing in things]
            jobs = [await pool.submit(echo, thing) for thing in things]
            things.clear()
            assert all(ref() is not None for ref in refs)
            for job in jobs:
                job.cancel()
            assert not any(ref() for ref in refs)
            # The entries in the line are swept, too: 10,000 jobs that are kept by nobody else.
            dead = [weakref.ref(job) for job in jobs]
            jobs.clear()
            del job
            assert sum(ref() is not None for ref in dead) <= 100


@virtual
async def test_cancel_all_of_a_hundred_thousand(isolation):
    """All end once, and nothing is left of them."""
    async with Pool(2, None, isolation=isolation) as pool:
        for _ in range(20_000):
            pool.submit_nowait(nap, 1)
        assert await pool.cancel_all() == 20_000
        numbers = pool.statistics()
        assert (numbers.cancelled, numbers.queued, numbers.running) == (20_000, 0, 0)


@virtual
async def test_waiters_that_give_up_leave_nothing(isolation):
    """Four thousand waiters that give up leave no callback on the job, and do not change it."""
    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(nap, 5, "value")

        async def await_it():
            await job

        tasks = [asyncio.create_task(job.wait(1)) for _ in range(2_000)]
        cancelled = [asyncio.create_task(await_it()) for _ in range(2_000)]
        await settle()
        for task in cancelled:
            task.cancel()
        assert not any(await asyncio.gather(*tasks))
        await asyncio.wait(cancelled)
        assert job._waiters is None
        assert await job == "value"


@virtual
async def test_a_failure_whose_waiters_gave_up_is_reported(isolation):
    """Waiters that have given up, even in the turn of the failure, do not make it disappear."""

    async def bad():
        await asyncio.sleep(2)
        raise ValueError

    for patience, together in ((1, 1), (1, 3), (2, 1), (2, 2)):
        seen = []
        async with Pool(1, isolation=isolation, on_error=lambda job, error, seen=seen: seen.append(error)) as pool:
            job = await pool.submit(bad)

            async def wait(job=job):
                await job

            tasks = [asyncio.create_task(wait()) for _ in range(together)]
            await asyncio.sleep(patience)
            heard = job.done()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await advance(5)
            if not heard:
                assert [type(error) for error in seen] == [ValueError], (patience, together)


@virtual
async def test_awaiting_again_does_not_grow_the_traceback(isolation):
    """Awaiting a failed job a hundred times gives the same object, with the same short traceback."""

    async def bad():
        raise ValueError

    def depth(error):
        trace, n = error.__traceback__, 0
        while trace is not None:
            trace, n = trace.tb_next, n + 1
        return n

    async with Pool(1, isolation=isolation) as pool:
        job = await pool.submit(bad)
        depths, errors = set(), set()
        for _ in range(100):
            try:
                await job
            except ValueError as error:
                depths.add(depth(error))
                errors.add(id(error))
        assert len(errors) == 1
        assert len(depths) <= 2
        assert max(depths) < 10


@virtual
async def test_a_dropped_handle_does_not_stop_the_job(isolation):
    """A job whose handle nobody keeps runs to its end, through a storm of collections."""
    ran = []

    async def note(n):
        for _ in range(3):
            await asyncio.sleep(1)
            gc.collect()
        ran.append(n)

    async with Pool(5, isolation=isolation) as pool:
        for n in range(4):
            await pool.submit(note, n)
        gc.collect()
    assert sorted(ran) == list(range(4))


@virtual
async def test_a_long_run_leaves_no_objects(isolation):
    """After thirty thousand jobs of all kinds there are as many objects as after three thousand."""

    async def some(kind):
        if kind == 0:
            raise ValueError
        if kind == 1:
            await asyncio.sleep(0)
        return Thing()

    async def round_of(jobs):
        for n in range(jobs):
            job = await pool.submit(some, n % 5)
            if n % 20 == 19:
                job.cancel()
        del job
        await pool.join()
        await settle()
        gc.collect()
        return len(gc.get_objects())

    async with Pool(10, None, isolation=isolation, on_error=lambda job, error: None) as pool:
        await round_of(3_000)
        before = await round_of(3_000)
        after = await round_of(24_000)
        assert after - before < 20


@virtual
async def test_a_pool_can_be_dropped_after_its_end(isolation):
    """A pool that was closed is garbage like any other object; a hundred of them leave nothing."""
    refs = []
    for _ in range(100):
        async with Pool(3, isolation=isolation) as pool:
            await pool.run(echo, 1)
            refs.append(weakref.ref(pool))
        del pool
    await settle()
    gc.collect()
    assert not any(ref() for ref in refs)


@virtual
async def test_a_cancelled_waiter_keeps_nothing(isolation):
    """The record of a cancelled job refers to no frame of whoever awaited it."""
    async with Pool(1, isolation=isolation) as pool:
        with without_collector():

            async def wait(job):
                thing = Thing()
                refs.append(weakref.ref(thing))
                with contextlib.suppress(JobCancelledError):
                    await job
                return thing

            refs = []
            job = await pool.submit(nap, 5)
            task = asyncio.create_task(wait(job))
            await settle()
            job.cancel()
            await task
            del task
            await settle()
            # The error keeps the traceback of the last time that it was raised; that is Python's way.
            job.exception().__traceback__ = None
            assert refs[0]() is None


def test_a_queued_job_is_small():
    """A queued job takes no dictionary, and the extra part only if it has something extra."""

    async def main():
        async with Pool(1, None) as pool:
            pool.pause()
            job = await pool.submit(echo, 1)
            assert not hasattr(job, "__dict__")
            assert job._extra is None
            assert sys.getsizeof(job) < 300
            pool.resume()

    asyncio.run(main())
