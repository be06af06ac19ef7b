"""The routes that submit jobs and give their results; and those of before, with other names for the same."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header
from starlette.requests import Request
from starlette.responses import Response

from aiopool._control.problems import Problem
from aiopool._control.verbs import Access
from aiopool._control.watched import Watched
from aiopool.web._again import again, not_ended
from aiopool.web._answers import Json
from aiopool.web._desk import Desk, JobId, PoolKey, answers, problems
from aiopool.web._kept import Kept
from aiopool.web._models import (
    Batch,
    Copy,
    JobResult,
    Listing,
    PlainCancelled,
    PlainJob,
    PlainQueued,
    PlainStatistics,
    Submission,
    Submitted,
)
from aiopool.web._once import Once
from aiopool.web._submit import ENDED, Ready, measure_runs, options_of, prepare, result_of, submit, wait_for
from aiopool.web._target import Here

__all__ = ["add_submissions", "go_duration"]

MAX_WAIT = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})")

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        pattern=r"^[!-~]([ -~]{0,253}[!-~])?$",
        description="The same key: the same job, if it is sent again.",
    ),
]
Prefer = Annotated[str | None, Header(max_length=200, description="wait=10: answer with the result, if it comes.")]
REFUSED = (400, 409, 413, 415, 429)


def wait_of(prefer: str | None) -> int:
    """Return the seconds that somebody prefers to wait."""
    found = _WAIT.search(prefer or "")
    return 0 if found is None else min(int(found[1]), MAX_WAIT)


def go_duration(seconds: float) -> str:
    """Write a duration as Go does: `5m30s`, `1.5s`, `150ms`, `0s`."""
    nanos = round(seconds * 1e9)
    if nanos == 0:
        return "0s"
    if nanos < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000)):
            if nanos >= size:
                return f"{_trimmed(nanos, size)}{unit}"
        return f"{nanos}ns"
    minutes, rest = divmod(nanos, 60 * 1_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_trimmed(rest, 1_000_000_000)}s"
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}" if minutes else text


def _trimmed(value: int, size: int) -> str:
    whole, part = divmod(value, size)
    digits = str(part).zfill(len(str(size)) - 1).rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def entry(one: dict[str, Any] | Problem) -> dict[str, Any]:
    """Say what became of one job of many."""
    if isinstance(one, Problem):
        return {"status": one.status, "problem": one.to_dict()}
    return {"status": 202, "job": one}


def add_submissions(api: APIRouter, desk: Desk, once: Once) -> None:
    """Add the routes."""
    kept = Kept()

    def ready(request: Request, pool: str | None, wanted: Submission) -> tuple[Watched, Ready]:
        desk.need(request, Access.OPERATE, "submitting")
        here, handlers = desk.need_here("submitting")
        row = prepare(handlers, wanted.function, json.dumps(wanted.params), options_of(wanted))
        return here.find(pool), row

    async def submit_one(request: Request, watch: Watched, row: Ready) -> dict[str, Any]:
        (job,) = await submit(watch, [row], kept)
        if isinstance(job, Problem):
            raise job
        desk.note(job["pool"], request, f"{row.handler.name!r} id={job['id']}")
        return job

    async def ended(request: Request, pool: str | None, id: str, prefer: str | None) -> Response:
        desk.need(request, Access.OPERATE, "reading results")
        here, handlers = desk.need_here("reading results")
        watch = here.find(pool)
        seconds = wait_of(prefer)
        headers = {"preference-applied": f"wait={seconds}"} if seconds else {}
        found = await result_of(watch, id, kept, handlers)
        if seconds and found["status"] not in ENDED:
            await wait_for(watch, id, seconds, kept)
            found = await result_of(watch, id, kept, handlers)
        if found["status"] not in ENDED:
            return Json(found, 202, headers | {"retry-after": "1"})
        return Json(found, headers=headers)

    @api.post(
        "/pools/{pool}/jobs",
        responses=answers(JobResult, "It has ended, as you preferred to wait")
        | answers(Submitted, "It was taken", 202, Location="of the job")
        | problems(*REFUSED),
    )
    async def new_job(
        request: Request, pool: PoolKey, body: Submission, key: Key = None, prefer: Prefer = None
    ) -> Response:
        """Submit a job."""
        watch, row = ready(request, pool, body)
        job = await once.answer(request, body, lambda: submit_one(request, watch, row))
        headers = {"location": f"jobs/{job['id']}", "retry-after": "1"}
        if wait_of(prefer):
            answer = await ended(request, pool, str(job["id"]), prefer)
            if answer.status_code == 200:
                answer.headers["location"] = headers["location"]
                return answer
            headers["preference-applied"] = answer.headers["preference-applied"]
        return Json(job, 202, headers)

    @api.post("/pools/{pool}/batches", responses=answers(Listing, "What became of each", 202) | problems(*REFUSED))
    async def batch(request: Request, pool: PoolKey, body: Batch, key: Key = None) -> Response:
        """Submit many jobs: each is taken or refused by itself."""

        async def begin() -> list[dict[str, Any]]:
            desk.need(request, Access.OPERATE, "submitting")
            here, handlers = desk.need_here("submitting")
            watch = here.find(pool)
            rows: list[Ready | Problem] = []
            for one in body.jobs:
                try:
                    rows.append(prepare(handlers, one.function, json.dumps(one.params), options_of(one)))
                except Problem as problem:
                    rows.append(problem)
            done = iter(await submit(watch, [row for row in rows if isinstance(row, Ready)], kept))
            found = [row if isinstance(row, Problem) else next(done) for row in rows]
            taken = sum(not isinstance(row, Problem) for row in found)
            desk.note(pool, request, f"{taken} jobs of {len(found)}")
            return [entry(row) for row in found]

        return Json({"items": await once.answer(request, body, begin)}, 202)

    @api.get(
        "/pools/{pool}/jobs/{id}/result",
        responses=answers(JobResult, "It has ended") | answers(JobResult, "It has not", 202) | problems(409),
    )
    async def result(request: Request, pool: PoolKey, id: JobId, prefer: Prefer = None) -> Response:
        """Return the result of a job that was submitted here, or why it failed."""
        return await ended(request, pool, id, prefer)

    @api.post(
        "/pools/{pool}/jobs/{id}/retry",
        responses=answers(Submitted, "A new job, or with a store the same one", 202, Location="of the job")
        | problems(*REFUSED, 410),
    )
    async def retry(request: Request, pool: PoolKey, id: JobId, body: Copy | None = None, key: Key = None) -> Response:
        """Run a job that has ended once more.

        With `params` it is a new job, with these arguments and the options of the old one. Without, a job of a store
        goes back into the queue under its id, and one in memory that was submitted by HTTP is submitted anew.
        """
        wanted = body or Copy()

        async def begin() -> dict[str, Any]:
            desk.need(request, Access.OPERATE, "running a job again")
            if wanted.params is not None or (isinstance(desk.target, Here) and desk.config.handlers is not None):
                here, handlers = desk.need_here("running a job again")
                watch = here.find(pool)
                row = await again(watch, id, wanted.params, kept, handlers)
                if row is not None:
                    return await submit_one(request, watch, row)
            found = await desk.ask(request, "job", pool, id=id)  # 404 and 410 are its own
            if found["status"] not in ENDED:
                raise not_ended(id, found["status"])
            if wanted.params is not None:
                raise Problem(
                    "conflict",
                    f"job {id!r:.100} was not submitted by HTTP, or long ago, so nobody knows how: submit another one: "
                    "POST /pools/{pool}/jobs",
                )
            done = await desk.ask(request, "retry", pool, id=id)
            return done | {"name": found["name"], "status": "queued", "pool": pool}

        job = await once.answer(request, wanted, begin)
        return Json(job, 202, {"location": f"../{quote(str(job['id']), safe='')}", "retry-after": "1"})

    # -- the words of a Go worker pool: paths, fields and durations are as its users know them ------------------------

    @api.post("/jobs", responses=answers(PlainQueued, "It was taken") | problems(*REFUSED))
    async def plain_job(request: Request, body: PlainJob, key: Key = None) -> Response:
        """Submit a job to the default pool."""
        wanted = Submission(function=body.name, priority=body.priority, params=body.params)
        watch, row = ready(request, desk.config.pool, wanted)
        measure_runs(watch.pool)
        job = await once.answer(request, body, lambda: submit_one(request, watch, row))
        return Json({"job_id": str(job["id"]), "status": "queued"})

    @api.post("/jobs/{job_id}/cancel", responses=answers(PlainCancelled, "It was told to end") | problems(409))
    async def plain_cancel(request: Request, job_id: JobId) -> Response:
        """Cancel a job of the default pool."""
        await desk.ask(request, "cancel", desk.config.pool, id=job_id)
        return Json({"message": f"job {job_id} was told to end"})

    @api.get("/jobs/pool/stats", responses=answers(PlainStatistics, "The numbers") | problems())
    async def plain_statistics(request: Request) -> Response:
        """Show the numbers of the default pool; times are counted from the first job that is submitted here."""
        found = await desk.ask(request, "status", desk.config.pool)
        numbers = found["numbers"]
        times = (await desk.ask(request, "metrics", desk.config.pool))["items"]
        total, count = sum(row["run_sum"] for row in times), sum(row["run_count"] for row in times)
        return Json(
            {
                "total_submitted": numbers["submitted"],
                "total_completed": numbers["succeeded"],
                "total_failed": numbers["failed"] + numbers["timed_out"],
                "total_cancelled": numbers["cancelled"],
                "active_workers": numbers["busy"],
                "queued_tasks": numbers["queued"],
                "average_exec_time": go_duration(total / count if count else 0.0),
            }
        )
