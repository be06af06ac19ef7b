"""The work of a torture: handlers of many kinds, and the mixture of jobs that producers hand in.

Each execution writes its start and its end into the journal of its process, and returns a text that no other execution
returns: so the result in the store tells which of them was the one that counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from aiopool import Handlers, Limit, Pool, Retry, current_job
from aiopool._torture.journal import Journal

__all__ = ["AT_ONCE", "GROUPS", "LANES", "POISON_CRASHES", "Plan", "Work", "limits", "plans"]

# Limits of the fleet: of a name, and of each key.
LANES: Final = {"narrow": 2, "key": 1}
AT_ONCE: Final = 6  # jobs of one host at once
PACE: Final = 40.0  # starts of "paced" in a second
GROUPS: Final = ("red", "green")
POISON_CRASHES: Final = 3
# So many of its workers are killed by us, not by the job: it must not be given up for that.
_MANY: Final = 100_000

_numbers = itertools.count()


class Plan(NamedTuple):
    """A job to be handed in: the name of its handler, its arguments and options."""

    name: str
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


def limits() -> dict[str, Any]:
    """Return the limits of a pool, as arguments of `Pool`."""
    return {
        "limits": {"narrow": Limit(max_at_once=LANES["narrow"]), "paced": Limit(max_per_second=PACE)},
        "key_limit": Limit(max_at_once=LANES["key"]),
    }


class Work:
    """The handlers, and the journal that they write. There is one in a process.

    Args:
        journal: of this process.
        block: seconds for which the jobs "block" hold up the event loop.
        late: whether the name "late" is known; the hosts of the main part do not know it.
        nobody: whether "nobody" is known; only producers know it.
    """

    def __init__(self, journal: Journal, block: float, *, late: bool, nobody: bool) -> None:
        global _work
        _work = self
        self.journal = journal
        self.block = block
        self.pool: Pool | None = None
        self.handlers = Handlers()
        register: Callable[..., Any] = self.handlers.register
        known = [quick, sleep, narrow, keyed, paced, block_loop, parent]
        if late or nobody:
            known.append(late_name)
        if nobody:
            known.append(nobodys)
        for function in known:
            register(_NAMES.get(function.__name__, function.__name__), max_crashes=_MANY)(function)
        register("flaky", max_crashes=_MANY, retry=Retry(attempts=6, delay=0.02, backoff="fixed"))(flaky)
        register("poison", max_crashes=POISON_CRASHES)(poison)
        self.functions: dict[str, Callable[..., Any]] = {handler.name: handler.function for handler in self.handlers}


_work: Work
_NAMES: Final = {"block_loop": "block", "late_name": "late", "nobodys": "nobody"}


@asynccontextmanager
async def _execution(**facts: Any) -> AsyncIterator[str]:
    """Write down the start and the end of an execution, and give it a text that no other one has."""
    job = current_job()
    lease: Any = getattr(job._extra, "lease", None)  # what no program needs: the number of the claim
    token = f"{os.getpid()}.{next(_numbers)}"
    who: dict[str, Any] = {"id": str(job.id), "name": job.name, "token": token}
    note = _work.journal.note
    note("start", **who, attempt=job.attempt, fence=getattr(lease, "fence", None), wall=time.time(), **facts)
    how = "cancelled"
    try:
        yield token
        how = "ok"
    except Exception:
        how = "error"
        raise
    finally:
        note("end", **who, how=how)


async def quick() -> str:
    async with _execution() as token:
        return token


async def sleep(seconds: float) -> str:
    async with _execution() as token:
        await asyncio.sleep(seconds)
        return token


async def narrow(seconds: float, key: str | None = None) -> str:
    async with _execution(lanes=["narrow", *([] if key is None else [f"key {key}"])]) as token:
        await asyncio.sleep(seconds)
        return token


async def keyed(key: str, seconds: float) -> str:
    async with _execution(lanes=[f"key {key}"]) as token:
        await asyncio.sleep(seconds)
        return token


async def paced() -> str:
    async with _execution() as token:
        return token


async def flaky(failures: int) -> str:
    async with _execution() as token:
        if current_job().attempt <= failures:
            raise ConnectionError("as it was told")
        return token


async def block_loop() -> str:
    async with _execution() as token:
        time.sleep(_work.block)  # noqa: ASYNC251  # the point of it
        return token


async def parent(children: int) -> str:
    async with _execution() as token:
        pool = _work.pool
        assert pool is not None
        me = str(current_job().id)
        for number in range(children):
            id = f"{me}/{number}"
            with contextlib.suppress(ValueError):  # an execution before this one has handed it in
                await pool.with_options(id=id).submit(quick)
            _work.journal.note("child", id=id, parent=me, sure=True)
        return token


async def poison() -> str:
    async with _execution() as token:
        _work.journal.note("suicide", sure=True)
        os.kill(os.getpid(), signal.SIGKILL)
        return token


async def late_name() -> str:
    async with _execution() as token:
        return token


async def nobodys() -> str:
    return ""


def plans(rng: random.Random, poisons: int) -> Any:
    """Yield the jobs of one producer without end, by chance; `poisons`: so many kill their process."""
    kinds = ["quick"] * 8 + ["sleep"] * 4 + ["flaky"] * 3 + ["narrow"] * 2 + ["keyed"] * 3 + ["paced"] * 2
    kinds += ["delayed"] * 3 + ["unique"] * 3 + ["group", "both", "hasty"] * 2 + ["parent", "late", "nobody", "long"]
    for number in itertools.count(1):
        if poisons and number % 40 == 0:
            poisons -= 1
            yield Plan("poison")
            continue
        if number in (60, 300):
            yield Plan("block")
            continue
        kind = rng.choice(kinds)
        seconds = round(rng.uniform(0.005, 0.15), 3)
        priority = {"priority": rng.randrange(1, 9)}
        if kind == "sleep":
            yield Plan("sleep", (seconds,), priority)
        elif kind == "long":
            yield Plan("sleep", (1.0,), priority)
        elif kind == "flaky":
            yield Plan("flaky", (rng.randrange(0, 4),))
        elif kind == "narrow":
            yield Plan("narrow", (seconds / 3,))
        elif kind == "keyed":
            key = f"k{rng.randrange(4)}"
            yield Plan("keyed", (key, seconds / 3), {"key": key})
        elif kind == "both":
            key = f"k{rng.randrange(4)}"
            yield Plan("narrow", (seconds / 3, key), {"key": key})
        elif kind == "hasty":
            limit = rng.choice(("queue_timeout", "total_timeout"))
            yield Plan("sleep", (seconds,), {limit: round(rng.uniform(0.05, 0.5), 3)})
        elif kind == "delayed":
            yield Plan("quick", (), {"delay": round(rng.uniform(0.1, 2.0), 3)})
        elif kind == "unique":
            yield Plan("sleep", (seconds,), {"unique": f"u{rng.randrange(6)}"})
        elif kind == "group":
            yield Plan("quick", (), {"group": rng.choice(GROUPS)})
        elif kind == "parent":
            yield Plan("parent", (rng.randrange(1, 4),))
        else:
            yield Plan(kind)
