"""Who may call what: questions from any thread, everything else from the pool's own event loop."""

import asyncio
import inspect
import os
import threading
import traceback

import pytest
from helpers import double, restless_interpreter

from aiopool import Limit, Pool
from aiopool._jobs.statistics import adds_up
from aiopool.health import HealthMonitor
from aiopool.metrics import observe
from aiopool.testing import wait_until

real = pytest.mark.loops("real", long=("eager",))

# Questions, and what is only noted.
ANYWHERE = {
    "as_executor",
    "events",
    "find",
    "finished_jobs",
    "fleet",
    "from_thread",
    "get_job",
    "jobs",
    "listen",
    "name",
    "next_jobs",
    "running_jobs",
    "size",
    "statistics",
    "status",
    "workers",
}
ANYWHERE |= {"once", "lanes", "on_shutdown"}


def calls_of(pool):
    """Each public method that belongs to the loop, by its name, as a call."""

    async def group():
        async with pool.group() as group:
            await group.submit(double, 1)

    async def stream():
        async for _ in pool.map(double, [1]):
            break

    async def as_completed():
        async for _ in pool.as_completed([]):
            pass

    async def paused():
        async with pool.paused():
            pass

    return {
        "submit": lambda: pool.submit(double, 1),
        "submit_nowait": lambda: pool.submit_nowait(double, 1),
        "run": lambda: pool.run(double, 1),
        "map": stream,
        "with_options": lambda: pool.with_options(priority=3).submit_nowait(double, 1),
        "group": group,
        "cancel": lambda: pool.cancel(1),
        "cancel_all": pool.cancel_all,
        "scan": pool.scan,
        "reprioritize": lambda: pool.reprioritize(1, 3),
        "change_timeout": lambda: pool.change_timeout(1, 3),
        "resize": lambda: pool.resize(3),
        "resized": pool.resized,
        "stop_worker": lambda: pool.stop_worker(1),
        "restart_worker": lambda: pool.restart_worker(1),
        "every": lambda: pool.every(60, double, 1),
        "set_limit": lambda: pool.set_limit("double", Limit(max_at_once=2)),
        "as_completed": as_completed,
        "pause": pool.pause,
        "resume": pool.resume,
        "paused": paused,
        "join": pool.join,
        "shutdown": pool.shutdown,
        "wait_closed": pool.wait_closed,
        "serve": pool.serve,
    }


def accepted(pool, words, *, loop):
    """Make each call, in an event loop of its own or in none; return those that were not refused in these words."""

    async def inside(call):
        outcome = call()
        if inspect.isawaitable(outcome):
            await outcome

    found = []
    for name, call in calls_of(pool).items():
        try:
            if loop:
                asyncio.run(inside(call))
            else:
                inside(call).send(None)
        except RuntimeError as error:
            if words not in str(error) and not (name == "serve" and "opened once at a time" in str(error)):
                found.append((name, str(error)))
        except BaseException as error:
            found.append((name, repr(error)))
        else:
            found.append((name, "accepted"))
    return found


def test_each_method_is_tried():
    """What may be called anywhere, and what is tried from the wrong places below, is all that a pool has."""
    names = {name for name in dir(Pool) if not name.startswith("_")}
    assert set(calls_of(Pool())) <= names
    assert names - ANYWHERE - set(calls_of(Pool())) == set()


@pytest.mark.loops("real")
async def test_what_belongs_to_the_loop_is_refused_in_another_thread(new_pool):
    """Each method that steers is refused in another thread, with the line to write instead, and changes nothing."""
    async with new_pool() as pool:
        await pool.run(double, 1)
        before = pool.statistics()
        executor = asyncio.get_running_loop().run_in_executor
        for loop in (True, False):
            assert await executor(None, lambda loop=loop: accepted(pool, "in another thread", loop=loop)) == []
        assert await executor(None, pool.statistics) == before
        assert pool.status == "open"
        await asyncio.get_running_loop().shutdown_default_executor()


