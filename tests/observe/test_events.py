"""What happens is told: in order, completely, and whatever a listener does."""

import asyncio
import collections
import contextlib
import contextvars
import dataclasses
import functools
import gc
import itertools
import logging
import random
import threading
import weakref

import anyio
import pytest
from helpers import assert_counters_balance, balanced, echo, fail, nap, stubborn, virtual

import aiopool
from aiopool import Pool, Priority, Retry, RetryAfter, events
from aiopool._observe import emitter as _teller
from aiopool._observe.emitter import EventEmitter
from aiopool.events import (
    EventsDropped,
    JobCancelled,
    JobEvent,
    JobFailed,
    JobLeaked,
    JobRetrying,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
    JobTimedOut,
    PoolClosed,
    PoolEvent,
    PoolOpened,
    PoolPaused,
    PoolResized,
    PoolResumed,
    WorkerCrashed,
    WorkerStarted,
    WorkerStopped,
)
from aiopool.metrics import observe
from aiopool.testing import settle

ENDS = (JobSucceeded, JobFailed, JobTimedOut, JobCancelled)


def kinds(heard, *wanted):
    """The names of events, of some classes or of all."""
    return [type(event).__name__ for event in heard if isinstance(event, wanted or PoolEvent)]


def of(heard, kind):
    """The one event of a class."""
    [event] = [event for event in heard if type(event) is kind]
    return event


# -- which events, with which values -----------------------------------------------------------------------------------


@virtual
async def test_the_life_of_a_job_and_of_a_pool(isolation):
    """Opened, submitted, started, ended, closed: in this order, with their values."""
    heard = []
    pool = Pool(1, isolation=isolation, name="shop")
    pool.listen(heard.append)
    async with pool:
        await settle()
        view = pool.with_options(id="invoice-17", group="mail", name="send", metadata={"a": 1})
        urgent = view.with_options(priority=Priority.HIGH)
        job = await urgent.submit(nap, 2)
        await job
    assert kinds(heard) == [
        "PoolOpened",
        "JobSubmitted",
        "WorkerStarted",
        "JobStarted",
        "JobSucceeded",
        "PoolClosing",
        "WorkerStopped",
        "PoolClosed",
    ]
    about = {"pool": "shop", "job_id": "invoice-17", "name": "send", "priority": 3, "group": "mail"}
    about["metadata"] = {"a": 1}
    assert dataclasses.asdict(of(heard, JobSubmitted)) == {**about, "at": 0, "attempt": 0, "delay": 0}
    assert dataclasses.asdict(of(heard, JobStarted)) == {**about, "at": 0, "attempt": 1, "worker": 1, "waited": 0}
    assert dataclasses.asdict(of(heard, JobSucceeded)) == {**about, "at": 2, "attempt": 1, "worker": 1, "seconds": 2}
    assert of(heard, PoolOpened) == PoolOpened(pool="shop", at=0, size=1)
    assert of(heard, PoolClosed) == PoolClosed(pool="shop", at=2, leaked=0)


@virtual
async def test_every_end_has_its_event(isolation):
    """Failed, timed out (each limit), cancelled in each place, dropped: one event each, with the cause."""
    heard = []
    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        pool.listen(heard.append, *ENDS)

        failed = await pool.submit(fail)
        with pytest.raises(ValueError):
            await failed
        assert (event := heard.pop()).error is failed.exception()
        assert (event.awaited, event.worker, type(event)) == (True, 1, JobFailed)
        await pool.submit(fail)
        await pool.join()
        assert heard.pop().awaited is False

        await (await pool.with_options(timeout=3).submit(nap, 10)).wait()
        event = heard.pop()
        assert (type(event), event.error.limit, event.seconds, event.worker) == (JobTimedOut, "timeout", 3, 1)

        running = await pool.submit(nap, 10)
        late = await pool.with_options(queue_timeout=1, name="late").submit(echo)
        await late.wait()
        event = heard.pop()
        assert (type(event), event.name, event.error.limit) == (JobTimedOut, "late", "queue_timeout")
        assert (event.worker, event.seconds, event.attempt) == (None, 0, 0)

        queued = await pool.submit(echo)
        queued.cancel("not needed")
        event = heard.pop()
        assert (type(event), event.reason, event.worker, event.seconds) == (JobCancelled, "not needed", None, 0)
        assert event.error is queued.exception()

        await pool.cancel(running.id, "too slow")
        event = heard.pop()
        assert (type(event), event.reason, event.worker, event.seconds) == (JobCancelled, "too slow", 1, 1)
    assert heard == []


