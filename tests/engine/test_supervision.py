"""Jobs that raise the worst, and workers that crash, with their restart.

Elsewhere: what ends the program is in test_signals.py, in processes of its own.
"""

import asyncio
import contextlib
import logging
import threading

import pytest
from helpers import double, forever, now

from aiopool import JobCancelledError, JobStatus, Pool, PoolClosedError, PoolStatus, Restart, Retry
from aiopool._engine import scope_worker
from aiopool._engine.engine import Engine
from aiopool._engine.queue import JobQueue
from aiopool._engine.scope_worker import ScopeWorker
from aiopool._engine.worker import TaskWorker, Worker
from aiopool.errors import RestartLimitError
from aiopool.testing import advance, explore, run_virtual, settle, wait_until

pytestmark = pytest.mark.both_isolations

virtual = pytest.mark.loops("virtual", long=("virtual-eager",))
real = pytest.mark.loops("real", long=("eager",))
both = pytest.mark.loops("virtual", "uvloop", long=("virtual-eager",))


# -- what a job may raise --------------------------------------------------------------------------------------


class Base(BaseException):
    pass


class NoStr(Exception):
    def __str__(self):
        raise RuntimeError("no str")

    __repr__ = __str__


class NoEq(Exception):
    def __eq__(self, other):
        raise RuntimeError("no eq")

    __hash__ = None


class NoNotes(Exception):
    __notes__ = 3

    def add_note(self, note):
        raise RuntimeError("no notes")


class NoBool(Exception):
    def __bool__(self):
        raise RuntimeError("no bool")

    def __len__(self):
        raise RuntimeError("no len")


class NoReduce(Exception):
    def __reduce__(self):
        raise RuntimeError("no reduce")


def in_circles():
    error = ValueError("its own cause")
    error.__cause__ = error
    return error


def deep(n=0):
    return deep(n + 1)


ERRORS = {
    "BaseException": Base("base"),
    "GeneratorExit": GeneratorExit("by hand"),
    "StopAsyncIteration": StopAsyncIteration("by hand"),
    "MemoryError": MemoryError("by hand"),
    "ExceptionGroup": ExceptionGroup("two", [ValueError(), OSError()]),
    "BaseExceptionGroup": BaseExceptionGroup("two", [Base(), OSError()]),
    "no str": NoStr(),
    "no eq": NoEq(),
    "no notes": NoNotes(),
    "no bool": NoBool(),
    "no reduce": NoReduce(),
    "10 MB": ValueError("x" * 10_000_000),
    "in circles": in_circles(),
    "TimeoutError": TimeoutError("its own"),
    "InvalidStateError": asyncio.InvalidStateError("its own"),
    "PoolClosedError": PoolClosedError("its own"),
    "JobCancelledError": JobCancelledError("its own"),
}


@virtual
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("kind", ["async", "late", "plain"])
async def test_whatever_a_job_raises_is_its_failure(new_pool, name, kind, caplog):
    """That very object, for every waiter; the worker lives, the failure is counted and reported."""
    error = ERRORS[name]

    async def job():
        if kind == "late":
            await asyncio.sleep(0)
        raise error

    def plain():
        raise error

    async with new_pool(size=1) as pool:
        handle = await pool.submit(plain if kind == "plain" else job)
        with pytest.raises(BaseException) as caught:
            await handle
        assert caught.value is error
        assert handle.exception() is error
        assert handle.outcome().error is error
        assert handle.status is JobStatus.FAILED
        await pool.submit(plain if kind == "plain" else job)  # nobody awaits it: its report must work, too
        await pool.join()
        assert len(caplog.records) == 1
        assert await pool.run(double, 1) == 2
        assert pool.statistics().failed == 2
        assert pool.statistics().restarts == 0
    del caught


class BrokenHandler(logging.Handler):
    def handle(self, record):
        raise OSError("the log is full")


@virtual
async def test_a_log_that_raises_hurts_nobody(new_pool, monkeypatch, capsys):
    """Not when a job fails, nor a hook, nor a worker; it all goes to stderr instead."""
    handler, logger = BrokenHandler(), logging.getLogger("aiopool")
    logger.addHandler(handler)
    try:

        async def fail():
            raise ValueError

        async with new_pool(size=1, cancel_grace=1) as pool:
            await pool.submit(fail)
            await pool.join()
            job = await pool.submit(double, 1)
            job.add_done_callback(lambda job: 1 / 0)
            await pool.join()
            assert pool.statistics().restarts == 0
            monkeypatch.setattr(Engine, "attempt_returned", crash_once(Engine.attempt_returned, Fault()))
            await pool.submit(double, 1)
            await pool.join()
            assert await pool.run(double, 1) == 2
    finally:
        logger.removeHandler(handler)
    told = capsys.readouterr().err
    assert told.count("OSError: the log is full") == 4  # the failure, the callback, the fault as a failure, the worker
    assert "nobody was awaiting it" in told
    assert "ZeroDivisionError" in told
    assert "crashed, and is replaced" in told


