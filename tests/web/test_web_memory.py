"""What is looked at leaves nothing behind: not a page, not a stream, not a job that was submitted and has ended."""

import gc
import logging
import sys

import pytest
from web_app import HOME, client, make_app

from aiopool import Pool

PAGES = ("", "jobs", "jobs?status=succeeded", "groups", "names", "loop", "tree", "events", "health", "settings")
# Blocks of memory that a thousand requests may leave: the samples of a chart, one a second; one for each would be more.
LEFT = 800


@pytest.fixture(autouse=True)
def _no_logs(monkeypatch):
    """What pytest keeps of the log for its report is no leak of ours."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)


async def _grown(visit) -> int:
    """How many blocks of memory stay when something was done a thousand times, after what is kept has been filled."""
    await visit(1000)
    gc.collect()
    before = sys.getallocatedblocks()
    await visit(1000)
    gc.collect()
    return sys.getallocatedblocks() - before


@pytest.mark.long
async def test_a_thousand_pages_leave_nothing():
    """Each page is loaded a hundred times and more, and the program is as large as before."""
    async with Pool(2, name="p", keep_finished=100) as pool, client(make_app(), "read", base=HOME) as visitor:
        await pool.map(str, range(100)).collect()

        async def visit(times: int) -> None:
            for number in range(times):
                answer = await visitor.get(f"/{PAGES[number % len(PAGES)]}")
                assert answer.status_code == 200, answer.text

        assert await _grown(visit) < LEFT


@pytest.mark.long
async def test_a_thousand_streams_leave_nothing(monkeypatch):
    """Each is read for one state and left."""
    monkeypatch.setattr("aiopool.web._hub.TICK", 0.001)
    async with Pool(2, name="p"), client(make_app(), "read") as visitor:

        async def visit(times: int) -> None:
            for _ in range(times):
                answer = await visitor.get("/pools/p/events?limit=1")
                assert "event: state" in answer.text

        assert await _grown(visit) < LEFT
