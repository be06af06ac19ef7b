"""The inbox of a loop: what threads put is taken in order, in slices, with one wake-up for many."""

import asyncio
import gc
import threading
import weakref

import pytest
from helpers import restless_interpreter

from aiopool._runtime.inbox import SLICE, Inbox
from aiopool._runtime.loop_watch import LoopWatch
from aiopool._runtime.runtime import Runtime
from aiopool.testing import FailingCall, wait_until

pytestmark = pytest.mark.loops("real", long=("eager",))


async def test_what_threads_put_is_taken_in_their_order():
    """Nothing is lost, however often the interpreter switches."""
    taken = []
    inbox = Inbox(Runtime(asyncio.get_running_loop()), taken.append)

    def body(thread):
        for n in range(2000):
            inbox.put((thread, n))

    with restless_interpreter():
        threads = [threading.Thread(target=body, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        await wait_until(lambda: len(taken) == 8000)
    for thread in range(4):
        assert [n for who, n in taken if who == thread] == list(range(2000))
    for thread in threads:
        thread.join()
    assert len(inbox) == 0


async def test_the_loop_is_held_for_a_slice_at_most():
    """What takes longer goes on in the next turn; other work comes in between."""
    loop = asyncio.get_running_loop()
    taken, seen = [], []

    def take(item):
        until = loop.time() + 2 * SLICE
        while loop.time() < until:
            pass
        taken.append(item)

    inbox = Inbox(Runtime(loop), take)
    for n in range(3):
        inbox.put(n)
    while len(taken) < 3:
        await asyncio.sleep(0)
        seen.append(len(taken))
    assert taken == [0, 1, 2]
    assert {1, 2} <= set(seen)


async def test_what_is_put_meanwhile_waits_for_the_next_turn():
    """An item that puts another does not hold the loop for ever."""
    taken = []

    def take(item):
        taken.append(item)
        if item < 5:
            inbox.put(item + 1)

    inbox = Inbox(Runtime(asyncio.get_running_loop()), take)
    inbox.put(0)
    await asyncio.sleep(0)
    assert len(taken) < 5
    await wait_until(lambda: len(taken) == 6)


async def test_a_wake_up_that_fails_is_made_good_by_the_next():
    """Whoever put gets the error; nobody else is left waiting."""
    taken = []
    loop = asyncio.get_running_loop()
    if type(loop).__module__.startswith("uvloop"):
        pytest.skip("its methods cannot be replaced")
    inbox = Inbox(Runtime(loop), taken.append)
    with FailingCall("call_soon_threadsafe", 1, MemoryError), pytest.raises(MemoryError):
        inbox.put(1)
    await asyncio.sleep(0)
    assert taken == []
    inbox.notify()
    await asyncio.sleep(0)
    assert taken == [1]


class Looked:
    """Something that is watched."""

    def __init__(self, *, waited_for):
        self.waited_for, self.over = waited_for, False
        self.looks = threading.Semaphore(0)

    def waits(self):
        return self.waited_for

    def is_over(self):
        return self.over

    def look(self):
        self.looks.release()


def test_the_watch_looks_while_somebody_waits(monkeypatch):
    """It falls asleep if nobody does, wakes, and ends with the last that is watched; and it keeps nothing."""
    monkeypatch.setattr("aiopool._runtime.loop_watch.TICK", 0.001)
    watch, one = LoopWatch(), Looked(waited_for=True)
    watch.add(one)
    assert one.looks.acquire(timeout=30)
    assert one.looks.acquire(timeout=30)
    one.waited_for = False
    thread = watch._thread
    while not watch.asleep:
        thread.join(0.001)
    one.waited_for = True
    while one.looks.acquire(blocking=False):
        pass
    watch.wake()
    assert one.looks.acquire(timeout=30)
    watch.discard(one)
    thread.join(30)
    assert not thread.is_alive()
    watch.add(one)
    assert one.looks.acquire(timeout=30)
    thread = watch._thread
    watch.discard(one)
    thread.join(30)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


def test_the_watch_lets_go_of_what_is_over(monkeypatch):
    """Nobody has to take it off: it ends by itself."""
    monkeypatch.setattr("aiopool._runtime.loop_watch.TICK", 0.001)
    watch, one = LoopWatch(), Looked(waited_for=True)
    watch.add(one)
    thread = watch._thread
    one.over = True
    assert one.looks.acquire(timeout=30)
    assert thread.is_alive()
    one.waited_for = False
    thread.join(30)
    assert not thread.is_alive()


async def test_without_a_thread_there_is_no_net():
    """The system has none to give: everything else works."""
    watch = LoopWatch()
    with FailingCall("Thread.start", 1, RuntimeError):
        watch.add(Looked(waited_for=True))
    assert watch._thread is None