@real
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_stop_iteration_does_not_stop_anything(new_pool, kind):
    """Python makes a RuntimeError of it wherever a coroutine would end by it; so does a job, with what it raised."""

    async def job():
        raise StopIteration("by hand")

    def plain():
        raise StopIteration("by hand")

    async with new_pool(size=1) as pool:
        handle = await pool.submit(job if kind == "async" else plain)
        with pytest.raises(RuntimeError, match="StopIteration") as info:
            await handle
        assert type(info.value.__cause__) is StopIteration
        with pytest.raises(RuntimeError, match="StopIteration" if kind == "async" else r"next\(iterator, None\)"):
            handle.result()
        assert handle.exception() is info.value
        assert handle.status is JobStatus.FAILED
        assert await pool.run(double, 1) == 2


@real
async def test_a_recursion_without_end_is_a_failure_of_the_job(new_pool):
    """A real one, async and plain."""

    async def job():
        deep()

    async def job_of_coroutines(n=0):
        return await job_of_coroutines(n + 1)

    async with new_pool(size=1) as pool:
        for function in (job, job_of_coroutines, deep):
            with pytest.raises(RecursionError):
                await pool.run(function)
        assert await pool.run(double, 1) == 2


@both
async def test_the_traceback_does_not_grow_with_each_waiter(new_pool):
    """Awaiting three times raises the same error, with the same traceback and one note."""

    async def job():
        raise ValueError("once")

    def length(error):
        trace, n = error.__traceback__, 0
        while trace is not None:
            trace, n = trace.tb_next, n + 1
        return n

    async with new_pool() as pool:
        handle = await pool.submit(job)
        lengths = []
        for _ in range(3):
            with pytest.raises(ValueError) as caught:
                await handle
            lengths.append(length(caught.value))
        assert len(set(lengths)) == 1
        assert caught.value.__notes__ == [f"attempt 1 of 1, job {handle.name!r} id {handle.id}"]


@both
async def test_a_failure_that_nobody_awaits_is_reported_once_when_it_happens(new_pool, caplog):
    """To the log, with the traceback; not if somebody awaits it, and never at garbage collection."""

    async def fail(text):
        raise ValueError(text)

    async with new_pool() as pool:
        awaited = await pool.submit(fail, "awaited")
        with pytest.raises(ValueError):
            await awaited
        assert caplog.records == []
        handle = await pool.submit(fail, "lonely")
        await wait_until(handle.done)
        assert [record.name for record in caplog.records] == ["aiopool.job"]
        assert "lonely" in caplog.text
        with pytest.raises(ValueError):
            await handle
        del handle, awaited
    assert len(caplog.records) == 1


@both
async def test_on_error_hears_of_failures_that_nobody_awaits(new_pool, caplog):
    """It gets the job and the error; if it raises, that is logged and hurts nobody."""
    heard = []

    def on_error(job, error):
        heard.append((job.status.value, str(error)))
        raise KeyError("in the hook")

    async def fail(text):
        raise ValueError(text)

    async with new_pool(on_error=on_error) as pool:
        for text in "ab":
            await pool.submit(fail, text)
        await pool.join()
        assert await pool.run(double, 1) == 2
    assert heard == [("failed", "a"), ("failed", "b")]
    assert caplog.text.count("in the hook") >= 2
    assert pool.statistics().restarts == 0


@both
@pytest.mark.parametrize("broken", ["predicate", "backoff", "callback"])
async def test_a_broken_hook_is_the_jobs_failure_or_is_logged(new_pool, broken):
    """A retry rule that raises is how the job fails; a done-callback that raises hurts nobody."""

    def explode(*args):
        raise ZeroDivisionError("in the hook")

    async def fail():
        raise ValueError("of the job")

    retry = {
        "predicate": lambda: Retry(attempts=3, on=explode),
        "backoff": lambda: Retry(attempts=3, backoff=explode),
    }.get(broken, lambda: None)()
    async with new_pool(size=1) as pool:
        handle = await pool.with_options(retry=retry).submit(fail)
        if "callback" in broken:
            handle.add_done_callback(explode)
        with pytest.raises((ZeroDivisionError, ValueError)) as caught:
            await handle
        if retry:
            assert "in the hook" in str(caught.value)
            assert "of the job" in str(caught.value.__context__)
        assert await pool.run(double, 1) == 2
        assert pool.statistics().restarts == 0


