"""A job can harm only itself, and pools, loops and processes do not mix.

Under `isolation="task"` a job has a task of its own, so there is nothing to leave behind. Under `isolation="scope"` it
runs in the worker's task, and a worker that comes back tainted is replaced before it takes another job. Either way the
next job is in a clean task. (Fixtures are in test_pytest_plugin.py and test_lifecycle.py.)
"""

import asyncio
import contextlib
import contextvars
import gc
import os
import sys
import threading
import types
import weakref

import anyio
import pytest
from helpers import double, forever

from aiopool import JobStatus, Pool, PoolStatus, Restart
from aiopool._engine.scope_worker import scope_state
from aiopool.errors import RestartLimitError
from aiopool.testing import explore, wait_until

pytestmark = pytest.mark.both_isolations

both = pytest.mark.loops("virtual", "uvloop")
real = pytest.mark.loops("real")

variable = contextvars.ContextVar("variable", default="nobody's")


# -- what a job may do to the task in which it runs --------------------------------------------------------------


async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


async def cancels_itself_at_last():
    await asyncio.sleep(0)
    asyncio.current_task().cancel()


async def cancels_itself_at_once():
    asyncio.current_task().cancel()


async def swallows():
    asyncio.current_task().cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(1)
    return "swallowed"


async def swallows_twice():
    for _ in range(2):
        asyncio.current_task().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


async def cancels_and_fails():
    asyncio.current_task().cancel()
    raise OSError


async def leaves_a_scope_open():
    anyio.CancelScope().__enter__()


async def leaves_two_scopes_open():
    await asyncio.sleep(0)
    anyio.CancelScope().__enter__()
    anyio.CancelScope(shield=True).__enter__()
    await asyncio.sleep(0)


async def leaves_a_cancelled_scope_open():
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()


async def leaves_a_deadline_behind():
    anyio.move_on_after(0.01).__enter__()
    raise OSError


async def leaves_scopes_in_the_wrong_order():
    outer, inner = anyio.CancelScope(), anyio.CancelScope()
    outer.__enter__()
    inner.__enter__()
    await asyncio.sleep(0)
    outer.__exit__(None, None, None)


async def leaves_a_timeout_open():
    await asyncio.timeout(0.01).__aenter__()


async def uncancels():
    asyncio.current_task().uncancel()


async def sets_a_variable():
    variable.set("mine")


async def starts_tasks_that_fail():
    async def fail():
        raise OSError

    task = asyncio.create_task(fail())
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait([task])


HARMFUL = [
    cancels_itself,
    cancels_itself_at_last,
    cancels_itself_at_once,
    swallows,
    swallows_twice,
    cancels_and_fails,
    leaves_a_scope_open,
    leaves_two_scopes_open,
    leaves_a_cancelled_scope_open,
    leaves_a_deadline_behind,
    leaves_scopes_in_the_wrong_order,
    leaves_a_timeout_open,
    uncancels,
    sets_a_variable,
    starts_tasks_that_fail,
]


def harmful(isolation):
    """Under `scope`, `asyncio.timeout` has the worker's task; one that is left open strikes later, and nobody can see
    it coming. That is the one harm that gets through, and a reason why `task` is the default."""
    return [harm for harm in HARMFUL if isolation == "task" or harm is not leaves_a_timeout_open]


async def looks_around():
    """The next job: is everything here as in a fresh task?"""
    task = asyncio.current_task()
    assert task.cancelling() == 0
    assert variable.get() == "submitter's"
    for _ in range(3):
        await asyncio.sleep(0)  # a cancel that was left behind would strike here
    with anyio.move_on_after(0.001) as scope:
        await forever()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await forever()
    async with anyio.create_task_group() as group:
        group.start_soon(forever)
        group.cancel_scope.cancel()
    await asyncio.sleep(0.02)  # whatever was left armed has struck by now
    assert task.cancelling() == 0
    with pytest.raises(ExceptionGroup):  # last: on 3.11 it does not always count its own cancel off
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.001))
            group.create_task(_raise(OSError()))
    return "clean"


