"""ThreadRunner: real threads, a real loop, the real clock."""

import asyncio
import contextvars
import functools
import gc
import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiopool._runtime import threads as _threads
from aiopool._runtime.threads import ThreadRunner, check_cancelled

Outcome = tuple[bool, Any]
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nobody's")


class Harness:
    """A runner whose tokens are futures: each gets `(ok, value)`, and a second outcome would raise."""

    def __init__(self, max_threads: int = 2, idle_seconds: float = 10.0, name: str = "test") -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.runner: ThreadRunner[asyncio.Future[Outcome]] = ThreadRunner(
            loop=self.loop,
            max_threads=max_threads,
            name=name,
            on_done=self.on_done,
            idle_seconds=idle_seconds,
        )

    def on_done(self, token: asyncio.Future[Outcome], ok: bool, value: object) -> None:
        assert threading.get_ident() == self.thread
        token.set_result((ok, value))

    def start(self, fn: Callable[..., object], *args: Any, **kwargs: Any) -> asyncio.Future[Outcome]:
        token: asyncio.Future[Outcome] = self.loop.create_future()
        self.runner.start(token, contextvars.copy_context(), functools.partial(fn, **kwargs), args)
        return token


@asynccontextmanager
async def open_runner(max_threads: int = 2, idle_seconds: float = 10.0, name: str = "test") -> AsyncIterator[Harness]:
    harness = Harness(max_threads, idle_seconds, name)
    try:
        yield harness
    finally:
        harness.runner.close()
        await until(lambda: harness.runner.threads == 0)


async def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Turn the loop until something that happens in another thread has happened."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.0005)


@contextmanager
def restless_interpreter() -> Iterator[None]:
    """Let threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# ---- outcomes ------------------------------------------------------------------------------------------


async def test_a_call_runs_in_a_thread_and_its_result_comes_back_in_the_loop() -> None:
    """The function gets its arguments, in a daemon thread with a telling name."""
    async with open_runner(name="mail") as harness:

        def call(a: int, *, b: int) -> tuple[int, str, bool]:
            return a + b, threading.current_thread().name, threading.current_thread().daemon

        assert await harness.start(call, 1, b=2) == (True, (3, "mail-1", True))


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), StopIteration(7), KeyboardInterrupt(), SystemExit(3), GeneratorExit()],
    ids=repr,
)
async def test_whatever_is_raised_is_delivered_and_the_thread_lives_on(error: BaseException) -> None:
    """BaseExceptions too: what they mean is decided in the loop. The traceback begins in the function."""

    def fail() -> None:
        raise error

    async with open_runner(max_threads=1) as harness:
        ok, value = await harness.start(fail)
        assert not ok
        assert value is error
        assert traceback.extract_tb(value.__traceback__)[0].name == "fail"
        assert await harness.start(threading.current_thread) == (True, next(iter(harness.runner._threads)))
        assert harness.runner.threads == 1


async def test_a_call_that_cannot_even_begin_is_delivered_too() -> None:
    """Wrong arguments, or a context that is in use, fail the call, not the runner."""
    async with open_runner() as harness:
        ok, value = await harness.start(len, 1, 2)
        assert (ok, type(value)) == (False, TypeError)
        token: asyncio.Future[Outcome] = harness.loop.create_future()
        context = contextvars.copy_context()
        context.run(lambda: None)
        release = threading.Event()
        first = harness.loop.create_future()
        harness.runner.start(first, context, release.wait)
        await until(lambda: harness.runner.busy == 1)
        harness.runner.start(token, context, len, ("",))
        ok, value = await token
        assert (ok, type(value)) == (False, RuntimeError)
        release.set()
        await first


async def test_a_call_sees_its_own_context_and_leaks_nothing_into_the_next() -> None:
    """Each call runs in the context it was given, though they share a thread."""

    def call(new: str) -> str:
        before = VARIABLE.get()
        VARIABLE.set(new)
        return before

    async with open_runner(max_threads=1) as harness:
        VARIABLE.set("first")
        one = harness.start(call, "changed")
        VARIABLE.set("second")
        two = harness.start(call, "changed")
        assert [await one, await two] == [(True, "first"), (True, "second")]
        assert VARIABLE.get() == "second"


async def test_a_thread_does_not_keep_the_context_of_the_call_that_created_it() -> None:
    """The thread outlives the first request; that request's variables must not."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    class Big:
        pass

    async with open_runner() as harness:

        async def request() -> weakref.ref[Big]:
            big = Big()
            variable.set(big)
            await harness.start(int)
            return weakref.ref(big)

        reference = await asyncio.create_task(request())
        assert harness.runner.threads == 1
        await asyncio.sleep(0)  # the handle that woke us up holds the finished task
        gc.collect()
        assert reference() is None