@virtual
async def test_retries_and_delays(isolation):
    """A job that is tried again: one started and one retrying for each attempt, then one end."""
    heard = []
    async with Pool(1, isolation=isolation) as pool:
        pool.listen(heard.append, JobEvent)
        attempts = []

        async def third_time_lucky():
            attempts.append(1)
            await asyncio.sleep(0.5)
            if len(attempts) < 3:
                raise RetryAfter(2, "busy")

        stubborn_view = pool.with_options(retry=Retry(attempts=3), delay=5)
        await (await stubborn_view.submit(third_time_lucky))
    assert kinds(heard) == [
        "JobSubmitted",
        "JobStarted",
        "JobRetrying",
        "JobStarted",
        "JobRetrying",
        "JobStarted",
        "JobSucceeded",
    ]
    assert heard[0].delay == 5
    assert [event.attempt for event in heard] == [0, 1, 1, 2, 2, 3, 3]
    assert [event.at for event in heard] == [0, 5, 5.5, 7.5, 8, 10, 10.5]
    assert (heard[2].seconds, heard[2].delay, heard[2].worker) == (0.5, 2, 1)
    assert isinstance(heard[2].error, RetryAfter)
    assert heard[3].waited == 7.5


@pytest.mark.parametrize("on_leak", ["hold", "replace"])
@virtual(leaks=False)
async def test_a_leak_is_told_with_its_stack(isolation, on_leak):
    """A job that does not end is told as leaked, and as cancelled; its late end is no second event."""
    heard = []
    async with Pool(1, isolation=isolation, cancel_grace=1, on_leak=on_leak) as pool:
        pool.listen(heard.append, JobEvent)
        job = await pool.submit(stubborn)
        await settle()
        report = await pool.cancel(job.id, "enough")
        assert report.leaked
        assert kinds(heard) == ["JobSubmitted", "JobStarted", "JobLeaked", "JobCancelled"]
        assert "in stubborn" in of(heard, JobLeaked).stack
        assert of(heard, JobLeaked).seconds == 2
        await pool.shutdown(timeout=0)
    assert len(heard) == 4


def test_threads_are_told_too(new_pool):
    """A plain function in a thread has the same events."""
    heard = []

    async def main():
        async with new_pool(1) as pool:
            pool.listen(heard.append, JobEvent)
            assert await pool.run(threading.get_ident) != threading.get_ident()
            with pytest.raises(ZeroDivisionError):
                await pool.run(divmod, 1, 0)

    asyncio.run(main())
    assert kinds(heard) == ["JobSubmitted", "JobStarted", "JobSucceeded", "JobSubmitted", "JobStarted", "JobFailed"]


@virtual
async def test_size_and_pause(isolation):
    """Resized, paused and resumed are told when they change something, and only then."""
    heard = []
    async with Pool(2, isolation=isolation) as pool:
        pool.listen(heard.append, PoolResized, PoolPaused, PoolResumed)
        pool.resize(5)
        pool.resize(5)
        async with pool.paused():
            pool.pause()
            pool.resize(3)
        pool.resume()
        pool.pause()
    assert kinds(heard) == ["PoolResized", "PoolPaused", "PoolResized", "PoolResumed", "PoolPaused", "PoolResumed"]
    assert [(event.before, event.size) for event in heard if isinstance(event, PoolResized)] == [(2, 5), (5, 3)]


