"""`call`: carry out one request: find the pool and the verb, check who asks, run it, and write down who did what."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextvars import Context
from typing import Any, TypeVar

from aiopool._control import looking, many, settings_verb, steering, store_verbs  # noqa: F401 - they list themselves
from aiopool._control.arguments import Arguments
from aiopool._control.problems import Problem, problem_of
from aiopool._control.verbs import VERBS, Access, Verb
from aiopool._control.watched import LATE, Watched, find_pool, watched_pools
from aiopool._pool.pool import Pool
from aiopool._runtime.faults import describe_error
from aiopool._runtime.runtime import running_loop_or_none
from aiopool.inspection import loop_of

__all__ = ["PROTOCOL", "call", "hello", "run_for"]

T = TypeVar("T")

logger = logging.getLogger("aiopool.control")

PROTOCOL = 1
# Seconds that a verb may take.
PATIENCE = 5.0


def hello(access: Access, among: Collection[Pool] | None = None) -> dict[str, Any]:
    """Say who we are, and what may be asked; `among`: there are only these pools."""
    return {
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "program": os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python",
        "python": ".".join(map(str, sys.version_info[:3])),
        "access": access.name.lower(),
        "pools": [watch.key for watch in watched_pools(among)],
        "verbs": {verb.name: verb.about for verb in VERBS.values() if verb.access <= access},
    }


async def call(
    name: str,
    arguments: Mapping[str, Any],
    *,
    pool: str | None,
    who: str,
    access: Access,
    among: Collection[Pool] | None = None,
) -> Any:
    """Carry out one request, from any event loop.

    Args:
        name: the verb.
        arguments: of the verb.
        pool: the key of the pool; None: the only one.
        who: asks, for the log.
        access: what they may do.
        among: there are only these pools; None: all of this process.

    If the caller is cancelled, a request that has begun goes on.

    Raises:
        Problem: it was refused, or did not work.
    """
    verb = VERBS.get(name)
    if verb is None:
        raise Problem("not-found", f"there is no verb {name!r:.50}; there are: {', '.join(VERBS)}")
    if verb.access > access:
        raise Problem(
            "not-allowed",
            f"{name} takes {verb.access.name.lower()} access, and you have {access.name.lower()}: ask whoever started "
            "the program",
        )
    watch = find_pool(pool, among)
    try:
        answer = await _run(watch, verb, Arguments(arguments))
    except Exception as error:
        problem = problem_of(error)
        if problem is error:
            raise
        if problem is None:
            logger.exception("%s of pool %r, asked by %s, has failed", name, watch.key, who)
            problem = Problem("error", f"{name} has failed: {describe_error(error)}")
        raise problem from error
    if verb.access > Access.READ and not answer.get("dry_run"):
        action = watch.note(who, name, arguments)
        logger.info("%s: %s %s of pool %r", who, name, action.about, watch.key)
    return answer


async def _run(watch: Watched, verb: Verb, arguments: Arguments) -> dict[str, Any]:
    if verb.outside is not None:
        if not _is_here(watch):
            await _answers(watch)
        return verb.outside(watch, arguments)
    inside = verb.inside
    assert inside is not None
    return await run_for(watch, lambda: inside(watch, arguments))


def _is_here(watch: Watched) -> bool:
    return running_loop_or_none() is loop_of(watch.pool)


async def run_for(watch: Watched, function: Callable[[], Coroutine[Any, Any, T]], more: float = 0.0) -> T:
    """Run an async function in the loop of a pool.

    Args:
        watch: the pool.
        function: makes what is run. What has begun goes on, if the caller is cancelled or its time is over.
        more: seconds that it may take beside those that each request may.

    Raises:
        Problem: the loop did not answer, or it takes longer.
        Exception: what the function raises.
    """
    if _is_here(watch):
        task = asyncio.get_running_loop().create_task(function(), name="aiopool-control")
        _running.add(task)
        task.add_done_callback(_running.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(task), PATIENCE + more)
        except TimeoutError:
            if task.done():
                raise
            raise Problem(
                "loop-blocked", f"it takes longer than {PATIENCE + more:g} s, and goes on: look again"
            ) from None
    future = _run_in(loop_of(watch.pool), function)
    await _answers(watch)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE + more)
    except TimeoutError:
        if future.done() and not future.cancelled():
            raise
        raise watch.blocked_problem() from None


async def _answers(watch: Watched) -> None:
    """Ask the loop of a pool for an answer, and wait for it a moment; longer, nobody waits for a look."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if answered.done() else answered.set_result(None))
        except RuntimeError:
            return  # who asked is gone

    watch.ask_loop(tell)
    await asyncio.wait([answered], timeout=LATE)


def _run_in(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[T]]) -> concurrent.futures.Future[T]:
    """Run an async function in a loop of another thread. If the future is cancelled before it begins, it never does."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    async def run() -> None:
        try:
            future.set_result(await function())
        except BaseException as error:
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def begin() -> None:
        if future.set_running_or_notify_cancel():
            task = loop.create_task(run(), name="aiopool-control", context=Context())
            _running.add(task)
            task.add_done_callback(_running.discard)

    loop.call_soon_threadsafe(begin, context=Context())
    return future


_running: set[asyncio.Task[Any]] = set()  # a loop holds tasks weakly
