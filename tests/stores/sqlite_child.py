"""Programs that the tests of the SQLite store start in processes of their own: `python sqlite_child.py WHAT PATH ...`.

Each prints one line of JSON for each thing that the test waits for.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import sys
import time
import warnings
from typing import Any

from aiopool.errors import StoreError
from aiopool.stores._rows import Incarnation, NewJob, Settlement
from aiopool.stores._sqlite import SQLite


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def opened(path: str, runs_jobs: bool = True) -> SQLite:
    store = SQLite(path)
    await store.open("q", Incarnation(f"child-{os.getpid()}", "host", os.getpid(), runs_jobs), lambda what: None)
    return store


async def own(path: str) -> None:
    """Claim all that there is, and hold it with a loop that is blocked."""
    store = await opened(path)
    claimed = await store.claim(1000)
    say(owns=[job.id for job in claimed.jobs])
    time.sleep(1000)


async def own_and_fork(path: str) -> None:
    """As `own`, and leave a child behind that lives on."""
    store = await opened(path)
    claimed = await store.claim(1000)
    warnings.simplefilter("ignore", DeprecationWarning)
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"1")
        time.sleep(1000)
    os.read(told, 1)  # its hooks have run
    say(owns=[job.id for job in claimed.jobs], child=child)
    time.sleep(1000)


async def fork(path: str) -> None:
    """Use the store of the parent in a child."""
    store = await opened(path)
    warnings.simplefilter("ignore", DeprecationWarning)
    child = os.fork()
    if child == 0:
        try:
            coroutine = store.claim(1)
            coroutine.send(None)
        except StoreError as error:
            say(error=str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    answers = await store.submit([NewJob("after", "work", "[]")])
    say(after=answers[0].outcome)
    await store.close()


async def work(path: str) -> None:
    """Run jobs until none are left, a few at a time."""
    store = await opened(path)
    done: list[str] = []
    say(ready=True)
    sys.stdin.readline()
    while jobs := (await store.claim(7)).jobs:
        settled = await store.settle([Settlement(job.id, job.fence, "succeeded") for job in jobs])
        done += [job.id for job, taken in zip(jobs, settled, strict=True) if taken]
    say(done=done)
    await store.close()


async def submit(path: str) -> None:
    """Submit one job."""
    store = await opened(path, runs_jobs=False)
    await store.submit([NewJob("from-afar", "work", "[]")])
    say(submitted=True)
    await store.close()


async def submit_for_ever(path: str) -> None:
    """Submit jobs, and say which were accepted."""
    store = await opened(path, runs_jobs=False)
    number = 0
    while True:
        ids = [f"{os.getpid()}-{number + each}" for each in range(5)]
        number += 5
        await store.submit([NewJob(id, "work", "[]") for id in ids])
        say(accepted=ids)


async def open_only(path: str) -> None:
    """Open, and close."""
    say(ready=True)
    sys.stdin.readline()
    store = await opened(path)
    say(opened=True)
    await store.close()


async def hold(path: str) -> None:
    """Hold the lock of all writers."""
    with open(path + "-lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        say(holds=True)
        time.sleep(1000)


async def small_files(path: str) -> None:
    """Write until a limit of the size of files is reached, and go on when it is lifted."""
    store = await opened(path)
    await store.submit([NewJob("first", "work", "[]")])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, hard))
    kinds: list[str] = []
    for number in range(100):
        try:
            await store.submit([NewJob(f"big-{number}", "work", "x" * 50_000)])
        except StoreError as error:
            kinds.append(type(error).__name__)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    answers = await store.submit([NewJob("last", "work", "[]")])
    found = {job.id for job in await store.find(["first", "last", f"big-{number}"])}
    say(kinds=kinds, number=number, last=answers[0].outcome, found=sorted(found))
    await store.close()


async def unprivileged(path: str) -> None:
    """Open a store in a directory in which this user may not write."""
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        await opened(path)
    except StoreError as error:
        say(error=str(error), kind=type(error).__name__)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
