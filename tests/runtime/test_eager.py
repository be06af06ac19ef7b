"""`task_starter`: a task takes its first step while it is made, whatever factory the loop has."""

import asyncio
import contextvars
import sys

import pytest

from aiopool._runtime.eager import has_factory, task_starter


def wrapping(loop, coroutine, **options):
    """A factory as tracers set it."""
    return asyncio.Task(coroutine, loop=loop, **options)


def helping(loop, coroutine, **options):
    """A factory that makes a task of its own beside, and asks the loop for a call."""
    loop.call_soon(TOLD.append, "called")
    loop.call_soon(TOLD.clear).cancel()
    beside = asyncio.Task(asyncio.sleep(0, "beside"), loop=loop)
    beside.add_done_callback(lambda task: TOLD.append(task.result()))
    return asyncio.Task(coroutine, loop=loop, **options)


TOLD = []
FACTORIES = {"none": None, "wrapping": wrapping, "helping": helping}


@pytest.fixture(params=FACTORIES)
def factory(request):
    TOLD.clear()
    return FACTORIES[request.param]


async def two_steps(steps):
    steps.append(1)
    await asyncio.sleep(0)
    steps.append(2)


@pytest.mark.parametrize("patched", [False, True])
async def test_the_first_step_is_taken_at_once_and_the_loop_is_as_before(factory, patched):
    """Also if somebody has put a `call_soon` of their own on the loop: it is there afterwards."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    calls = []
    before = loop.call_soon

    def call_soon(*args, **options):
        calls.append(args)
        return before(*args, **options)

    if patched:
        loop.call_soon = call_soon
    try:
        assert has_factory(loop) == (factory is not None)
        start, steps = task_starter(loop), []
        outer = asyncio.current_task()
        task = start(two_steps(steps), name="two steps", context=contextvars.Context())
        assert steps == [1]
        assert asyncio.current_task() is outer
        assert loop.__dict__.get("call_soon") is (call_soon if patched else None)
        await task
        assert steps == [1, 2]
        await asyncio.sleep(0)
        assert TOLD == (["called", "beside"] if factory is helping else [])
    finally:
        loop.__dict__.pop("call_soon", None)
        loop.set_task_factory(None)


def test_a_task_may_be_started_outside_of_any(factory):
    """Between two runs of the loop: a first step that does not suspend needs none."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(factory)
    try:
        start = task_starter(loop)
        if factory is None and sys.version_info >= (3, 12):
            return  # asyncio refuses an eager start there
        task = start(asyncio.sleep(0, 5), name="outside", context=contextvars.Context())
        assert loop.run_until_complete(task) == 5
        loop.run_until_complete(asyncio.sleep(0.001))
    finally:
        loop.close()


async def test_a_task_may_be_started_while_another_is_made():
    """As by what a collection finalizes in there: each takes its own first step."""
    loop = asyncio.get_running_loop()
    start, steps, inner = task_starter(loop), [], []

    class Name:
        def __str__(self):
            inner.append(start(two_steps(steps), name="inner", context=contextvars.Context()))
            return "outer"

    outer = start(two_steps(steps), name=Name(), context=contextvars.Context())
    assert steps == [1, 1]
    await asyncio.gather(outer, *inner)
    assert steps == [1, 1, 2, 2]
    assert "call_soon" not in loop.__dict__


async def test_a_task_that_cannot_be_made_closes_its_coroutine(monkeypatch):
    """No coroutine is left that was never awaited, and the loop is as before."""
    loop = asyncio.get_running_loop()

    def refuse(*args, **options):
        raise MemoryError

    monkeypatch.setattr(asyncio, "Task", refuse)
    start, coroutine = task_starter(loop), two_steps([])
    with pytest.raises(MemoryError):
        start(coroutine, name="never", context=contextvars.Context())
    assert coroutine.cr_frame is None
    assert "call_soon" not in loop.__dict__


async def test_a_factory_that_raises_leaves_the_loop_as_it_was():
    """Its error comes out."""
    loop = asyncio.get_running_loop()

    def broken(loop, coroutine, **options):
        coroutine.close()
        raise LookupError("no task today")

    loop.set_task_factory(broken)
    try:
        with pytest.raises(LookupError):
            task_starter(loop)(two_steps([]), name="never", context=contextvars.Context())
        assert "call_soon" not in loop.__dict__
    finally:
        loop.set_task_factory(None)
