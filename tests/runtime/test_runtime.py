"""`Runtime` and its neighbours: what they do when the loop, a thread or a hook lets them down."""

import asyncio
import logging
import threading

import pytest
from helpers import virtual

from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool._runtime.faults import log_fault
from aiopool._runtime.hooks import HookGuard
from aiopool._runtime.runtime import Runtime
from aiopool._runtime.timers import TimerQueue


async def in_a_thread(function):
    """Call a function in another thread, and return what it returned or raised."""
    try:
        return await asyncio.to_thread(function)
    except BaseException as error:
        return error


def torn(count):
    """Return a function whose first calls find a dict that changes."""
    left = [RuntimeError("dictionary changed size during iteration")] * count

    def read():
        if left:
            raise left.pop()
        return "whole"

    return read


async def test_a_reader_in_another_thread_gets_what_the_function_raises():
    """In the loop the function fails; the failure goes to the reader, and not to the loop."""
    runtime = Runtime(asyncio.get_running_loop())

    def fail():
        raise LookupError("nothing there")

    assert repr(await in_a_thread(lambda: runtime.read(fail))) == "LookupError('nothing there')"


async def test_a_reader_whose_loop_refuses_reads_from_outside(monkeypatch):
    """The loop is closed in the very moment: what another thread changes meanwhile is read again."""
    loop = asyncio.get_running_loop()
    runtime = Runtime(loop)

    def closed(*args, **kwargs):
        raise RuntimeError("Event loop is closed")

    read = torn(2)
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "loop", type("Closed", (), {"is_running": lambda self: True})())
        runtime.loop.call_soon_threadsafe = closed
        found = []
        thread = threading.Thread(target=lambda: found.append(runtime.read(read)))
        thread.start()
        thread.join()
    assert found == ["whole"]


def test_a_reader_is_patient_but_not_for_ever():
    """What is never whole is read once more, and returned as it is."""
    loop = asyncio.new_event_loop()
    runtime = Runtime(loop)
    found = []
    thread = threading.Thread(target=lambda: found.append(runtime.read(lambda: 1, lambda one: False)))
    thread.start()
    thread.join()
    loop.close()
    assert found == [1]


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
async def test_a_task_of_the_pool_that_cannot_be_made_closes_its_coroutine(monkeypatch, error):
    """Both ways fail: the error comes out, and no coroutine is left that was never awaited."""
    loop = asyncio.get_running_loop()
    runtime = Runtime(loop)

    def refuse(*args, **kwargs):
        raise error

    async def never():
        raise AssertionError("it ran")

    coroutine = never()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "create_task", refuse)
        patch.setattr(asyncio, "Task", refuse)
        with pytest.raises(error):
            runtime.task(coroutine, "never")
    assert coroutine.cr_frame is None


async def test_a_factory_that_raises_after_it_has_begun_the_coroutine_is_not_asked_again():
    """The coroutine has run a part: a second task would run it from there."""
    loop = asyncio.get_running_loop()
    runtime = Runtime(loop)

    async def once():
        await asyncio.sleep(0)

    def factory(loop, coroutine, **options):
        coroutine.send(None)
        raise ValueError("after the first step")

    coroutine = once()
    loop.set_task_factory(factory)
    try:
        with pytest.raises(ValueError, match="after the first step"):
            runtime.task(coroutine, "once")
    finally:
        loop.set_task_factory(None)
        coroutine.close()


@pytest.mark.parametrize("name", ["call_soon", "call_later"])
async def test_a_call_of_the_loop_that_fails_is_made_another_way(monkeypatch, name):
    """`soon` falls back on a timer, `later` on the moment itself."""
    loop = asyncio.get_running_loop()
    runtime = Runtime(loop)
    called = asyncio.Event()

    def refuse(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, refuse)
        runtime.soon(called.set) if name == "call_soon" else runtime.later(0, called.set)
    await asyncio.wait_for(called.wait(), 10)


@virtual
async def test_a_timer_is_cancelled_once():
    """To cancel it again, or after it has fired, changes nothing; closing forgets the rest."""
    loop = asyncio.get_running_loop()
    fired = []
    timers = TimerQueue(Runtime(loop), lambda steps: [*steps])
    first, second = timers.add(1.0, fired.append, "first"), timers.add(2.0, fired.append, "second")
    timers.cancel(first)
    timers.cancel(first)
    await asyncio.sleep(3)
    timers.cancel(second)
    assert fired == ["second"]
    timers.add(loop.time() + 1, fired.append, "third")
    timers.close()
    await asyncio.sleep(3)
    assert fired == ["second"]


def test_a_program_that_cannot_be_ended_is_told_of_in_the_log(caplog):
    """The loop is closed: both what the hook raised and why nothing came of it are logged."""
    guard = HookGuard()

    def too_late(error):
        raise RuntimeError("Event loop is closed")

    guard.end_program = too_late
    guard.caught(SystemExit(3), logging.getLogger("test"), "%s failed", "hook")
    assert [record.getMessage() for record in caplog.records] == ["the program could not be ended", "hook failed"]


def test_an_error_whose_frames_cannot_be_printed_is_logged_by_its_name(caplog):
    """Its source comes from a loader that fails: the line has the type and the text."""

    class Loader:
        def get_source(self, name):
            raise LookupError("no source here")

    names = {"__name__": "elsewhere", "__loader__": Loader()}
    exec(compile("def fail():\n    raise ValueError('as it was')", "elsewhere.py", "exec"), names)
    try:
        names["fail"]()
    except ValueError as error:
        log_fault(logging.getLogger("test"), "it failed", error=error)
    assert "it failed" in caplog.text
    assert "ValueError: as it was" in caplog.text


async def test_without_a_thread_left_the_function_runs_in_the_loop(monkeypatch):
    """As at the end of the interpreter, which starts no threads any more."""

    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert await run_in_daemon_thread(threading.get_ident, name="last") == threading.get_ident()