# -- a worker that crashes -------------------------------------------------------------------------------------

# The calls of a worker's own loop; each is made to fail at its n-th call. Left out are those that keep the books
# themselves (`Job._start`, `Job._finish`, `Engine.rest`): where they break there is nobody left to keep them.
MACHINERY = {
    "task": [
        (Engine, "take_job"),
        (Engine, "attempt_returned"),
        (Engine, "attempt_ended"),
        (JobQueue, "pop"),
        (Worker, "check_by"),
        (TaskWorker, "context"),
        (TaskWorker, "offload"),
        (TaskWorker, "prepare"),
    ],
    "scope": [
        (Engine, "take_job"),
        (Engine, "attempt_returned"),
        (Engine, "attempt_ended"),
        (JobQueue, "pop"),
        (Worker, "check_by"),
        (ScopeWorker, "context"),
        (ScopeWorker, "offload"),
        (ScopeWorker, "_serve"),
        (ScopeWorker, "_job_over"),
        (ScopeWorker, "prepare"),
        (ScopeWorker, "run_jobs"),
        (scope_worker, "run_step"),
    ],
}
SPOTS = [(kind, owner, name) for kind, spots in MACHINERY.items() for owner, name in spots]


class Fault(Exception):
    """Injected: a bug of the machinery."""