@virtual
async def test_workers_that_crash_are_told(isolation):
    """A worker that is cancelled by foreign code crashes, and is replaced; the event says in how many seconds."""
    heard = []
    async with Pool(1, isolation=isolation, name="p") as pool:
        await pool.run(echo, 1)
        pool.listen(heard.append, WorkerStarted, WorkerCrashed, WorkerStopped)
        [task] = [task for task in asyncio.all_tasks() if task.get_name() == "p-worker-1"]
        task.cancel()
        await asyncio.sleep(60)
        assert await pool.run(echo, 1) == 1
        assert kinds(heard) == ["WorkerCrashed", "WorkerStarted"]
        assert (heard[0].worker, heard[1].worker) == (1, 2)
        assert heard[0].delay is not None
        assert isinstance(heard[0].error, asyncio.CancelledError)
    assert kinds(heard[2:]) == ["WorkerStopped"]


def test_events_are_frozen_and_small():
    """They can be kept and hashed, they have no dict, and each class is in the drawing of the module."""
    for name in events.__all__:
        kind = getattr(events, name)
        if isinstance(kind, type) and issubclass(kind, PoolEvent):
            assert kind.__doc__
            assert "__slots__" in vars(kind), name
            assert not hasattr(kind.__new__(kind), "__dict__"), name
            assert name in events.__doc__, name
    event = PoolPaused(pool="p", at=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 2.0
    assert {event: 1}[PoolPaused(pool="p", at=1.0)] == 1


# -- order and completeness --------------------------------------------------------------------------------------------

AFTER = {
    None: {"JobSubmitted"},
    "JobSubmitted": {"JobStarted", "JobTimedOut", "JobCancelled"},
    "JobStarted": {"JobRetrying", "JobSucceeded", "JobFailed", "JobTimedOut", "JobCancelled"},
    "JobRetrying": {"JobStarted", "JobTimedOut", "JobCancelled"},
}


def check_order(heard):
    """Each job walks through the table, and ends once; returns how each ended."""
    last, ends = {}, collections.Counter()
    for event in heard:
        if isinstance(event, JobEvent) and not isinstance(event, JobLeaked):
            name = type(event).__name__
            assert name in AFTER[last.get(event.job_id)], (event.job_id, last.get(event.job_id), name)
            last[event.job_id] = name
            ends[name] += 1
    assert set(last.values()) <= {kind.__name__ for kind in ENDS}
    return ends


@pytest.mark.parametrize("seed", range(12))
def test_every_job_is_told_from_its_submission_to_its_end(seed):
    """Under a random load of all kinds, with full queues and cancels; the events agree with the statistics."""

    @virtual
    async def main(isolation):
        rng = random.Random(seed)
        heard, numbers = [], None

        async def work(seconds, error):
            await asyncio.sleep(seconds)
            if error:
                raise ValueError

        pool = Pool(3, 5, isolation=isolation, cancel_grace=0.5, on_error=lambda job, error: None)
        pool.listen(heard.append)
        async with pool:
            live = []

            async def submitter():
                for _ in range(40):
                    view = pool.with_options(
                        priority=rng.randrange(3),
                        timeout=rng.choice([None, 1]),
                        queue_timeout=rng.choice([None, 2]),
                        total_timeout=rng.choice([None, 4]),
                        retry=rng.choice([None, Retry(attempts=3)]),
                        delay=rng.choice([None, 0.5]),
                        group=rng.choice([None, "g"]),
                    )
                    live.append(await view.submit(work, rng.choice([0, 0.3, 2]), rng.random() < 0.3))
                    if rng.random() < 0.2:
                        rng.choice(live).cancel()
                    await asyncio.sleep(rng.choice([0, 0, 0.2]))

            await asyncio.gather(*(submitter() for _ in range(4)))
            await pool.join()
            numbers = pool.statistics()
        ends = check_order(heard)
        assert ends["JobSubmitted"] == numbers.submitted == 160
        assert ends["JobSucceeded"] == numbers.succeeded
        assert ends["JobFailed"] == numbers.failed
        assert ends["JobTimedOut"] == numbers.timed_out
        assert ends["JobCancelled"] == numbers.cancelled
        assert ends["JobRetrying"] == numbers.retries
        assert isinstance(heard[-1], PoolClosed)
        assert [event.at for event in heard] == sorted(event.at for event in heard)

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_nothing_is_told_after_the_pool_is_closed(isolation):
    """What was left behind ends in silence."""
    heard = []
    pool = Pool(1, isolation=isolation, cancel_grace=0.1)
    pool.listen(heard.append)
    async with pool:
        await pool.submit(stubborn)
        await settle()
        await pool.shutdown(timeout=0)
    assert kinds(heard[-1:]) == ["PoolClosed"]
    assert heard[-1].leaked == 1
    count = len(heard)
    await asyncio.sleep(4000)  # it has ended by now
    assert len(heard) == count


@virtual
async def test_a_pool_that_is_opened_again_is_heard_again(isolation):
    """Listeners belong to the pool, not to one opening of it."""
    heard = []
    pool = Pool(1, isolation=isolation)
    pool.listen(heard.append, PoolOpened, JobSucceeded, PoolClosed)
    for _ in range(2):
        async with pool:
            await pool.run(echo)
    assert kinds(heard) == ["PoolOpened", "JobSucceeded", "PoolClosed"] * 2


@virtual
async def test_the_listener_hears_before_the_awaiter_goes_on(isolation):
    """Whoever awaits a job finds that its end has been told."""
    heard = []
    async with Pool(2, isolation=isolation) as pool:
        pool.listen(heard.append, JobSucceeded)
        for n in range(10):
            await pool.run(nap if n % 2 else echo, 0)
            assert len(heard) == n + 1


@virtual
async def test_numbers_that_a_listener_sees_add_up(isolation):
    """Statistics taken at any event are consistent."""
    seen = []

    async with Pool(2, 3, isolation=isolation, overflow="drop_oldest", on_error=lambda job, error: None) as pool:
        pool.listen(lambda event: seen.append(pool.statistics()))
        view = pool.with_options(retry=Retry(attempts=2), timeout=1)
        for n in range(30):
            await view.submit(*((nap, n % 3) if n % 4 else (fail,)))
            await asyncio.sleep(0.1)
        pool.resize(1)
        await pool.join()
    assert len(seen) > 90
    assert all(map(balanced, seen))


# -- classes of events -------------------------------------------------------------------------------------------------


@virtual
async def test_only_the_named_classes_are_heard_and_built(isolation, monkeypatch):
    """A listener for failures costs nothing else: no other event is made."""
    made = collections.Counter()
    for kind in (JobSubmitted, JobStarted, JobSucceeded, JobFailed):

        def make(_kind=kind, **values):
            made[_kind.__name__] += 1
            return _kind(**values)

        if kind is JobFailed:
            monkeypatch.setitem(_teller._ENDS, aiopool.JobStatus.FAILED, kind)
        else:
            monkeypatch.setattr(_teller, kind.__name__, kind)
    heard = []
    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        pool.listen(heard.append, JobFailed)
        told = []
        original = EventEmitter.emit
        monkeypatch.setattr(EventEmitter, "emit", lambda self, event: (told.append(event), original(self, event)))
        await pool.submit(echo)
        await pool.submit(fail)
        await pool.join()
        assert kinds(told) == kinds(heard) == ["JobFailed"]


@virtual
async def test_nobody_listens_nothing_is_asked(isolation):
    """One test for None: the engine has no hub while nobody hears, before the first listener and after the last."""
    async with Pool(1, isolation=isolation) as pool:
        engine = pool._state.engine
        assert engine.observers is None
        first, second = pool.listen(print), pool.listen(print, JobFailed)
        assert engine.observers is not None
        first.remove()
        assert engine.observers is not None
        second.remove()
        second.remove()
        assert engine.observers is None
        assert not second.active
        stream = pool.events()
        assert engine.observers is not None
        del stream
        gc.collect()
        assert engine.observers is None


def test_what_cannot_listen_is_refused_with_the_line_to_write():
    """A coroutine function, an instance, a class that is no event, no function at all."""
    pool = Pool()

    async def listener(event): ...

    with pytest.raises(TypeError, match=r"async for event in pool.events\(\)"):
        pool.listen(listener)

    class Listener:
        async def __call__(self, event): ...

    for asynchronous in (Listener(), functools.partial(Listener()), functools.partial(listener)):
        with pytest.raises(TypeError, match=r"async for event in pool.events\(\)"):
            pool.listen(asynchronous)
    with pytest.raises(TypeError, match="takes a function"):
        pool.listen(17)
    with pytest.raises(TypeError, match="classes of events"):
        pool.listen(print, ValueError)
    with pytest.raises(TypeError, match="classes of events"):
        pool.events("JobFailed")
    with pytest.raises(ValueError, match="at least 1"):
        pool.events(buffer=0)


@virtual
async def test_a_handle_is_a_block(isolation):
    """`with pool.listen(...)` hears inside of the block; the repr says what became of it."""
    heard = []
    async with Pool(1, isolation=isolation) as pool:
        with pool.listen(heard.append, JobSucceeded) as handle:
            assert "active" in repr(handle)
            await pool.run(echo)
        await pool.run(echo)
        assert "removed" in repr(handle)
    assert len(heard) == 1


@virtual
async def test_a_removed_listener_hears_not_even_what_is_being_told(isolation):
    """`remove()` counts at once, also when another listener calls it in the middle of an event."""
    heard = []
    async with Pool(1, isolation=isolation) as pool:
        first = pool.listen(lambda event: second.remove(), JobSucceeded)
        second = pool.listen(heard.append, JobSucceeded)
        await pool.run(echo)
        assert (first.active, second.active) == (True, False)
    assert heard == []


# -- whatever a listener does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, GeneratorExit, anyio.get_cancelled_exc_class])
@virtual
async def test_a_listener_that_raises_hurts_nobody(isolation, error, caplog):
    """Outcomes are unchanged, it is logged once and removed, and the others hear everything."""
    before, after = [], []

    def faulty(event):
        raise error() if isinstance(error, type) else error()()

    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        pool.listen(before.append, JobEvent)
        handle = pool.listen(faulty, JobEvent)
        pool.listen(after.append, JobEvent)
        with caplog.at_level(logging.ERROR):
            assert [await pool.run(echo, n) for n in range(3)] == [0, 1, 2]
            with pytest.raises(ValueError):
                await pool.run(fail)
        assert pool.statistics().restarts == 0
    assert not handle.active
    assert handle.error is not None
    assert before == after
    assert check_order(before)["JobSucceeded"] == 3
    [record] = caplog.records
    assert record.name == "aiopool.events"
    assert "hears no more" in record.message
    assert record.exc_info[1] is handle.error


@virtual
async def test_a_listener_that_returns_a_coroutine_hears_no_more(isolation, caplog):
    """Nobody would await it: that is said once, like any fault, and is no silence."""

    async def late(event): ...

    async with Pool(1, isolation=isolation) as pool:
        handle = pool.listen(lambda event: late(event))
        with caplog.at_level(logging.ERROR):
            assert await pool.run(echo, 1) == 1
    assert isinstance(handle.error, TypeError)
    [record] = caplog.records
    assert "async for event in pool.events()" in str(record.exc_info[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_listener_that_ends_the_program_ends_it(error, isolation):
    """Ctrl-C may strike inside a listener: it leaves by the event loop, as everywhere in asyncio."""
    jobs = []

    def interrupted(event):
        raise error

    async def main():
        async with Pool(1, isolation=isolation) as pool:
            pool.listen(interrupted, JobSucceeded)
            jobs.append(await pool.submit(echo, 1))
            await asyncio.sleep(10)

    with pytest.raises(error):
        asyncio.run(main())
    assert jobs[0].result() == 1


@virtual
async def test_a_listener_may_submit(isolation):
    """A chain of three thousand jobs, each submitted by a listener at the end of one: the stack stays flat."""
    async with Pool(1, isolation=isolation) as pool:
        left = 3000

        def again(event):
            nonlocal left
            if left:
                left -= 1
                pool.submit_nowait(echo)

        heard = []
        pool.listen(again, JobSucceeded)
        pool.listen(heard.append)
        await pool.run(echo)
        await pool.join()
        assert pool.statistics().succeeded == 3001
        check_order(heard)


@pytest.mark.parametrize("when", [JobSubmitted, JobStarted, JobRetrying])
@pytest.mark.parametrize("queue_size", [None, 0, 2])
def test_a_listener_may_cancel(when, queue_size):
    """A job that a listener cancels, whenever, is cancelled once; every other listener hears it in order."""

    @virtual(leaks=False)
    async def main(isolation):
        first, last = [], []
        async with Pool(2, queue_size, isolation=isolation, cancel_grace=0.2) as pool:

            def cancel(event):
                pool.get_job(event.job_id) and pool.get_job(event.job_id).cancel("by a listener")

            pool.listen(first.append)
            pool.listen(cancel, when)
            pool.listen(last.append)

            async def submit(n):
                function = fail if when is JobRetrying else nap
                view = pool.with_options(retry=Retry(attempts=3))
                job = await (view.submit(nap, 5) if function is nap else view.submit(fail))
                await job.wait()
                return job

            jobs = await asyncio.gather(*map(submit, range(12)))
            await pool.join()
            assert {job.status for job in jobs} == {"cancelled"}
            assert first == last
            check_order(first)
            assert_counters_balance(pool)
            assert pool.statistics().busy == 0

    for isolation in ("task", "scope"):
        main(isolation)


def test_a_listener_may_cancel_calls_in_threads(new_pool):
    """At the start of a call in a thread, too; a thousand times, and the stack stays flat."""
    heard = []

    async def main():
        async with new_pool(2, 2000) as pool:
            pool.listen(lambda event: pool.get_job(event.job_id).cancel(), JobStarted)
            pool.listen(heard.append)
            for _ in range(1000):
                await pool.submit(int)
            await pool.join()
            assert pool.statistics().cancelled == 1000
            assert_counters_balance(pool)

    asyncio.run(main())
    check_order(heard)


@virtual
async def test_a_listener_may_steer_the_pool_and_leave(isolation):
    """It pauses, removes itself, adds another, begins a shutdown; nobody is skipped, nothing hangs."""
    heard, closing = [], []

    async with Pool(2, isolation=isolation) as pool:

        def leave(event):
            one.remove()
            late.append(pool.listen(heard.append, JobSucceeded))

        def pause(event):
            two.remove()
            pool.pause()
            asyncio.get_running_loop().call_later(1, pool.resume)

        def close(event):
            three.remove()
            closing.append(asyncio.ensure_future(pool.shutdown()))

        late = []
        one = pool.listen(leave, JobStarted)
        two = pool.listen(pause, JobStarted)
        three = pool.listen(close, JobSucceeded)
        jobs = [await pool.submit(nap, 0.5) for _ in range(4)]
        await asyncio.wait_for(asyncio.gather(*jobs), 60)
        assert (await closing[0]).clean
    assert kinds(heard) == ["JobSucceeded"] * 4


@pytest.mark.parametrize("seed", range(60))
def test_a_listener_that_does_anything_at_any_moment(seed):
    """It cancels, submits, pauses, resizes, reprioritizes, at random; the books close, each story is whole."""

    @virtual
    async def main(isolation):
        rng, heard = random.Random(seed), []
        loop = asyncio.get_running_loop()
        rest = 200

        async def work():
            await asyncio.sleep(rng.choice([0, 0, 0.1, 1]))
            if rng.random() < 0.2:
                raise ValueError

        def submit():
            nonlocal rest
            if rest and pool.status == "open":
                rest -= 1
                view = pool.with_options(
                    priority=rng.randrange(3),
                    retry=rng.choice([None, Retry(attempts=2)]),
                    timeout=rng.choice([None, 0.5]),
                    delay=rng.choice([None, None, 0.3]),
                    group=rng.choice([None, "g"]),
                )
                with contextlib.suppress(asyncio.QueueFull):
                    view.submit_nowait(rng.choice([work, work, int]))

        def cancel():
            if jobs := pool.jobs():
                rng.choice(jobs).cancel("by a listener")

        def reprioritize():
            if jobs := pool.jobs("queued"):
                pool.reprioritize(rng.choice(jobs).id, rng.randrange(3))

        def pause():
            pool.pause()
            loop.call_later(0.2, lambda: pool.status == "open" and pool.resume())

        def pause_group():
            pool.pause(group="g")
            loop.call_later(0.2, lambda: pool.status == "open" and pool.resume(group="g"))

        def resize():
            pool.resize(rng.randrange(1, 5))

        def chaos(event):
            if isinstance(event, JobEvent) and rng.random() < 0.5:
                rng.choice([submit, submit, cancel, cancel, reprioritize, pause, pause_group, resize])()

        tasks = []
        pool = Pool(3, 10, isolation=isolation, cancel_grace=0.5, on_error=lambda job, error: None)
        observe(pool)
        pool.listen(heard.append)
        pool.listen(chaos)
        async with pool:
            for _ in range(60):
                await pool.submit(work)
                if rng.random() < 0.3:
                    await asyncio.sleep(0.1)
            await asyncio.wait_for(pool.join(), 1000)
            await asyncio.gather(*tasks)
            await asyncio.sleep(1)  # a thread whose job was cancelled comes back a moment later
            numbers = observe(pool).snapshot()
            assert_counters_balance(numbers.statistics)
            assert numbers.statistics.busy == numbers.statistics.running == 0
        ends = check_order(heard)
        assert ends["JobSucceeded"] == numbers.statistics.succeeded
        assert ends["JobSubmitted"] == numbers.statistics.submitted - numbers.statistics.rejected
        assert sum(counts.succeeded for counts in numbers.jobs.values()) == numbers.statistics.succeeded

    for isolation in ("task", "scope"):
        main(isolation)


@virtual
async def test_a_listener_blocks_only_for_its_own_time(isolation):
    """A slow listener holds the loop up while it runs: documented; nothing is lost or reordered by it."""
    loop = asyncio.get_running_loop()
    heard = []

    def slow(event):
        heard.append((event.job_id, loop.time()))

    async with Pool(1, isolation=isolation) as pool:
        pool.listen(slow, JobSucceeded)
        jobs = [await pool.submit(nap, 1) for _ in range(3)]
        await pool.join()
    assert heard == [(job.id, n + 1.0) for n, job in enumerate(jobs)]


variable = contextvars.ContextVar("variable", default="nobody's")


@virtual
async def test_listeners_see_and_leak_no_context(isolation):
    """Not the submitter's variables, not the job's; and what a listener sets is seen by no job."""
    seen = []

    def listener(event):
        seen.append((variable.get(), aiopool._jobs.job.running_job.get()))
        variable.set("a listener's")

    async def job():
        before = variable.get()
        variable.set("the job's")
        await asyncio.sleep(0)
        return before

    async with Pool(1, isolation=isolation) as pool:
        pool.listen(listener, JobEvent)
        variable.set("the submitter's")
        assert [await pool.run(job) for _ in range(3)] == ["the submitter's"] * 3
        assert variable.get() == "the submitter's"
    assert seen[0] == ("nobody's", None)
    assert set(seen[1:]) == {("a listener's", None)}


def test_a_listener_may_come_from_another_thread():
    """`listen` and `remove` may be called anywhere; what is told is told in the loop."""
    threads = set()

    async def main():
        async with Pool(2) as pool:
            handle = await asyncio.to_thread(pool.listen, lambda event: threads.add(threading.current_thread()))
            await pool.run(echo)
            await pool.run(int)
            await asyncio.to_thread(handle.remove)
            assert pool._state.engine.observers is None

    asyncio.run(main())
    assert threads == {threading.main_thread()}


@virtual
async def test_events_keep_nothing_alive(isolation):
    """A listener that keeps every event keeps no job, function or result."""

    class Thing: ...

    async def make():
        return Thing()

    heard = []
    async with Pool(1, isolation=isolation) as pool:
        pool.listen(heard.append)
        job = await pool.submit(make)
        result, gone = weakref.ref(await job), weakref.ref(job)
        del job
        gc.collect()
        assert result() is None
        assert gone() is None
    assert len(heard) == 7


# -- streams -----------------------------------------------------------------------------------------------------------


@virtual
async def test_a_stream_has_the_events_in_order_and_ends(isolation):
    """`async for` ends after the pool has closed, and has every event of the wanted classes."""
    heard, read = [], []
    pool = Pool(2, isolation=isolation)
    stream = pool.events(JobEvent)

    async def reader():
        async for event in stream:
            read.append(event)

    task = asyncio.create_task(reader())
    async with pool:
        pool.listen(heard.append, JobEvent)
        for n in range(20):
            await pool.submit(nap, n % 3)
    await asyncio.wait_for(task, 1)
    assert read == heard
    assert len(read) == 60
    assert stream.dropped == 0
    assert "ended" in repr(stream)
    assert [event async for event in pool.events()] == []  # the pool is closed


@virtual
async def test_a_slow_reader_is_told_what_it_lost(isolation):
    """The oldest are dropped for the newest; the gap is in its place, with its length."""
    async with Pool(1, isolation=isolation) as pool:
        stream = pool.events(JobSucceeded, buffer=3)
        first = asyncio.create_task(anext(stream))
        await pool.run(echo)
        assert (await first).job_id == 1
        for _ in range(10):
            await pool.run(echo)
        gap = await anext(stream)
        assert gap == EventsDropped(pool="pool", at=0.0, count=7)
        assert [(await anext(stream)).job_id for _ in range(3)] == [9, 10, 11]
        await pool.run(echo)
        assert (await anext(stream)).job_id == 12
        assert stream.dropped == 7


@virtual
async def test_a_reader_that_is_always_too_slow_reads_events_all_the_same(isolation):
    """After each gap comes the event behind it, in its place: never gap after gap, and in the end all add up."""
    heard, read = [], []
    async with Pool(1, isolation=isolation) as pool:
        pool.listen(heard.append, JobEvent)
        stream = pool.events(JobEvent, buffer=2)

        async def reader():
            async for event in stream:
                read.append(event)
                await asyncio.sleep(1)

        task = asyncio.create_task(reader())
        for _ in range(40):
            await pool.run(nap, 0.3)
    await task
    gaps = [isinstance(event, EventsDropped) for event in read]
    assert gaps.count(True) > 5
    assert not any(one and next_one for one, next_one in itertools.pairwise(gaps))
    place = 0
    for event in read:
        if isinstance(event, EventsDropped):
            place += event.count
        else:
            assert event is heard[place]
            place += 1
    assert place == len(heard)
    assert stream.dropped == sum(event.count for event in read if isinstance(event, EventsDropped))


@virtual
async def test_a_cancelled_reader_loses_nothing(isolation):
    """It may go on reading where it was."""
    async with Pool(1, isolation=isolation) as pool:
        stream = pool.events(JobSucceeded)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 1)
        await pool.run(echo)
        reader = asyncio.create_task(anext(stream))
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert (await anext(stream)).job_id == 1


@virtual
async def test_one_reader_at_a_time(isolation):
    """Two tasks on one stream are refused; two streams are two readers."""
    async with Pool(1, isolation=isolation) as pool:
        stream = pool.events(JobSucceeded)
        reader = asyncio.create_task(anext(stream))
        await settle()
        with pytest.raises(RuntimeError, match="once for each"):
            await anext(stream)
        other = pool.events(JobSucceeded)
        await pool.run(echo)
        assert (await reader) == (await anext(other))


@virtual
async def test_a_stream_can_be_closed(isolation):
    """`async with` closes it; a waiting reader is released."""
    async with Pool(1, isolation=isolation) as pool:
        async with pool.events() as stream:
            await pool.run(echo)
            assert isinstance(await anext(stream), WorkerStarted | JobSubmitted)
        assert [event async for event in stream] == []
        stream = pool.events(JobFailed)
        reader = asyncio.create_task(anext(stream, None))
        await settle()
        stream.close()
        assert await reader is None
        assert pool._state.engine.observers is None


@virtual
async def test_a_stream_may_be_read_by_a_job_of_the_pool(isolation):
    """It watches its own pool, and leaves with it."""

    async with Pool(2, isolation=isolation) as pool:

        async def until_three():
            ids = []
            async for event in pool.events(JobSucceeded):
                ids.append(event.job_id)
                if len(ids) == 3:
                    return ids

        job = await pool.submit(until_three)
        await settle()
        for _ in range(3):
            await pool.run(echo)
        assert await job == [2, 3, 4]