async def test_calls_that_end_while_the_loop_is_busy_come_back_in_one_wakeup() -> None:
    """One call_soon_threadsafe for the whole batch, in the order in which the calls ended."""
    async with open_runner(max_threads=1) as harness:
        await harness.start(int)
        wakeups = []
        call_soon_threadsafe = harness.loop.call_soon_threadsafe

        def counted(*args: Any, **kwargs: Any) -> asyncio.Handle:
            wakeups.append(args)
            return call_soon_threadsafe(*args, **kwargs)

        harness.loop.call_soon_threadsafe = counted  # type: ignore[assignment, method-assign]
        try:
            ended: list[int] = []
            last = threading.Event()
            tokens = [harness.start(ended.append, n) for n in range(49)]
            tokens.append(harness.start(last.set))
            assert last.wait(30)  # blocks the loop, on purpose
            order: list[int] = []
            for n, token in enumerate(tokens):
                token.add_done_callback(lambda _, n=n: order.append(n))  # type: ignore[misc]
            await asyncio.gather(*tokens)
            await asyncio.sleep(0)
        finally:
            del harness.loop.call_soon_threadsafe
        # Two, if the last one had not been handed over when we let the loop go on.
        assert len(wakeups) in (1, 2)
        assert order == [*ended, 49] == list(range(50))


async def test_the_loop_is_told_once_even_if_it_listens_before_the_thread_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may deliver while the thread is still in `call_soon_threadsafe`: that is no reason to tell it again."""
    async with open_runner(max_threads=1) as harness:
        tell, heard, told = harness.loop.call_soon_threadsafe, threading.Event(), []

        def tell_slowly(*args: Any, **kwargs: Any) -> asyncio.Handle:
            told.append(args)
            handle = tell(*args, **kwargs)
            assert heard.wait(30)
            return handle

        monkeypatch.setattr(harness.loop, "call_soon_threadsafe", tell_slowly)
        assert await harness.start(int) == (True, 0)
        heard.set()
        await until(lambda: harness.runner._idle)
        assert len(told) == 1


@pytest.mark.parametrize("hold", [60.0, 0.0], ids=["in time", "too late"])
async def test_short_calls_that_wait_together_are_told_together(monkeypatch: pytest.MonkeyPatch, hold: float) -> None:
    """By the next thread that arrives; unless the first of them would wait for it too long."""
    monkeypatch.setattr(_threads, "_HOLD", hold)
    async with open_runner(max_threads=1) as harness:
        runner = harness.runner
        tell, told = harness.loop.call_soon_threadsafe, []

        def tell_and_count(*args: Any, **kwargs: Any) -> asyncio.Handle:
            told.append(args)
            return tell(*args, **kwargs)

        release = threading.Event()
        first = harness.start(release.wait)
        await until(lambda: runner.busy == 1)
        another = _threads._Thread(runner, "on its way")
        runner._arriving.add(another)
        tokens = [harness.start(pow, n, 2) for n in range(98)]
        monkeypatch.setattr(harness.loop, "call_soon_threadsafe", tell_and_count)
        release.set()
        while not runner._idle:  # the loop does not listen
            time.sleep(0.001)
        assert len(told) == (0 if hold else 1)
        runner._arriving.discard(another)
        tokens.append(harness.start(pow, 98, 2))
        assert await asyncio.gather(first, *tokens) == [(True, True), *((True, n * n) for n in range(99))]
        assert len(told) in (1, 2)


async def test_an_outcome_never_waits_for_the_end_of_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread has it in hand: the next call may be waiting for what the loop does then."""
    monkeypatch.setattr(_threads, "_HOLD", 60.0)
    async with open_runner(max_threads=2) as harness:
        with restless_interpreter():
            for _ in range(200):
                heard = threading.Event()
                short, long = harness.start(int), harness.start(heard.wait, 30)
                assert await short == (True, 0)
                heard.set()
                assert await long == (True, True)


async def test_an_on_done_that_raises_hurts_no_other_call() -> None:
    """The loop's exception handler hears of it; the other outcomes of the batch arrive all the same."""
    told: list[dict[str, Any]] = []
    arrived: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(context))

    def on_done(token: str, ok: bool, value: object) -> None:
        arrived.append(token)
        if token in "bc":
            raise LookupError(token)

    runner: ThreadRunner[str] = ThreadRunner(loop=loop, max_threads=1, name="test", on_done=on_done)
    last = threading.Event()
    for token in "abcd":
        runner.start(token, contextvars.copy_context(), int)
    runner.start("e", contextvars.copy_context(), last.set)
    assert last.wait(30)
    await until(lambda: len(arrived) == 5)
    assert "".join(arrived) == "abcde"
    assert [str(context["exception"]) for context in told] == ["b", "c"]
    runner.close()


