"""A daemon thread for one call: its result, its error, and its late error."""

import asyncio
import threading

import pytest

from aiopool._runtime.daemon_thread import run_in_daemon_thread
from aiopool.testing import wait_until


async def test_a_daemon_thread_gives_results_and_errors() -> None:
    """From a daemon thread of its own."""
    assert await run_in_daemon_thread(lambda: threading.current_thread().daemon, name="t") is True
    with pytest.raises(ZeroDivisionError):
        await run_in_daemon_thread(lambda: 1 // 0, name="t")
    with pytest.raises(RuntimeError, match="t raised StopIteration"):
        await run_in_daemon_thread(lambda: next(iter(())), name="t")


async def test_a_daemon_thread_goes_on_after_its_caller_gave_up(caplog) -> None:
    """And a late error is logged, not lost; a late result is neither."""
    began, let_go = threading.Event(), threading.Event()

    def late() -> None:
        began.set()
        let_go.wait(20)
        raise OSError("late")

    task = asyncio.create_task(run_in_daemon_thread(late, name="latecomer"))
    other = asyncio.create_task(run_in_daemon_thread(lambda: let_go.wait(20), name="satisfied"))
    await wait_until(began.is_set)
    for each in (task, other):
        each.cancel()
        with pytest.raises(asyncio.CancelledError):
            await each
    let_go.set()
    await wait_until(lambda: "latecomer failed after nobody waited for it any more" in caplog.text)
    assert "satisfied" not in caplog.text


def test_an_error_that_comes_after_the_loop_has_closed_is_logged(caplog) -> None:
    """Nobody waits any more, not even the loop."""
    began, let_go = threading.Event(), threading.Event()

    def late() -> None:
        began.set()
        let_go.wait(20)
        raise OSError("late")

    async def main() -> None:
        task = asyncio.create_task(run_in_daemon_thread(late, name="latecomer"))
        await wait_until(began.is_set)
        task.cancel()

    asyncio.run(main())
    [thread] = [thread for thread in threading.enumerate() if thread.name == "latecomer"]
    let_go.set()
    thread.join(20)
    assert "latecomer failed after nobody waited for it any more" in caplog.text
