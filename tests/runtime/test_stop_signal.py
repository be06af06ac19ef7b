"""`StopSignal`: a thread with an event loop of its own is told to end."""

import asyncio
import threading

import pytest

from aiopool._runtime.stop_signal import StopSignal


def end_of(thread):
    thread.join(30)
    return not thread.is_alive()


@pytest.mark.parametrize("before", [True, False])
def test_it_is_heard_before_the_loop_is_there_and_while_it_runs(before):
    """And more than once."""
    signal, waits = StopSignal(), threading.Event()

    async def live():
        asyncio.get_running_loop().call_soon(waits.set)
        await signal.wait()
        await signal.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    if before:
        signal.set()
    thread.start()
    if not before:
        assert waits.wait(30)
        signal.set()
    assert end_of(thread)
    assert signal.is_set


def test_whoever_asks_when_the_loop_has_closed_hears_of_nothing():
    """As at the end of a program."""
    signal = StopSignal()

    async def live():
        asyncio.get_running_loop().call_soon(signal.set)
        await signal.wait()

    asyncio.run(live())
    signal.set()


def test_no_moment_is_too_early_or_too_late():
    """The thread begins to wait while another one asks."""
    for _ in range(300):
        signal, both = StopSignal(), threading.Barrier(2)

        async def live(signal=signal, both=both):
            both.wait(30)
            await signal.wait()

        thread = threading.Thread(target=lambda live=live: asyncio.run(live()))
        thread.start()
        both.wait(30)
        signal.set()
        assert end_of(thread)