async def test_on_done_may_start_the_same_token_again() -> None:
    """A retry without a detour: when `on_done` is called, the token is free."""
    runs: list[int] = []
    finished = asyncio.Event()

    def on_done(token: str, ok: bool, value: object) -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            runner.start(token, contextvars.copy_context(), int)
        else:
            finished.set()

    runner = ThreadRunner(loop=asyncio.get_running_loop(), max_threads=1, name="test", on_done=on_done)
    runner.start("again", contextvars.copy_context(), int)
    await finished.wait()
    assert runs == [0, 1, 2]
    runner.close()


# ---- threads -------------------------------------------------------------------------------------------


async def test_a_call_that_comes_in_while_a_thread_is_about_to_look_waits_for_that_thread() -> None:
    """Between the end of its call and its next look a thread counts as on its way: no other is created or woken."""
    async with open_runner(max_threads=2) as harness:
        go_on = threading.Event()
        call_soon_threadsafe = harness.loop.call_soon_threadsafe

        def held(*args: Any, **kwargs: Any) -> asyncio.Handle:
            handle = call_soon_threadsafe(*args, **kwargs)
            assert go_on.wait(30)
            return handle

        harness.loop.call_soon_threadsafe = held  # type: ignore[assignment, method-assign]
        try:
            assert await harness.start(int) == (True, 0)
            second = harness.start(lambda: threading.current_thread().name)
            assert (harness.runner.threads, harness.runner.busy, harness.runner.waiting) == (1, 0, 1)
        finally:
            del harness.loop.call_soon_threadsafe
            go_on.set()
        assert await second == (True, "test-1")
        assert harness.runner.threads == 1


async def test_threads_are_created_one_by_one_and_only_when_needed() -> None:
    """Calls one after the other share a thread; calls at once get one each, up to the limit."""
    async with open_runner(max_threads=3) as harness:
        assert harness.runner.threads == 0
        for _ in range(5):
            await harness.start(int)
            await until(lambda: harness.runner._idle)
        assert harness.runner.threads == 1
        barrier = threading.Barrier(3)
        names = [harness.start(lambda: (barrier.wait(30), threading.current_thread().name)[1]) for _ in range(3)]
        assert {name for _, name in await asyncio.gather(*names)} == {"test-1", "test-2", "test-3"}
        assert harness.runner.threads == 3


@pytest.mark.parametrize("threads", [2, 8])
async def test_a_burst_gets_all_the_threads_at_once(threads: int) -> None:
    """Calls that can only end together: no wake-up is lost, be the threads new, asleep or on their way."""
    with restless_interpreter():
        async with open_runner(max_threads=threads) as harness:
            for turn in range(60):
                barrier = threading.Barrier(threads)
                tokens = [harness.start(barrier.wait, 60) for _ in range(threads)]
                assert all(ok for ok, _ in await asyncio.gather(*tokens))
                if turn % 2:
                    await until(lambda: len(harness.runner._idle) == threads)


async def test_the_limit_is_the_number_of_threads_abandoned_calls_included() -> None:
    """Ten calls, limit two, both running ones abandoned: the others wait until a thread really comes free."""
    release = threading.Event()
    highest: list[int] = []
    lock = threading.Lock()
    now = 0

    def call() -> None:
        nonlocal now
        with lock:
            now += 1
            highest.append(now)
        release.wait()
        with lock:
            now -= 1

    async with open_runner(max_threads=2) as harness:
        tokens = [harness.start(call) for _ in range(10)]
        await until(lambda: harness.runner.busy == 2)
        assert harness.runner.abandon(tokens[0])
        assert harness.runner.abandoned == 1
        assert harness.runner.abandon(tokens[1])
        assert not harness.runner.abandon(tokens[2])  # waits: withdraw it
        runner = harness.runner
        assert (runner.busy, runner.waiting, runner.threads, runner.abandoned) == (2, 8, 2, 2)
        assert repr(runner) == "<ThreadRunner 'test' 2 busy (2 abandoned), 8 waiting, 2 of 2 threads>"
        release.set()
        assert await asyncio.gather(*tokens) == [(True, None)] * 10
        assert max(highest) == 2
        await until(lambda: runner.busy == 0)
        assert (runner.waiting, runner.abandoned) == (0, 0)
        assert not runner.abandon(tokens[0])


async def test_a_limit_that_grows_gives_the_waiting_calls_their_threads() -> None:
    """At once, not at the next start."""
    async with open_runner(max_threads=1) as harness:
        barrier = threading.Barrier(5)
        tokens = [harness.start(barrier.wait, 30) for _ in range(5)]
        await until(lambda: harness.runner.busy == 1)
        harness.runner.max_threads = 3
        await until(lambda: harness.runner.busy == 3)
        assert harness.runner.waiting == 2
        harness.runner.max_threads = 9
        assert all(ok for ok, _ in await asyncio.gather(*tokens))
        assert harness.runner.threads == 5
        with pytest.raises(ValueError, match="max_threads must be at least 1, got 0"):
            harness.runner.max_threads = 0
        assert harness.runner.max_threads == 9


