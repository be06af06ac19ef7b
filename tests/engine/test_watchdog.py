"""The watchdog: it names who blocks the event loop while it is blocked, once, and an idle pool has no wake-ups."""

import asyncio
import logging
import os
import sys
import threading
import time

import pytest
from helpers import double

from aiopool import Pool, run
from aiopool._runtime.watchdog import Watchdog
from aiopool.events import LoopBlocked
from aiopool.testing import FailingCall, settle, wait_until

pytestmark = pytest.mark.both_isolations

real = pytest.mark.loops("real", long=("eager",))

LIMIT = 0.02  # a machine under load is late by more now and then, so nothing below counts all that is told


class Told(logging.Handler):
    """Keeps what the watchdog tells, and lets a job block until it was told."""

    def __init__(self):
        super().__init__()
        self.texts = []
        self.threads = set()

    def emit(self, record):
        self.threads.add(threading.current_thread().name)
        self.texts.append(record.getMessage())

    def about(self, name):
        return [text for text in self.texts if f"in {name}\n" in text]

    def block_until(self, name):
        """Hold up the caller's thread until something with this function in its stack was told."""
        end = time.monotonic() + 30
        while not self.about(name):
            assert time.monotonic() < end, self.texts
            time.sleep(0.001)


@pytest.fixture
def told():
    handler = Told()
    logger = logging.getLogger("aiopool.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@real
async def test_the_job_that_blocks_is_named_while_it_blocks(new_pool, told):
    """In its first step, in a later one, in a task that it made, and in a callback: by name, id and its own lines."""

    async def at_once():
        told.block_until("at_once")

    async def later():
        await asyncio.sleep(0.001)
        told.block_until("later")

    async def in_child():
        async def child():
            await asyncio.sleep(0)
            told.block_until("child")

        await asyncio.create_task(child())

    async def in_callback():
        done = asyncio.Event()

        def callback():
            told.block_until("callback")
            done.set()

        asyncio.get_running_loop().call_soon(callback)
        await done.wait()

    on_uvloop = type(asyncio.get_running_loop()).__module__ == "uvloop"
    async with new_pool(1, watchdog=LIMIT, name="shop") as pool:
        for number, (job, name) in enumerate(
            [(at_once, "at_once"), (later, "later"), (in_child, "child"), (in_callback, "callback")]
        ):
            await pool.with_options(id=f"no-{number}").run(job)
            [text, *_] = told.about(name)
            assert "block_until" in text
            assert "aiopool/_engine" not in text
            if not on_uvloop or (name != "callback" and (name != "child" or sys.version_info >= (3, 12))):
                assert job.__name__ in text.partition(" has blocked")[0]
                assert f"'no-{number}'" in text
        assert told.threads == {"shop-watchdog"}


@real
async def test_a_block_is_told_once_and_is_an_event_afterwards(new_pool, told):
    """However long it takes; the event says how long, when the loop goes on."""

    async def long():
        told.block_until("long")
        time.sleep(5 * LIMIT)

    heard = []
    async with new_pool(1, watchdog=LIMIT) as pool:
        pool.listen(heard.append, LoopBlocked)
        job = await pool.submit(long)
        await job
        await wait_until(lambda: any(event.job_id == job.id for event in heard))
    assert len(told.about("long")) == 1
    [event] = [event for event in heard if event.job_id == job.id]
    assert event.job_name == job.name
    assert event.seconds > 6 * LIMIT
    assert "in long" in event.stack


@real
async def test_what_is_no_job_is_told_as_such(new_pool, told):
    """Code beside the pool blocks it as well; a job of another pool is named by its own watchdog only."""

    async def others():
        told.block_until("others")

    async with new_pool(1, watchdog=LIMIT, name="mine") as pool, new_pool(1, name="other") as other:
        waits = await pool.submit(asyncio.Event().wait)
        await settle_real(pool)
        told.block_until("test_what_is_no_job_is_told_as_such")
        await settle_real(pool)  # else it were one block
        await other.run(others)
        for name in ("test_what_is_no_job_is_told_as_such", "others"):
            assert told.about(name)[0].startswith("code that is no job of pool mine has blocked")
        waits.cancel()


async def settle_real(pool):
    await wait_until(lambda: pool.statistics().busy)
    await asyncio.sleep(2 * LIMIT)


@real
async def test_an_idle_pool_wakes_nobody(new_pool, monkeypatch):
    """When no job runs the loop is asked no more, and the thread sleeps without a limit; the next job has it watch."""
    asked = []

    async def seen_idle():
        await pool.run(asyncio.sleep, 2 * LIMIT)
        assert len(threads(pool)) == 1
        watchdog = pool._watch.stop.__self__
        await wait_until(lambda: not watchdog._armed)
        with monkeypatch.context() as patch:
            patch.setattr(Watchdog, "_look", lambda self: asked.append(self) or True)
            await asyncio.sleep(10 * LIMIT)
        assert asked == []

    async with new_pool(2, watchdog=LIMIT) as pool:
        assert threads(pool) == []
        await seen_idle()
        await seen_idle()
    await wait_until(lambda: threads(pool) == [])


def threads(pool):
    return [thread for thread in threading.enumerate() if thread.name == f"{pool.name}-watchdog"]


@real
async def test_a_pool_without_jobs_has_no_thread(new_pool):
    """Nor has one without a watchdog."""
    async with new_pool(1, watchdog=LIMIT) as pool:
        assert threads(pool) == []
    async with new_pool(1, name="plain") as pool:
        await pool.run(double, 1)
        assert threads(pool) == []


@real
async def test_without_a_thread_nothing_is_watched(new_pool, caplog):
    """The system has no thread to give: it is said once, and the jobs run."""

    async def job():
        await asyncio.sleep(0)

    async with new_pool(1, watchdog=LIMIT, name="poor") as pool:
        with FailingCall("Thread.start", 1, RuntimeError, lasting=True) as call:
            await pool.run(job)
            await pool.run(job)
        assert call.count == 1
    assert caplog.text.count("there is no thread to be had: poor-watchdog watches nothing") == 1


def test_a_loop_that_is_stopped_is_not_blocked(isolation, told):
    """A program that runs its loop in pieces does other things in between."""

    def between():
        time.sleep(10 * LIMIT)

    with asyncio.Runner() as runner:
        pool = runner.run(Pool(1, watchdog=LIMIT, isolation=isolation).__aenter__())
        job = runner.run(pool.submit(asyncio.Event().wait))
        runner.run(asyncio.sleep(2 * LIMIT))
        between()
        runner.run(asyncio.sleep(2 * LIMIT))
        between()
        job.cancel()
        runner.run(pool.shutdown())
    assert told.about("between") == []


@pytest.mark.loops("virtual")
async def test_virtual_time_is_not_watched(new_pool, told):
    """There a schedule may not depend on a thread."""

    async def blocks():
        time.sleep(5 * LIMIT)

    async with new_pool(1, watchdog=LIMIT) as pool:
        await pool.run(blocks)
        await settle()
        assert threads(pool) == []
    assert told.texts == []


def test_it_may_be_opened_again(isolation, told):
    """Each opening has a watchdog of its own."""

    async def main():
        for _ in range(2):
            async with pool:
                told.texts.clear()
                await pool.run(blocks)

    async def blocks():
        told.block_until("blocks")

    pool = Pool(1, watchdog=LIMIT, isolation=isolation)
    run(main)
    run(main)


@pytest.mark.parametrize("wrong", [0, -1, "1"])
def test_the_limit_is_a_time(wrong, isolation):
    """Zero would name every job."""
    with pytest.raises((TypeError, ValueError), match="watchdog"):
        Pool(watchdog=wrong, isolation=isolation)


FORK = """
import asyncio, os, sys
from aiopool import Pool

async def main():
    async with Pool(1, watchdog=0.02, isolation=sys.argv[1]) as pool:
        job = await pool.submit(asyncio.Event().wait)
        await asyncio.sleep(0.1)
        watch = pool._watch
        child = os.fork()
        if not child:
            watch.arm()
            watch.stop()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        job.cancel()

asyncio.run(main())
print("well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_not_held_up(child, isolation):
    """It has no thread, and waits for none."""
    out, err = child(FORK, isolation).communicate(timeout=60)
    assert out.strip() == "well", err


CLOSED = """
import asyncio, sys, threading
from aiopool import Pool
from aiopool.testing import wait_until

def threads():
    return [thread for thread in threading.enumerate() if thread.name == "left-watchdog"]

async def leave():
    pool = await Pool(1, watchdog=0.02, name="left", isolation=sys.argv[1]).__aenter__()
    job = await pool.submit(asyncio.Event().wait)
    await wait_until(threads)
    return pool, job

loop = asyncio.new_event_loop()
left = loop.run_until_complete(leave())
[thread] = threads()
loop.close()
thread.join(30)
print("well" if not thread.is_alive() else "it watches on", flush=True)
"""


def test_a_loop_that_is_closed_is_watched_no_more(child, isolation):
    """Its pool was never closed, and a job of it runs: the thread ends by itself."""
    out, err = child(CLOSED, isolation).communicate(timeout=60)
    assert out.strip() == "well", err
