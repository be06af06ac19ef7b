"""`aiopool.inspection`: looking at the pools of a program from outside."""

import asyncio
import inspect
import threading

import pytest

from aiopool import Pool, PoolStatus, Restart, Retry
from aiopool.inspection import (
    CodeLine,
    RunningCode,
    groups,
    innermost_own,
    loop_of,
    open_pools,
    openings,
    options,
    periodics,
    running_code,
)
from aiopool.records import KeepFinished
from aiopool.testing import wait_until


async def test_open_pools_are_listed_while_they_are_open():
    """In the order in which they opened; being listed keeps none alive."""
    first, second = Pool(name="one"), Pool(name="two")
    before = open_pools()
    async with first:
        async with second:
            assert open_pools()[len(before) :] == [first, second]
        assert open_pools()[len(before) :] == [first]
        async with second:
            assert open_pools()[len(before) :] == [first, second]
    assert open_pools() == before


def test_a_pool_whose_loop_is_gone_is_not_open():
    """Its program was interrupted, for example."""
    kept = Pool(name="kept")

    async def keep():
        await kept.__aenter__()
        assert kept in open_pools()

    asyncio.run(keep())
    assert kept not in open_pools()
    kept._state.status = PoolStatus.CLOSED  # it cannot be closed any more, and would say so


async def test_a_pool_counts_its_openings():
    """An id of an opening before means another job."""
    pool = Pool(1)
    assert openings(pool) == 0
    for number in (1, 2):
        async with pool:
            assert openings(pool) == number
            assert (await pool.submit(int)).id == 1
        assert openings(pool) == number


# What a pool is made with that is no value: functions, limits, the store, what it takes into its own hands.
NO_VALUES = {
    *("on_error", "layers", "worker_context", "limit", "limits", "key_limit", "fair_keys", "dask"),
    *("store", "handlers", "role", "handle_signals", "seed", "self"),
}
GIVEN = {
    "size": 3,
    "queue_size": 7,
    "name": "mail",
    "priority": 2,
    "timeout": 0,
    "queue_timeout": 4.5,
    "total_timeout": 60,
    "retry": Retry(attempts=2),
    "isolation": "scope",
    "overflow": "reject",
    "aging": 9.0,
    "cancel_grace": 2.0,
    "on_leak": "replace",
    "max_threads": 5,
    "offload": "process",
    "max_processes": 2,
    "start_method": "forkserver",
    "restart": Restart(),
    "shutdown_timeout": 3,
    "recycle_after": 100,
    "count_by_worker": True,
    "watchdog": 0.5,
    "keep_finished": KeepFinished(5),
}


async def test_options_are_those_that_were_given():
    """Each value by its name, whether it was given or left out; also of a pool that is not open, or has changed."""
    names = set(inspect.signature(Pool.__init__).parameters) - NO_VALUES
    assert set(options(Pool())) == set(GIVEN) == names
    pool = Pool(**GIVEN)
    assert options(pool) == GIVEN
    async with pool:
        pool.resize(8)
    assert options(pool) == GIVEN
    assert options(Pool(keep_finished=5))["keep_finished"] == KeepFinished(5)
    defaults = options(Pool())
    assert (defaults["size"], defaults["timeout"], defaults["keep_finished"]) == (10, None, None)


@pytest.mark.parametrize("look", [loop_of, running_code, groups])
def test_a_pool_that_was_never_opened_has_nothing_to_show(look):
    """The error says what to write."""
    with pytest.raises(RuntimeError, match="async with Pool"):
        look(Pool())


@pytest.mark.parametrize("isolation", ["task", "scope"])
async def test_the_code_that_blocks_is_named(isolation):
    """The job and the line, from another thread; a loop that waits runs nothing."""
    found = []
    started, release = threading.Event(), threading.Event()

    def look():
        assert started.wait(30)
        found.append(running_code(pool))
        release.set()

    async def block():
        started.set()
        assert release.wait(30)

    async with Pool(1, isolation=isolation) as pool:
        assert loop_of(pool) is asyncio.get_running_loop()
        await asyncio.to_thread(lambda: None)
        job = await pool.submit(block)
        thread = threading.Thread(target=look)
        thread.start()
        await job
        thread.join()
        (code,) = found
        assert (code.job_id, code.job_name) == (job.id, job.name)
        assert code.where.function == "block"
        assert str(code).startswith("test_inspection.py:")
        assert str(code).endswith(f"in block, job {job.name!r} id {job.id!r}")

        # The loop waits for something to do: the answer of the thread that looks.
        def look_until_idle():
            while running_code(pool) is not None:
                pass
            return "idle"

        assert await asyncio.to_thread(look_until_idle) == "idle"


async def test_code_that_is_no_job_has_no_name():
    """The program's own main, for example."""
    async with Pool(1) as pool:
        code = running_code(pool)
        assert code.job_id is None
        assert code.where.function == "test_code_that_is_no_job_has_no_name"
        assert str(code) == str(code.where)


def test_the_innermost_own_line_is_found():
    """Not that of a library; if there is no other, the innermost of all; none of nothing."""
    own = CodeLine("/srv/app.py", 41, "fetch")
    lib = CodeLine(asyncio.__file__, 7, "sleep")
    assert innermost_own((own, lib)) == own
    assert innermost_own((lib, CodeLine("<string>", 1, "x"))).function == "x"
    assert innermost_own(()) is None
    assert str(own) == "app.py:41 in fetch"
    assert str(RunningCode(None, None, ())) == "no line is known"


async def test_groups_are_counted():
    """Those with live jobs, and those that are paused."""
    async with Pool(1) as pool:
        gate = asyncio.Event()
        jobs = [await pool.with_options(group="a").submit(gate.wait) for _ in range(3)]
        pool.pause(group="b")
        await wait_until(lambda: pool.statistics().running == 1)
        found = {group.name: group for group in groups(pool)}
        assert (found["a"].live, found["a"].running, found["a"].paused) == (3, 1, False)
        assert (found["b"].live, found["b"].paused) == (0, True)
        gate.set()
        await asyncio.gather(*jobs)
        pool.resume(group="b")
        assert groups(pool) == []


async def test_what_is_submitted_again_and_again_is_listed_the_next_first():
    """Those that were cancelled are not; a pool that was never opened has nothing to say."""
    pool = Pool(2, name="p")
    with pytest.raises(RuntimeError, match="write `async with Pool"):
        periodics(pool)
    async with pool:
        late, soon = pool.every(3600, print), pool.every(60, print)
        gone = pool.every(1, print)
        gone.cancel()
        found = periodics(pool)
        assert sorted(found, key=lambda one: one.next_time) == found
        assert set(found) == {late, soon}
        assert (soon.name, soon.when) == ("print", "every 60 s")
