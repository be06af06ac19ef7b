"""What a type checker sees of the public face. Checked by mypy and pyright, never run."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, assert_type

import aiopool
import aiopool.services
from aiopool import (
    AttemptRecord,
    CancelReport,
    Group,
    Job,
    JobOptions,
    JobOutcome,
    JobStatus,
    MapResult,
    MapStream,
    Pool,
    PoolStatus,
    Priority,
    Retry,
    ShutdownReport,
    Statistics,
    Submitter,
    current_job,
)
from aiopool.blocking import BlockingPool, JobFuture, ThreadSubmitter


async def fetch(url: str, *, depth: int = 1) -> bytes:
    return url.encode() * depth


async def nothing() -> None: ...


def plain(number: int, factor: float = 1.0) -> float:
    return number * factor


def awaitable(number: int) -> Awaitable[str]:
    raise NotImplementedError


class Client:
    async def get(self, path: str) -> list[str]:
        return [path]

    def ping(self) -> bool:
        return True

    async def __call__(self, path: str) -> dict[str, int]:
        return {path: 1}

    @classmethod
    async def make(cls) -> "Client":
        return cls()


@aiopool.job(timeout=5, retry=Retry(attempts=3))
async def decorated(number: int, *, name: str = "") -> str:
    return name * number


@aiopool.job(priority=Priority.HIGH)
def decorated_plain(number: int) -> str:
    return str(number)


async def submitting(pool: Pool) -> None:
    assert_type(await pool.submit(fetch, "a"), Job[bytes])
    assert_type(await pool.submit(fetch, "a", depth=2), Job[bytes])
    assert_type(await pool.submit(nothing), Job[None])
    assert_type(await pool.submit(plain, 1), Job[float])
    assert_type(await pool.submit(plain, 1, factor=2.0), Job[float])
    assert_type(await pool.submit(awaitable, 1), Job[str])
    assert_type(await pool.submit(Client().get, "/"), Job[list[str]])
    assert_type(await pool.submit(Client().ping), Job[bool])
    assert_type(await pool.submit(Client(), "/"), Job[dict[str, int]])
    assert_type(await pool.submit(Client.make), Job[Client])
    assert_type(await pool.submit(Client), Job[Client])
    assert_type(await pool.submit(functools.partial(fetch, "a")), Job[bytes])
    assert_type(await pool.submit(lambda: 3), Job[int])
    assert_type(await pool.submit(decorated, 1, name="b"), Job[str])
    assert_type(await pool.submit(decorated_plain, 1), Job[str])
    assert_type(await decorated(1), str)
    assert_type(await pool.submit(asyncio.sleep, 1.0, 7), Job[int])

    await pool.submit(fetch)  # type: ignore[call-overload]  # pyright: ignore
    await pool.submit(fetch, 3)  # type: ignore[call-overload]  # pyright: ignore
    await pool.submit(fetch, "a", deep=2)  # type: ignore[call-arg]  # pyright: ignore
    await pool.submit(decorated, "1")  # type: ignore[call-overload]  # pyright: ignore
    await pool.submit(fetch("a"))  # type: ignore[call-overload]  # pyright: ignore


def without_waiting(pool: Pool) -> None:
    assert_type(pool.submit_nowait(fetch, "a", depth=2), Job[bytes])
    assert_type(pool.submit_nowait(plain, 1), Job[float])
    assert_type(pool.submit_nowait(Client().get, "/"), Job[list[str]])
    pool.submit_nowait(plain, "1")  # type: ignore[call-overload]  # pyright: ignore


async def running(pool: Pool) -> None:
    assert_type(await pool.run(fetch, "a", depth=2), bytes)
    assert_type(await pool.run(plain, 1), float)
    assert_type(await pool.run(nothing), None)
    assert_type(await pool.run(Client().get, "/"), list[str])
    await pool.run(fetch, b"a")  # type: ignore[call-overload]  # pyright: ignore


async def jobs(pool: Pool) -> None:
    job = await pool.submit(fetch, "a")
    assert_type(await job, bytes)
    assert_type(job.result(), bytes)
    assert_type(job.exception(), BaseException | None)
    assert_type(job.outcome(), JobOutcome[bytes])
    assert_type(job.outcome().value, bytes | None)
    assert_type(job.outcome().history, tuple[AttemptRecord, ...])
    assert_type(await job.wait(3), bool)
    assert_type(job.cancel("reason"), bool)
    assert_type(job.done(), bool)
    assert_type(job.id, int | str)
    assert_type(job.status, JobStatus)
    assert_type(job.group, str | None)
    assert_type(job.progress, tuple[float, str] | None)
    assert_type(job.started_at, float | None)
    assert_type(current_job(), Job[Any])
    first, second = await asyncio.gather(job, await pool.submit(plain, 1))
    assert_type(first, bytes)
    assert_type(second, float)

    def note(done: Job[bytes]) -> None: ...

    job.add_done_callback(note)


async def options(pool: Pool) -> None:
    urgent = pool.with_options(
        priority=Priority.HIGH, timeout=5, retry=Retry(attempts=4), id="invoice-17", group="mail"
    )
    assert_type(urgent, Submitter)
    assert_type(await urgent.submit(fetch, "a"), Job[bytes])
    assert_type(await urgent.run(plain, 1), float)
    assert_type(urgent.with_options(timeout=None).with_options(delay=0), Submitter)
    pool.with_options(timeout="5")  # type: ignore[arg-type]  # pyright: ignore
    pool.with_options(timeot=5)  # type: ignore[call-arg]  # pyright: ignore


async def mapping(pool: Pool) -> None:
    async def lines() -> AsyncIterator[str]:
        yield "a"

    assert_type(pool.map(fetch, ["a"]), MapStream[bytes])
    assert_type(pool.map(fetch, lines()), MapStream[bytes])
    assert_type(pool.map(plain, range(3), ordered=False, buffersize=5), MapStream[float])
    assert_type(pool.map(fetch, ["a"], errors="raise"), MapStream[bytes])
    assert_type(pool.map(fetch, ["a"], errors="yield"), MapStream[MapResult[str, bytes]])
    assert_type(pool.map(plain, [1], errors="yield"), MapStream[MapResult[int, float]])
    assert_type(await pool.map(fetch, ["a"]).collect(), list[bytes])
    async with pool.map(fetch, ["a"]) as pages:
        assert_type(pages, MapStream[bytes])
        async for page in pages:
            assert_type(page, bytes)
    async for result in pool.map(fetch, lines(), errors="yield"):
        assert_type(result.input, str)
        assert_type(result.value, bytes | None)
        assert_type(result.error, BaseException | None)
    pool.map(fetch, [1])  # type: ignore[arg-type]  # pyright: ignore
    pool.map(fetch, 1)  # type: ignore[call-overload]  # pyright: ignore
    pool.map(fetch, ["a"], errors="ignore")  # type: ignore[call-overload]  # pyright: ignore


async def completed(pool: Pool) -> None:
    pages = [await pool.submit(fetch, "a")]
    assert_type(pool.as_completed(pages), AsyncIterator[Job[bytes]])
    mixed: list[Job[bytes] | Job[float]] = [*pages, await pool.submit(plain, 1)]
    async for job in pool.as_completed(mixed):
        assert_type(job, Job[bytes] | Job[float])
    pool.as_completed(["a"])  # type: ignore[type-var]  # pyright: ignore


async def groups(pool: Pool) -> None:
    async with pool.group("import", on_error="collect", timeout=3, options=JobOptions(timeout=1)) as group:
        assert_type(group, Group)
        assert_type(await group.submit(fetch, "a", depth=2), Job[bytes])
        assert_type(await group.run(plain, 1), float)
        assert_type(await group.with_options(priority=1).submit(plain, 1), Job[float])
        assert_type(group.jobs, list[Job[Any]])
    assert_type(group.errors, tuple[BaseException, ...])
    pool.group(on_error="ignore")  # type: ignore[arg-type]  # pyright: ignore


async def steering(pool: Pool) -> None:
    assert_type(await pool.cancel("a", reason="b"), CancelReport)
    assert_type(await pool.cancel_all(group="mail"), int)
    assert_type(await pool.shutdown(timeout=3, grace=1), ShutdownReport)
    assert_type(pool.statistics(), Statistics)
    assert_type(pool.get_job(3), Job[Any] | None)
    assert_type(pool.jobs("running"), list[Job[Any]])
    assert_type(pool.running_jobs(), list[Job[Any]])
    assert_type(pool.next_jobs(3), list[Job[Any]])
    assert_type(pool.find("a"), Job[Any] | JobOutcome[Any] | None)
    assert_type(pool.finished_jobs(3), list[JobOutcome[Any]])
    assert_type([job async for job in pool.scan("queued", name="a")], list[Job[Any]])
    assert_type(await pool.cancel_all(where=lambda job: job.metadata, on_progress=print), int)
    assert_type(pool.status, PoolStatus)
    assert_type(await pool.join(), None)
    async with pool.paused() as held:
        assert_type(held, None)
    async with Pool(size=3, queue_size=None, isolation="scope", overflow="drop_oldest") as opened:
        assert_type(opened, Pool)
    Pool(isolation="thread")  # type: ignore[arg-type]  # pyright: ignore


def programs() -> None:
    async def main() -> int:
        return 1

    async def with_pool(pool: Pool) -> str:
        return pool.name

    assert_type(aiopool.run(main), int)
    assert_type(aiopool.run(with_pool, pool=Pool()), str)
    assert_type(aiopool.run(with_pool, pool=Pool(), services=aiopool.services.ServiceRegistry()), str)


def decorators() -> None:
    # The function is the same function, for the type checker, too.
    check: Callable[[int], Coroutine[Any, Any, str]] = decorated
    check_plain: Callable[[int], str] = decorated_plain
    assert_type(decorated_plain(1), str)
    del check, check_plain


def from_a_thread(pool: Pool) -> None:
    caller = pool.with_options(timeout=3).from_thread
    assert_type(caller, ThreadSubmitter)
    assert_type(caller.submit(fetch, "a", depth=2), JobFuture[bytes])
    assert_type(caller.submit(fetch, "a").result(), bytes)
    assert_type(caller.submit(plain, 1).job, Job[float] | None)
    assert_type(caller.run(plain, 1), float)
    assert_type(caller.map(fetch, ["a"]), Iterator[bytes])
    assert_type(caller.map(plain, [1], errors="yield"), Iterator[MapResult[int, float]])
    caller.run(fetch, b"a")  # type: ignore[call-overload]  # pyright: ignore
    with pool.as_executor() as executor:
        assert_type(executor.submit(plain, 1), JobFuture[float])


def without_a_loop() -> None:
    with BlockingPool(8, queue_size=None, retry=Retry(attempts=3)) as pool:
        assert_type(pool.run(fetch, "a"), bytes)
        assert_type(pool.submit(plain, 1), JobFuture[float])
        assert_type(pool.with_options(priority=Priority.HIGH), ThreadSubmitter)
        assert_type(pool.shutdown(timeout=3), ShutdownReport)
        assert_type(pool.cancel(1), CancelReport)
        pool.with_options(prority=3)  # type: ignore[call-arg]  # pyright: ignore
    BlockingPool(max_workers=8)  # type: ignore[call-arg]  # pyright: ignore
