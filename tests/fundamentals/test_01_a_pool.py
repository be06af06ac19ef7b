"""Read these files in order: each test shows one thing that a pool does, in as few lines as it takes.

They run in virtual time, so that an hour takes no time. In your own program write `asyncio.run(main())`.
"""

import asyncio

import pytest

from aiopool import JobCancelledError, JobTimeoutError, Pool, Priority, QueueFullError, Retry
from aiopool.testing import run_virtual


def test_submit_and_await():
    """`submit` hands in a call and gives a job; awaiting the job gives what the function returned."""

    async def square(number):
        await asyncio.sleep(1)
        return number * number

    async def main():
        async with Pool(size=2) as pool:
            job = await pool.submit(square, 7)
            assert job.status == "queued"
            assert await job == 49
            assert job.status == "succeeded"

    run_virtual(main)


def test_run_is_submit_and_await():
    """`run` hands in a call and waits for its result."""

    async def main():
        async with Pool() as pool:
            assert await pool.run(asyncio.sleep, 1, "result") == "result"

    run_virtual(main)


def test_the_size_is_the_limit():
    """However many jobs are handed in, no more than `size` run at once."""
    running = most = 0

    async def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    async def main():
        async with Pool(size=3) as pool:
            for _ in range(12):
                await pool.submit(work)
        assert most == 3
        assert asyncio.get_running_loop().time() == 4  # twelve jobs, three at a time, a second each

    run_virtual(main)


def test_leaving_the_block_waits():
    """The end of `async with` waits until all jobs are done."""
    done = []

    async def work():
        await asyncio.sleep(3600)
        done.append(True)

    async def main():
        async with Pool() as pool:
            await pool.submit(work)
        assert done

    run_virtual(main)


def test_an_exception_comes_out_where_the_job_is_awaited():
    """A job that fails raises its own exception to whoever awaits it, with a note about the attempt."""

    async def broken():
        raise KeyError("missing")

    async def main():
        async with Pool() as pool:
            job = await pool.submit(broken)
            with pytest.raises(KeyError) as info:
                await job
            assert "attempt 1 of 1" in info.value.__notes__[0]

    run_virtual(main)


def test_plain_functions_run_in_threads():
    """A plain `def` may block: it runs in a thread, under the same limit."""

    def blocking(path):
        return path.upper()

    async def main():
        async with Pool() as pool:
            assert await pool.run(blocking, "a/b") == "A/B"

    run_virtual(main)


def test_submit_waits_for_room():
    """`queue_size` bounds what waits: `submit` waits for room, `submit_nowait` says that there is none."""

    async def main():
        async with Pool(size=1, queue_size=1) as pool:
            await pool.submit(asyncio.sleep, 1)  # takes the slot
            await pool.submit(asyncio.sleep, 1)  # takes the place in the queue
            with pytest.raises(QueueFullError):
                pool.submit_nowait(asyncio.sleep, 1)
            await pool.submit(asyncio.sleep, 1)  # waits until the first one is done
            assert asyncio.get_running_loop().time() == 1

    run_virtual(main)


def test_priorities():
    """Lower numbers go first; equal ones in the order in which they were handed in."""
    order = []

    async def note(name):
        order.append(name)

    async def main():
        async with Pool(size=1) as pool:
            await pool.submit(note, "first")
            await pool.submit(note, "second")
            await pool.with_options(priority=Priority.HIGH).submit(note, "urgent")

    run_virtual(main)
    assert order == ["urgent", "first", "second"]


def test_options_stand_before_arguments():
    """Options belong to the job and are bound first; whatever follows the function is the function's own."""

    async def fetch(url, timeout):
        return timeout

    async def main():
        async with Pool() as pool:
            quick = pool.with_options(timeout=5)
            assert await quick.run(fetch, "url", timeout=30) == 30

    run_virtual(main)


def test_a_time_limit():
    """`timeout` limits one attempt, from its start."""

    async def main():
        async with Pool(timeout=2) as pool:
            with pytest.raises(JobTimeoutError) as info:
                await pool.run(asyncio.sleep, 60)
            assert info.value.limit == "timeout"
            assert isinstance(info.value, TimeoutError)

    run_virtual(main)


def test_retry():
    """A job that fails may be tried again; meanwhile it holds no worker."""
    attempts = []

    async def flaky():
        attempts.append(asyncio.get_running_loop().time())
        if len(attempts) < 3:
            raise ConnectionError
        return "at last"

    async def main():
        async with Pool() as pool:
            patient = pool.with_options(retry=Retry(attempts=3, delay=10, jitter=0))
            assert await patient.run(flaky) == "at last"

    run_virtual(main)
    assert attempts == [0, 10, 30]


def test_cancel():
    """Cancelling a job is an ordinary exception for whoever awaits it: the waiter itself was not cancelled."""

    async def main():
        async with Pool() as pool:
            job = await pool.with_options(id="invoice-17").submit(asyncio.sleep, 60)
            assert await pool.cancel("invoice-17", reason="paid twice")
            with pytest.raises(JobCancelledError, match="paid twice"):
                await job

    run_virtual(main)


def test_shutdown_says_what_it_left():
    """`shutdown` ends when you said, and reports."""

    async def main():
        async with Pool(size=1) as pool:
            await pool.submit(asyncio.sleep, 1)
            await pool.submit(asyncio.sleep, 3600)
            await pool.submit(asyncio.sleep, 3600)
            report = await pool.shutdown(timeout=10)
        assert report.seconds == 10
        assert (report.succeeded, report.cancelled, report.never_started) == (1, 2, 1)

    run_virtual(main)