async def _raise(error):
    raise error


@both
@pytest.mark.parametrize("harm", HARMFUL, ids=lambda f: f.__name__)
async def test_the_next_job_stands_in_a_clean_task(new_pool, isolation, harm):
    """Whatever the last one did to its task; and no worker counts as crashed."""
    if harm not in harmful(isolation):
        pytest.skip(harmful.__doc__)
    variable.set("submitter's")
    pool = new_pool(size=1, restart=Restart(max_restarts=0), on_error=lambda *args: None)
    async with pool:
        for _ in range(3):
            handle = await pool.submit(harm)
            assert await handle.wait(5)
            assert handle.done()
            assert await asyncio.wait_for(pool.run(looks_around), 5) == "clean"
        assert pool.statistics().restarts == 0
        assert pool.status is PoolStatus.OPEN
    assert variable.get() == "submitter's"


@both
@pytest.mark.parametrize("harm", HARMFUL, ids=lambda f: f.__name__)
async def test_the_outcome_of_a_job_that_harms_its_task(new_pool, harm):
    """Its own cancel is a cancel, a value is a value, an open scope is nobody's business."""
    expected = {
        "cancels_itself": {JobStatus.CANCELLED},
        # Nothing awaits after the cancel: as with any task, asyncio may end it as cancelled, but the job has returned.
        "cancels_itself_at_last": {JobStatus.SUCCEEDED},
        "cancels_itself_at_once": {JobStatus.SUCCEEDED},
        "cancels_and_fails": {JobStatus.FAILED},
        "leaves_a_deadline_behind": {JobStatus.FAILED},
        # anyio itself may complain.
        "leaves_scopes_in_the_wrong_order": {JobStatus.FAILED, JobStatus.SUCCEEDED},
    }.get(harm.__name__, {JobStatus.SUCCEEDED})
    async with new_pool(on_error=lambda *args: None) as pool:
        handle = await pool.submit(harm)
        assert await handle.wait(5)
        assert handle.status in expected
        await asyncio.sleep(0.02)  # what was left armed


@both
async def test_a_harmful_job_between_others_of_its_worker(new_pool, isolation):
    """Jobs that wait behind it keep their order and their context."""
    variable.set("submitter's")
    done = []

    async def record(n):
        assert variable.get() == "submitter's"
        await asyncio.sleep(0)
        done.append(n)

    async with new_pool(size=1, on_error=lambda *args: None) as pool:
        for n, harm in enumerate(harmful(isolation)):
            await pool.submit(harm)
            await pool.submit(record, n)
        await pool.join()
        await asyncio.sleep(0.02)  # what was left armed
    assert done == list(range(len(harmful(isolation))))


def test_harm_at_any_schedule(isolation, seeds):
    """Harmful jobs and cancels in a crowd: others end as they should, and no slot is lost."""

    async def scenario(chance):
        variable.set("submitter's")
        async with Pool(size=2, isolation=isolation, on_error=lambda *args: None) as pool:
            bad, good = [], []
            for _ in range(2):
                bad += [await pool.submit(chance.choice(harmful(isolation))) for _ in range(4)]
                good += [await pool.submit(looks_around) for _ in range(2)]
            await asyncio.sleep(chance.choice([0, 0.25]))
            chance.choice(bad).cancel()
            assert [await job for job in good] == ["clean"] * 4
            await pool.join()
            assert pool.statistics().busy == 0
            assert pool.statistics().restarts == 0

    explore(scenario, seeds=seeds(60))


@real
async def test_a_job_of_its_own_task_has_its_own_name(new_pool):
    """The task of a job is named after it; under `scope` it is the worker's, as documented."""

    async def name():
        return asyncio.current_task().get_name()

    async with new_pool(name="mail") as pool:
        own = await pool.with_options(name="send").run(name)
        assert own == "send" if pool._isolation == "task" else own.startswith("mail-worker-")