def test_what_belongs_to_the_loop_is_refused_in_another_loop(isolation):
    """Each method that steers is refused in another loop of the same thread; between two runs its thread will do."""
    loop = asyncio.new_event_loop()
    try:
        pool = loop.run_until_complete(Pool(2, isolation=isolation).__aenter__())
        job = pool.submit_nowait(double, 1)
        assert loop.run_until_complete(job.wait())
        before = pool.statistics()
        assert accepted(pool, "in another event loop", loop=True) == []
        assert pool.statistics() == before
        loop.run_until_complete(pool.shutdown())
    finally:
        loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_belongs_to_the_loop_is_refused_in_a_forked_child(isolation):
    """Each method that steers, `job.cancel()` too, is refused in a forked child, which may still ask."""

    def child(pool, job):
        found = accepted(pool, "in a child process", loop=False)
        asyncio._set_running_loop(None)  # as in the child of `multiprocessing`, which may run a loop of its own
        found += accepted(pool, "in a child process", loop=True)
        try:
            job.cancel()
        except RuntimeError as error:
            found += [] if "in a child process" in str(error) else [error]
        else:
            found.append("job.cancel")
        return found, pool.statistics().running, len(pool.jobs()), pool.get_job(job.id) is job

    async def main():
        async with Pool(2, isolation=isolation) as pool:
            job = await pool.submit(asyncio.sleep, 3600)
            await asyncio.sleep(0.01)
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    text = repr(child(pool, job))
                except BaseException:
                    text = traceback.format_exc()
                os.write(write, text.encode())
                os._exit(0)
            os.close(write)
            with open(read, encoding="utf-8") as pipe:
                assert pipe.read() == "([], 1, 1, True)"
            os.waitpid(pid, 0)
            assert job.cancel()

    asyncio.run(main())


@real
async def test_questions_may_be_asked_from_any_thread(new_pool):
    """What other threads ask in a storm never raises, and the numbers of each answer add up."""
    errors, wrong, stop, answers = [], [], threading.Event(), []

    async with new_pool(size=4) as pool:
        monitor = HealthMonitor(pool)

        def watch():
            try:
                while not stop.is_set():
                    found = pool.statistics()
                    if not adds_up(found) or found.busy + found.idle != found.size:
                        wrong.append(found)
                    for job in pool.jobs():
                        assert pool.get_job(job.id) in (job, None)
                    if not adds_up(observe(pool).snapshot().statistics):
                        wrong.append("metrics")
                    monitor.report()
                    repr(pool), pool.status, pool.size, pool.name
                    answers.append(found)
            except BaseException as error:
                errors.append("".join(traceback.format_exception(error)))

        threads = [threading.Thread(target=watch) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            with restless_interpreter():
                for n in range(300):
                    jobs = [await pool.with_options(priority=p).submit(double, n) for p in range(1, 1 + n % 9)]
                    jobs.append(await pool.with_options(id=f"mine-{n}", delay=0.001).submit(double, n))
                    jobs[0].cancel()
                    await asyncio.wait(jobs)
        finally:
            stop.set()
            await wait_until(lambda: not any(thread.is_alive() for thread in threads))
        assert (errors, wrong) == ([], [])
        assert len(answers) > 10


@real
async def test_questions_to_a_loop_that_does_not_answer(new_pool):
    """While one turn of the loop submits and cancels for long, another thread reads numbers that add up."""
    errors, found, ready = [], [], threading.Event()

    async with new_pool(size=4, queue_size=None) as pool:

        def watch():
            try:
                for _ in range(3):
                    found.append(pool.statistics())
                    pool.jobs()
            except BaseException as error:
                errors.append("".join(traceback.format_exception(error)))
            finally:
                ready.set()

        thread = threading.Thread(target=watch)
        thread.start()
        with restless_interpreter():
            while not ready.is_set():
                jobs = [pool.submit_nowait(double, n) for n in range(20)]
                for job in jobs:
                    job.cancel()
        thread.join()
        assert errors == []
        assert [numbers for numbers in found if not adds_up(numbers)] == []
