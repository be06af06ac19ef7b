"""Pools of several processes on one store: they are killed, told to stop, and frozen; no job is lost."""

import asyncio
import os
import signal
import sys
import textwrap

import pytest

from aiopool import Handlers, Pool
from aiopool.errors import JobDeadError
from aiopool.stores import SQLite, StoredStatus
from aiopool.testing import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes")

PROGRAM = textwrap.dedent(
    """
    import asyncio, os, sys, time
    import aiopool
    from aiopool import Handlers, Pool

    handlers = Handlers()

    @handlers.register("hold")
    async def hold(path: str) -> str:
        job = aiopool.current_job()
        with open(path, "a") as file:
            file.write(f"{os.getpid()} {job.attempt}\\n")
        while not os.path.exists(path + ".go"):
            await asyncio.sleep(0.01)
        return "done"

    @handlers.register("poison")
    async def poison() -> None:
        os.kill(os.getpid(), 9)

    @handlers.register("block")
    async def block(path: str) -> None:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(2.5)

    async def main():
        async with Pool(size=5, store=sys.argv[1], handlers=handlers, role="worker") as pool:
            print("ready", flush=True)
            await pool.wait_closed()

    if __name__ == "__main__":
        aiopool.run(main, timeout=0)
    """
)

handlers = Handlers()


@handlers.register("hold")
async def hold(path: str) -> str: ...


@handlers.register("poison")
async def poison() -> None: ...


@handlers.register("block")
async def block(path: str) -> None: ...


@pytest.fixture
async def start(tmp_path):
    """Start worker processes on `tmp_path/jobs.db`; all are killed at the end."""
    program = tmp_path / "worker.py"
    program.write_text(PROGRAM)
    children = []

    async def begin(url=None):
        url = url or f"sqlite:///{tmp_path}/jobs.db"
        child = await asyncio.create_subprocess_exec(
            sys.executable, str(program), url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        children.append(child)
        assert await asyncio.wait_for(child.stdout.readline(), 60) == b"ready\n"
        return child

    yield begin
    for child in children:
        if child.returncode is None:
            os.kill(child.pid, signal.SIGCONT)
            child.kill()
        await child.wait()
        child._transport.close()


def producer(tmp_path, url=None):
    return Pool(store=url or SQLite(tmp_path / "jobs.db"), handlers=handlers, role="producer")


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


async def test_the_jobs_of_a_killed_process_run_elsewhere(tmp_path, start):
    """After `kill -9` another process runs them, soon; a crash is counted, and the result is there once."""
    path = tmp_path / "ran"
    async with producer(tmp_path) as pool:
        first = await start()
        jobs = [await pool.submit(hold, str(path)) for _ in range(5)]
        await wait_until(lambda: len(lines(path)) == 5)
        await start()
        first.kill()
        await first.wait()
        await wait_until(lambda: len(lines(path)) == 10)
        (tmp_path / "ran.go").touch()
        assert [await job for job in jobs] == ["done"] * 5
        for job in jobs:
            row = await pool.fleet.find(job.id)
            assert (row.attempt, row.crashes, row.status) == (2, 1, StoredStatus.SUCCEEDED)


async def test_sigterm_gives_jobs_back_at_once(tmp_path, start):
    """And the attempt counts for nothing."""
    path = tmp_path / "ran"
    async with producer(tmp_path) as pool:
        first = await start()
        job = await pool.submit(hold, str(path))
        await wait_until(lambda: len(lines(path)) == 1)
        await start()
        first.terminate()
        await wait_until(lambda: len(lines(path)) == 2)
        assert [line.split()[1] for line in lines(path)] == ["1", "1"]
        (tmp_path / "ran.go").touch()
        assert await job == "done"
        assert await asyncio.wait_for(first.wait(), 30) == 0


async def test_a_job_that_kills_its_workers_is_given_up(tmp_path, start):
    """After three of them it is dead; it can be put back."""
    async with producer(tmp_path) as pool:
        job = await pool.submit(poison)
        for _ in range(3):
            child = await start()
            await asyncio.wait_for(child.wait(), 60)
        await start()
        with pytest.raises(JobDeadError):
            await job
        row = await pool.fleet.find(job.id)
        assert (row.status, row.crashes) == (StoredStatus.DEAD, 3)
        assert await pool.fleet.requeue_dead() == 1


@pytest.mark.long
async def test_a_blocked_loop_is_not_a_death(tmp_path, start):
    """A job that holds up its event loop for long, as ten sweeps are, is not run a second time."""
    path = tmp_path / "ran"
    async with producer(tmp_path) as pool:
        await start()
        await start()
        job = await pool.submit(block, str(path))
        await job
        assert len(lines(path)) == 1


async def test_a_frozen_process_is_not_a_death(tmp_path, start):
    """Nor is one that was stopped: the kernel says that it lives. Its jobs go on when it does."""
    path = tmp_path / "ran"
    async with producer(tmp_path) as pool:
        first = await start()
        job = await pool.submit(hold, str(path))
        await wait_until(lambda: len(lines(path)) == 1)
        await start()
        os.kill(first.pid, signal.SIGSTOP)
        (tmp_path / "ran.go").touch()
        for _ in range(3):  # not only the other worker looks for the dead: so do we
            assert (await pool.fleet.store.sweep(())).rescued == 0
        row = await pool.fleet.find(job.id)
        assert (row.status, row.crashes) == (StoredStatus.RUNNING, 0)
        assert len(lines(path)) == 1
        os.kill(first.pid, signal.SIGCONT)
        assert await job == "done"
        assert len(lines(path)) == 1


async def test_a_process_that_lost_its_lease_begins_anew(tmp_path, start, short_lease):
    """Frozen for longer than its lease it is taken for dead: its job runs elsewhere, and what it does late counts for
    nothing. When it goes on it drops the job, and takes others."""
    path = tmp_path / "ran"
    async with producer(tmp_path, short_lease) as pool:
        first = await start(short_lease)
        job = await pool.submit(hold, str(path))
        await wait_until(lambda: len(lines(path)) == 1)
        os.kill(first.pid, signal.SIGSTOP)
        second = await start(short_lease)
        await wait_until(lambda: len(lines(path)) == 2, timeout=20)
        os.kill(first.pid, signal.SIGCONT)
        said = b""
        while b"was lost" not in said:
            said = await asyncio.wait_for(first.stderr.readline(), 20)
            assert said, "the frozen process has ended"
        (tmp_path / "ran.go").touch()
        assert await job == "done"
        row = await pool.fleet.find(job.id)
        assert (row.attempt, row.crashes, row.status) == (2, 1, StoredStatus.SUCCEEDED)
        second.kill()
        await second.wait()
        assert await pool.run(hold, str(path)) == "done"
        assert lines(path)[-1].split() == [str(first.pid), "1"]