async def test_a_limit_that_shrinks_ends_idle_threads_now_and_busy_ones_after_their_call() -> None:
    """Nothing is interrupted, and no thread beyond the limit begins another call."""
    async with open_runner(max_threads=6, idle_seconds=1000) as harness:
        barrier = threading.Barrier(6)
        await asyncio.gather(*[harness.start(barrier.wait, 30) for _ in range(6)])
        release = threading.Event()
        running = [harness.start(release.wait) for _ in range(4)]
        await until(lambda: harness.runner.busy == 4 and len(harness.runner._idle) == 2)
        now: list[int] = []
        highest: list[int] = []

        def call(n: int) -> None:
            now.append(n)
            highest.append(len(now))
            time.sleep(0.001)
            now.remove(n)

        harness.runner.max_threads = 2
        await until(lambda: harness.runner.threads == 4)
        waiting = [harness.start(call, n) for n in range(20)]
        assert harness.runner.waiting == 20
        release.set()
        assert await asyncio.gather(*running) == [(True, True)] * 4
        assert all(ok for ok, _ in await asyncio.gather(*waiting))
        assert max(highest) <= 2
        assert harness.runner.threads == 2


async def test_a_limit_that_changes_all_the_time_loses_nothing() -> None:
    """Up and down between one and eight, with calls in flight: every call ends, once."""
    rng = random.Random(4)
    with restless_interpreter():
        async with open_runner(max_threads=4) as harness:
            tokens: list[asyncio.Future[Outcome]] = []
            for n in range(3000):
                tokens.append(harness.start(pow, n, 2))
                if rng.random() < 0.2:
                    harness.runner.max_threads = rng.randrange(1, 9)
                if rng.random() < 0.05:
                    await asyncio.gather(*tokens)
            assert await asyncio.gather(*tokens) == [(True, n * n) for n in range(3000)]
            await until(lambda: harness.runner.threads <= harness.runner.max_threads)
            await until(lambda: harness.runner._arriving == set())  # the last ones may be on their way to lie down


async def test_calls_begin_first_come_first_served() -> None:
    """One thread, a hundred calls, a few withdrawn from the middle."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        blocker = harness.start(release.wait)
        await until(lambda: harness.runner.busy == 1)
        order: list[int] = []
        tokens = [harness.start(order.append, n) for n in range(100)]
        for n in range(0, 100, 7):
            assert harness.runner.withdraw(tokens[n])
        release.set()
        await blocker
        await asyncio.gather(*[token for n, token in enumerate(tokens) if n % 7])
        assert order == [n for n in range(100) if n % 7]


async def test_withdraw_takes_back_only_what_has_not_begun() -> None:
    """True: it never runs and nothing is delivered. False: it runs, is done, or is unknown."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        running = harness.start(release.wait)
        await until(lambda: harness.runner.busy == 1)
        waiting = harness.start(pytest.fail, "this call was withdrawn")
        assert not harness.runner.withdraw(running)
        assert harness.runner.withdraw(waiting)
        assert not harness.runner.withdraw(waiting)
        assert not harness.runner.withdraw(harness.loop.create_future())
        assert harness.runner.waiting == 0
        release.set()
        await running
        assert not harness.runner.withdraw(running)
        assert await harness.start(int) == (True, 0)
        assert not waiting.done()


