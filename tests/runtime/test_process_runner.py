"""The process runner below the pool: calls by token, its end, and what it refuses."""

import asyncio
import contextvars
import multiprocessing

import process_jobs as jobs
import pytest

from aiopool._jobs.remote import RemoteJob
from aiopool._runtime.processes import ProcessRunner

pytestmark = pytest.mark.loops("real", long=("eager", "uvloop"))


class Harness:
    """A runner, and the outcomes of its calls."""

    def __init__(self):
        multiprocessing.set_forkserver_preload(["aiopool._runtime.process_child", "process_jobs"])
        loop = asyncio.get_running_loop()
        self.outcomes = {}
        self.notes = []
        self.runner = ProcessRunner(
            loop=loop,
            max_processes=1,
            start_method="forkserver",
            name="kit",
            on_done=self.done,
            describe=lambda token: RemoteJob(token, f"call {token}", 1, f"key {token}"),
            on_note=lambda token, note: self.notes.append((token, note)),
        )
        self.changed = asyncio.Event()

    def start(self, token, function, *args):
        self.runner.start(token, contextvars.Context(), function, args)

    def done(self, token, ok, value):
        assert token not in self.outcomes
        self.outcomes[token] = ok, value
        self.changed.set()

    async def outcome(self, token):
        while token not in self.outcomes:
            self.changed.clear()
            await self.changed.wait()
        return self.outcomes[token]

    async def begun(self):
        while not self.notes:
            await asyncio.sleep(0.005)

    async def close(self):
        self.runner.close()
        await self.runner.ended


async def test_a_call_goes_out_and_comes_back():
    """Under its token, in a later turn of the loop, and the runner tells what it does."""
    harness = Harness()
    harness.start("a", jobs.square, 3)
    harness.start("b", jobs.fail, "no")
    assert repr(harness.runner) == "<ProcessRunner 'kit' 0 busy, 2 waiting, 1 of 1 processes>"
    assert harness.runner.at_work
    assert await harness.outcome("a") == (True, 9)
    ok, error = await harness.outcome("b")
    assert not ok
    assert type(error) is ValueError
    assert not harness.runner.at_work
    await harness.close()


async def test_what_is_refused():
    """A token that is in use, and everything after the end; closing twice is closing once."""
    harness = Harness()
    harness.start("a", jobs.square, 3)
    with pytest.raises(RuntimeError, match="runs a call for this token already"):
        harness.start("a", jobs.square, 3)
    await harness.outcome("a")
    await harness.close()
    assert harness.runner.close() == 0
    with pytest.raises(RuntimeError, match="is closed"):
        harness.start("b", jobs.square, 3)


async def test_calls_that_are_not_there():
    """There is nothing to stop, to take back or to abandon."""
    harness = Harness()
    assert not harness.runner.cancel("nobody")
    assert not harness.runner.withdraw("nobody")
    assert not harness.runner.abandon("nobody")
    assert harness.runner.close() == 0
    assert harness.runner.ended.done()


async def test_the_end_kills_what_runs_and_cancels_what_waits():
    """Each call has its outcome before the runner has ended."""
    harness = Harness()
    harness.start("running", jobs.hang)
    harness.start("waiting", jobs.square, 3)
    await harness.begun()
    assert harness.runner.abandon("running")
    assert harness.runner.close() == 1
    await harness.runner.ended
    assert {token: type(error) for token, (_, error) in harness.outcomes.items()} == {
        "running": asyncio.CancelledError,
        "waiting": asyncio.CancelledError,
    }


async def test_a_call_that_was_taken_back_is_never_told():
    """It waited for a process."""
    harness = Harness()
    harness.start("a", jobs.square, 3)
    assert harness.runner.withdraw("a")
    assert not harness.runner.withdraw("a")
    harness.start("b", jobs.square, 4)
    assert await harness.outcome("b") == (True, 16)
    await harness.close()
    assert set(harness.outcomes) == {"b"}
