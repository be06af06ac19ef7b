"""What these tests share: a test in virtual time that must leave nothing behind, small jobs, and the balance check.

@virtual
async def test_something(isolation): ...    # under the mark `both_isolations`, once for each
"""

import asyncio
import contextlib
import functools
import gc
import sys

import anyio

from aiopool import Pool, Statistics
from aiopool.testing import assert_no_leaks, run_virtual

BOTH = ("task", "scope")


def virtual(test=None, *, leaks=True, **options):
    """Run an async test in virtual time."""
    if test is None:
        return functools.partial(virtual, leaks=leaks, **options)

    @functools.wraps(test)
    def run(*args, **kwargs):
        async def main():
            if not leaks:
                return await test(*args, **kwargs)
            async with assert_no_leaks():
                await test(*args, **kwargs)

        # What was there before is no business of the collector's: a collection takes a tenth of the time.
        gc.freeze()
        try:
            run_virtual(main, **options)
        finally:
            gc.unfreeze()

    return run


def now():
    """The loop's clock."""
    return asyncio.get_running_loop().time()


def balanced(numbers: Statistics) -> bool:
    """Whether each job that was handed in is in exactly one place, and no gauge is below zero."""
    places = numbers.queued + numbers.scheduled + numbers.running
    ends = numbers.succeeded + numbers.failed + numbers.timed_out + numbers.cancelled + numbers.rejected
    gauges = (
        *(numbers.queued, numbers.scheduled, numbers.running, numbers.waiting),
        *(numbers.busy, numbers.idle, numbers.leaked),
    )
    return numbers.submitted == places + ends and min(gauges) >= 0


def assert_counters_balance(counted: Pool | Statistics) -> None:
    """Each job that was handed in is in exactly one place, and no gauge is below zero: of a pool, or of its numbers."""
    numbers = counted.statistics() if isinstance(counted, Pool) else counted
    assert balanced(numbers), numbers


async def echo(value=None):
    """Return at once."""
    return value


async def nap(seconds=1.0, value=None):
    """Return after a while."""
    await asyncio.sleep(seconds)
    return value


async def double(x):
    """Return twice as much, at once."""
    return 2 * x


async def forever():
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def fail(error=ValueError):
    """Raise at once."""
    raise error


async def stubborn():
    """Swallow every cancel: a job that does not end for an hour.

    The shield is for `isolation="scope"`: by anyio's rules a cancel is told in every turn of the loop, and whoever
    swallows it without one burns the CPU.
    """
    until = now() + 3600
    with anyio.CancelScope(shield=True):
        while now() < until:
            try:
                await asyncio.sleep(until - now())
            except asyncio.CancelledError:
                pass


@contextlib.contextmanager
def restless_interpreter():
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
