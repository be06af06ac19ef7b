"""Submitting: a job by the registered name of its function, from a request to a pool, and its result back.

Nothing else can be run: no path to import, no pickle. Arguments are checked by the annotations of the function.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, final

from pydantic import ValidationError

from aiopool import Handlers, Job, Pool, Retry
from aiopool._control.call import run_for
from aiopool._control.filters import ENDED as HERE_ENDED
from aiopool._control.problems import Problem, problem_of
from aiopool._control.store_views import fleet_of
from aiopool._control.watched import Watched
from aiopool._durable.handlers import Handler
from aiopool._jobs.json_values import error_text, json_value
from aiopool.errors import PayloadError
from aiopool.metrics import observe, observed
from aiopool.web._kept import Kept
from aiopool.web._models import Retries, Submission

__all__ = ["ENDED", "Ready", "in_loop", "measure_runs", "options_of", "prepare", "result_of", "submit", "wait_for"]

T = TypeVar("T")

MAX_RESULT = 4 * 2**20
ENDED = (*HERE_ENDED, "dead")  # a store has one end more


@final
@dataclasses.dataclass(frozen=True)
class Ready:
    """A job that can be submitted.

    Attributes:
        handler: of its function.
        params: its arguments, JSON text.
        args, kwargs: its arguments.
        options: those of the job.
    """

    handler: Handler
    params: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]


def prepare(handlers: Handlers, name: str, params: str, options: dict[str, Any]) -> Ready:
    """Find the function that is meant, and check its arguments, JSON text.

    Raises:
        Problem: it is not registered, or does not take them.
    """
    handler = handlers.get(name)
    if handler is None:
        names = ", ".join(handlers.names[:20])
        raise Problem("not-found", f"no function is registered as {name!r}; there are: {names or 'none'}")
    try:
        args, kwargs = handler.signature.decode(params)
    except PayloadError as error:
        raise _wrong_params(handler.name, error) from error
    return Ready(handler, params, args, kwargs, options)


def options_of(wanted: Submission) -> dict[str, Any]:
    """Return the options of a job that is wanted."""
    options: dict[str, Any] = {
        "priority": wanted.priority,
        "delay": wanted.delay,
        "run_at": wanted.at,
        "timeout": wanted.timeout,
        "group": wanted.group,
        "metadata": wanted.labels or None,
        "retry": None if wanted.retry is None else _retry_of(wanted.retry),
    }
    return {name: value for name, value in options.items() if value is not None}


def _retry_of(wanted: Retries) -> Retry:
    # Whoever writes a long delay means it: it is no backoff that has grown out of hand.
    return Retry(attempts=wanted.attempts, delay=wanted.delay, max_delay=max(wanted.delay, Retry().max_delay))


def _wrong_params(name: str, error: PayloadError) -> Problem:
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return Problem("invalid", f"the params are not those of {name!r}, or cannot be read")
    # The first two places are those of a list around it, and of the object.
    rows = cause.errors(include_url=False, include_input=False, include_context=False)[:20]
    errors = [
        {"in": ".".join(["params", *(str(part)[:100] for part in row["loc"][1:])]), "detail": row["msg"][:500]}
        for row in rows
    ]
    words = "; ".join(f"{one['in']}: {one['detail']}" for one in errors[:3])
    return Problem("invalid", f"the params are not those of {name!r}: {words}", errors=errors)


async def in_loop(watch: Watched, do: Callable[[], Coroutine[Any, Any, T]], more: float = 0.0) -> T:
    """Run something in the loop of a pool, and say why, if it does not work."""
    try:
        return await run_for(watch, do, more)
    except Exception as error:
        raise problem_of(error) or error from error


async def submit(watch: Watched, ready: list[Ready], kept: Kept) -> list[dict[str, Any] | Problem]:
    """Submit jobs to a pool, and say of each what became of it.

    Raises:
        Problem: it is gone, or its loop is blocked.
    """
    pool = watch.pool
    stored = fleet_of(pool) is not None

    async def one(row: Ready) -> Job[Any] | Problem:
        try:
            view = pool.with_options(**row.options) if row.options else pool
            if stored:
                return await view.submit(row.handler.function, *row.args, **row.kwargs)
            return view.submit_nowait(row.handler.function, *row.args, **row.kwargs)
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                raise
            return problem

    async def every() -> list[Job[Any] | Problem]:
        if stored:  # those that come together are written together
            return list(await asyncio.gather(*[one(row) for row in ready]))
        return [await one(row) for row in ready]

    found: list[dict[str, Any] | Problem] = []
    for row, job in zip(ready, await in_loop(watch, every), strict=True):
        if isinstance(job, Problem):
            found.append(job)
            continue
        if not stored:
            kept.add(pool, job, row.params, row.options)
        shown = {"id": json_value(job.id), "name": job.name, "status": job.status.value, "priority": job.priority}
        found.append(shown | {"pool": watch.key})
    return found


def measure_runs(pool: Pool) -> None:
    """Have the runs of a pool timed from now on, for their average."""
    if observed(pool) is None:
        observe(pool)


async def wait_for(watch: Watched, id: str, seconds: float, kept: Kept) -> None:
    """Wait for a job to end, for so many seconds at most."""
    pool = watch.pool
    fleet = fleet_of(pool)

    async def wait() -> None:
        job = kept.get(pool, id) if fleet is None else await fleet.job(id)
        if job is not None:
            await job.wait(seconds)

    await in_loop(watch, wait, seconds)


async def result_of(watch: Watched, id: str, kept: Kept, handlers: Handlers) -> dict[str, Any]:
    """Return how a job ended; its `status` tells whether it has.

    Raises:
        Problem: it is not known, or its result is not shown.
    """
    pool = watch.pool
    fleet = fleet_of(pool)
    if fleet is not None:
        row = await in_loop(watch, lambda: fleet.find(id))
        if row is None:
            raise Problem("not-found", f"the store knows no job {id!r:.100}, or none any more")
        handler = handlers.get(row.name)
        if handler is None:
            raise Problem("not-allowed", f"job {id!r:.100} is of {row.name!r}, which is not registered here: {_HIDDEN}")
        error = json.loads(row.error) if row.error else {}
        words = ": ".join(part for part in (error.get("type"), error.get("message")) if part)
        result = json.loads(row.result) if row.result else None
        return _shown(id, row.status.value, result, words or row.reason)
    job = kept.get(pool, id)
    if job is None:
        if pool.find(id) is not None:
            raise Problem("not-allowed", f"job {id!r:.100} was not submitted by HTTP, or long ago: {_HIDDEN}")
        raise Problem("not-found", f"no job that was submitted by HTTP has the id {id!r:.100}, or none any more")
    if not job.done():
        return _shown(json_value(job.id), job.status.value, None, None)
    failed = job.exception()
    if failed is not None:
        return _shown(json_value(job.id), job.status.value, None, error_text(failed))
    handler = handlers.get(job.name)
    assert handler is not None
    try:
        text = handler.signature.encode_result(job.result(), MAX_RESULT)
    except PayloadError as unwritten:
        raise Problem("error", str(unwritten)) from unwritten
    return _shown(json_value(job.id), job.status.value, json.loads(text), None)


_HIDDEN = "its result may be a secret, and is not shown"


def _shown(id: int | str, status: str, result: Any, error: str | None) -> dict[str, Any]:
    return {"id": id, "status": status, "result": result, "error": error}