@pytest.mark.parametrize(("kind", "owner", "name"), SPOTS, ids=[f"{kind}-{o.__name__}.{n}" for kind, o, n in SPOTS])
def test_a_fault_at_any_call_of_the_machinery_loses_nothing(monkeypatch, caplog, kind, owner, name):
    """The n-th call fails, for each n there is: the worker is replaced, every job ends, all slots come back."""
    original = getattr(owner, name)
    calls = fail_at = 0

    def failing(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise Fault(f"{owner.__name__}.{name}, call {calls}")
        return original(*args, **kwargs)

    async def flaky(attempts=[]):  # noqa: B006
        attempts.append(1)
        if len(attempts) % 2:
            raise OSError

    async def main():
        async with Pool(size=2, isolation=kind, restart=Restart(max_restarts=9, delay=0.1)) as pool:
            retrying = pool.with_options(retry=Retry(attempts=2, delay=0.5, jitter=0))
            jobs = [await pool.submit(asyncio.sleep, 0.25) for _ in range(3)]
            jobs.append(await pool.submit(double, 1))
            jobs.append(await pool.with_options(timeout=0.25).submit(forever))
            jobs.append(await retrying.submit(flaky))
            jobs.append(await pool.submit(len, "plain"))
            for job in jobs:
                job.add_done_callback(lambda job: None)
            assert await asyncio.wait_for(asyncio.gather(*(job.wait() for job in jobs)), 60)
            assert {job.status for job in jobs} <= {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.TIMED_OUT}
            hurt = [job for job in jobs if isinstance(job.exception(), Fault)]
            assert len(hurt) <= 1
            await asyncio.sleep(10)
            now = pool.statistics()
            assert (now.busy, now.running, now.queued, now.leaked) == (0, 0, 0, 0)
            assert len(pool._state.supervisor.workers()) <= 2
            assert set(pool._state.supervisor.idle) == set(pool._state.supervisor.workers())
            made = calls
            assert await asyncio.gather(*(pool.run(double, n) for n in range(4))) == [0, 2, 4, 6]
            return made, now.restarts

    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(owner, name, failing)
    total, _ = run_virtual(main)
    crashes = 0
    for nth in range(1, total + 1):
        fail_at, calls = nth, 0
        _, restarts = run_virtual(main)
        crashes += restarts
    assert crashes, "no fault ever crashed a worker"


@virtual
async def test_a_crashed_worker_is_replaced_after_a_delay(new_pool, monkeypatch, caplog):
    """The job in hand fails with the fault, the pool logs it, the restart is counted, the next job runs."""
    fault = Fault("in the worker")
    pool = new_pool(size=1, restart=Restart(max_restarts=3, delay=2))
    original = Engine.attempt_returned
    monkeypatch.setattr(Engine, "attempt_returned", crash_once(original, fault))
    async with pool:
        handle = await pool.submit(double, 1)
        with pytest.raises(Fault) as caught:
            await handle
        assert caught.value is fault
        await settle()
        assert pool.statistics().restarts == 1
        assert "crashed, and is replaced in 2 s" in caplog.text
        began = now()
        assert await pool.run(double, 2) == 4
        assert now() - began == 2


def crash_once(original, fault):
    faults = [fault]

    def failing(*args):
        if faults:
            raise faults.pop()
        return original(*args)

    return failing


@pytest.mark.loops("real")
async def test_a_crash_while_a_call_is_taken_back_replaces_the_worker(new_pool, monkeypatch, caplog):
    """A call that no thread had begun is cancelled; what its slot does next fails."""
    release = threading.Event()
    async with new_pool(size=2, max_threads=1, restart=Restart(delay=0)) as pool:
        held = await pool.submit(release.wait)
        waiting = await pool.submit(len, "waiting")
        await wait_until(lambda: waiting.status is JobStatus.RUNNING)
        next_job = await pool.submit(len, "next")
        monkeypatch.setattr(Engine, "take_job", crash_once(Engine.take_job, Fault()))
        assert waiting.cancel()
        await wait_until(lambda: pool.statistics().restarts == 1)
        release.set()
        assert (await held, await next_job) == (True, 4)


@real
async def test_a_crash_behind_an_attempt_that_failed_does_not_end_it_again(new_pool, monkeypatch, caplog):
    """The job waits for its next attempt, which it gets; what crashed was not its own affair any more."""
    attempts = []

    async def flaky():
        attempts.append(1)
        if len(attempts) < 2:
            raise OSError

    async with new_pool(size=1, restart=Restart(delay=0)) as pool:
        retrying = pool.with_options(retry=Retry(attempts=3, delay=0.001))
        job = retrying.submit_nowait(flaky)
        original, taken = Engine.take_job, []

        def fails_at_the_second(engine):
            taken.append(1)
            if len(taken) == 2:
                raise Fault
            return original(engine)

        monkeypatch.setattr(Engine, "take_job", fails_at_the_second)
        await wait_until(job.done)
        assert job.status is JobStatus.SUCCEEDED
        assert [type(record.error) for record in job.outcome().history] == [OSError]
        await wait_until(lambda: pool.statistics().busy == 0)
        assert (len(attempts), pool.statistics().retries, pool.statistics().restarts) == (2, 1, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_between_two_jobs_ends_the_loop(isolation, monkeypatch, caplog, error):
    """It goes out of the loop, and not into the step of whoever has woken the worker; the next job is cancelled."""
    seen = []

    async def main():
        async with Pool(size=1, isolation=isolation, restart=Restart(delay=5)) as pool:
            assert await pool.run(double, 1) == 2
            monkeypatch.setattr(Engine, "take_job", crash_once(Engine.take_job, error("by hand")))
            job = await pool.submit(double, 2)
            job.add_done_callback(lambda job: seen.append(job.status))
            try:
                await job.wait()
            except BaseException as reached:
                seen.append(type(reached))
                raise

    with pytest.raises(error, match="by hand"):
        asyncio.run(asyncio.wait_for(main(), 20))
    assert seen == [asyncio.CancelledError, JobStatus.CANCELLED]


@virtual
async def test_a_restart_that_is_pending_ends_with_the_pool(new_pool, monkeypatch, caplog):
    """No timer of a restart outlives the pool (conftest looks)."""
    monkeypatch.setattr(Engine, "attempt_returned", crash_once(Engine.attempt_returned, Fault()))
    async with new_pool(size=2, restart=Restart(delay=5, max_delay=5)) as pool:
        await (await pool.submit(double, 1)).wait()
        await settle()


@virtual
async def test_workers_that_always_crash_make_the_pool_give_up(new_pool, monkeypatch, caplog):
    """At the limit the pool fails visibly: waiting jobs end with RestartLimitError, and so does the block."""
    fault = Fault("each time")

    def failing(*args):
        raise fault

    monkeypatch.setattr(Engine, "attempt_returned", failing)
    pool = new_pool(size=2, restart=Restart(max_restarts=3, within=60, delay=1))
    with pytest.raises(RestartLimitError) as caught:
        async with pool:
            jobs = [await pool.submit(double, n) for n in range(6)]
            delayed = await pool.with_options(delay=1000).submit(double, 1)
            await pool.wait_closed()
            assert {type(job.exception()) for job in jobs} == {Fault, RestartLimitError}
            assert isinstance(delayed.exception(), RestartLimitError)
            given_up = next(job for job in jobs if isinstance(job.exception(), RestartLimitError))
            assert given_up.exception().__cause__ is fault
            with pytest.raises(PoolClosedError):
                await pool.submit(double, 1)
    assert caught.value.__cause__ is fault
    assert pool.statistics().restarts == 4
    assert now() < 10
    assert [f"crashed, and is replaced in {seconds} s" in caplog.text for seconds in (1, 2, 4)] == [True] * 3
    assert caplog.text.count("crashed, once more than the pool restarts workers") == 1
    assert pool.status is PoolStatus.CLOSED


@virtual
async def test_a_pool_that_gives_up_lets_running_jobs_clean_up(new_pool, monkeypatch, caplog):
    """What runs is cancelled, with its grace; a body that waits for something else leaves with the failure."""
    cleaned_up = []

    async def tidy():
        try:
            await forever()
        finally:
            cleaned_up.append(now())

    original, victims = Engine.attempt_returned, []

    def failing(engine, job, value, now):
        if value == "crash":
            raise Fault
        return original(engine, job, value, now)

    monkeypatch.setattr(Engine, "attempt_returned", failing)
    pool = new_pool(size=2, restart=Restart(max_restarts=0))
    with pytest.raises(RestartLimitError):
        async with pool:
            running = await pool.submit(tidy)
            victims.append(await pool.submit(asyncio.sleep, 1, "crash"))
            await asyncio.sleep(5)
    assert cleaned_up == [1]
    assert running.cancelled()
    assert isinstance(victims[0].exception(), Fault)


@virtual
async def test_a_jobs_crash_is_not_a_workers(new_pool, caplog):
    """However often jobs fail, nothing restarts and no limit is reached."""

    async def fail():
        raise OSError

    async with new_pool(size=2, restart=Restart(max_restarts=0), on_error=lambda *args: None) as pool:
        for _ in range(100):
            await pool.submit(fail)
        await pool.join()
        assert pool.statistics().failed == 100
        assert pool.statistics().restarts == 0


# -- what a job leaves behind ------------------------------------------------------------------------------------


@both
async def test_what_a_job_leaves_behind_hurts_no_other(new_pool):
    """Half-way generators, orphan tasks, futures nobody awaits."""
    orphans = []

    async def agen():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)

    async def job():
        async for _ in agen():
            break
        async with contextlib.aclosing(agen()) as items:
            async for _ in items:
                break
        orphans.append(asyncio.create_task(forever()))
        asyncio.get_running_loop().create_future()

    async with new_pool(size=1) as pool:
        for _ in range(5):
            await pool.run(job)
        assert await pool.run(double, 1) == 2
    for orphan in orphans:
        orphan.cancel()
    await asyncio.wait(orphans)


def test_workers_that_crash_at_random_lose_nothing(isolation, caplog, seeds):
    """Crashes in the middle of a crowd, at any schedule; each job ends once, and the crowd goes on."""
    caplog.set_level(logging.CRITICAL)

    async def scenario(chance):
        original = Engine.attempt_returned

        def failing(*args):
            if chance.random() < 0.1:
                raise Fault
            return original(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Engine, "attempt_returned", failing)
            restart = Restart(max_restarts=1000, delay=0.25, max_delay=0.25)
            async with Pool(size=3, isolation=isolation, restart=restart) as pool:
                jobs = []
                for _ in range(20):
                    jobs.append(await pool.submit(asyncio.sleep, chance.choice([0, 0.25])))
                    jobs[-1].add_done_callback(lambda job: None)
                    await asyncio.sleep(chance.choice([0, 0, 0.25]))
                await pool.join()
                await asyncio.sleep(1)
                crashed = sum(isinstance(job.exception(), Fault) for job in jobs)
                stats = pool.statistics()
                assert stats.failed == stats.restarts == crashed
                assert stats.succeeded == 20 - crashed
                assert (stats.busy, len(pool._state.supervisor.idle) <= 3) == (0, True)

    explore(scenario, seeds=seeds(60))


@virtual
async def test_the_watch_over_the_workers_needs_no_time(new_pool):
    """The supervisor has no task and no timer of its own."""
    async with new_pool(size=5) as pool:
        await asyncio.gather(*(pool.run(asyncio.sleep, 1) for _ in range(5)))
        names = sorted(task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()})
        assert [name.startswith("pool-worker-") for name in names] == [True] * 5
        assert asyncio.get_running_loop().armed() == []
        assert len(pool._state.engine.timers) == 0
        await advance(1)
