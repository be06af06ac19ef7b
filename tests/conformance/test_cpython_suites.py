"""What runs in a task runs in a job: CPython's own tests of `TaskGroup` and `timeout`, and anyio's rules of scopes.

Each test coroutine of the installed Python's `test_taskgroups` and `test_timeouts` is the function of one job, with its
own loop and its own pool. Nothing in these tests knows of a pool: what they ask of cancels, `cancelling()`, contexts
and tracebacks holds inside of one, under both isolations and without an exception.

anyio does not install its own tests, so its rules are written down here, as jobs.
"""

import asyncio
import importlib
import inspect
import sys
import unittest
import warnings

import anyio
import anyio.lowlevel
import pytest
from helpers import BOTH, forever

from aiopool import JobStatus, Pool, current_job
from aiopool.testing import VirtualLoop, advance, settle

pytestmark = pytest.mark.both_isolations

try:
    import uvloop
except ImportError:  # not on every platform
    uvloop = None


def eager_loop():
    loop = VirtualLoop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


# Whole seconds are slept in these tests: in virtual time, on asyncio's own loop with another clock; and on uvloop.
LOOPS = {"asyncio": VirtualLoop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop
if sys.version_info >= (3, 12):
    LOOPS["eager"] = eager_loop

# Every time in a task of asyncio's, which is the default; the other isolation and loops in the long run.
KINDS = [
    pytest.param(kind, loop, marks=[pytest.mark.long] * ((kind, loop) != ("task", "asyncio")))
    for kind in BOTH
    for loop in LOOPS
]

# -- CPython's -------------------------------------------------------------------------------------------------


def cases(module):
    """The test coroutines of a module of CPython's suite, by name; none where Python comes without its tests."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suite = importlib.import_module(f"test.test_asyncio.{module}")
    except ImportError:
        return {}
    found = {}
    for name, case in vars(suite).items():
        if not (inspect.isclass(case) and issubclass(case, unittest.IsolatedAsyncioTestCase)):
            continue
        if (
            getattr(case, "loop_factory", None) is not None
        ):  # the eager double of another class: we have a loop for that
            continue
        for method in unittest.defaultTestLoader.getTestCaseNames(case):
            if inspect.iscoroutinefunction(getattr(case, method)):
                found[f"{name}.{method}"] = case, method
    return found


CASES = {"test_taskgroups": cases("test_taskgroups"), "test_timeouts": cases("test_timeouts")}
EACH = [pytest.param(case, method, id=name) for module in CASES.values() for name, (case, method) in module.items()]


async def carry_out(case, method):
    """One test, as `unittest` carries it out."""
    test = case(method)
    test.setUp()
    await test.asyncSetUp()
    try:
        await getattr(test, method)()
    finally:
        await test.asyncTearDown()
        test.tearDown()
        test.doCleanups()


def run_in(loop, main):
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(main)


async def as_job(isolation, case, method):
    async with Pool(size=2, isolation=isolation) as pool:
        try:
            await pool.run(carry_out, case, method)
        finally:
            # Whatever the test did to its task: the pool is whole.
            assert await asyncio.gather(*[pool.run(asyncio.sleep, 0, n) for n in range(4)]) == [0, 1, 2, 3]
            assert pool.statistics().busy == pool.statistics().leaked == 0


@pytest.mark.skipif(not all(CASES.values()), reason="this Python comes without the package test.test_asyncio")
@pytest.mark.parametrize(("isolation", "loop"), KINDS)
@pytest.mark.parametrize(("case", "method"), EACH)
def test_cpythons_own_test_inside_a_job(isolation, loop, case, method):
    """What asyncio promises a coroutine in a task, it keeps to a coroutine in a job."""
    if (loop, method) == ("uvloop", "test_nested_timeouts"):
        pytest.skip("uvloop fires two timers of one moment in two turns now and then: it fails there by itself")
    run_in(loop, as_job(isolation, case, method))


@pytest.mark.skipif(not all(CASES.values()), reason="this Python comes without the package test.test_asyncio")
def test_there_is_something_to_run():
    """The names above match something: nothing passes here for want of tests."""
    assert len(CASES["test_taskgroups"]) >= 25
    assert len(CASES["test_timeouts"]) >= 20


@pytest.mark.parametrize("loop", LOOPS)
def test_a_failing_test_fails_here(isolation, loop):
    """A failure inside a job comes out of the job: the tests above can fail."""

    class Broken(unittest.IsolatedAsyncioTestCase):
        async def test_wrong(self):
            await asyncio.sleep(0)
            self.fail("as it should")

    with pytest.raises(AssertionError, match="as it should"):
        run_in(loop, as_job(isolation, Broken, "test_wrong"))


# -- anyio's ---------------------------------------------------------------------------------------------------

everywhere = pytest.mark.loops("virtual", "real")
virtual = pytest.mark.loops("virtual")


async def in_a_job(new_pool, function, *args):
    """Run a function as a job; then the next job of the same worker must find nothing of it."""

    async def next_job():
        await anyio.lowlevel.checkpoint()
        task = asyncio.current_task()
        return task.cancelling(), anyio.current_effective_deadline()

    async with new_pool(size=1) as pool:
        try:
            return await pool.run(function, *args)
        finally:
            assert await pool.run(next_job) == (0, float("inf"))


@everywhere
async def test_a_cancelled_inner_scope_leaves_the_outer_one_alone(new_pool):
    """The cancel is caught where it was called, and the code behind that scope goes on."""

    async def job():
        with anyio.CancelScope() as outer:
            with anyio.CancelScope() as inner:
                inner.cancel()
                await anyio.sleep_forever()
            await anyio.sleep(0)
            went_on = True
        return went_on, inner.cancelled_caught, outer.cancelled_caught, outer.cancel_called

    assert await in_a_job(new_pool, job) == (True, True, False, False)


@everywhere
async def test_a_cancelled_outer_scope_passes_through_the_inner_one(new_pool):
    """And is caught by the outer one: the job goes on behind it, and succeeds."""

    async def job():
        with anyio.CancelScope() as outer:
            with anyio.CancelScope() as inner:
                outer.cancel()
                await anyio.sleep_forever()
            raise AssertionError("not reached")
        await anyio.sleep(0)
        return inner.cancelled_caught, outer.cancelled_caught

    assert await in_a_job(new_pool, job) == (False, True)


@everywhere
async def test_a_cancelled_scope_tells_at_each_checkpoint(new_pool):
    """Cancelling is by level: who swallows it is told again, until the scope is left."""

    async def job():
        told = 0
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    told += 1
        await anyio.sleep(0)
        return told

    assert await in_a_job(new_pool, job) == 3


@everywhere
async def test_a_shield_holds_off_the_scope_around_it(new_pool):
    """Inside all is quiet; the first checkpoint behind it tells."""

    async def job():
        seen = []
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                seen.append("shielded")
            await anyio.sleep(0)
            seen.append("not reached")
        return seen, outer.cancelled_caught

    assert await in_a_job(new_pool, job) == (["shielded"], True)


@everywhere
async def test_a_shield_does_not_hold_off_its_own_deadline(new_pool):
    """`move_on_after(…, shield=True)` ends what it guards."""

    async def job():
        with anyio.move_on_after(0.01, shield=True) as scope:
            await anyio.sleep_forever()
        return scope.cancelled_caught

    assert await in_a_job(new_pool, job) is True


@virtual
async def test_move_on_after_moves_on(new_pool):
    """At its deadline, and not the outer one's."""

    async def job():
        began = anyio.current_time()
        with anyio.move_on_after(10) as outer, anyio.move_on_after(2) as inner:
            assert anyio.current_effective_deadline() == began + 2
            await anyio.sleep(60)
        await anyio.sleep(0)
        return anyio.current_time() - began, inner.cancelled_caught, outer.cancelled_caught

    assert await in_a_job(new_pool, job) == (2, True, False)


@virtual
async def test_a_deadline_can_be_moved_while_the_scope_is_entered(new_pool):
    """Both ways, as code does that renews its lease."""

    async def job():
        began = anyio.current_time()
        with anyio.move_on_after(1) as scope:
            scope.deadline += 4
            await anyio.sleep(3)
            scope.deadline = anyio.current_time() + 0.5
            await anyio.sleep(60)
        return anyio.current_time() - began

    assert await in_a_job(new_pool, job) == 3.5


@everywhere
async def test_fail_after_is_an_error_of_the_job(new_pool):
    """A time limit of the job's own: it failed with TimeoutError, and was not timed out by the pool."""

    async def job():
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()

    async with new_pool(size=1, timeout=60) as pool:
        handle = await pool.submit(job)
        with pytest.raises(TimeoutError) as caught:
            await handle
        assert type(caught.value) is TimeoutError
        assert handle.status is JobStatus.FAILED
        assert await pool.run(asyncio.sleep, 0, 1) == 1


@everywhere
async def test_a_scope_is_cancelled_from_outside_of_the_job(new_pool):
    """By a callback, or by another task: what belongs to the scope ends, the job goes on."""
    scopes = []

    async def job():
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await anyio.sleep_forever()
        await anyio.sleep(0)
        return scope.cancelled_caught

    async with new_pool(size=1) as pool:
        handle = await pool.submit(job)
        while not scopes:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        scopes[0].cancel()
        assert await handle is True


@everywhere
async def test_a_task_group_waits_for_its_children(new_pool):
    """They are tasks of their own, and know the job that they belong to."""

    async def job():
        ends = []

        async def child(n):
            await anyio.sleep(0.01 * n)
            ends.append((n, current_job().id))

        async with anyio.create_task_group() as group:
            for n in (2, 0, 1):
                group.start_soon(child, n)
        return ends, current_job().id

    ends, me = await in_a_job(new_pool, job)
    assert ends == [(0, me), (1, me), (2, me)]


@everywhere
async def test_a_child_that_fails_takes_the_group_with_it(new_pool):
    """Siblings and host are cancelled; the error comes out of the job in its group."""
    ended = []

    async def job():
        async def sibling():
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("sibling")

        async def wrong():
            await anyio.sleep(0)
            raise LookupError("child")

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(sibling)
                group.start_soon(wrong)
                await anyio.sleep_forever()
        finally:
            ended.append("host")

    with pytest.raises(ExceptionGroup) as caught:
        await in_a_job(new_pool, job)
    assert [repr(error) for error in caught.value.exceptions] == ["LookupError('child')"]
    assert ended == ["sibling", "host"]


@everywhere
async def test_the_host_fails_and_takes_its_children_with_it(new_pool):
    """The job's own error is the first of the group; no child is left."""
    ended = []

    async def job():
        async def child():
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("child")

        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep(0.01)
            raise LookupError("host")

    with pytest.raises(ExceptionGroup) as caught:
        await in_a_job(new_pool, job)
    assert [repr(error) for error in caught.value.exceptions] == ["LookupError('host')"]
    assert ended == ["child"]


@everywhere
async def test_a_child_cancels_the_scope_of_its_group(new_pool):
    """The host wakes behind the group, and the job succeeds."""

    async def job():
        async with anyio.create_task_group() as group:

            async def child():
                await anyio.sleep(0)
                group.cancel_scope.cancel()

            group.start_soon(child)
            await anyio.sleep_forever()
        await anyio.sleep(0)
        return group.cancel_scope.cancelled_caught

    assert await in_a_job(new_pool, job) is True


@everywhere
async def test_start_returns_what_the_child_says(new_pool):
    """`start()` comes back with the value of `started()`, and the child goes on."""

    async def job():
        ends = []

        async def service(task_status):
            await anyio.sleep(0)
            task_status.started(8080)
            await anyio.sleep(0.01)
            ends.append("service")

        async with anyio.create_task_group() as group:
            port = await group.start(service)
            before = list(ends)
        return port, before, ends

    assert await in_a_job(new_pool, job) == (8080, [], ["service"])


@everywhere
async def test_start_raises_what_the_child_raised_first(new_pool):
    """A child that fails before `started()` fails `start()`, not the group; one that says nothing is an error."""

    async def job():
        async def wrong(task_status):
            raise LookupError

        async def silent(task_status):
            await anyio.sleep(0)

        async with anyio.create_task_group() as group:
            with pytest.raises(LookupError):
                await group.start(wrong)
            with pytest.raises(RuntimeError):
                await group.start(silent)
            await anyio.sleep(0)
        return "on"

    assert await in_a_job(new_pool, job) == "on"


@everywhere
@pytest.mark.parametrize("where", ["in the body", "at the end", "in start()"])
async def test_a_job_is_cancelled_that_hosts_a_group(new_pool, where):
    """Host cancelled: the children are told, may clean up under a shield, and have ended when the job has."""
    began, ended = [], []

    async def child(*, task_status=anyio.TASK_STATUS_IGNORED):
        began.append("child")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                ended.append("child")

    async def job():
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                if where == "in start()":
                    await group.start(child)
                elif where == "in the body":
                    await anyio.sleep_forever()
        finally:
            ended.append("host")

    async with new_pool(size=1) as pool:
        handle = await pool.submit(job)
        while len(began) < 1 + (where == "in start()"):
            await asyncio.sleep(0)
        assert await pool.cancel(handle.id)
        assert handle.status is JobStatus.CANCELLED
        assert ended == ["child"] * len(began) + ["host"]
        assert await pool.run(asyncio.sleep, 0, 1) == 1
        assert pool.statistics().leaked == 0


@everywhere
async def test_no_scope_inside_takes_a_cancel_of_the_job_for_its_own(new_pool):
    """A cancelled job does not go on behind `move_on_after`, though its deadline was near."""
    went_on = []

    async def job():
        with anyio.move_on_after(3600):
            with anyio.CancelScope():
                await forever()
            went_on.append("inner")
        went_on.append("outer")

    async with new_pool(size=1) as pool:
        handle = await pool.submit(job)
        while handle.status is not JobStatus.RUNNING:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        handle.cancel()
        await handle.wait()
        assert handle.status is JobStatus.CANCELLED
    assert went_on == []


@virtual
async def test_the_time_limit_of_the_job_is_told_from_those_inside(new_pool):
    """The pool's limit strikes a host inside of `fail_after` and a group: timed out, not failed."""
    ended = []

    async def child():
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time())

    async def job():
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await anyio.sleep_forever()

    async with new_pool(size=1) as pool:
        handle = await pool.with_options(timeout=2).submit(job)
        await handle.wait()
        assert (handle.status, ended) == (JobStatus.TIMED_OUT, [2])


