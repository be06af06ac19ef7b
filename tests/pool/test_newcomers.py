"""The wrong calls that a newcomer makes: each error says what to write instead."""

import asyncio
import re

import pytest

from aiopool import JobOptions, Pool, PoolClosedError, Restart, Retry, job


async def fetch(url: str) -> str:
    return url


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: Pool(max_workers=4), "Pool() takes no argument 'max_workers': write Pool(size=...)"),
        (lambda: Pool(workers=4), "write Pool(size=...)"),
        (lambda: Pool(concurrency=4), "write Pool(size=...)"),
        (lambda: Pool(maxsize=4), "write Pool(queue_size=...)"),
        (lambda: Pool(time_out=4), "write Pool(timeout=...)"),
        (lambda: Pool(colour="red"), "it takes size, queue_size, name"),
        (lambda: Pool().with_options(prio=1), "write with_options(priority=...)"),
        (lambda: Pool().with_options(retries=1), "write with_options(retry=...)"),
        (lambda: Retry(max_attempts=3), "write Retry(attempts=...)"),
        (lambda: Retry(retries=3), "Retry() takes no argument 'retries'"),
        (lambda: Restart(max_restart=3), "write Restart(max_restarts=...)"),
        (lambda: Pool().group(on_eror="collect"), "write group(on_error=...)"),
        (lambda: Pool().map(fetch, [], ahead=3), "write map(buffersize=...)"),
        (lambda: job(prio=1), "write job(priority=...)"),
        (lambda: JobOptions(prio=1), "JobOptions() takes no argument 'prio': write JobOptions(priority=...)"),
        (lambda: JobOptions(timeouts=1), "write JobOptions(timeout=...)"),
        (lambda: Retry(atempts=3), "Retry() takes no argument 'atempts': write Retry(attempts=...)"),
        (
            lambda: Pool(timeout="5s"),
            "such as timeout=2.5 (texts with units are for settings)",
        ),
        (lambda: Pool(retry=3), "retry=3 is no Retry: write retry=Retry(attempts=3)"),
        (lambda: list(Pool().map(fetch, ["a"])), "await pool.map(...).collect()"),
        (lambda: Pool().submit_nowait(fetch, "a"), "async with Pool(...) as pool:"),
    ],
)
def test_the_error_names_the_line_to_write(call, line):
    """Whatever the mistake, its text has the call that works."""
    with pytest.raises((TypeError, ValueError, RuntimeError), match=re.escape(line)):
        call()


async def wrong_calls(pool):
    return [
        (lambda: pool.submit(fetch("a")), "Write submit(fetch, ...) in place of submit(fetch(...))"),
        (lambda: pool.submit(fetch, "a", timeout=5), "Write pool.with_options(timeout=5).submit(fetch, ...)"),
        (lambda: await_map(pool), "results = await pool.map(...).collect()"),
        (lambda: pool.submit("fetch"), "submit() takes a function"),
    ]


async def await_map(pool):
    await pool.map(fetch, ["a"])


@pytest.mark.parametrize("number", range(4))
async def test_calls_of_an_open_pool_name_the_line_too(number):
    """A coroutine in place of a function, an option among the arguments, an awaited map."""
    async with Pool() as pool:
        call, line = (await wrong_calls(pool))[number]
        with pytest.raises(TypeError, match=re.escape(line)):
            await call()


def test_a_pool_of_another_loop_says_so():
    """A pool that is open in one loop is refused in another."""

    async def opened():
        async with Pool() as pool:

            def other():
                asyncio.run(pool.submit(fetch, "a"))

            with pytest.raises(RuntimeError, match=r"another (thread|loop)"):
                await asyncio.to_thread(other)

    asyncio.run(opened())


def test_a_pool_outside_of_asyncio_says_so():
    """Under trio, say: `async with` needs a loop of asyncio, and the error has the line that brings one."""
    with pytest.raises(RuntimeError, match=re.escape('anyio.run(main, backend="asyncio")')):
        Pool().__aenter__().send(None)


@pytest.mark.parametrize(
    "make", [lambda: Pool(), lambda: Pool().group(), lambda: Pool().map(fetch, [])], ids=["pool", "group", "map"]
)
def test_plain_with_says_async_with(make):
    """What waits at the end of its block cannot be left by a plain `with`; nothing of the block runs."""
    ran = []
    with pytest.raises(TypeError, match="write `async with` in place of `with`"), make():
        ran.append(1)
    assert not ran


USES = {
    "submit": lambda pool: pool.submit(fetch, "a"),
    "run": lambda pool: pool.run(fetch, "a"),
    "map": lambda pool: pool.map(fetch, ["a"]).collect(),
    "options": lambda pool: pool.with_options(id="mine").submit(fetch, "a"),
}


@pytest.mark.parametrize("use", USES)
async def test_a_pool_used_after_its_end_says_so(use):
    """It is closed, and the line belongs into the block."""
    async with Pool(name="ops") as pool:
        pass
    with pytest.raises(PoolClosedError, match=r"'ops' is closed\. Submit before the `async with` block ends"):
        await USES[use](pool)
    with pytest.raises(PoolClosedError, match="'ops' is closed"):
        pool.submit_nowait(fetch, "a")


@pytest.mark.parametrize("call", ["submit", "run", "submit_nowait"])
async def test_the_pools_own_coroutine_is_to_be_awaited(call):
    """`pool.run(pool.submit(...))`: one of the two is enough; and none of them is left un-awaited."""
    async with Pool() as pool:
        with pytest.raises(TypeError, match=re.escape("write `await pool.run(fetch, url)` for the result")):
            await getattr(pool, call)(pool.submit(fetch, "a"))
        assert await pool.run(fetch, "a") == "a"
        assert pool.statistics().submitted == 1


async def test_a_job_is_no_function():
    """A job that is submitted again is to be awaited."""
    async with Pool() as pool:
        job = await pool.submit(fetch, "a")
        with pytest.raises(TypeError, match=r"<Job 1 fetch .* is to be awaited: write `await \.\.\.`"):
            await pool.run(job)
        assert await job == "a"


async def test_a_submit_without_await_is_warned_of():
    """No job is made, and Python names the call."""
    async with Pool() as pool:
        forgotten = [pool.submit(fetch, "a")]
        with pytest.warns(RuntimeWarning, match=r"submit' was never awaited"):
            forgotten.clear()
        assert pool.statistics().submitted == 0


async def test_the_result_of_a_job_that_is_not_done():
    """`job.result()` does not wait, and says what does; `job.result` without a call is no result."""
    async with Pool() as pool:
        job = await pool.submit(fetch, "a")
        with pytest.raises(asyncio.InvalidStateError, match=r"it is not done\. Write `await job`"):
            job.result()
        with pytest.raises(TypeError, match="await"):
            await job.result
        assert await job == job.result() == "a"


async def test_a_pool_and_its_jobs_tell_its_name():
    """The name that was given, or "pool"."""
    async with Pool() as plain, Pool(name="ops") as named:
        assert (plain.name, named.name) == ("pool", "ops")
        assert (await named.submit(fetch, "a")).pool_name == "ops"
