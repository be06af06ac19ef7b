"""The fleet page on every kind of store: on real servers, as far as they are here."""

import asyncio
import re

import pytest_asyncio
from test_pages import EVIL, get, press, text_of

import aiopool.testing
from aiopool import Handlers, Limit, Pool
from aiopool.stores import NewJob, StoredStatus


@pytest_asyncio.fixture
async def fleet(new_store):
    """A pool at work on new data of a store, beside what processes that are gone have left there."""
    handlers = Handlers()

    @handlers.register("ship")
    async def ship(order: int) -> None:
        raise LookupError(f"order {order} {EVIL}")

    @handlers.register("wait")
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    @handlers.register("report", every="30 6 * * *")
    async def report() -> None: ...

    async with Pool(
        3,
        name="orders",
        store=new_store(keep=3600, keep_failed=7200),
        handlers=handlers,
        key_limit=Limit(max_at_once=1),
        on_error=lambda *_: None,
    ) as pool:
        await asyncio.gather(*[await pool.submit(ship, number) for number in range(3)], return_exceptions=True)
        view = pool.with_options(key="one")
        for _ in range(2):
            await view.submit(wait)
        await pool.with_options(delay=3600).submit(wait)
        await pool.fleet.store.submit(
            [
                NewJob("stranger", "nobody-knows-me", "[]"),
                NewJob("tick", "gone", "{}", delay=7200.0, tick=('gone every 5 s {"secret": "hunter2"}', 1e9)),
            ]
        )

        async def settled():
            live = (await pool.fleet.statistics()).live
            return live["parked"] == live["limited"] == live["running"] == 1 and live["queued"] == 0

        await aiopool.testing.wait_until(lambda: pool.statistics().running == 1)
        while not await settled():
            await asyncio.sleep(0.02)
        yield pool
        await pool.fleet.cancel_all()
        await aiopool.testing.wait_until(lambda: pool.statistics().running == 0)


def engine_of(pool):
    return type(pool.fleet.store).__name__


async def test_the_fleet_page_has_all_that_the_store_knows(fleet):
    """Hosts with what they hold, schedules, retention, the engine; jobs that failed, are parked, limited, for later."""
    page = await get("fleet?status=failed")
    found = text_of(page)
    assert "<script>alert" not in page
    assert "hunter2" not in page
    assert re.search(r"LookupError: order 2 .*script", found)
    assert f"{engine_of(fleet)} " in found
    assert re.search(r"Unfinished 5 1 running Oldest queued – Dead 0 Parked 1 Rescued 0", found)
    assert re.search(r"Hosts .* 1 20\d\d-.* ago", found)  # it holds one
    assert "gone every 5 s 2001-09-09 01:46:40 no rule in this process" in found
    assert re.search(r"report cron '30 6 \* \* \*' – 20\d\d-\d\d-\d\d 06:30:00 0", found)
    assert "Those that succeeded: 1 h 00 m . All others: 2 h 00 m . There are 3 now" in found
    assert re.search("The engine .*engine", found)
    assert re.search("nobody-knows-me parked .*", text_of(await get("fleet?status=parked")))
    assert "no process that has seen it knows its name" in text_of(await get("fleet?status=parked"))
    assert "a limit of the fleet has no place for it" in text_of(await get("fleet?status=limited"))
    later = text_of(await get("fleet?status=scheduled"))
    assert later.count(" scheduled 0 0 20") == 2  # with the moments at which they are due


async def test_an_engine_says_how_long_it_takes(fleet):
    """The time of a commit, or of an answer; of PostgreSQL also the age of the oldest snapshot."""
    found = text_of(await get("fleet"))
    takes = {"Memory": "", "SQLite": "A commit takes", "Redis": "An answer takes", "Postgres": "A commit takes"}
    assert re.search(rf"{takes[engine_of(fleet)]} [\d.]+ m?s", found) or engine_of(fleet) == "Memory"
    assert ("Oldest snapshot" in found) == (engine_of(fleet) == "Postgres")


async def test_jobs_of_the_fleet_are_steered(fleet):
    """What failed runs again, one or all; what is parked is cancelled; the fleet pauses; old ends are forgotten."""
    numbers = fleet.fleet.statistics
    (row, *_), _ = await fleet.fleet.store.page(status=StoredStatus.FAILED)
    assert (await press("pause_fleet", back="fleet")).status_code == 303
    assert "Resume the fleet" in text_of(await get("fleet"))
    assert (await press("retry", id=row.id, back="fleet")).status_code == 303
    assert (await numbers()).ended["failed"] == 2
    asked = await press("requeue", status="failed", back="fleet")
    assert "Run again 2 jobs?" in text_of(asked.text)
    assert (await press("requeue", status="failed", confirmed="yes")).status_code == 303
    assert (await numbers()).ended["failed"] == 0
    assert (await press("cancel_stored", id="stranger", confirmed="yes", back="fleet")).status_code == 303
    assert (await numbers()).live["parked"] == 0
    assert (await numbers()).ended["cancelled"] == 1
    assert (await press("forget_history", older_than="0", confirmed="yes", back="fleet")).status_code == 303
    assert sum((await numbers()).ended.values()) == 0
    assert (await press("resume_fleet", back="fleet")).status_code == 303
    while (await numbers()).ended["failed"] != 3:
        await asyncio.sleep(0.02)
    assert 'method="post"' not in await get("fleet?status=failed", "read")