@virtual
async def test_a_shield_inside_a_job_holds_off_the_cancel_of_the_job(isolation):
    """What a scope may shield is up to the isolation: anyio's shield does not stop a cancel by asyncio, told once."""
    seen = []

    async def job():
        try:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)
                seen.append("shielded")
        except asyncio.CancelledError:
            seen.append("told inside")
            raise
        await anyio.sleep(0)
        seen.append("not reached")

    async with Pool(size=1, isolation=isolation) as pool:
        handle = await pool.submit(job)
        await settle()
        handle.cancel()
        await advance(1)
        assert handle.status is JobStatus.CANCELLED
    assert seen == (["shielded"] if isolation == "scope" else ["told inside"])


@everywhere
async def test_many_jobs_with_groups_share_the_workers(new_pool):
    """The scopes of concurrent jobs do not meet, whichever of them fails, moves on or is cancelled."""

    async def job(n):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(anyio.sleep, 0.001 * (n % 3))
            with anyio.move_on_after(0.002) as scope:
                if n % 4 == 0:
                    await anyio.sleep_forever()
            if n % 4 == 1:
                raise LookupError(n)
            if n % 4 == 2:
                group.cancel_scope.cancel()
        await anyio.sleep(0)
        return scope.cancelled_caught

    async with new_pool(size=4) as pool:
        handles = [await pool.submit(job, n) for n in range(40)]
        for n, handle in enumerate(handles):
            if n % 4 == 1:
                with pytest.raises(ExceptionGroup):
                    await handle
            else:
                assert await handle is (n % 4 == 0)
        assert pool.statistics().busy == 0