async def test_withdrawing_many_waiting_calls_is_cheap() -> None:
    """Fifty thousand, from the back: a search through the line would take longer than a test may."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        blocker = harness.start(release.wait)
        tokens = [object() for _ in range(50_000)]
        runner: ThreadRunner[Any] = harness.runner
        for token in tokens:
            runner.start(token, contextvars.copy_context(), int)
        assert all(runner.withdraw(token) for token in reversed(tokens))
        release.set()
        await blocker


async def test_idle_threads_end() -> None:
    """A quiet runner keeps no threads, and grows new ones when there is work again."""
    async with open_runner(max_threads=4, idle_seconds=0.02) as harness:
        barrier = threading.Barrier(4)
        await asyncio.gather(*[harness.start(barrier.wait, 30) for _ in range(4)])
        threads = tuple(harness.runner._threads)
        await until(lambda: harness.runner.threads == 0)
        await until(lambda: not any(thread.is_alive() for thread in threads))
        assert await harness.start(lambda: threading.current_thread().name) == (True, "test-5")


async def test_a_thread_that_has_slept_long_enough_stays_when_it_is_needed_after_all() -> None:
    """Two calls come in just as both threads give up waiting: one was woken for both, the other must not go."""
    async with open_runner(max_threads=2, idle_seconds=0.05) as harness:
        barrier = threading.Barrier(2)
        for token in [harness.start(barrier.wait, 30) for _ in range(2)]:
            await token
        with harness.runner._lock:
            time.sleep(0.2)  # both threads wake up by themselves, and wait for the lock to leave
            tokens = [harness.start(barrier.wait, 30) for _ in range(2)]
        assert all(ok for ok, _ in await asyncio.gather(*tokens))


async def test_the_thread_that_slept_longest_ends_first() -> None:
    """Light work keeps one thread warm, so that the others can go."""
    async with open_runner(max_threads=4, idle_seconds=0.2) as harness:
        barrier = threading.Barrier(4)
        await asyncio.gather(*[harness.start(barrier.wait, 30) for _ in range(4)])
        deadline = time.monotonic() + 30
        while harness.runner.threads > 1:
            assert time.monotonic() < deadline
            await harness.start(int)
            await asyncio.sleep(0.01)
        assert harness.runner.threads == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts context switches in /proc")
async def test_at_rest_nothing_wakes_up() -> None:
    """Idle threads sleep on a lock: not one context switch in a third of a second."""

    def switches() -> int:
        text = Path(f"/proc/self/task/{thread_id}/status").read_text()
        return int(text.split("voluntary_ctxt_switches:")[1].split()[0])

    async with open_runner() as harness:
        _, thread_id = await harness.start(threading.get_native_id)
        await until(lambda: harness.runner._idle)
        for _ in range(50):  # on a busy machine it may take a while until it really sleeps
            before = switches()
            await asyncio.sleep(0.3)
            if switches() == before:
                break
        else:
            raise AssertionError("the thread wakes up again and again")


async def test_one_token_one_call() -> None:
    """A token in use is refused, and the call under it goes on."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        token = harness.start(release.wait)
        with pytest.raises(RuntimeError, match="give each attempt a token of its own"):
            harness.runner.start(token, contextvars.copy_context(), int)
        release.set()
        assert await token == (True, True)


async def test_without_a_thread_left_in_the_system_the_others_do_the_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first thread cannot be created: the call fails with a text. The second: the first one takes the call."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with open_runner(max_threads=2) as harness:
        with monkeypatch.context() as patch:
            patch.setattr(_threads._Thread, "start", no_thread)
            ok, error = await harness.start(int)
        assert not ok
        assert isinstance(error, RuntimeError)
        assert "no thread could be started" in str(error)
        assert "can't start new thread" in str(error)
        assert (harness.runner.threads, harness.runner.waiting) == (0, 0)
        release = threading.Event()
        first = harness.start(release.wait)
        await until(lambda: harness.runner.busy == 1)
        with monkeypatch.context() as patch:
            patch.setattr(_threads._Thread, "start", no_thread)
            second = harness.start(int)
        assert "could not create another thread: RuntimeError: can't start new thread" in caplog.text
        assert (harness.runner.threads, harness.runner.waiting) == (1, 1)
        third = harness.start(int)  # the system has threads again: it gets one
        assert await second == (True, 0)
        assert await third == (True, 0)
        release.set()
        await first


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"max_threads": 0}, ValueError, "max_threads must be at least 1, got 0"),
        ({"max_threads": True}, TypeError, "whole number, got True"),
        ({"max_threads": 2.0}, TypeError, "whole number, got 2.0"),
        ({"idle_seconds": -1}, ValueError, "idle_seconds must be a number between 0"),
        ({"idle_seconds": float("nan")}, ValueError, "got nan"),
        ({"idle_seconds": float("inf")}, ValueError, "got inf"),
    ],
)
async def test_construction_refuses_what_cannot_work(arguments: Any, kind: type[Exception], message: str) -> None:
    """With the name, the value and what is allowed."""
    loop = asyncio.get_running_loop()
    with pytest.raises(kind, match=message):
        ThreadRunner(**{"loop": loop, "max_threads": 1, "name": "test", "on_done": print, **arguments})


# ---- cancelling ----------------------------------------------------------------------------------------


async def test_check_cancelled_raises_in_the_call_that_was_cancelled_and_in_no_other() -> None:
    """The flag belongs to the call: the next one in the same thread does not see it."""
    started = threading.Event()

    def loops() -> None:
        while True:
            check_cancelled()
            started.set()

    async with open_runner(max_threads=1) as harness:
        token = harness.start(loops)
        await until(started.is_set)
        assert harness.runner.cancel(token, "paid twice")
        ok, value = await token
        assert (ok, type(value), value.args) == (False, asyncio.CancelledError, ("paid twice",))
        assert await harness.start(check_cancelled) == (True, None)
        assert not harness.runner.cancel(token)


