"""`end_tasks`: background tasks end, though a library swallows their cancel."""

import asyncio

import pytest

from aiopool._runtime.ending import end_tasks


@pytest.mark.parametrize("swallows", [0, 1, 3])
async def test_a_task_that_goes_on_is_told_again(swallows):
    """As often as it takes."""
    heard = 0

    async def run():
        nonlocal heard
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                heard += 1
                if heard > swallows:
                    raise

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    await end_tasks(task)
    assert task.cancelled()
    assert heard == swallows + 1


async def test_what_has_ended_is_left_alone():
    """None, one that is done, one that fails while it ends: nothing is raised, and nothing is said of it later."""

    async def fail():
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("the line is broken")

    done, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fail())
    await done
    await end_tasks()
    await end_tasks(None, done, failing)
    assert isinstance(failing.exception(), OSError)
