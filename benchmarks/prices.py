"""What each option adds to a job, in nanoseconds of CPU.

The differences are a hundred times smaller than a fresh process is noisy, so here the variants take turns
within one process, with a collection before each, and each is compared with the plain run of its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

from benchmarks.contenders import Isolation
from benchmarks.steady import OUTSTANDING
from benchmarks.workloads import noop

Submit = Callable[[int], Awaitable[Any]]

FACTORY = "a task factory"

_tenant: ContextVar[int] = ContextVar("_tenant", default=0)


async def prices(isolation: Isolation, count: int, repeats: int) -> dict[str, float]:
    """Return ns per job for the plain job, and what each option adds to it."""
    from aiopool import Pool

    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(Pool(size=100, queue_size=None, isolation=isolation))
        with wrapping_tasks():  # a pool asks for the factory when it is opened
            traced = await stack.enter_async_context(Pool(size=100, queue_size=None, isolation=isolation))
        submits = {**variants(pool), FACTORY: lambda index: traced.submit(noop, index)}
        for submit in submits.values():
            await steady(submit, OUTSTANDING)
        spent: dict[str, list[float]] = {name: [] for name in submits}
        names = list(submits)
        for repeat in range(repeats):
            shift = repeat % len(names)
            for name in names[shift:] + names[:shift]:
                with wrapping_tasks() if name == FACTORY else contextlib.nullcontext():
                    gc.collect()
                    begin = time.process_time()
                    await steady(submits[name], count)
                    spent[name].append((time.process_time() - begin) / count * 1e9)
    plain = spent.pop("plain")
    report = {"plain_ns": statistics.median(plain)}
    for name, times in spent.items():
        report[f"{name}_ns"] = statistics.median(own - base for own, base in zip(times, plain, strict=True))
    return report


@contextlib.contextmanager
def wrapping_tasks() -> Iterator[None]:
    """Set a task factory that wraps each coroutine, as tracers do."""
    loop = asyncio.get_running_loop()

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        async def traced() -> Any:
            return await coroutine

        return asyncio.Task(traced(), loop=loop, **options)

    loop.set_task_factory(factory)  # type: ignore[arg-type]
    try:
        yield
    finally:
        loop.set_task_factory(None)


def variants(pool: Any) -> dict[str, Submit]:
    """Return one way to submit job `index` for each option."""
    from aiopool import Priority, Retry

    timeout: dict[str, Any] = {"timeout": 60}
    retry: dict[str, Any] = {"retry": Retry(attempts=3)}
    group: dict[str, Any] = {"group": "mail"}
    priority: dict[str, Any] = {"priority": Priority.HIGH}

    def view(**options: Any) -> Submit:
        submit = pool.with_options(**options).submit
        return lambda index: submit(noop, index)

    submit: Callable[..., Awaitable[Any]] = pool.submit

    def in_changed_context(index: int) -> Awaitable[Any]:
        _tenant.set(index)
        return submit(noop, index)

    ids = iter(range(10**12))

    def with_own_id(index: int) -> Awaitable[Any]:
        return pool.with_options(id=f"job-{next(ids)}").submit(noop, index)  # type: ignore[no-any-return]

    return {
        "plain": lambda index: submit(noop, index),
        "timeout": view(**timeout),
        "queue_timeout": view(queue_timeout=60),
        "total_timeout": view(total_timeout=60),
        "retry": view(**retry),
        "group": view(**group),
        "priority": view(**priority),
        "timeout, retry, group and priority": view(**timeout, **retry, **group, **priority),
        "a changed context": in_changed_context,
        "an id": with_own_id,
    }


async def steady(submit: Submit, count: int) -> None:
    """Run `count` jobs with `OUTSTANDING` in flight."""
    window: deque[Any] = deque()
    for index in range(count):
        if len(window) == OUTSTANDING:
            await window.popleft()
        window.append(await submit(index))
    while window:
        await window.popleft()