async def test_a_cancel_may_come_before_the_call_begins() -> None:
    """It runs, and sees it at the first look; whoever wants it not to run withdraws it."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        blocker = harness.start(release.wait)
        token = harness.start(check_cancelled)
        assert harness.runner.cancel(token)
        release.set()
        await blocker
        ok, value = await token
        assert (ok, type(value), value.args) == (False, asyncio.CancelledError, ())


async def test_check_cancelled_elsewhere_says_what_to_write() -> None:
    """In the loop's thread, and in a thread that a call has started."""
    with pytest.raises(RuntimeError, match="outside of a function that a pool runs in a thread"):
        check_cancelled()

    def call() -> list[BaseException]:
        caught: list[BaseException] = []

        def inner() -> None:
            try:
                check_cancelled()
            except RuntimeError as exc:
                caught.append(exc)

        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()
        return caught

    async with open_runner() as harness:
        ok, caught = await harness.start(call)
        assert ok
        assert len(caught) == 1


# ---- closing -------------------------------------------------------------------------------------------


async def test_close_ends_idle_threads_at_once_and_takes_no_new_calls() -> None:
    """Idle or never used, once or twice."""
    harness = Harness(max_threads=3)
    barrier = threading.Barrier(3)
    await asyncio.gather(*[harness.start(barrier.wait, 30) for _ in range(3)])
    await until(lambda: len(harness.runner._idle) == 3)
    began = time.monotonic()
    assert harness.runner.close(wait=60) == 0
    assert time.monotonic() - began < 30
    assert harness.runner.threads == 0
    assert harness.runner.close() == 0
    with pytest.raises(RuntimeError, match="closed: it takes no new calls"):
        harness.start(int)
    assert Harness().runner.close() == 0


async def test_close_does_not_wait_for_a_call_that_runs_but_its_outcome_still_arrives() -> None:
    """What runs is counted, and delivered when it ends; what waits is delivered as cancelled."""
    harness = Harness(max_threads=1)
    release = threading.Event()
    running = harness.start(release.wait)
    await until(lambda: harness.runner.busy == 1)
    waiting = [harness.start(pytest.fail, "must not run") for _ in range(3)]
    began = time.monotonic()
    assert harness.runner.close() == 1
    assert harness.runner.close(wait=0.05) == 1
    assert time.monotonic() - began < 30
    for ok, value in await asyncio.gather(*waiting):
        assert (ok, type(value)) == (False, asyncio.CancelledError)
    assert not running.done()
    release.set()
    assert await running == (True, True)
    await until(lambda: harness.runner.threads == 0)


async def test_close_can_wait_for_the_calls_that_run() -> None:
    """Within `wait`, and no longer than they take."""
    harness = Harness(max_threads=2)
    tokens = [harness.start(time.sleep, 0.05) for _ in range(2)]
    await until(lambda: harness.runner.busy == 2)
    began = time.monotonic()
    assert harness.runner.close(wait=30) == 0
    assert time.monotonic() - began < 15
    assert await asyncio.gather(*tokens) == [(True, None)] * 2


@pytest.mark.parametrize("notified", [False, True], ids=["before it ends", "before it is delivered"])
def test_a_loop_that_is_closed_while_a_call_runs_makes_no_noise(
    notified: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can be told any more: the thread goes on and ends, and only an exception is logged, once."""
    release = threading.Event()
    began = threading.Event()
    delivered: list[str] = []
    excepthook: list[object] = []
    before, threading.excepthook = threading.excepthook, excepthook.append

    def fail() -> None:
        began.set()
        release.wait()
        raise LookupError("too late")

    loop = asyncio.new_event_loop()
    runner: ThreadRunner[str] = ThreadRunner(
        loop=loop, max_threads=2, name="test", on_done=lambda token, ok, value: delivered.append(token)
    )
    try:
        if notified:  # the loop is told, and closed before it listens
            runner.start("unheard", contextvars.copy_context(), int)
            threads = tuple(runner._threads)
            deadline = time.monotonic() + 30
            while not runner._notified:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        runner.start("late", contextvars.copy_context(), fail)
        assert began.wait(30)
        threads = tuple(runner._threads)
        loop.close()
        with caplog.at_level(logging.WARNING, "aiopool.threads"):
            release.set()
            runner.close(wait=30)
        for thread in threads:
            thread.join(30)
    finally:
        threading.excepthook = before
    assert delivered == []
    assert excepthook == []
    assert runner.threads == 0
    assert [record.getMessage() for record in caplog.records] == [
        "a call in a thread of 'test' failed after its event loop was closed; nobody can be told: "
        "LookupError('too late')"
    ]
    assert not runner._done


def test_the_interpreter_does_not_wait_for_an_abandoned_call() -> None:
    """A function that never returns: the program ends at once, with its own exit code, and says nothing."""
    program = """
        import asyncio, contextvars, sys, time
        from aiopool._runtime.threads import ThreadRunner

        async def main():
            runner = ThreadRunner(
                loop=asyncio.get_running_loop(), max_threads=2, name="x", on_done=lambda *outcome: None
            )
            runner.start("stuck", contextvars.copy_context(), time.sleep, (600,))
            runner.start("idle", contextvars.copy_context(), int)
            while runner.busy != 1:
                await asyncio.sleep(0.001)
            runner.abandon("stuck")
            assert runner.close() == 1

        asyncio.run(main())
        sys.exit(7)
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(_threads.__file__).parents[1])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"")
    assert time.monotonic() - began < 20