# -- many pools, many loops ----------------------------------------------------------------------------------------


@both
async def test_two_pools_in_one_loop_know_nothing_of_each_other(new_pool):
    """Ids, limits, jobs and the end of one are not the other's."""
    async with new_pool(size=1, name="a") as a, new_pool(size=1, name="b") as b:
        first, second = await a.submit(forever), await b.submit(forever)
        assert first.id == second.id
        assert await b.cancel(first.id)
        assert second.cancelled()
        assert not first.done()
        with pytest.raises(KeyError):
            async with new_pool(size=1) as c:
                third = await c.submit(forever)
                raise KeyError
        assert third.cancelled()
        assert not first.done()
        assert await b.run(double, 1) == 2
        first.cancel()


@both
async def test_a_job_of_one_pool_works_with_another(new_pool):
    """It submits to the other, waits for it, cancels in it, shuts it down."""
    async with new_pool(size=1, name="a") as a:

        async def job():
            async with new_pool(size=1, name="b") as b:
                blocker = await b.submit(forever)
                await b.cancel(blocker.id)
                return await b.run(double, 21), (await b.shutdown()).clean

        assert await a.run(job) == (42, True)


def test_two_loops_in_two_threads(isolation):
    """Each with its pool, at the same time."""
    results = {}
    meet = threading.Barrier(2)

    async def main(n):
        async with Pool(size=3, isolation=isolation) as pool:
            jobs = [await pool.submit(asyncio.sleep, 0.001, n) for _ in range(50)]
            jobs += [await pool.submit(meet.wait, 10)]
            results[n] = [await job for job in jobs][:50]

    threads = [threading.Thread(target=asyncio.run, args=(main(n),)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {n: [n] * 50 for n in range(2)}


def test_use_from_another_loop(isolation):
    """An open pool belongs to its loop; another one gets an error in place of a corrupted pool."""
    opened, done = threading.Event(), threading.Event()
    pool = Pool(size=1, isolation=isolation)
    caught = []

    async def owner():
        async with pool:
            job = await pool.submit(asyncio.sleep, 0, "mine")
            assert await job == "mine"
            opened.set()
            while not done.is_set():
                await asyncio.sleep(0.001)
            assert await pool.run(double, 1) == 2

    async def stranger():
        opened.wait(10)
        for call in (pool.submit(double, 1), pool.run(double, 1), pool.join(), pool.shutdown()):
            with pytest.raises(RuntimeError) as error:
                await call
            caught.append(str(error.value))
        for plain in (lambda: pool.submit_nowait(double, 1), pool.pause, lambda: pool.resize(3)):
            with pytest.raises(RuntimeError) as error:
                plain()
            caught.append(str(error.value))
        with pytest.raises(RuntimeError, match="once at a time"):
            async with pool:
                pass

    thread = threading.Thread(target=asyncio.run, args=(owner(),))
    thread.start()
    try:
        asyncio.run(stranger())
    finally:
        done.set()
        thread.join(10)
    assert len(caught) == 7
    assert pool.statistics().succeeded == 2
    assert pool.size == 1


def test_use_from_another_loop_of_the_same_thread(isolation):
    """While another loop runs in its thread the pool's own does not: the error says so. Between runs, all may call."""
    pool = Pool(size=1, isolation=isolation)

    async def stranger():
        for call in (lambda: pool.submit_nowait(double, 1), pool.pause):
            with pytest.raises(RuntimeError, match="in another event loop than that of the pool, which does not run"):
                call()
        with pytest.raises(RuntimeError, match="Open another here"):
            await pool.run(double, 1)

    with asyncio.Runner() as runner:
        runner.run(pool.__aenter__())
        asyncio.run(stranger())
        job = pool.submit_nowait(double, 1)
        assert runner.run(job.wait())
        assert job.result() == 2
        runner.run(pool.shutdown())


def test_a_pool_is_opened_by_asyncio_only():
    """Trio has no asyncio loop; the error says so at once, and the pool is as before."""
    trio = pytest.importorskip("trio")
    pool = Pool()

    async def main():
        async with pool:
            pass

    with pytest.raises(RuntimeError, match="in place of trio"):
        trio.run(main)
    assert pool.status is PoolStatus.NEW
    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_calls_in_a_forked_child_are_refused(child, isolation):
    """Whatever a child asks of a pool that its parent has open, it is told to open its own; what is done stays done."""
    process = child(
        """
        import asyncio, os, sys
        from aiopool import Pool

        async def main():
            async with Pool(size=1, isolation=sys.argv[1]) as pool:
                done = await pool.submit(asyncio.sleep, 0)
                await done
                job = await pool.submit(asyncio.sleep, 0, "mine")
                pid = os.fork()
                if pid == 0:
                    try:
                        for call in (lambda: pool.submit_nowait(print), pool.pause, job.cancel):
                            try:
                                call()
                            except RuntimeError as error:
                                print(error, flush=True)
                        print(done.cancel(), flush=True)
                    finally:
                        os._exit(0)
                os.waitpid(pid, 0)
                print(await job, flush=True)

        asyncio.run(main())
        """,
        isolation,
    )
    out, err = process.communicate(timeout=30)
    assert err == ""
    *refused, cancelled, mine = out.splitlines()
    assert [line.partition("(")[0] for line in refused] == ["submit", "pause", "cancel"]
    assert all("forked while the pool was open" in line and "Open a pool in the child" in line for line in refused)
    assert (cancelled, mine) == ("False", "mine")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("opened_by", ["the child itself", "its parent"])
def test_a_forked_child(child, isolation, opened_by):
    """The child of a process with an open pool runs nothing of it, can open its own, and exits cleanly."""
    process = child(
        """
        import asyncio, os, sys, warnings
        from aiopool import Pool

        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        isolation, opened_by = sys.argv[1:]
        pool = Pool(size=1, isolation=isolation)

        async def say(text):
            print(text, os.getpid() == parent, flush=True)

        async def own():
            async with Pool(size=2, isolation=isolation) as pool:
                await pool.run(say, "child")

        async def main():
            async with pool:
                await pool.run(say, "before")
                queued = [await pool.submit(say, "queued") for _ in range(3)]
                pid = os.fork()
                if pid == 0:
                    asyncio.events._set_running_loop(None)
                    try:
                        if opened_by == "the child itself":
                            asyncio.run(own())
                        os._exit(0)
                    finally:
                        os._exit(1)
                _, status = os.waitpid(pid, 0)
                print("child exit", os.waitstatus_to_exitcode(status), flush=True)
                for job in queued:
                    await job

        parent = os.getpid()
        asyncio.run(main())
        """,
        isolation,
        opened_by,
    )
    out, err = process.communicate(timeout=30)
    assert err == ""
    lines = ["before True"] + ["child False"] * (opened_by == "the child itself")
    assert out.splitlines() == [*lines, "child exit 0", "queued True", "queued True", "queued True"]
    assert process.returncode == 0


@real
async def test_a_closed_pool_keeps_nothing_of_its_loop_alive(new_pool):
    """Jobs, arguments and results are gone when their handles are."""

    class Big:
        pass

    async def job(argument):
        return Big()

    async with new_pool(size=2) as pool:
        argument = Big()
        seen = weakref.ref(argument)
        result = weakref.ref(await pool.run(job, argument))
        del argument
        await wait_until(lambda: gc.collect() is not None and seen() is None and result() is None)


@pytest.mark.parametrize("isolation", ["task", "scope"])
def test_what_a_collection_wants_done_soon_is_done(isolation):
    """A collection may run while a task is made: what `__del__` asks of the loop then is not lost (3.11)."""
    made, done = [], []

    class Connection:
        def __init__(self, loop):
            self.loop, self.me = loop, self
            made.append(1)

        def __del__(self):
            self.loop.call_soon(done.append, 1)
            self.loop.call_soon(done.append, 2, context=contextvars.Context())

    async def leave_one():
        Connection(asyncio.get_running_loop())

    async def main():
        async with Pool(3, isolation=isolation) as pool:
            thresholds = gc.get_threshold()
            gc.set_threshold(3, 2, 2)
            try:
                for _ in range(300):
                    await pool.submit(leave_one)
                await pool.join()
            finally:
                gc.set_threshold(*thresholds)
            gc.collect()
            await asyncio.sleep(0)
        assert len(made) == 300
        assert sorted(done) == [1] * 300 + [2] * 300

    asyncio.run(main())


@pytest.mark.parametrize("isolation", ["task", "scope"])
async def test_a_job_that_has_dealt_with_its_cancel_raises_without_a_trace_of_it(isolation):
    """What it raises later has no `__context__` of ours, and it is handling no exception."""
    seen = []

    async def work():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
        seen.append(sys.exc_info()[1])
        raise ValueError("later")

    async with Pool(1, isolation=isolation, on_error=lambda job, error: None) as pool:
        job = await pool.submit(work)
        await wait_until(lambda: job.status is JobStatus.RUNNING)
        asyncio.get_running_loop().call_soon(job.cancel)
        with pytest.raises(ValueError, match="later") as info:
            await job
    assert seen == [None]
    assert info.value.__context__ is None


# -- what the fast lane reads of anyio -----------------------------------------------------------------------------


def test_the_scope_of_a_task_is_read_from_the_installed_anyio():
    """`scope_state` follows a task into an inner scope and out again, and says no more than that."""

    async def main():
        with anyio.CancelScope() as outer:
            state = scope_state(asyncio.current_task())
            assert state.cancel_scope is outer
            with anyio.CancelScope() as inner:
                assert state.cancel_scope is inner
            assert state.cancel_scope is outer
        assert state.cancel_scope is None

    asyncio.run(main())


NOT_SAID = r'anyio \d.* install `anyio>=4.15,<5`, or open the pool with isolation="task"'


@pytest.mark.parametrize("kept", ["elsewhere", "in another form"])
def test_an_anyio_that_does_not_say_the_scope_is_named(monkeypatch, kept):
    """If anyio keeps the scope of a task otherwise, the error names what to install, or to write instead."""

    async def main():
        task = asyncio.current_task()
        with anyio.CancelScope() as scope, monkeypatch.context() as patch:
            if kept == "elsewhere":
                patch.delattr("anyio._backends._asyncio._task_states")
            else:
                state = types.SimpleNamespace(cancel_scope=weakref.ref(scope))
                patch.setattr("anyio._backends._asyncio._task_states", {task: state})
            with pytest.raises(RuntimeError, match=NOT_SAID):
                scope_state(task)

    asyncio.run(main())


def test_a_pool_on_an_anyio_that_does_not_say_the_scope_gives_up_with_that_error(monkeypatch, caplog):
    """No worker can run a job: the pool ends, and the first cause is the line that says what to install."""
    told = []

    def says_nothing(task):
        with monkeypatch.context() as patch:
            patch.delattr("anyio._backends._asyncio._task_states")
            return scope_state(task)

    async def main():
        async with Pool(size=1, isolation="scope", restart=Restart(max_restarts=0)) as pool:
            told.append(await pool.submit(double, 1))
            await pool.wait_closed()

    monkeypatch.setattr("aiopool._engine.scope_worker.scope_state", says_nothing)
    with pytest.raises(RestartLimitError) as caught:
        asyncio.run(asyncio.wait_for(main(), 20))
    with pytest.raises(RuntimeError, match=NOT_SAID):
        raise caught.value.__cause__
    assert isinstance(told[0].exception(), RestartLimitError)
