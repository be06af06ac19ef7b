"""A pool in which hardly two numbers are equal: whoever shows one in the place of another is found out."""

import asyncio
import contextlib
import threading

from helpers import echo

from aiopool.testing import wait_until

NUMBERS = {
    "running": 6,
    "queued": 6,
    "scheduled": 3,
    "leaked": 1,
    "waiting": 5,
    "size": 9,
    "busy": 7,
    "threads_busy": 3,
    "threads_abandoned": 1,
    "rejected": 2,
    "timed_out": 1,
    "submitted": 18,
}
"""What `pool.statistics()` shows inside of the block."""


@contextlib.asynccontextmanager
async def crowded(new_pool):
    """Give such a pool, and a function that lets its one leaked thread end; on a loop of real time."""
    release, threads, hold = threading.Event(), threading.Event(), asyncio.Event()
    async with new_pool(9, 6, name="shop", max_threads=8, cancel_grace=0.01, on_error=lambda *_: None) as pool:
        try:
            late = await pool.with_options(timeout=0.02).submit(release.wait)  # leaks, and leaves its thread
            await late.wait()
            for _ in range(2):
                await pool.submit(threads.wait)
            for _ in range(4):
                await pool.submit(hold.wait)
            await wait_until(lambda: pool.statistics().running == 6)
            pool.pause()
            for _ in range(3):
                pool.with_options(delay=600).submit_nowait(echo)
            for _ in range(8):
                with contextlib.suppress(asyncio.QueueFull):
                    pool.submit_nowait(echo)
            submitting = [asyncio.create_task(pool.submit(echo)) for _ in range(5)]
            await wait_until(lambda: pool.statistics().waiting == 5 and pool.statistics().leaked == 1)

            async def let_go():
                release.set()
                await wait_until(lambda: pool.statistics().leaked == 0)

            yield pool, let_go
        finally:
            release.set()
            threads.set()
            hold.set()
            pool.resume()
        await asyncio.gather(*submitting)
        await pool.shutdown(timeout=0)
