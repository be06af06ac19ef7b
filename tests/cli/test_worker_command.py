"""`aiopool worker`, in processes of its own, on a file that the test has opened too."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli.stores import URL, new, opened
from cli.support import finish, run, started, wait_for

HANDLERS = """
import asyncio, sys
import aiopool

handlers = aiopool.Handlers()
number = 5

def note(*words):
    print(*words, file=sys.stderr, flush=True)

@handlers.register("double")
async def double(n: int) -> int:
    note("double", n)
    return 2 * n

@handlers.register("forever")
async def forever() -> None:
    note("forever begins")
    await asyncio.sleep(3600)

@handlers.register("moment")
async def moment() -> str:
    note("moment begins")
    await asyncio.sleep(0.5)
    return "done"
"""


@pytest.fixture
def there(here: Path) -> Path:
    """A directory with the module `tasks`."""
    (here / "tasks.py").write_text(HANDLERS)
    return here


@contextmanager
def worker(there: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker; it is killed in the end."""
    with started(there, "worker", "tasks:handlers", "--store", URL, *options) as process:
        yield process


async def seen(process: subprocess.Popen[bytes], *words: str) -> str:
    return await asyncio.to_thread(wait_for, process, *words)


async def status_of(store: Any, id: str) -> str:
    (job,) = await store.find([id])
    return str(job.status)


async def until(store: Any, id: str, status: str) -> Any:
    """Ask until a job has a status."""
    async with asyncio.timeout(30):
        while True:
            (job,) = await store.find([id])
            if job.status == status:
                return job
            await asyncio.sleep(0.01)


async def test_it_runs_the_jobs_of_a_queue(there: Path):
    """It says when it is ready, runs what is in the queue and what comes, and ends with 0 on SIGTERM."""
    async with opened(there, "mail") as store:
        await store.submit([new("a", "double", json.dumps({"n": 4}))])
        with worker(there, "--queue", "mail", "--size", "3") as process:
            text = await seen(process, "ready", "double 4")
            assert re.search(
                r"^ready: 3 jobs at once of queue 'mail' in sqlite:///.*jobs\.db, process \d+$", text, re.M
            )
            assert json.loads((await until(store, "a", "succeeded")).result) == 8
            await store.submit([new("b", "double", json.dumps({"n": 5}))])
            assert json.loads((await until(store, "b", "succeeded")).result) == 10
            process.send_signal(signal.SIGTERM)
            done = await asyncio.to_thread(finish, process)
    assert done.code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_running_jobs_are_given_back_at_once(there: Path, number: signal.Signals):
    """A job that runs when the worker is told to end is in the queue again, and the attempt was none."""
    async with opened(there) as store:
        await store.submit([new("a", "forever", "{}")])
        with worker(there) as process:
            await seen(process, "forever begins")
            process.send_signal(number)
            done = await asyncio.to_thread(finish, process)
        (job,) = await store.find(["a"])
        assert (job.status, job.attempt, job.crashes) == ("queued", 0, 0)
    assert done.code == 0


async def test_running_jobs_may_finish(there: Path):
    """With a shutdown timeout a job that runs is finished, and its result is kept."""
    async with opened(there) as store:
        await store.submit([new("a", "moment", "{}")])
        with worker(there, "--shutdown-timeout", "30") as process:
            await seen(process, "moment begins")
            process.send_signal(signal.SIGTERM)
            done = await asyncio.to_thread(finish, process)
        assert await status_of(store, "a") == "succeeded"
    assert done.code == 0


async def test_a_killed_worker_loses_nothing(there: Path):
    """After SIGKILL another worker gets the job, and the crash is counted."""
    async with opened(there) as store:
        await store.submit([new("a", "forever", "{}")])
        with worker(there) as process:
            await seen(process, "forever begins")
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        with worker(there) as process:
            await seen(process, "forever begins")
            (job,) = await store.find(["a"])
            assert (job.status, job.crashes) == ("running", 1)
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(finish, process)


async def test_a_cancelled_job_ends(there: Path):
    """`aiopool jobs cancel` ends a job that the worker runs."""
    async with opened(there) as store:
        await store.submit([new("a", "forever", "{}")])
        with worker(there) as process:
            await seen(process, "forever begins")
            cancel = await asyncio.to_thread(run, there, "jobs", "cancel", "a", "--reason", "enough", "--store", URL)
            assert cancel.out == b"a  runs: its worker is told\n"
            assert (await until(store, "a", "cancelled")).reason == "enough"
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(finish, process)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tasks"], "'tasks' does not name handlers: write MODULE:HANDLERS or path/to/file.py:HANDLERS"),
        (["tasks:number"], "tasks:number is not an aiopool.Handlers, but int; handlers is one"),
        (["tasks:handler"], "tasks has no 'handler'; did you mean 'handlers'?"),
        (["nowhere:handlers"], "there is no module 'nowhere'"),
        (["tasks:handlers", "--log-level", "loud"], "--log-level loud: write debug, info, warning, error or critical"),
        (["tasks:handlers", "--store", "memory://"], "lives inside the process"),
        (["tasks:handlers", "--store", "sqlite:///no/such/directory/jobs.db"], "no/such/directory"),
        (["tasks:handlers", "--store", "oracle://me:s3cretword@host/db"], "begins with none of"),
    ],
)
def test_what_cannot_be_run(there: Path, arguments: list[str], words: str):
    """One line says why, with exit code 2, and no password is in it."""
    done = run(there, "worker", *arguments, AIOPOOL_STORE=URL)
    assert done.code == 2
    assert words in done.err
    assert len(done.lines) == 1
    assert "s3cretword" not in done.err