# ---- memory --------------------------------------------------------------------------------------------


class Thing:
    """Something that can be seen to go away."""

    def method(self, *args: object, **kwargs: object) -> "Thing":
        return Thing()

    def fail(self, *args: object, **kwargs: object) -> None:
        raise Failure("no")


class Failure(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_of_a_call_is_kept_after_its_delivery(fails: bool) -> None:
    """Function, arguments, context, token, result and exception go without the garbage collector's help."""
    seen: list[weakref.ref[Any]] = []
    arrived = asyncio.Event()

    class Token:
        pass

    def on_done(token: Token, ok: bool, value: object) -> None:
        assert ok is not fails
        seen.append(weakref.ref(value))
        arrived.set()

    runner: ThreadRunner[Token] = ThreadRunner(
        loop=asyncio.get_running_loop(), max_threads=1, name="test", on_done=on_done
    )
    gc.collect()
    gc.disable()
    try:
        thing, argument, keyword, token = Thing(), Thing(), Thing(), Token()
        fn = thing.fail if fails else thing.method
        seen += [weakref.ref(one) for one in (thing, argument, keyword, token)]
        context = contextvars.copy_context()
        runner.start(token, context, functools.partial(fn, keyword=keyword), (argument,))
        del thing, argument, keyword, token, fn, context
        await arrived.wait()
        await until(lambda: runner._idle)
        assert len(seen) == 5
        assert [reference() for reference in seen] == [None] * 5
    finally:
        gc.enable()
        runner.close()


async def test_a_withdrawn_call_is_let_go_at_once() -> None:
    """Its arguments do not wait for its turn in the line."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        blocker = harness.start(release.wait)
        thing = Thing()
        reference = weakref.ref(thing)
        token = harness.start(thing.method, thing)
        assert harness.runner.withdraw(token)
        del thing
        assert reference() is None
        release.set()
        await blocker


async def test_exceptions_leave_no_circles_for_the_garbage_collector() -> None:
    """A hundred failures, kept by nobody, are gone by reference counting alone."""

    def fail(n: int) -> None:
        raise Failure(n)

    failed: list[int] = []
    runner: ThreadRunner[int] = ThreadRunner(
        loop=asyncio.get_running_loop(),
        max_threads=2,
        name="test",
        on_done=lambda token, ok, value: failed.append(token),
    )
    gc.collect()
    gc.disable()
    try:
        for n in range(100):
            runner.start(n, contextvars.copy_context(), fail, (n,))
        await until(lambda: len(failed) == 100 and len(runner._idle) == runner.threads)
        ours = [one for one in gc.get_objects() if isinstance(one, (Failure, _threads._Call))]
        assert ours == []
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [one for one in gc.garbage if isinstance(one, (Failure, _threads._Call))] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        runner.close()


async def test_an_exception_that_is_kept_keeps_no_runner() -> None:
    """Its traceback reaches back into the thread's frames; they let go when the thread ends."""

    def fail() -> None:
        raise Failure("kept")

    kept: list[Any] = []
    runner: ThreadRunner[str] | None = ThreadRunner(
        loop=asyncio.get_running_loop(),
        max_threads=1,
        name="test",
        on_done=lambda token, ok, value: kept.append(value),
    )
    assert runner is not None
    runner.start("a", contextvars.copy_context(), fail)
    await until(lambda: kept)
    runner.close(wait=30)
    listener = weakref.ref(runner._on_done)
    runner = None
    gc.collect()
    assert isinstance(kept[0], Failure)
    assert listener() is None


# ---- stress --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle_seconds", [10.0, 0.0, 0.0005])
@pytest.mark.parametrize("threads", [1, 3, 16])
async def test_nothing_is_lost_and_nothing_is_told_twice(threads: int, idle_seconds: float) -> None:
    """Thousands of calls, withdrawn and cancelled at random, with threads that come and go all the time."""
    rng = random.Random(threads)
    outcomes: dict[int, list[tuple[bool, object]]] = {}
    loop = asyncio.get_running_loop()
    open_calls = 0
    room = asyncio.Event()

    def on_done(token: list[int], ok: bool, value: object) -> None:
        nonlocal open_calls
        outcomes.setdefault(token[0], []).append((ok, value))
        open_calls -= 1
        room.set()

    ran: list[int] = []
    now: list[int] = []
    highest = 0

    def call(n: int) -> int:
        nonlocal highest
        now.append(n)
        highest = max(highest, len(now))
        ran.append(n)
        try:
            if n % 5 == 0:
                raise Failure(n)
            if n % 7 == 0:
                time.sleep(1e-6)
            if n % 11 == 0:
                check_cancelled()
            return n
        finally:
            now.remove(n)

    runner: ThreadRunner[list[int]] = ThreadRunner(
        loop=loop, max_threads=threads, name="test", on_done=on_done, idle_seconds=idle_seconds
    )
    withdrawn: set[int] = set()
    cancelled: set[int] = set()
    total = 20_000 if idle_seconds == 10 else 4_000
    tokens = [[n] for n in range(total)]
    with restless_interpreter():
        for n, token in enumerate(tokens):
            while open_calls > 60:
                room.clear()
                await room.wait()
            runner.start(token, contextvars.copy_context(), call, (n,))
            open_calls += 1
            other = rng.randrange(max(0, n - 40), n + 1)
            dice = rng.random()
            if dice < 0.1:
                if runner.withdraw(tokens[other]):
                    withdrawn.add(other)
                    open_calls -= 1
            elif dice < 0.2:
                if runner.cancel(tokens[other]):
                    cancelled.add(other)
            elif dice < 0.25:
                await asyncio.sleep(0)
            elif dice < 0.253:
                await asyncio.sleep(0.001)
        await until(lambda: open_calls == 0)
        still = runner.close(wait=30)
    assert still == 0
    assert highest <= threads
    assert sorted(ran) == sorted(set(ran)) == [n for n in range(total) if n not in withdrawn]
    assert sorted(outcomes) == sorted(ran)
    for n, told in outcomes.items():
        ((ok, value),) = told
        if n % 5 == 0:
            assert not ok
            assert isinstance(value, Failure)
        elif not ok:
            assert n in cancelled
            assert n % 11 == 0
            assert isinstance(value, asyncio.CancelledError)
        else:
            assert value == n
    await until(lambda: runner.threads == 0)
    assert (runner.waiting, runner.busy, runner.abandoned, len(runner._calls)) == (0, 0, 0, 0)
    assert runner._arriving == set()
    assert runner._idle == []


def test_it_works_on_uvloop() -> None:
    """Another loop, the same promises."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with open_runner(max_threads=4) as harness:
            tokens = [harness.start(pow, n, 2) for n in range(500)]
            assert await asyncio.gather(*tokens) == [(True, n * n) for n in range(500)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_thread_that_cannot_be_created_hands_on_what_it_was_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call comes while the new thread fails, and another thread lies idle: that one is woken for it."""
    async with open_runner(max_threads=2) as harness:
        release = threading.Event()
        first = harness.start(release.wait)
        await until(lambda: harness.runner.busy == 1)
        late: list[asyncio.Future[Outcome]] = []

        def no_thread(self: threading.Thread) -> None:
            release.set()
            while not harness.runner._idle:  # it has taken the second call, too
                time.sleep(0.001)
            late.append(harness.start(int, "3"))
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(_threads._Thread, "start", no_thread)
            second = harness.start(int)
        assert await late[0] == (True, 3)
        assert await second == (True, 0)
        assert (await first)[0]


async def test_a_thread_that_runs_although_its_start_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the caller's, the call is the thread's: it is run once."""
    start = threading.Thread.start

    def start_and_fail(self: threading.Thread) -> None:
        start(self)
        raise MemoryError

    async with open_runner() as harness:
        future = harness.loop.create_future()
        with monkeypatch.context() as patch:
            patch.setattr(_threads._Thread, "start", start_and_fail)
            with pytest.raises(MemoryError):
                harness.runner.start(future, contextvars.copy_context(), int)
        assert await future == (True, 0)


async def test_the_loops_own_thread_is_told_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are given up in the loop, which refuses a call from threads: a timer does it."""
    async with open_runner(max_threads=1) as harness:
        release = threading.Event()
        first, second = harness.start(release.wait), harness.start(int)
        await until(lambda: harness.runner.busy == 1)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(harness.loop, "call_soon_threadsafe", refuse)
            harness.runner.close()
        ok, error = await second
        assert (ok, type(error)) == (False, asyncio.CancelledError)
        release.set()
        await first


async def test_a_thread_tells_the_loop_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where memory is short for a moment: whoever waits for the outcome must not wait for ever."""
    async with open_runner(max_threads=1) as harness:
        tell, refused = harness.loop.call_soon_threadsafe, []

        def refuse_twice(*args: Any, **kwargs: Any) -> asyncio.Handle:
            if len(refused) < 2:
                refused.append(threading.current_thread())
                raise MemoryError
            return tell(*args, **kwargs)

        monkeypatch.setattr(harness.loop, "call_soon_threadsafe", refuse_twice)
        assert await harness.start(int) == (True, 0)
        assert refused == [*harness.runner._threads] * 2
